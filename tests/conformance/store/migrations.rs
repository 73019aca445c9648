//! The schema has one history, in both databases.

use std::{collections::BTreeSet, fs, path::Path};

fn names(database: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
    let files = fs::read_dir(folder).expect("a folder for each database");
    files.map(|file| file.expect("readable").file_name().into_string().expect("a plain name")).collect()
}

#[test]
fn both_databases_have_the_same_migrations() {
    assert_eq!(names("postgres"), names("sqlite"));
}

#[test]
fn migrations_are_numbered_without_gaps() {
    for (number, name) in names("postgres").iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", number + 1)) && name.ends_with(".sql"), "{name}");
    }
}
