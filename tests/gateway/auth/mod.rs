//! Who is let in, and for how long.

/// Public keys of others.
mod jwks;
/// Pages that may connect.
mod origins;
/// Tokens shown in place of the first one.
mod refresh;
/// Tokens that are taken back.
mod revocations;
/// Conversations that are left while they are being read.
mod rights;
/// A token's stand-in for addresses.
mod tickets;
/// What a token must say.
mod tokens;

use everpost_core::clock::now_ms;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;

use crate::harness::app::{App, TOKEN_SECRET};

/// The status that asking for something with a token gets.
async fn status(app: &App, token: &str) -> u16 {
    app.get("/v1/conversations", token).await.status
}

fn now() -> u64 {
    now_ms() / 1_000
}

/// Claims signed with the service's own secret.
fn signed(claims: &Value) -> String {
    signed_as(&Header::new(Algorithm::HS256), claims)
}

fn signed_as(header: &Header, claims: &Value) -> String {
    let key = EncodingKey::from_secret(TOKEN_SECRET.as_bytes());
    jsonwebtoken::encode(header, claims, &key).expect("a token")
}
