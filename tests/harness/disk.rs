//! A disk that can be told to fail: full, or unable to keep what it was given.
//!
//! A small library between the process and the C library answers in the disk's place. What really reaches the disk is
//! the same as ever, which is what a failed flush looks like: nobody can tell.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::server;

/// A disk of one process.
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// A sound one.
    pub(crate) fn new() -> Self {
        let folder = server::folder("everpost-disk");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/disk.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("disk.so")).arg(source);
        let compiled = compile.status().expect("the C compiler cc is missing: apt-get install gcc libc6-dev");
        assert!(compiled.success(), "tests/harness/disk.c does not compile");
        Self { folder }
    }

    /// What a process needs in its environment to use it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        let path = |name| self.folder.join(name).to_str().expect("a plain name").to_owned();
        [("LD_PRELOAD", path("disk.so")), ("DISK_FAULTS", path("faults"))]
    }

    /// From now on files whose path contains `name` cannot grow.
    pub(crate) fn fill(&self, name: &str) {
        self.order(&format!("full {name}"));
    }

    /// From now on what is written to files whose path contains `name` is not kept.
    pub(crate) fn forget(&self, name: &str) {
        self.order(&format!("flush {name}"));
    }

    /// It is sound again.
    pub(crate) fn heal(&self) {
        let _ = fs::remove_file(self.folder.join("faults")); // it may have been sound
    }

    /// In one step, because it is read with every write.
    fn order(&self, words: &str) {
        let draft = self.folder.join("faults-new");
        fs::write(&draft, words).expect("writable");
        fs::rename(draft, self.folder.join("faults")).expect("writable");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
