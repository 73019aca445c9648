//! Whether the file is the one the last process left, or a copy from another time.
//!
//! Every process draws a number and leaves it in two places: in the file, together with the file's inode, and beside it
//! in `log.run`. A file that was put back from a copy has an older number or another inode; then what was accepted after
//! the copy was made is gone. A copy that was made while the present number was in use, and was written over the file
//! without replacing it, is not noticed here; [`crate::recovery`] also compares the file with the store.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use sqlx::{Row, SqliteConnection};

use super::rows::failed;
use crate::log::{Fault, LogError};

/// What the file and its companion say, and the number of this process.
pub(super) struct Origin {
    companion: PathBuf,
    inode: i64,
    /// In the file.
    written: Option<(i64, i64)>,
    /// Beside the file: the number of the last process, or two if it ended while it wrote them.
    beside: Option<Vec<i64>>,
    nonce: i64,
}

impl Origin {
    pub(super) async fn examine(connection: &mut SqliteConnection, path: &Path) -> Result<Self, LogError> {
        let companion = path.with_extension("run");
        let inode = fs::metadata(path).map_err(LogError::unavailable)?.ino() as i64;
        let row = sqlx::query("SELECT nonce, inode FROM run").fetch_optional(connection).await.map_err(failed)?;
        let written = row.map(|row| (row.get(0), row.get(1)));
        let beside = read(&companion).map_err(LogError::unavailable)?;
        let nonce = uuid::Uuid::new_v4().as_u64_pair().0 as i64;
        Ok(Self { companion, inode, written, beside, nonce })
    }

    /// Why the file may not be the one the last process left.
    fn suspicion(&self) -> Option<&'static str> {
        match (&self.written, &self.beside) {
            (None, None) => None, // new, or from a version that left no number
            (None, Some(_)) => Some("log.db is not the file that log.run was left beside"),
            (Some(_), None) => Some("log.run, which was left beside log.db, is gone"),
            (Some((nonce, _)), Some(beside)) if !beside.contains(nonce) => {
                Some("log.db is from another time than log.run beside it")
            }
            (Some((_, inode)), Some(_)) if *inode != self.inode => Some("log.db is a copy"),
            _ => None,
        }
    }

    /// The same for whoever mends it.
    pub(super) fn fault(&self) -> Option<Fault> {
        let suspicion = self.suspicion()?;
        tracing::warn!(suspicion, "the event log may have lost events that were accepted");
        Some(Fault::Older)
    }

    /// What the file must say about this process; in the transaction that deals with a suspicion, if there is one.
    pub(super) fn row(&self) -> (i64, i64) {
        (self.nonce, self.inode)
    }

    /// Leaves the number of this process beside the file, before it goes into the file. Until then the other one counts.
    pub(super) fn announce(&self) -> Result<(), LogError> {
        let known = self.written.map(|(nonce, _)| nonce).filter(|_| self.suspicion().is_none());
        let numbers: Vec<i64> = known.into_iter().chain([self.nonce]).collect();
        write(&self.companion, &numbers).map_err(LogError::unavailable)
    }

    /// Leaves only the number of this process beside the file, after it went into the file.
    pub(super) fn settle(&self) -> Result<(), LogError> {
        write(&self.companion, &[self.nonce]).map_err(LogError::unavailable)
    }
}

fn read(companion: &Path) -> std::io::Result<Option<Vec<i64>>> {
    match fs::read_to_string(companion) {
        Ok(text) => Ok(Some(text.split_whitespace().filter_map(|number| number.parse().ok()).collect())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the companion as a whole: a crash leaves the old one or the new one.
fn write(companion: &Path, numbers: &[i64]) -> std::io::Result<()> {
    let draft = companion.with_extension("run-new");
    let text: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.join(" ").as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, companion)?;
    let folder = companion.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
