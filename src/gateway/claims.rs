//! What a token says, what it must say, and making one.

use std::time::Duration;

use everpost_core::clock::now_ms;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::Error, errors::ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::error::ApiError;

/// Clocks may differ by this much.
const LEEWAY_SECONDS: u64 = 5;
const MAX_TOKEN_ID_BYTES: usize = 255;

/// What somebody wants a token to say.
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

/// Whom tokens are for and from, and how long they may last.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// What `aud` must contain, if anything.
    pub audience: Option<String>,
    /// What `iss` must be, if anything.
    pub issuer: Option<String>,
    /// A token that lasts longer from now on is refused.
    pub max_lifetime: Duration,
}

/// What a token said that was found to be in order.
#[derive(Deserialize)]
pub(crate) struct Checked {
    pub(crate) sub: String,
    /// Providers may write instants with a fraction (RFC 7519, `NumericDate`).
    exp: f64,
    iat: Option<f64>,
    jti: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) device_id: Option<String>,
    pub(crate) device_type: Option<String>,
}

/// What remains of a token once it was checked: what it takes to know when it ends, or that it was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// Its `jti`.
    pub(crate) token_id: Option<String>,
    /// Its `iat`, seconds since the epoch; 0 where it does not tell.
    pub(crate) issued: u64,
    /// Its `exp`; never for a backend.
    pub(crate) expires: u64,
}

impl Grant {
    /// Ends never, and cannot be revoked.
    pub(crate) const FOREVER: Self = Self { token_id: None, issued: u64::MAX, expires: u64::MAX };

    pub(crate) fn has_expired(&self) -> bool {
        self.expires.saturating_add(LEEWAY_SECONDS) < now_ms() / 1_000
    }
}

impl Checked {
    pub(crate) fn grant(&self) -> Grant {
        Grant { token_id: self.jti.clone(), issued: self.iat.unwrap_or(0.0) as u64, expires: self.exp as u64 }
    }
}

impl TokenRules {
    /// Checks a token with one key, for the algorithm of that key only.
    pub(crate) fn check(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Checked, ApiError> {
        let found = jsonwebtoken::decode::<Checked>(token, key, &self.validation(algorithm)).map_err(refused)?;
        let (header, claims) = (found.header, found.claims);
        if !is_ordinary(&header) {
            return Err(ApiError::Unauthenticated("the token is of another kind"));
        }
        let latest = (now_ms() / 1_000).saturating_add(LEEWAY_SECONDS).saturating_add(self.max_lifetime.as_secs());
        if claims.exp as u64 > latest {
            return Err(ApiError::Unauthenticated("the token lasts longer than allowed"));
        }
        if claims.jti.as_ref().is_some_and(|id| !is_token_id(id)) {
            return Err(ApiError::Unauthenticated("jti is too long"));
        }
        Ok(claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.validate_aud = self.audience.is_some();
        let mut required = vec!["exp", "sub"];
        // What is to be compared must also be there: the library compares only what it finds.
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    /// Makes a token that keeps to these rules. It can be revoked by its id and by its time.
    pub fn mint(&self, secret: &SecretString, claims: &Claims) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Minted<'a> {
            #[serde(flatten)]
            claims: &'a Claims,
            iat: u64,
            jti: uuid::Uuid,
            #[serde(skip_serializing_if = "Option::is_none")]
            aud: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            iss: Option<&'a str>,
        }
        let (iat, jti) = (now_ms() / 1_000, uuid::Uuid::new_v4());
        let minted = Minted { claims, iat, jti, aud: self.audience.as_deref(), iss: self.issuer.as_deref() };
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &minted, &key)
    }
}

/// Makes a token for a service that asks for no audience and no issuer.
pub fn mint(secret: &SecretString, claims: &Claims) -> Result<String, Error> {
    TokenRules { audience: None, issuer: None, max_lifetime: Duration::MAX }.mint(secret, claims)
}

/// Whether a text can be the id of a token.
pub(crate) fn is_token_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_TOKEN_ID_BYTES && !id.chars().any(char::is_control)
}

/// A signature may also be valid on something that was never meant to log anybody in (RFC 8725, 3.11), and a header
/// that must be understood is not (RFC 7515, 4.1.11).
fn is_ordinary(header: &Header) -> bool {
    let kind = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    let kind = kind.strip_prefix("application/").unwrap_or(&kind);
    ["jwt", "at+jwt"].contains(&kind) && header.crit.is_none()
}

fn refused(error: Error) -> ApiError {
    ApiError::Unauthenticated(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for somebody else",
        ErrorKind::InvalidIssuer => "the token is from somebody else",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks a claim that is required",
        _ => "the token is not one of ours",
    })
}
