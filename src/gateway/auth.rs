//! Who is calling: a person with a token or a ticket, or a backend with the API key.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use everpost_core::name::{DeviceId, DeviceType, UserId};
use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

pub(crate) use super::claims::is_token_id;
pub use super::claims::{Claims, TokenRules, mint};
use super::{
    claims::{Checked, Grant},
    error::ApiError,
    jwks::{JwksSource, Keyring},
    revocations::Revocations,
    tickets::Tickets,
};

const MAX_TOKEN_BYTES: usize = 4_096;
const PROTOCOL: &str = "everpost.v1";

/// What callers authenticate with.
pub struct AuthConfig {
    /// Checks tokens that are signed with HS256.
    pub token_secret: SecretString,
    /// Where the keys are that others are signed with.
    pub jwks: Option<JwksSource>,
    /// What tokens must say.
    pub rules: TokenRules,
    /// What backends authenticate with; without one nobody is a backend.
    pub api_key: Option<SecretString>,
    /// Whether `?token=` is taken.
    pub query_tokens: bool,
    /// For how long a ticket is good.
    pub ticket_ttl: std::time::Duration,
}

/// Who a request comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Principal {
    pub(crate) user: UserId,
    pub(crate) sender_type: String,
    pub(crate) device: Option<DeviceId>,
    pub(crate) device_type: Option<DeviceType>,
    /// What its token granted.
    pub(crate) grant: Grant,
    /// May read anything and publish for anybody.
    pub(crate) is_backend: bool,
}

/// What a caller showed, not looked at yet.
pub(crate) enum Credential {
    /// A token, or the API key.
    Bearer(SecretString),
    /// A ticket.
    Ticket(SecretString),
    /// Nothing.
    Nothing,
}

/// Checks credentials. The keys it holds cannot be printed.
pub(crate) struct Authenticator {
    secret: DecodingKey,
    keyring: Option<Arc<Keyring>>,
    rules: TokenRules,
    api_key: Option<SecretString>,
    query_tokens: bool,
    revocations: Arc<Revocations>,
    pub(super) tickets: Tickets,
}

impl Authenticator {
    pub(crate) fn new(config: AuthConfig, revocations: Arc<Revocations>, tickets: Tickets) -> Self {
        let AuthConfig { token_secret, jwks, rules, api_key, query_tokens, .. } = config;
        let secret = DecodingKey::from_secret(token_secret.expose_secret().as_bytes());
        let keyring = jwks.map(Keyring::new).map(Arc::new);
        Self { secret, keyring, rules, api_key, query_tokens, revocations, tickets }
    }

    /// The public keys, if there are any to be read now and then.
    pub(crate) fn keyring(&self) -> Option<Arc<Keyring>> {
        self.keyring.clone()
    }

    /// The caller of an HTTP request.
    pub(crate) async fn request(&self, headers: &HeaderMap) -> Result<Principal, ApiError> {
        let bearer = bearer(headers).ok_or(ApiError::Unauthenticated("send Authorization: Bearer <token>"))?;
        self.bearer(bearer).await
    }

    /// What the caller of an upgrade or an event stream shows: header, subprotocol pair, or query. Whoever sends
    /// several is taken at the first.
    pub(crate) fn shown(&self, headers: &HeaderMap, token: Option<&str>, ticket: Option<&str>) -> Credential {
        let token = token.filter(|_| self.query_tokens);
        match (bearer(headers).or_else(|| subprotocol_token(headers)).or(token), ticket) {
            (Some(bearer), _) => Credential::Bearer(bearer.into()),
            (None, Some(ticket)) => Credential::Ticket(ticket.into()),
            (None, None) => Credential::Nothing,
        }
    }

    /// Who shows it. A ticket is used up by this.
    pub(crate) async fn authenticate(&self, credential: &Credential) -> Result<Principal, ApiError> {
        match credential {
            Credential::Bearer(bearer) => self.bearer(bearer.expose_secret()).await,
            Credential::Ticket(ticket) => self.sound(self.tickets.redeem(ticket.expose_secret()).await?),
            Credential::Nothing => Err(ApiError::Unauthenticated("no token was sent")),
        }
    }

    async fn bearer(&self, credential: &str) -> Result<Principal, ApiError> {
        if self.is_api_key(credential) { Ok(Principal::backend()) } else { self.token(credential).await }
    }

    fn is_api_key(&self, credential: &str) -> bool {
        let key = self.api_key.as_ref().map(|key| key.expose_secret()).filter(|key| !key.is_empty());
        key.is_some_and(|key| is_same_secret(key, credential))
    }

