//! What only SQLite has: a file, and settings without which it would promise too much.

use std::{fs, os::unix::fs::PermissionsExt};

use everpost_core::store::{
    Messages, StoreError,
    sqlite::{SqliteReport, SqliteStore},
};

use super::records::{persist, record, run};

#[tokio::test]
async fn it_is_new_enough_and_set_to_keep_its_promises() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(&folder.path().join("everpost.db")).await.expect("it opens");
    let SqliteReport { version, journal_mode, synchronous, busy_timeout, foreign_keys, mmap_size } =
        store.check().await.expect("readable");
    let numbers: Vec<u32> = version.split('.').map(|part| part.parse().expect("a number")).collect();
    assert!(numbers >= vec![3, 51, 3], "{version}");
    assert_eq!((journal_mode.as_str(), synchronous, busy_timeout, foreign_keys), ("wal", 2, 5_000, true));
    assert_eq!(mmap_size, 0);
}

#[tokio::test]
async fn nobody_else_can_read_its_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(&folder.path().join("everpost.db")).await.expect("it opens");
    persist(&store, &run("general", 1..=3)).await;
    let files: Vec<_> = fs::read_dir(folder.path()).expect("readable").map(|file| file.expect("readable")).collect();
    assert!(files.len() >= 3, "the database, its journal and its index: {files:?}");
    for file in files {
        assert_eq!(file.metadata().expect("readable").permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("notes.txt");
    fs::write(&file, "not a database, but long enough to look at ".repeat(100)).expect("writable");
    let refused = SqliteStore::open(&file).await;
    assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    assert!(fs::read_to_string(&file).expect("readable").starts_with("not a database"));
}

#[tokio::test]
async fn a_closed_store_says_so_and_leaves_one_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(&folder.path().join("everpost.db")).await.expect("it opens");
    persist(&store, &[record("general", 1)]).await;
    store.close().await;
    assert!(matches!(store.stored(1).await, Err(StoreError::Closing)));
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
}
