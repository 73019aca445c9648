//! The command line as people meet it: what it prints, what works when pasted, what it refuses and how.

mod commands;
mod dead_letters;
mod doctor;
mod first_run;
mod refusals;

use std::{path::Path, process::Output};

use crate::harness::process::run;

/// What a command printed, after it succeeded.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let done = run(folder, &[], arguments);
    assert!(done.status.success(), "{arguments:?}: {}", complaint(&done));
    String::from_utf8(done.stdout).expect("text")
}

/// What a command wrote to standard error.
fn complaint(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}
