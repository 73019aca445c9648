//! Somebody who signs tokens with keys of their own, and publishes the public ones.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use axum::{Router, extract::State, http::StatusCode, routing::get};
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};

use super::app::claims;

/// A private key and its name.
pub(crate) struct Signer {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// A new key.
    pub(crate) fn new(id: &str, algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let key = match algorithm {
            Algorithm::RS256 => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("a key");
                let der: Pkcs8V1Der<'_> = pair.as_der().expect("DER");
                EncodingKey::from_rsa_pem(&pem(der.as_ref()))
            }
            Algorithm::ES256 => {
                let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
                EncodingKey::from_ec_pem(&pem(der.as_ref()))
            }
            Algorithm::EdDSA => {
                let der = Ed25519KeyPair::generate_pkcs8v1(&random).expect("a key");
                EncodingKey::from_ed_pem(&pem(der.as_ref()))
            }
            other => panic!("nobody signs with {other:?} here"),
        };
        Self { id: id.to_owned(), algorithm, key: key.expect("a key that can be read") }
    }

    /// The public key, as it is published.
    pub(crate) fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a public key");
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).expect("JSON")
    }

    /// A token of an hour.
    pub(crate) fn token(&self, user: &str) -> String {
        self.sign(&self.header(), &json!(claims(user, 3_600)))
    }

    pub(crate) fn header(&self) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) }
    }

    pub(crate) fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).expect("a token")
    }
}

fn pem(der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der)).into_bytes()
}

struct Published {
    document: Mutex<Result<String, StatusCode>>,
    fetches: AtomicUsize,
}

/// Publishes keys at an address, and counts how often they are fetched.
pub(crate) struct Issuer {
    address: SocketAddr,
    published: Arc<Published>,
}

impl Issuer {
    /// Starts one that publishes the keys of these.
    pub(crate) async fn start(signers: &[&Signer]) -> Self {
        let published = Arc::new(Published { document: Mutex::new(Ok(set(signers))), fetches: AtomicUsize::new(0) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let routes = Router::new().route("/jwks", get(serve)).with_state(published.clone());
        let routes = routes.route("/moved", get(|| async { (StatusCode::FOUND, [("location", "/jwks")]) }));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, published }
    }

    /// Where.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }

    /// An address that only leads to it.
    pub(crate) fn moved_url(&self) -> String {
        format!("http://{}/moved", self.address)
    }

    /// From now on these are its keys.
    pub(crate) fn publish(&self, signers: &[&Signer]) {
        *self.published.document.lock().expect("nobody panics with it") = Ok(set(signers));
    }

    /// From now on it fails.
    pub(crate) fn fail(&self) {
        *self.published.document.lock().expect("nobody panics with it") = Err(StatusCode::BAD_GATEWAY);
    }

    /// How often the keys were fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.published.fetches.load(Ordering::Relaxed)
    }
}

/// The document with the keys of these.
pub(crate) fn set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.public()).collect::<Vec<_>>() }).to_string()
}

async fn serve(State(published): State<Arc<Published>>) -> Result<String, StatusCode> {
    published.fetches.fetch_add(1, Ordering::Relaxed);
    published.document.lock().expect("nobody panics with it").clone()
}
