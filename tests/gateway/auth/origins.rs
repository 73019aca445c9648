//! Which pages may open a WebSocket: the server's own and those that are named, letter by letter.

use tokio_tungstenite::tungstenite::{Error, http::HeaderValue};

use crate::harness::{
    app::App,
    client::{Client, request},
};

/// Whether a page of an origin may connect. It comes with a valid token, so that only the origin decides.
async fn may_connect(app: &App, origin: &str) -> bool {
    let mut request = request(app.address(0), &format!("/v1/ws?token={}", app.token("alice")));
    request.headers_mut().insert("origin", HeaderValue::from_str(origin).expect("a header"));
    match Client::upgrade(request).await {
        Ok((mut client, _)) => client.first_event().await.is_ok(),
        Err(Error::Http(refused)) => {
            assert_eq!(refused.status(), 403, "{origin}");
            false
        }
        Err(error) => panic!("{origin}: {error}"),
    }
}

#[tokio::test]
async fn an_origin_is_allowed_letter_by_letter_or_not_at_all() {
    let app = App::embedded_with(&[
        ("allowed_origins[0]", "https://app.example"),
        ("allowed_origins[1]", "https://chat.example:8443"),
    ])
    .await;
    let own = app.address(0);
    let port = own.port();
    for origin in [
        format!("http://{own}"),
        format!("https://{own}"),
        "https://app.example".to_owned(),
        "https://APP.example".to_owned(),
        "HTTPS://app.example".to_owned(),
        "https://chat.example:8443".to_owned(),
    ] {
        assert!(may_connect(&app, &origin).await, "{origin}");
    }
    for origin in [
        "null".to_owned(),
        String::new(),
        "https://".to_owned(),
        "*".to_owned(),
        "app.example".to_owned(),
        "//app.example".to_owned(),
        "http://app.example".to_owned(),
        "https://app.example:443".to_owned(),
        "https://app.example:8443".to_owned(),
        "https://app.example.".to_owned(),
        "https://app.example/".to_owned(),
        "https://app.example/path".to_owned(),
        "https://app.example.evil.example".to_owned(),
        "https://evil.example/https://app.example".to_owned(),
        "https://evil.example#https://app.example".to_owned(),
        "https://app.example@evil.example".to_owned(),
        "https://user@app.example".to_owned(),
        "https://evilapp.example".to_owned(),
        "https://sub.app.example".to_owned(),
        "https://app-example".to_owned(),
        "https://chat.example".to_owned(),
        "https://chat.example:84430".to_owned(),
        "https://app.example https://evil.example".to_owned(),
        "https://app.example,https://evil.example".to_owned(),
        "wss://app.example".to_owned(),
        "file://".to_owned(),
        format!("ftp://{own}"),
        format!("chrome-extension://{own}"),
        format!("http://127.0.0.1:{}", port.wrapping_add(1)),
        "http://127.0.0.1".to_owned(),
        format!("http://{own}.evil.example"),
        format!("http://localhost:{port}"),
        format!("http://{own}@evil.example"),
        format!("http://evil.example:{port}"),
    ] {
        assert!(!may_connect(&app, &origin).await, "{origin}");
    }
}

/// A browser sends its cookies along with whatever a page asks for; here they mean nothing.
#[tokio::test]
async fn a_cookie_opens_nothing() {
    let app = App::embedded().await;
    let token = app.token("alice");
    for cookie in [format!("token={token}"), format!("Authorization=Bearer {token}"), format!("session={token}")] {
        let mut upgrade = request(app.address(0), "/v1/ws");
        upgrade.headers_mut().insert("cookie", HeaderValue::from_str(&cookie).expect("a header"));
        let (mut client, _) = Client::upgrade(upgrade).await.expect("it says no by a close code");
        client.expect_close(4001).await;
    }
}
