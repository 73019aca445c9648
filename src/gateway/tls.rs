//! TLS for the client listener, from files that are read again when they change.
//!
//! Whoever renews certificates replaces the files and need not tell; SIGHUP only saves the wait. What cannot be used is
//! refused at the start, and later left alone: the listener goes on with what it has.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum_server::tls_rustls::RustlsConfig;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use tokio_util::sync::CancellationToken;

use crate::shutdown;

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Certificate or key cannot be used; the text says which file and why.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there or cannot be read.
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Unreadable(PathBuf, io::Error),
    /// A file holds something else.
    #[error("{path} holds no {what} in PEM form: {cause}", path = .0.display(), what = .1, cause = .2)]
    NotPem(PathBuf, &'static str, pem::Error),
    /// The key is not the certificate's, or of a kind nobody uses.
    #[error("certificate and key cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What a file looked like when it was read.
type Stamp = [(u64, u64, Option<SystemTime>); 2];

/// The listener's certificate and key.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    read: Stamp,
    config: RustlsConfig,
}

impl Tls {
    /// Reads certificate chain and private key from PEM files.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = [stamp(cert)?, stamp(key)?];
        let config = RustlsConfig::from_config(Arc::new(server_config(cert, key)?));
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), read, config })
    }

    /// What connections are made with, always the newest.
    pub(super) fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Looks after the files until told to stop.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        let Ok(mut hangups) = shutdown::hangups().inspect_err(|error| tracing::warn!(%error, "SIGHUP is not heard"))
        else {
            return;
        };
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = hangups.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            match self.look(asked) {
                Ok(true) => tracing::info!("the certificate was read again"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the new certificate is not used, the old one still is"),
            }
        }
    }

    /// Reads the files again if they changed or somebody asks; says whether it did.
    fn look(&mut self, asked: bool) -> Result<bool, TlsError> {
        // Looked at before they are read: what changes meanwhile is noticed the next time.
        let found = [stamp(&self.cert)?, stamp(&self.key)?];
        if found == self.read && !asked {
            return Ok(false);
        }
        self.read = found; // complained about once
        self.config.reload_from_config(Arc::new(server_config(&self.cert, &self.key)?));
        Ok(true)
    }
}

fn stamp(path: &Path) -> Result<(u64, u64, Option<SystemTime>), TlsError> {
    let found = fs::metadata(path).map_err(|cause| TlsError::Unreadable(path.to_owned(), cause))?;
    Ok((found.ino(), found.len(), found.modified().ok()))
}

fn server_config(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let not_pem = |path: &Path, what| {
        let path = path.to_owned();
        move |cause| match cause {
            pem::Error::Io(cause) => TlsError::Unreadable(path, cause),
            cause => TlsError::NotPem(path, what, cause),
        }
    };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(not_pem(cert, "certificate"))?;
    if chain.is_empty() {
        return Err(not_pem(cert, "certificate")(pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(not_pem(key, "private key"))?;
    // The provider is named here, because there is more than one in the program and none is everybody's.
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { folder: tempfile::tempdir().expect("a folder") };
            files.renew();
            files
        }

        fn cert(&self) -> PathBuf {
            self.folder.path().join("cert.pem")
        }

        fn key(&self) -> PathBuf {
            self.folder.path().join("key.pem")
        }

        fn renew(&self) {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            fs::write(self.cert(), made.cert.pem()).expect("written");
            fs::write(self.key(), made.signing_key.serialize_pem()).expect("written");
        }

        fn load(&self) -> Result<Tls, TlsError> {
            Tls::load(&self.cert(), &self.key())
        }

        fn complaint(&self) -> String {
            self.load().err().expect("it cannot be used").to_string()
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let files = Files::new();
        files.load().expect("it can be used");
        let (cert, key) = (fs::read(files.cert()).expect("there"), fs::read(files.key()).expect("there"));
        fs::write(files.cert(), "no certificate").expect("written");
        assert!(files.complaint().contains("cert.pem holds no certificate"), "{}", files.complaint());
        fs::write(files.cert(), &key).expect("written");
        assert!(files.complaint().contains("cert.pem holds no certificate"), "{}", files.complaint());
        fs::write(files.cert(), &cert).expect("written");
        fs::write(files.key(), "").expect("written");
        assert!(files.complaint().contains("key.pem holds no private key"), "{}", files.complaint());
        fs::copy(Files::new().key(), files.key()).expect("copied");
        assert!(files.complaint().contains("together"), "{}", files.complaint());
        fs::remove_file(files.key()).expect("there");
        assert!(files.complaint().contains("key.pem: "), "{}", files.complaint());
    }

    #[test]
    fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
        let files = Files::new();
        let mut tls = files.load().expect("it can be used");
        let first = tls.config().get_inner();
        assert!(!tls.look(false).expect("nothing changed"));
        files.renew();
        assert!(tls.look(false).expect("a new one"));
        let second = tls.config().get_inner();
        assert!(!Arc::ptr_eq(&first, &second));
        fs::write(files.cert(), "half a certifi").expect("written");
        assert!(tls.look(false).is_err() && Arc::ptr_eq(&second, &tls.config().get_inner()));
        assert!(!tls.look(false).expect("complained about once"));
        files.renew();
        assert!(tls.look(true).expect("asked for"));
    }
}
