//! A token must be signed by us or by whom we trust, for us, now, and say who somebody is.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

use super::{now, signed, signed_as, status};
use crate::harness::app::App;

const STRICT: [(&str, &str); 3] =
    [("token_audience", "everpost"), ("token_issuer", "https://id.example/"), ("max_token_lifetime", "1d")];

/// Sound claims for a service that asks for everything, with some of them replaced; null takes one away.
fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "sub": "alice", "exp": now() + 3_600, "nbf": now() - 60, "iat": now() - 60, "jti": "a token",
        "aud": "everpost", "iss": "https://id.example/",
    });
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

#[tokio::test]
async fn every_claim_that_counts_must_be_there_and_match() {
    let app = App::embedded_with(&STRICT).await;
    for sound in [
        json!({}),
        json!({"aud": ["other", "everpost"], "nbf": null, "iat": null, "jti": null}),
        json!({"exp": now() as f64 + 60.5, "iat": now() as f64 - 0.5}),
        json!({"role": "agent", "device_id": "phone", "scope": "anything"}),
    ] {
        assert_eq!(status(&app, &signed(&claims(sound.clone()))).await, 200, "{sound}");
    }
    for broken in [
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": 5}),
        json!({"sub": ["alice"]}),
        json!({"sub": "not a name"}),
        json!({"exp": null}),
        json!({"exp": now() - 60}),
        json!({"exp": (now() + 3_600).to_string()}),
        json!({"exp": -1}),
        json!({"exp": true}),
        json!({"exp": now() + 2 * 24 * 3_600}),
        json!({"exp": 1e300}),
        json!({"nbf": now() + 3_600}),
        json!({"nbf": "tomorrow"}),
        json!({"aud": null}),
        json!({"aud": "other"}),
        json!({"aud": []}),
        json!({"aud": ["everpost-admin", "EVERPOST"]}),
        json!({"iss": null}),
        json!({"iss": "https://id.example"}),
        json!({"iss": "https://evil.example/"}),
        json!({"jti": "x".repeat(300)}),
        json!({"jti": 5}),
        json!({"iat": "now"}),
        json!({"device_id": "not a name"}),
        json!({"role": 5}),
    ] {
        let answer = app.get("/v1/conversations", &signed(&claims(broken.clone()))).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthenticated"), "{broken}");
    }
}

#[tokio::test]
async fn what_the_header_says_changes_nothing() {
    let app = App::embedded_with(&STRICT).await;
    let header = || Header::new(Algorithm::HS256);
    let typ = |typ: &str| Header { typ: Some(typ.to_owned()), ..header() };
    let good = claims(json!({}));
    for header in [header(), typ("at+jwt"), typ("application/JWT"), Header { typ: None, ..header() }] {
        assert_eq!(status(&app, &signed_as(&header, &good)).await, 200, "{header:?}");
    }
    let kid = |kid: &str| Header { kid: Some(kid.to_owned()), ..header() };
    let embedded = serde_json::from_value(json!({"kty": "oct", "k": "c2VjcmV0"})).expect("a key");
    for header in [
        typ("logout+jwt"),
        typ("dpop+jwt"),
        Header { crit: Some(vec!["b64".to_owned()]), ..header() },
        Header::new(Algorithm::HS384),
        Header::new(Algorithm::HS512),
    ] {
        assert_eq!(status(&app, &signed_as(&header, &good)).await, 401, "{header:?}");
    }
    // Names of keys and keys that come with a token are not looked at, so they neither help nor harm.
    for header in [
        kid("../../dev/null"),
        kid("' OR 1=1 --"),
        Header { jku: Some("http://127.0.0.1:9/".to_owned()), ..header() },
        Header { x5u: Some("http://127.0.0.1:9/".to_owned()), ..header() },
        Header { jwk: Some(embedded), ..header() },
    ] {
        let by_us = signed_as(&header, &good);
        assert_eq!(status(&app, &by_us).await, 200, "{header:?}");
        let key = jsonwebtoken::EncodingKey::from_secret(b"secret");
        let by_others = jsonwebtoken::encode(&header, &good, &key).expect("a token");
        assert_eq!(status(&app, &by_others).await, 401, "{header:?}");
    }
}

#[tokio::test]
async fn a_token_that_nobody_signed_is_refused() {
    let app = App::embedded().await;
    let body = URL_SAFE_NO_PAD.encode(json!({"sub": "alice", "exp": now() + 60}).to_string());
    let signature = signed(&json!({"sub": "alice", "exp": now() + 60})).rsplit('.').next().expect("it has").to_owned();
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "RS256"] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
        for signature in ["", "AA", &signature] {
            assert_eq!(status(&app, &format!("{header}.{body}.{signature}")).await, 401, "{alg:?}");
        }
        assert_eq!(status(&app, &format!("{header}.{body}")).await, 401, "{alg:?}");
    }
    assert_eq!(status(&app, &"x".repeat(5_000)).await, 401, "longer than any token");
}

/// What a stranger is told does not depend on whom they pretend to be.
#[tokio::test]
async fn refusals_are_alike_whoever_is_meant() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let mut answers = Vec::new();
    for user in ["alice", "nobody"] {
        let key = jsonwebtoken::EncodingKey::from_secret(b"another secret of more than 32 characters");
        let claims = json!({"sub": user, "exp": now() + 60});
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token");
        answers.push(app.get("/v1/conversations/room", &token).await.body);
    }
    assert_eq!(answers[0], answers[1]);
    assert!(!answers[0].to_string().contains("alice"));
}
