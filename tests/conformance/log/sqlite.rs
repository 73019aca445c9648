//! What only the log in a file can meet: that it is another file than before, or an older one.

use std::{fs, path::Path, sync::Arc};

use everpost_core::{
    lease::Lease,
    log::{Appended, Durability, Log, LogError, Tail, sqlite::SqliteLog},
    partition::Partition,
    position::Position,
    recovery::Recovery,
    role::Role,
    store::{Generations, Installation, Messages, sqlite::SqliteStore},
};
use sqlx::{Connection, SqliteConnection};

use super::{
    drafts::{append, begin, draft, drafts, hydrate, placed, read, rest, seq, take},
    stage::{files, put_back},
};

const ONLY: Partition = Partition(0);

/// As a process opens it: with the store beside it, and mended if need be.
async fn open(folder: &Path) -> SqliteLog {
    let store = Arc::new(SqliteStore::open(&folder.join("store.db")).await.expect("it opens"));
    let known = store.installation().await.expect("readable");
    let log = SqliteLog::open_as(known, &folder.join("log.db"), Durability::Fsync).await.expect("it opens");
    store.bind(Installation { epoch: log.epoch(), partitions: 1 }).await.expect("writable");
    Recovery::open(Arc::new(log.clone()), store.clone()).await.expect("it is mended");
    store.close().await;
    log
}

/// Lets the store have everything up to an offset of the first generation.
async fn store_up_to(folder: &Path, offset: u64) {
    let store = SqliteStore::open(&folder.join("store.db")).await.expect("it opens");
    let lease = Lease { role: Role::Persist, partition: ONLY, token: 1 };
    store.persist(&[(lease, Position::new(1, offset))], &[]).await.expect("nobody is in the way");
    store.close().await;
}

/// A log of one event, as it was closed.
async fn closed(folder: &Path) -> SqliteLog {
    let log = open(folder).await;
    begin(&log, &["general"]).await;
    append(&log, &[draft("general")]).await;
    reopened(folder, log).await
}

async fn reopened(folder: &Path, log: SqliteLog) -> SqliteLog {
    drop(log);
    put_back(folder, &[]).await;
    open(folder).await
}

#[tokio::test]
async fn the_same_file_is_the_same_generation() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = closed(folder.path()).await;
    let log = reopened(folder.path(), log).await;
    assert_eq!((log.generation(ONLY), log.ends().await.expect("readable")), (1, vec![Position::new(1, 1)]));
}

/// The number of the process gives it away.
#[tokio::test]
async fn an_older_copy_written_over_the_file_is_noticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = closed(folder.path()).await;
    let copy = files(folder.path());
    let log = reopened(folder.path(), log).await;
    append(&log, &[draft("general"), draft("general")]).await;
    drop(log);
    put_back(folder.path(), &copy).await;
    let log = open(folder.path()).await;
    assert_eq!((log.generation(ONLY), log.ends().await.expect("readable")), (2, vec![Position::new(1, 1)]));
    append(&log, &[draft("general")]).await;
    assert_eq!(log.ends().await.expect("readable"), [Position::new(2, 2)], "offsets go on");
    let log = reopened(folder.path(), log).await;
    assert_eq!((log.generation(ONLY), log.ends().await.expect("readable")), (2, vec![Position::new(2, 2)]));
}

/// Only the inode gives it away: the number beside it was copied as well.
#[tokio::test]
async fn a_whole_folder_put_back_is_noticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = closed(folder.path()).await;
    drop(log);
    put_back(folder.path(), &[]).await;
    for name in ["log.db", "log.run"] {
        let (file, copy) = (folder.path().join(name), folder.path().join("copy"));
        fs::copy(&file, &copy).expect("readable");
        fs::rename(copy, file).expect("writable");
    }
    assert_eq!(open(folder.path()).await.generation(ONLY), 2);
}

#[tokio::test]
async fn a_file_without_its_companion_is_noticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = closed(folder.path()).await;
    drop(log);
    put_back(folder.path(), &[]).await;
    fs::remove_file(folder.path().join("log.run")).expect("it is there");
    assert_eq!(open(folder.path()).await.generation(ONLY), 2);
}

/// A suspicion that nobody has dealt with yet survives the end of the process that had it.
#[tokio::test]
async fn a_start_cut_short_by_a_crash_is_begun_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = closed(folder.path()).await;
    drop(log);
    put_back(folder.path(), &[]).await;
    let before = fs::read(folder.path().join("log.db")).expect("readable");
    drop(open(folder.path()).await);
    put_back(folder.path(), &[]).await;
    // It had written its number beside the file and not into it.
    let numbers = fs::read_to_string(folder.path().join("log.run")).expect("readable");
    fs::write(folder.path().join("log.db"), &before).expect("writable");
    fs::write(folder.path().join("log.run"), format!("{} {numbers}", number_in(&before).await)).expect("writable");
    assert_eq!(open(folder.path()).await.generation(ONLY), 1, "nothing was lost");
}

