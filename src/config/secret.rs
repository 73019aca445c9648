//! Secrets nobody configured: made once and kept in the data directory.

use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use secrecy::SecretString;

use super::{ConfigError, MIN_SECRET_CHARS};

/// Reads a secret from the directory, or makes one there that only its owner can read.
pub(super) fn kept(directory: &Path, name: &str) -> Result<SecretString, ConfigError> {
    let path = directory.join(name);
    read_or_make(directory, &path).map(Into::into).map_err(|cause| ConfigError::Secret { path, cause })
}

fn read_or_make(directory: &Path, path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(secret) if secret.trim().len() >= MIN_SECRET_CHARS => return Ok(secret.trim().to_owned()),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the file holds no usable secret; remove it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::create_dir_all(directory)?;
    let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn generated_secrets_are_kept_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let first = kept(folder.path(), "token-secret").expect("made");
        let again = kept(folder.path(), "token-secret").expect("read");
        assert_eq!(first.expose_secret(), again.expose_secret());
        let mode = fs::metadata(folder.path().join("token-secret")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
