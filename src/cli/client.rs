//! How commands reach a running server.

use anyhow::Context;
use clap::Args;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::{flags::Flags, run::ADMIN};

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

#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The admin listener of a running process [default: http:// and the setting `admin_listen`, or 127.0.0.1:8081]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<Url>,
}

/// The admin listener of a running process.
pub(super) struct AdminServer {
    url: Url,
    key: SecretString,
    http: reqwest::Client,
}

impl AdminArgs {
    pub(super) fn server(self, flags: &Flags) -> anyhow::Result<AdminServer> {
        let settings = flags.settings()?;
        let listener = settings.admin_listen.unwrap_or(ADMIN);
        let url = self.url.map_or_else(|| Url::parse(&format!("http://{listener}")), Ok)?;
        Ok(AdminServer { url, key: settings.admin_key()?, http: reqwest::Client::new() })
    }
}

impl AdminServer {
    /// The JSON it answers; anything but success is an error in its own words.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let mut url = self.url.join(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url).bearer_auth(self.key.expose_secret());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await;
        let answer = answer.with_context(|| format!("no admin listener answers at {}; is it running?", self.url))?;
        let (status, text) = (answer.status(), answer.text().await.context("the answer broke off")?);
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        if !status.is_success() {
            let detail = json["detail"].as_str().map_or_else(|| format!("the server answers {status}"), str::to_owned);
            anyhow::bail!("{detail}");
        }
        Ok(json)
    }

    /// Whether an error is about the way to the server, so that asking for the next thing makes no sense.
    pub(super) fn is_gone(&self, error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<reqwest::Error>())
    }
}