    /// The caller whom a token names.
    pub(crate) async fn token(&self, token: &str) -> Result<Principal, ApiError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(ApiError::Unauthenticated("the token is too long"));
        }
        self.sound(Principal::of(self.check(token).await?)?)
    }

    /// HS256 is for the secret and everything else for the public keys, so that neither is ever used as the other.
    async fn check(&self, token: &str) -> Result<Checked, ApiError> {
        const FOREIGN: ApiError = ApiError::Unauthenticated("the token is not one of ours");
        let header = jsonwebtoken::decode_header(token).map_err(|_| FOREIGN)?;
        if header.alg == Algorithm::HS256 {
            return self.rules.check(token, &self.secret, Algorithm::HS256);
        }
        let keyring = self.keyring.as_ref().ok_or(FOREIGN)?;
        let key = keyring.find(&header).await?.ok_or(FOREIGN)?;
        self.rules.check(token, &key.decoding, key.algorithm)
    }

    /// The same caller, unless what it was granted has ended.
    fn sound(&self, principal: Principal) -> Result<Principal, ApiError> {
        if principal.grant.has_expired() {
            return Err(ApiError::Unauthenticated("the token has expired"));
        }
        if self.revocations.cover(&principal.user, &principal.grant) {
            return Err(ApiError::Unauthenticated("the token was revoked"));
        }
        Ok(principal)
    }
}

impl Principal {
    fn backend() -> Self {
        let user = UserId::new(UserId::SYSTEM).unwrap_or_else(|_| unreachable!("a valid name"));
        Self {
            user,
            sender_type: "system".to_owned(),
            device: None,
            device_type: None,
            grant: Grant::FOREVER,
            is_backend: true,
        }
    }

    fn of(claims: Checked) -> Result<Self, ApiError> {
        let grant = claims.grant();
        let user = UserId::new(&claims.sub).map_err(|_| ApiError::Unauthenticated("sub is not a user id"))?;
        let device = claims.device_id.map(DeviceId::new).transpose();
        let device = device.map_err(|_| ApiError::Unauthenticated("device_id is not a name"))?;
        let device_type = claims.device_type.map(DeviceType::new).transpose();
        let device_type = device_type.map_err(|_| ApiError::Unauthenticated("device_type is not a name"))?;
        let sender_type = claims.role.filter(|role| !role.is_empty() && role.len() <= 32);
        let sender_type = sender_type.unwrap_or_else(|| "user".to_owned());
        Ok(Self { user, sender_type, device, device_type, grant, is_backend: false })
    }

    pub(crate) fn require_backend(&self) -> Result<(), ApiError> {
        if self.is_backend { Ok(()) } else { Err(ApiError::Forbidden("this needs the API key")) }
    }
}

/// The subprotocol to confirm, if the client offered ours.
pub(crate) fn offers_protocol(headers: &HeaderMap) -> bool {
    subprotocols(headers).any(|protocol| protocol == PROTOCOL)
}

pub(crate) const fn protocol() -> &'static str {
    PROTOCOL
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(credential.trim())
}

fn subprotocol_token(headers: &HeaderMap) -> Option<&str> {
    subprotocols(headers).find_map(|protocol| protocol.strip_prefix("token."))
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|offer| offer.to_str().ok());
    offers.flat_map(|offer| offer.split(',')).map(str::trim)
}

/// Takes as long for a near miss as for a far one.
pub fn is_same_secret(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    #[test]
    fn secrets_are_the_same_or_not() {
        assert!(is_same_secret("", "") && is_same_secret("key", "key"));
        assert!(!is_same_secret("key", "kex") && !is_same_secret("key", "keys") && !is_same_secret("key", ""));
    }

    #[test]
    fn a_bearer_is_found_whatever_the_case_of_its_scheme() {
        for value in ["Bearer token", "bearer token", "BEARER  token "] {
            assert_eq!(bearer(&headers(header::AUTHORIZATION, value)), Some("token"));
        }
        for value in ["Basic token", "token", "Bearer"] {
            assert_eq!(bearer(&headers(header::AUTHORIZATION, value)), None);
        }
    }

    #[test]
    fn a_token_comes_as_a_subprotocol_beside_ours() {
        let offered = headers(header::SEC_WEBSOCKET_PROTOCOL, "everpost.v1, token.a.b.c");
        assert!(offers_protocol(&offered));
        assert_eq!(subprotocol_token(&offered), Some("a.b.c"));
    }
}
