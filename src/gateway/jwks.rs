//! Where public keys come from: a file or a URL, read every few minutes and when a token names one that is not known.
//!
//! Strangers choose which key a token names, so what is unknown is looked for once a minute at most, by one request for
//! all who wait. When the source fails, the last good keys go on.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::Header;
use reqwest::redirect;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::{
    error::ApiError,
    keys::{InvalidKeys, Key, KeySet},
};

const REFRESH_EVERY: Duration = Duration::from_secs(300);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(15);
/// Between two looks for unknown keys.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 256 * 1_024;

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// A file.
    File(PathBuf),
    /// An address: https, or http on this machine.
    Url(Url),
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The file cannot be read.
    #[error("the file cannot be read")]
    File(#[from] std::io::Error),
    /// Nobody answers at the address, or the answer broke off.
    #[error("the address does not answer")]
    Unreachable(#[source] reqwest::Error),
    /// It answers with something else; redirects are not followed.
    #[error("the address answers {0}")]
    Status(reqwest::StatusCode),
    /// It answers with too much.
    #[error("there are more than {MAX_BYTES} bytes")]
    TooLarge,
    /// What was read is of no use.
    #[error(transparent)]
    Invalid(#[from] InvalidKeys),
}

impl JwksSource {
    /// What a setting names; the error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str = "jwks must be a path, or a URL with https (http only to this machine) and no password";
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let url = Url::parse(text).map_err(|_| ALLOWED)?;
        let local = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let safe = url.scheme() == "https" || (url.scheme() == "http" && local);
        let bare = url.username().is_empty() && url.password().is_none();
        if safe && bare { Ok(Self::Url(url)) } else { Err(ALLOWED) }
    }

    async fn read(&self) -> Result<KeySet, JwksError> {
        let document = match self {
            Self::File(path) => read_file(path).await?,
            Self::Url(url) => fetch(url.clone()).await?,
        };
        Ok(KeySet::parse(&document)?)
    }

    /// Reads the keys once and says how many there are.
    pub async fn look(&self) -> Result<usize, JwksError> {
        self.read().await.map(|keys| keys.len())
    }
}

async fn read_file(path: &std::path::Path) -> Result<Vec<u8>, JwksError> {
    if tokio::fs::metadata(path).await?.len() > MAX_BYTES as u64 {
        return Err(JwksError::TooLarge);
    }
    Ok(tokio::fs::read(path).await?)
}

/// No redirects, and no proxy from the environment: the keys come from the address that was configured or not at all.
async fn fetch(url: Url) -> Result<Vec<u8>, JwksError> {
    let client = reqwest::Client::builder().redirect(redirect::Policy::none()).no_proxy();
    let client = client.connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).build().map_err(JwksError::Unreachable)?;
    let mut answer = client.get(url).send().await.map_err(JwksError::Unreachable)?;
    if answer.status() != reqwest::StatusCode::OK {
        return Err(JwksError::Status(answer.status()));
    }
    let mut document = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(JwksError::Unreachable)? {
        if document.len() + chunk.len() > MAX_BYTES {
            return Err(JwksError::TooLarge);
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}

/// The keys in force.
pub(crate) struct Keyring {
    source: JwksSource,
    keys: RwLock<Option<Arc<KeySet>>>,
    /// When somebody looked for an unknown key last. Held while looking.
    looked: Mutex<Option<Instant>>,
}

impl Keyring {
    pub(crate) fn new(source: JwksSource) -> Self {
        Self { source, keys: RwLock::default(), looked: Mutex::default() }
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key a token names, looked for anew if it is not known.
    pub(crate) async fn find(&self, header: &Header) -> Result<Option<Arc<Key>>, ApiError> {
        if let Some(key) = self.keys().and_then(|keys| keys.find(header)) {
            return Ok(Some(key));
        }
        self.look_again().await;
        let keys = self.keys().ok_or(ApiError::Unavailable("the signing keys cannot be read"))?;
        Ok(keys.find(header))
    }

    async fn look_again(&self) {
        let mut looked = self.looked.lock().await;
        if looked.is_none_or(|last| last.elapsed() >= LOOK_AGAIN_AFTER) {
            *looked = Some(Instant::now());
            self.refresh().await;
        }
    }

    /// Reads the source; what was there before stays if that fails. Says whether it succeeded.
    pub(crate) async fn refresh(&self) -> bool {
        match self.source.read().await {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "the signing keys were read");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
                true
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "the signing keys cannot be read; the last ones stay in force");
                false
            }
        }
    }

    /// Reads the source every few minutes until told to stop.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let mut succeeded = self.keys().is_some();
        loop {
            let pause = if succeeded { REFRESH_EVERY } else { TRY_AGAIN_AFTER };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            succeeded = self.refresh().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_a_file_or_over_a_safe_way() {
        for source in ["/etc/keys.json", "keys.json"] {
            assert_eq!(JwksSource::parse(source), Ok(JwksSource::File(PathBuf::from(source))));
        }
        for url in ["https://id.example/jwks", "http://127.0.0.1:9/jwks", "http://[::1]/", "http://localhost:1/"] {
            assert!(matches!(JwksSource::parse(url), Ok(JwksSource::Url(_))), "{url}");
        }
        for url in [
            "http://id.example/jwks",
            "ftp://id.example/jwks",
            "file:///etc/keys.json",
            "https://user:secret@id.example/jwks",
            "http://localhost.evil.example/",
            "http://127.0.0.1.evil.example/",
            "https://",
        ] {
            assert!(JwksSource::parse(url).is_err(), "{url}");
        }
    }
}
