//! Who is calling: a person with a token, or a backend with the API key.

use axum::http::{HeaderMap, header};
use everpost_core::name::{DeviceId, DeviceType, UserId};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    errors::{Error, ErrorKind},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::error::ApiError;

/// Clocks may differ by this much.
const LEEWAY_SECONDS: u64 = 5;
const MAX_TOKEN_BYTES: usize = 4_096;
const PROTOCOL: &str = "everpost.v1";

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: String,
    /// When it runs out, seconds since the epoch.
    pub exp: u64,
    /// Becomes `sender_type`; `user` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The device, if it wants a cursor kept for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// `ios`, `web`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_type: Option<String>,
}

/// Who a request comes from.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    pub(crate) user: UserId,
    pub(crate) sender_type: String,
    pub(crate) device: Option<DeviceId>,
    pub(crate) device_type: Option<DeviceType>,
    /// Seconds since the epoch; never for a backend.
    pub(crate) expires: u64,
    /// May read anything and publish for anybody.
    pub(crate) is_backend: bool,
}

/// Checks credentials. The keys it holds cannot be printed.
pub(crate) struct Authenticator {
    decoding: DecodingKey,
    validation: Validation,
    api_key: Option<SecretString>,
    query_tokens: bool,
}

impl Authenticator {
    pub(crate) fn new(secret: &SecretString, api_key: Option<SecretString>, query_tokens: bool) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        let decoding = DecodingKey::from_secret(secret.expose_secret().as_bytes());
        Self { decoding, validation, api_key, query_tokens }
    }

    /// The caller of an HTTP request.
    pub(crate) fn request(&self, headers: &HeaderMap) -> Result<Principal, ApiError> {
        let bearer = bearer(headers).ok_or(ApiError::Unauthenticated("send Authorization: Bearer <token>"))?;
        self.credential(bearer)
    }

    /// The caller of an upgrade: header, subprotocol pair, or query.
    pub(crate) fn upgrade(&self, headers: &HeaderMap, query: Option<&str>) -> Result<Principal, ApiError> {
        let query = query.filter(|_| self.query_tokens);
        let credential = bearer(headers).or_else(|| subprotocol_token(headers)).or(query);
        self.credential(credential.ok_or(ApiError::Unauthenticated("no token was sent"))?)
    }

    fn credential(&self, credential: &str) -> Result<Principal, ApiError> {
        if self.is_api_key(credential) { Ok(Principal::backend()) } else { self.token(credential) }
    }

    fn is_api_key(&self, credential: &str) -> bool {
        let key = self.api_key.as_ref().map(|key| key.expose_secret()).filter(|key| !key.is_empty());
        key.is_some_and(|key| is_same_secret(key, credential))
    }

    fn token(&self, token: &str) -> Result<Principal, ApiError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(ApiError::Unauthenticated("the token is too long"));
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).map_err(refused)?.claims;
        let user = UserId::new(&claims.sub).map_err(|_| ApiError::Unauthenticated("sub is not a user id"))?;
        let device = claims.device_id.map(DeviceId::new).transpose();
        let device = device.map_err(|_| ApiError::Unauthenticated("device_id is not a name"))?;
        let device_type = claims.device_type.map(DeviceType::new).transpose();
        let device_type = device_type.map_err(|_| ApiError::Unauthenticated("device_type is not a name"))?;
        let sender_type = claims.role.filter(|role| !role.is_empty() && role.len() <= 32);
        let sender_type = sender_type.unwrap_or_else(|| "user".to_owned());
        Ok(Principal { user, sender_type, device, device_type, expires: claims.exp, is_backend: false })
    }
}

impl Principal {
    fn backend() -> Self {
        let user = UserId::new("system").unwrap_or_else(|_| unreachable!("a valid name"));
        let (device, device_type, expires) = (None, None, u64::MAX);
        Self { user, sender_type: "system".to_owned(), device, device_type, expires, is_backend: true }
    }

    pub(crate) fn require_backend(&self) -> Result<(), ApiError> {
        if self.is_backend { Ok(()) } else { Err(ApiError::Forbidden("this needs the API key")) }
    }
}

/// Makes a token with the secret that [`Authenticator`] checks.
pub fn mint(secret: &SecretString, claims: &Claims) -> Result<String, Error> {
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key)
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

fn refused(error: Error) -> ApiError {
    ApiError::Unauthenticated(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks sub or exp",
        _ => "the token is not one of ours",
    })
}

/// Takes as long for a near miss as for a far one.
pub fn is_same_secret(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use everpost_core::clock::now_ms;

    use super::*;

    fn secret() -> SecretString {
        SecretString::from("a-secret-of-at-least-thirty-two-bytes")
    }

    fn authenticator() -> Authenticator {
        Authenticator::new(&secret(), Some(SecretString::from("the-api-key")), true)
    }

    fn claims(exp: u64) -> Claims {
        Claims { sub: "alice".into(), exp, role: None, device_id: None, device_type: None }
    }

    fn in_an_hour() -> u64 {
        now_ms() / 1_000 + 3_600
    }

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    #[test]
    fn a_token_is_taken_from_three_places() {
        let token = mint(&secret(), &claims(in_an_hour())).expect("a token");
        let auth = authenticator();
        let by_header = headers(header::AUTHORIZATION, &format!("Bearer {token}"));
        let by_protocol = headers(header::SEC_WEBSOCKET_PROTOCOL, &format!("everpost.v1, token.{token}"));
        for found in [
            auth.upgrade(&by_header, None),
            auth.upgrade(&by_protocol, None),
            auth.upgrade(&HeaderMap::new(), Some(&token)),
        ] {
            assert_eq!(found.expect("a principal").user.as_str(), "alice");
        }
        let strict = Authenticator::new(&secret(), None, false);
        assert!(strict.upgrade(&HeaderMap::new(), Some(&token)).is_err(), "query tokens can be turned off");
    }

    #[test]
    fn what_is_not_signed_by_us_in_time_is_refused() {
        let auth = authenticator();
        let old = mint(&secret(), &claims(now_ms() / 1_000 - 60)).expect("a token");
        let foreign = mint(&SecretString::from("another secret"), &claims(in_an_hour())).expect("a token");
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.";
        for token in [old.as_str(), foreign.as_str(), unsigned, "", "garbage", "a.b.c"] {
            assert!(auth.credential(token).is_err(), "{token}");
        }
    }

    #[test]
    fn claims_that_are_required_are_required() {
        let key = EncodingKey::from_secret(secret().expose_secret().as_bytes());
        for claims in [
            serde_json::json!({"sub": "alice"}),
            serde_json::json!({"exp": in_an_hour()}),
            serde_json::json!({"sub": 5, "exp": in_an_hour()}),
            serde_json::json!({"sub": "a b", "exp": in_an_hour()}),
        ] {
            let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token");
            assert!(authenticator().credential(&token).is_err(), "{claims}");
        }
    }

    #[test]
    fn the_api_key_is_a_backend() {
        assert!(authenticator().credential("the-api-key").expect("a principal").is_backend);
        assert!(authenticator().credential("the-api-kex").is_err());
    }
}