/// The file without us.
async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.expect("it opens")
}

async fn number_in(file: &[u8]) -> i64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("log.db");
    fs::write(&path, file).expect("writable");
    let mut connection = raw(&path).await;
    sqlx::query_scalar("SELECT nonce FROM run").fetch_one(&mut connection).await.expect("readable")
}

#[tokio::test]
async fn a_log_behind_its_store_goes_on_after_the_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = open(folder.path()).await;
    begin(&log, &["general", "quiet"]).await;
    let mut survivors = placed(&log, &drafts("general", 3)).await;
    survivors.extend(placed(&log, &[draft("quiet")]).await);
    let lease = take(&log, Role::Persist, ONLY, "a").await;
    drop(log);
    put_back(folder.path(), &[]).await;
    store_up_to(folder.path(), 10).await;
    let log = open(folder.path()).await;
    assert_eq!((log.generation(ONLY), log.ends().await.expect("readable")), (2, vec![Position::new(1, 10)]));
    assert_eq!(log.progress(Role::Persist).await.expect("readable"), [Position::new(1, 10)]);
    assert_eq!(log.progress(Role::Fanout).await.expect("readable"), [Position::new(1, 10)]);
    assert!(take(&log, Role::Persist, ONLY, "b").await.token > (2 << 32).max(lease.token), "fences are raised");
    let unhydrated = append(&log, &[draft("general")]).await;
    assert_eq!(unhydrated, [Appended::Unhydrated], "the store has more of it");
    hydrate(&log, "general", 7).await;
    let next = append(&log, &[draft("general")]).await;
    assert_eq!((seq(&next[0]), log.ends().await.expect("readable")), (8, vec![Position::new(2, 11)]));
    // What is missing is in the store; what survives can be read, and so can what is new.
    assert_eq!(log.read_after(ONLY, Position::ZERO, 1_000).await.expect("readable"), Tail::Records(survivors));
    for gap in [Position::new(1, 4), Position::new(1, 9)] {
        assert_eq!(log.read_after(ONLY, gap, 100).await.expect("readable"), Tail::Trimmed, "{gap:?}");
    }
    assert_eq!(rest(&log, ONLY, Position::new(1, 10)).await.len(), 1);
    assert_eq!(rest(&log, ONLY, Position::new(1, 99)).await.len(), 1, "a lost history ends at the base");
    let lease = take(&log, Role::Fanout, ONLY, "c").await;
    let mut follower = log.follow(Role::Fanout).await.expect("the log answers");
    assert_eq!(read(&mut *follower, lease, 1).await[0].position, Position::new(2, 11));
    drop(follower);
    drop(log);
    put_back(folder.path(), &[]).await;
    let log = open(folder.path()).await;
    assert_eq!(log.generation(ONLY), 2);
    let answers = append(&log, &[draft("quiet"), draft("general")]).await;
    assert_eq!((&answers[0], seq(&answers[1])), (&Appended::Unhydrated, 9), "only what is after the gap is known");
}

/// It looks like a new log, and would give every number a second time.
#[tokio::test]
async fn a_lost_log_goes_on_after_its_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = closed(folder.path()).await;
    let epoch = log.epoch();
    drop(log);
    put_back(folder.path(), &[]).await;
    store_up_to(folder.path(), 1).await;
    for name in ["log.db", "log.run"] {
        fs::remove_file(folder.path().join(name)).expect("it is there");
    }
    let log = open(folder.path()).await;
    assert_eq!((log.epoch(), log.generation(ONLY)), (epoch, 2));
    assert_eq!(log.ends().await.expect("readable"), [Position::new(1, 1)]);
    assert_eq!(append(&log, &[draft("general")]).await, [Appended::Unhydrated]);
}

#[tokio::test]
async fn nothing_is_accepted_before_an_older_copy_is_mended() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = closed(folder.path()).await;
    drop(log);
    put_back(folder.path(), &[]).await;
    fs::remove_file(folder.path().join("log.run")).expect("it is there");
    for _ in 0..2 {
        let log = SqliteLog::open(&folder.path().join("log.db"), Durability::Fsync).await.expect("it opens");
        let refused = log.append(ONLY, &[draft("general")]).await;
        assert!(matches!(refused, Err(LogError::Renewing)), "{refused:?}");
        drop(log);
        put_back(folder.path(), &[]).await;
    }
    let log = open(folder.path()).await;
    assert_eq!(seq(&append(&log, &[draft("general")]).await[0]), 2);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_the_start_and_says_which() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = closed(folder.path()).await;
    drop(log);
    put_back(folder.path(), &[]).await;
    let path = folder.path().join("log.db");
    let mut connection = raw(&path).await;
    sqlx::query("UPDATE log SET records = x'7fffffff00'").execute(&mut connection).await.expect("writable");
    let refused = SqliteLog::open(&path, Durability::Fsync).await.err();
    assert!(matches!(&refused, Some(LogError::Damaged(why)) if why.contains("row ending at 1")), "{refused:?}");
}
