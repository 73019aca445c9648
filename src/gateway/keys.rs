//! The public keys tokens are signed with, each with the one algorithm it is for (RFC 7517).
//!
//! The algorithm comes from the key and never from the token: a public key checks no HMAC, and the secret no signature.
//! Keys that are of no use to us are passed over, so that a provider may list others beside them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header,
    jwk::{AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// No provider has this many; each of them could be asked for by a stranger's token.
const MAX_KEYS: usize = 64;
const MAX_KEY_ID_BYTES: usize = 256;
/// 2048 bits, the least of RFC 7518.
const MIN_MODULUS_BYTES: usize = 256;

/// Why a document is not a set of keys.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKeys {
    /// Not the JSON of RFC 7517.
    #[error("it is not a JWK set")]
    NotASet,
    /// More keys than anybody has.
    #[error("it lists more than {MAX_KEYS} keys")]
    TooMany,
    /// Nothing in it signs tokens with RS256, ES256 or `EdDSA`.
    #[error("none of its keys is for RS256 (from 2048 bits), ES256 or EdDSA")]
    NoneUsable,
}

/// One key.
pub(crate) struct Key {
    id: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) decoding: DecodingKey,
}

/// The keys of one document.
pub(crate) struct KeySet(Vec<std::sync::Arc<Key>>);

impl KeySet {
    /// Reads a document.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, InvalidKeys> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let Document { keys } = serde_json::from_slice(document).map_err(|_| InvalidKeys::NotASet)?;
        if keys.len() > MAX_KEYS {
            return Err(InvalidKeys::TooMany);
        }
        let keys: Vec<_> = keys.into_iter().filter_map(key).map(std::sync::Arc::new).collect();
        if keys.is_empty() { Err(InvalidKeys::NoneUsable) } else { Ok(Self(keys)) }
    }

    /// The key a token names; without a name, the only one there is for its algorithm.
    pub(crate) fn find(&self, header: &Header) -> Option<std::sync::Arc<Key>> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm == header.alg);
        match &header.kid {
            Some(id) => fitting.find(|key| key.id.as_ref() == Some(id)).cloned(),
            None => fitting.next().filter(|_| fitting.next().is_none()).cloned(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The key, if it is one that may check our tokens.
fn key(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let algorithm = algorithm(&jwk.algorithm)?;
    let declared = jwk.common.key_algorithm.is_none_or(|declared| declared == KeyAlgorithm::from(algorithm));
    let id = jwk.common.key_id.clone();
    if !declared || !verifies(&jwk.common) || id.as_ref().is_some_and(|id| id.len() > MAX_KEY_ID_BYTES) {
        return None;
    }
    Some(Key { id, algorithm, decoding: DecodingKey::from_jwk(&jwk).ok()? })
}

/// What a key of this kind and size is for. Symmetric ones are not public, so they are never taken from a document.
fn algorithm(parameters: &AlgorithmParameters) -> Option<Algorithm> {
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_or(0, |bytes| bytes.len());
    match parameters {
        AlgorithmParameters::RSA(rsa) if bytes(&rsa.n) >= MIN_MODULUS_BYTES => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (bytes(&ec.x) == 32 && bytes(&ec.y) == 32).then_some(Algorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => {
            (bytes(&ed.x) == 32).then_some(Algorithm::EdDSA)
        }
        _ => None,
    }
}

fn verifies(common: &CommonParameters) -> bool {
    let signs = common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    signs && common.key_operations.as_ref().is_none_or(|allowed| allowed.contains(&KeyOperations::Verify))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xff; bytes])
    }

    fn algorithms(keys: Value) -> Vec<Algorithm> {
        let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes());
        set.map(|set| set.0.iter().map(|key| key.algorithm).collect()).unwrap_or_default()
    }

    #[test]
    fn the_algorithm_is_that_of_the_key() {
        let (n, x) = (number(256), number(32));
        assert_eq!(algorithms(json!([{"kty": "RSA", "n": n, "e": "AQAB"}])), [Algorithm::RS256]);
        assert_eq!(algorithms(json!([{"kty": "EC", "crv": "P-256", "x": x, "y": x}])), [Algorithm::ES256]);
        assert_eq!(algorithms(json!([{"kty": "OKP", "crv": "Ed25519", "x": x}])), [Algorithm::EdDSA]);
    }

    #[test]
    fn keys_for_something_else_are_passed_over() {
        let (n, x) = (number(256), number(32));
        let good = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA", "key_ops": ["verify"]});
        for other in [
            json!({"kty": "oct", "k": number(64), "alg": "HS256"}),
            json!({"kty": "RSA", "n": number(128), "e": "AQAB"}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "HS256"}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS512"}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "use": "enc"}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "key_ops": ["encrypt"]}),
            json!({"kty": "EC", "crv": "P-384", "x": x, "y": x}),
            json!({"kty": "EC", "crv": "P-256", "x": number(31), "y": x}),
            json!({"kty": "OKP", "crv": "X25519", "x": x}),
            json!({"kty": "future", "kid": 5}),
            json!("nonsense"),
        ] {
            assert_eq!(algorithms(json!([other, good])), [Algorithm::EdDSA], "{other}");
        }
    }

    #[test]
    fn what_is_no_set_of_keys_is_refused() {
        let many = json!({"keys": vec![json!({}); MAX_KEYS + 1]}).to_string();
        for document in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, &many] {
            assert!(KeySet::parse(document.as_bytes()).is_err(), "{document}");
        }
    }

    #[test]
    fn a_token_without_a_key_id_needs_the_only_key_there_is() {
        let key = |kid: &str| json!({"kty": "OKP", "crv": "Ed25519", "x": number(32), "kid": kid});
        let set = |keys: Value| KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).expect("keys");
        let (one, two) = (set(json!([key("a")])), set(json!([key("a"), key("b")])));
        let named = |kid: Option<&str>| Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
        assert!(one.find(&named(None)).is_some() && two.find(&named(None)).is_none());
        assert!(two.find(&named(Some("b"))).is_some() && two.find(&named(Some("../b"))).is_none());
        let confused = Header { kid: Some("a".to_owned()), ..Header::new(Algorithm::HS256) };
        assert!(one.find(&confused).is_none(), "the algorithm is that of the key");
    }
}
