//! A certificate of a test's own, in files, and those who trust it and nothing else.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use reqwest::ClientBuilder;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate for `localhost` and its key.
pub(crate) struct Certificate {
    folder: TempDir,
}

impl Certificate {
    /// Makes one.
    pub(crate) fn new() -> Self {
        let certificate = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        certificate.renew();
        certificate
    }

    /// Puts another one in its place.
    pub(crate) fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        fs::write(self.key(), made.signing_key.serialize_pem()).expect("written");
        fs::write(self.cert(), made.cert.pem()).expect("written");
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// The settings of a listener that has it.
    pub(crate) fn settings(&self) -> [(&'static str, String); 2] {
        [("tls_cert", self.cert().display().to_string()), ("tls_key", self.key().display().to_string())]
    }

    /// An HTTP client that trusts it, and finds `localhost` at this address.
    pub(crate) fn client(&self, address: SocketAddr) -> ClientBuilder {
        let pem = fs::read(self.cert()).expect("there");
        let trusted = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        reqwest::Client::builder().tls_certs_only([trusted]).resolve("localhost", address)
    }

    /// A connection that trusts it; the error is that of the handshake.
    pub(crate) async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.cert()).expect("a certificate")).expect("it is one");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the usual ones")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
    }
}
