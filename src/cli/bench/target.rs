//! What is measured: where it listens, how a user gets in, and the conversations made for a run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use url::Url;

/// How many set-up requests run at once.
const REQUESTS: usize = 16;
/// Longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(3_600);

/// Which socket clients open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Socket {
    /// `/v1/ws`: everything of the user.
    User,
    /// `/v1/ws/{conversation}`: one conversation.
    Conversation,
}

/// A conversation of the run, and who takes part.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    pub(super) id: String,
    pub(super) users: Vec<String>,
}

/// One address to open a socket at.
pub(super) struct Endpoint {
    /// Host and port.
    pub(super) address: String,
    /// Path and query.
    pub(super) path: String,
    /// Goes into the `Authorization` header.
    pub(super) token: Option<String>,
}

impl Endpoint {
    /// The path without its query, fit for an error message.
    pub(super) fn public_path(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }
}

/// A set of servers that speak the interface.
#[derive(Clone)]
pub(super) struct Target {
    /// What reports call it.
    pub(super) name: &'static str,
    /// Clients spread over these.
    pub(super) urls: Vec<Url>,
    /// Creates the conversations.
    pub(super) api_key: Option<String>,
    /// Signs the users' tokens.
    pub(super) token_secret: Option<String>,
    /// Which socket clients open.
    pub(super) socket: Socket,
}

impl Target {
    /// Checks that the generator can speak to every address.
    pub(super) fn check(&self) -> Result<()> {
        for url in &self.urls {
            if url.scheme() != "http" {
                bail!("{url}: the generator speaks plain http only");
            }
        }
        Ok(())
    }

    /// The socket of `user`, the `index`-th client, resuming after `resume` (a cursor or a sequence number).
    pub(super) fn endpoint(
        &self,
        index: usize,
        user: &str,
        conversation: &str,
        resume: Option<&str>,
    ) -> Result<Endpoint> {
        let url = &self.urls[index % self.urls.len()];
        let host = url.host_str().context("an address without a host")?;
        let port = url.port_or_known_default().context("an address without a port")?;
        let prefix = url.path().trim_end_matches('/');
        let path = match self.socket {
            Socket::User => format!("{prefix}/v1/ws{}", query("cursor", resume)),
            Socket::Conversation => format!("{prefix}/v1/ws/{conversation}{}", query("after", resume)),
        };
        Ok(Endpoint { address: format!("{host}:{port}"), path, token: self.token(user)? })
    }

    fn token(&self, user: &str) -> Result<Option<String>> {
        let Some(secret) = &self.token_secret else { return Ok(None) };
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)? + TOKEN_LIFE;
        let claims = json!({ "sub": user, "exp": expires.as_secs() });
        let key = EncodingKey::from_secret(secret.as_bytes());
        Ok(Some(jsonwebtoken::encode(&Header::default(), &claims, &key)?))
    }

    /// Creates the conversations through the public API.
    pub(super) async fn create(&self, conversations: &[Conversation]) -> Result<()> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        let requests = conversations.iter().map(|conversation| self.create_one(&http, conversation));
        stream::iter(requests).buffer_unordered(REQUESTS).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn create_one(&self, http: &reqwest::Client, conversation: &Conversation) -> Result<()> {
        let url = format!("{}/v1/conversations", self.urls[0].as_str().trim_end_matches('/'));
        let body = json!({ "id": conversation.id, "title": "bench", "participants": conversation.users });
        let mut request = http.post(url).json(&body);
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.context("creating a conversation")?;
        let status = response.status();
        if !status.is_success() {
            bail!("creating a conversation: {status}: {}", response.text().await.unwrap_or_default());
        }
        Ok(())
    }
}

fn query(name: &str, value: Option<&str>) -> String {
    let Some(value) = value else { return String::new() };
    let pairs = url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
    format!("?{pairs}")
}

/// `count` conversations with `members` users each, under names no other run has.
pub(super) fn conversations(count: usize, members: usize) -> Vec<Conversation> {
    let run = &uuid::Uuid::new_v4().simple().to_string()[..8];
    let users = |room: usize| (0..members).map(|member| format!("bench-{run}-{room}-{member}")).collect();
    (0..count).map(|room| Conversation { id: format!("bench-{run}-{room}"), users: users(room) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(socket: Socket) -> Target {
        let urls = ["http://127.0.0.1:1", "http://127.0.0.1:2/base/"].map(|url| url.parse().expect("valid"));
        let token_secret = Some("a secret of some length, thirty-two or more".to_owned());
        Target { name: "everpost", urls: urls.into(), api_key: None, token_secret, socket }
    }

    #[test]
    fn clients_spread_over_the_addresses() {
        let target = target(Socket::User);
        let first = target.endpoint(0, "u", "c", None).expect("valid");
        let second = target.endpoint(1, "u", "c", Some("a+b")).expect("valid");
        assert_eq!((first.address.as_str(), first.path.as_str()), ("127.0.0.1:1", "/v1/ws"));
        assert_eq!((second.address.as_str(), second.path.as_str()), ("127.0.0.1:2", "/base/v1/ws?cursor=a%2Bb"));
        assert_eq!(second.public_path(), "/base/v1/ws");
        assert!(first.token.is_some());
    }

    #[test]
    fn one_conversation_resumes_by_sequence_number() {
        let endpoint = target(Socket::Conversation).endpoint(0, "u", "c", Some("7")).expect("valid");
        assert_eq!(endpoint.path, "/v1/ws/c?after=7");
    }

    #[test]
    fn every_member_has_a_name_of_its_own() {
        let rooms = conversations(3, 2);
        let mut names: Vec<_> = rooms.iter().flat_map(|room| room.users.iter().chain([&room.id])).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 9);
    }
}
