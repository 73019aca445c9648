//! How commands reach a running server.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::flags::Flags;

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// The server [default: http:// and the setting `listen`]
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
}

/// A server and the API key for it.
pub(super) struct Server {
    url: Url,
    key: SecretString,
}

impl ServerArgs {
    pub(super) fn server(self, flags: &Flags) -> anyhow::Result<Server> {
        let settings = flags.settings()?;
        let url = self.url.map_or_else(|| Url::parse(&format!("http://{}", settings.listen)), Ok)?;
        Ok(Server { url, key: settings.api_key()? })
    }
}

impl Server {
    pub(super) fn http(&self, path: &str) -> anyhow::Result<Url> {
        Ok(self.url.join(path)?)
    }

    pub(super) fn websocket(&self, path: &str) -> anyhow::Result<Url> {
        let mut url = self.http(path)?;
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme).map_err(|()| anyhow::anyhow!("{} is not an http address", self.url))?;
        Ok(url)
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.key.expose_secret())
    }
}
