//! What must not be where. Each rule keeps a decision that no compiler checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

const SOURCES: [&str; 3] = ["src", "core/src", "workers/src"];
/// A reader keeps about this much of a file in mind.
const LONGEST: usize = 400;

struct Source {
    /// From the root of the project.
    path: String,
    text: String,
}

impl Source {
    /// The lines that are code.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//"))
    }

    fn mentions(&self, words: &[&str]) -> bool {
        self.code().any(|line| words.iter().any(|word| mentions(line, word)))
    }

    fn is_under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

/// Whether a word stands in a line by itself: `redis::` is not in `log::redis::`.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':')
    })
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = SOURCES.iter().flat_map(|folder| rust_files(&root.join(folder)));
    let source = |file: PathBuf| Source {
        path: file.strip_prefix(root).expect("it is inside").to_str().expect("a plain name").to_owned(),
        text: fs::read_to_string(&file).expect("it is readable"),
    };
    files.map(source).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("it is readable").map(|entry| entry.expect("it is readable").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    files.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}

/// Fails with the names of the sources for which something is true that must not be.
fn none(why: &str, found: impl Fn(&Source) -> bool) {
    let sources = sources();
    assert!(sources.len() > 50, "the sources were found");
    let found: Vec<_> = sources.iter().filter(|source| found(source)).map(|source| source.path.as_str()).collect();
    assert!(found.is_empty(), "{why}: {found:#?}");
}

fn only_under(words: &[&str], places: &[&str]) {
    none(&format!("{words:?} only under {places:?}"), |source| source.mentions(words) && !source.is_under(places));
}

#[test]
fn databases_stay_behind_their_ports() {
    let raw = "src/cli/bench/raw/"; // measures them without us
    only_under(&["sqlx::"], &["core/src/store/postgres/", "core/src/store/sqlite/", "core/src/log/sqlite/", raw]);
    // Our own adapters have the name as well, so only what is the client's counts.
    let client =
        ["use redis::", "redis::cmd", "redis::pipe", "redis::aio", "redis::Client", "redis::Cmd", "redis::Value"];
    only_under(&client, &["core/src/log/redis/", "core/src/relay/redis/", "core/src/roster/redis/", raw]);
}

#[test]
fn http_stays_in_front() {
    only_under(&["axum::", "axum"], &["src/gateway/", "src/admin/", "src/cli/bench/reference.rs"]);
    only_under(&["clap::"], &["src/cli/"]);
}

#[test]
fn the_environment_is_read_in_one_place() {
    only_under(&["env::var", "env::vars", "std::env::var", "env::var_os"], &["src/config.rs"]);
}

/// Two of anything can run in one process, and a test starts with nothing.
#[test]
fn nothing_is_global() {
    let is_static = |line: &str| {
        let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        line.starts_with("static ") && !line.contains("mimalloc::MiMalloc")
    };
    none("a static holds state", |source| source.code().any(is_static) || source.mentions(&["thread_local!"]));
}

#[test]
fn every_file_says_what_it_is_for() {
    none("no //! at the top", |source| !source.text.starts_with("//!"));
}

#[test]
fn names_say_what_is_inside() {
    let vague = ["utils", "util", "common", "helpers", "helper", "manager", "misc"];
    none("a name that says nothing", |source| {
        source.path.trim_end_matches(".rs").split('/').any(|part| vague.contains(&part))
    });
}

#[test]
fn files_are_read_in_one_go() {
    none("too long", |source| source.text.lines().count() > LONGEST);
}

#[test]
fn a_word_is_found_only_by_itself() {
    assert!(mentions("use redis::cmd;", "redis::") && mentions("    (redis::Client)", "redis::"));
    assert!(!mentions("use crate::log::redis::RedisLog;", "redis::") && !mentions("my_redis::x", "redis::"));
}
