//! Tokens that others sign, checked with the public keys they publish.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::{now, status};
use crate::harness::{
    app::{App, claims},
    issuer::{Issuer, Signer, set},
};

#[tokio::test]
async fn each_algorithm_is_checked_with_the_key_that_is_named() {
    let signers =
        [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(|alg| Signer::new(&format!("{alg:?}"), alg));
    let issuer = Issuer::start(&signers.each_ref()).await;
    let app = App::embedded_with(&[("jwks", &issuer.url())]).await;
    for signer in &signers {
        assert_eq!(status(&app, &signer.token("alice")).await, 200, "{}", signer.id);
        let stranger = Signer::new(&signer.id, signer.algorithm);
        assert_eq!(status(&app, &stranger.token("alice")).await, 401, "another key of the same name");
        let mislabelled = Header { kid: Some("ES256".to_owned()), ..Header::new(signer.algorithm) };
        let good = signer.algorithm == Algorithm::ES256;
        let token = signer.sign(&mislabelled, &json!(claims("alice", 60)));
        assert_eq!(status(&app, &token).await == 200, good, "the key says which algorithm");
    }
    assert_eq!(status(&app, &app.token("alice")).await, 200, "the secret goes on to count");
    let mut alice = app.open("/v1/ws", Some(&signers[0].token("alice"))).await;
    assert_eq!(alice.greeted().await["data"]["user_id"], "alice");
}

/// The classic: whoever knows the public key, which is everybody, signs with it as if it were a secret.
#[tokio::test]
async fn a_public_key_is_never_a_secret() {
    let signer = Signer::new("key", Algorithm::RS256);
    let issuer = Issuer::start(&[&signer]).await;
    let app = App::embedded_with(&[("jwks", &issuer.url())]).await;
    assert_eq!(status(&app, &signer.token("alice")).await, 200);
    let public = signer.public();
    let modulus = public["n"].as_str().expect("an RSA key");
    let raw = URL_SAFE_NO_PAD.decode(modulus).expect("base64");
    for secret in [modulus.as_bytes().to_vec(), raw, public.to_string().into_bytes(), set(&[&signer]).into_bytes()] {
        for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            for kid in [Some("key".to_owned()), None] {
                let (header, key) = (Header { kid, ..Header::new(alg) }, EncodingKey::from_secret(&secret));
                let token = jsonwebtoken::encode(&header, &claims("alice", 60), &key).expect("a token");
                assert_eq!(status(&app, &token).await, 401, "{alg:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_symmetric_key_in_the_document_counts_for_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, signer) = (folder.path().join("keys.json"), Signer::new("good", Algorithm::EdDSA));
    let secret = "a secret that somebody published by mistake";
    let oct = json!({"kty": "oct", "kid": "bad", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(secret)});
    std::fs::write(&file, json!({"keys": [oct, signer.public()]}).to_string()).expect("a file");
    let app = App::embedded_with(&[("jwks", file.to_str().expect("a plain name"))]).await;
    assert_eq!(status(&app, &signer.token("alice")).await, 200, "the others in it do, also from a file");
    let header = Header { kid: Some("bad".to_owned()), ..Header::new(Algorithm::HS256) };
    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&header, &claims("alice", 60), &key).expect("a token");
    assert_eq!(status(&app, &token).await, 401);
}

/// Keys are rotated while people are connected: the new one counts at once on every gateway, the old one for as long as
/// it is listed, and open connections go on.
#[tokio::test]
async fn keys_can_be_rotated_while_people_are_connected() {
    let (old, new) = (Signer::new("old", Algorithm::ES256), Signer::new("new", Algorithm::EdDSA));
    let issuer = Issuer::start(&[&old]).await;
    let app = App::distributed_with(&[("jwks", &issuer.url())]).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut alice = app.open("/v1/ws", Some(&old.token("alice"))).await;
    alice.greeted().await;
    issuer.publish(&[&old, &new]);
    for gateway in 0..2 {
        for signer in [&new, &old] {
            let list = app.ask(gateway, reqwest::Method::GET, "/v1/conversations", &signer.token("bob"), None).await;
            assert_eq!(list.status, 200, "{} on gateway {gateway}", signer.id);
        }
    }
    alice.text("room", "still here").await;
    let renewed = alice.ask(json!({"type": "refresh", "token": new.token("alice")})).await;
    assert_eq!(renewed["event"], "ack", "{renewed}");
    alice.text("room", "with the new key").await;
}

/// Strangers choose which key a token names. They cannot make us ask the issuer again and again.
#[tokio::test]
async fn unknown_keys_are_looked_for_once_a_minute() {
    let signer = Signer::new("known", Algorithm::EdDSA);
    let issuer = Issuer::start(&[&signer]).await;
    let app = App::embedded_with(&[("jwks", &issuer.url())]).await;
    assert_eq!((status(&app, &signer.token("alice")).await, issuer.fetches()), (200, 1), "they are read at the start");
    let unknown: Vec<Signer> = (0..50).map(|n| Signer::new(&format!("unknown-{n}"), Algorithm::EdDSA)).collect();
    let tokens: Vec<String> = unknown.iter().map(|signer| signer.token("alice")).collect();
    let asked = futures_util::future::join_all(tokens.iter().map(|token| status(&app, token))).await;
    assert!(asked.iter().all(|status| *status == 401), "{asked:?}");
    assert_eq!(issuer.fetches(), 2, "all of them together");
    assert_eq!(status(&app, &signer.token("alice")).await, 200);
}

#[tokio::test]
async fn the_last_good_keys_go_on_while_the_issuer_fails() {
    let signer = Signer::new("known", Algorithm::EdDSA);
    let issuer = Issuer::start(&[&signer]).await;
    let app = App::embedded_with(&[("jwks", &issuer.url())]).await;
    assert_eq!(status(&app, &signer.token("alice")).await, 200);
    issuer.fail();
    assert_eq!(status(&app, &Signer::new("unknown", Algorithm::EdDSA).token("alice")).await, 401);
    assert_eq!((issuer.fetches(), status(&app, &signer.token("alice")).await), (2, 200));
}

/// Not knowing the keys is our fault and not the caller's, who should come back.
#[tokio::test]
async fn without_keys_callers_are_told_to_come_back() {
    let signer = Signer::new("known", Algorithm::EdDSA);
    let issuer = Issuer::start(&[&signer]).await;
    issuer.fail();
    let app = App::embedded_with(&[("jwks", &issuer.url())]).await;
    let answer = app.get("/v1/conversations", &signer.token("alice")).await;
    assert_eq!((answer.status, answer.code()), (503, "unavailable"));
    app.open("/v1/ws", Some(&signer.token("alice"))).await.expect_close(1011).await;
    assert_eq!(status(&app, &app.token("alice")).await, 200, "our own tokens need no keys of others");
}

#[tokio::test]
async fn keys_are_not_looked_for_elsewhere() {
    let signer = Signer::new("known", Algorithm::EdDSA);
    let issuer = Issuer::start(&[&signer]).await;
    let app = App::embedded_with(&[("jwks", &issuer.moved_url())]).await;
    assert_eq!(status(&app, &signer.token("alice")).await, 503, "redirects are not followed");
    assert_eq!(issuer.fetches(), 0);
}

#[tokio::test]
async fn what_a_token_must_say_holds_for_those_of_others() {
    let signer = Signer::new("known", Algorithm::EdDSA);
    let issuer = Issuer::start(&[&signer]).await;
    let strict = App::embedded_with(&[("jwks", &issuer.url()), ("token_audience", "everpost")]).await;
    let header = signer.header();
    let good = json!({"sub": "alice", "exp": now() + 60, "aud": "everpost"});
    assert_eq!(status(&strict, &signer.sign(&header, &good)).await, 200);
    for bad in [
        json!({"sub": "alice", "exp": now() - 60, "aud": "everpost"}),
        json!({"sub": "alice", "exp": now() + 60}),
        json!({"sub": "alice", "aud": "everpost"}),
        json!({"exp": now() + 60, "aud": "everpost"}),
    ] {
        assert_eq!(status(&strict, &signer.sign(&header, &bad)).await, 401, "{bad}");
    }
}
