//! Embedded pages: the demo chat, what a newcomer sees first, and the HTTP interface, described for people and programs.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What browsers may do with any answer, unless it says otherwise itself: show it, and nothing else.
const HARDENED: [(HeaderName, &str); 3] = [
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// Adds what every answer tells browsers.
pub(super) async fn harden(mut response: Response) -> Response {
    for (name, value) in HARDENED {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

pub(super) async fn index() -> Response {
    asset("text/html; charset=utf-8", include_str!("../../web/index.html"))
}

pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("../../web/chat.css"))
}

pub(super) async fn chat() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../../web/chat.js"))
}

pub(super) async fn client() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../../web/client.js"))
}

pub(super) async fn openapi() -> Response {
    asset("application/json", include_str!("../../web/openapi.json"))
}

pub(super) async fn docs() -> Response {
    asset("text/html; charset=utf-8", include_str!("../../web/docs.html"))
}

pub(super) async fn docs_style() -> Response {
    asset("text/css; charset=utf-8", include_str!("../../web/docs.css"))
}

pub(super) async fn docs_script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../../web/docs.js"))
}

fn asset(kind: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, body).into_response()
}
