//! Which pages may connect. Tokens are what grants access; this keeps other people's pages from even trying.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// How long a browser may remember what it was told about an address.
const PREFLIGHT_LASTS: Duration = Duration::from_secs(3_600);

/// Browsers send an origin; it must be the server's own or an allowed one.
pub(super) fn is_welcome(uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = lower(headers, &header::ORIGIN) else { return true };
    let page = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    // A proxy in front may speak TLS for us, so either scheme is our own.
    let own = authority(uri, headers).is_some_and(|own| !own.is_empty() && page == Some(&own));
    own || is_allowed(&origin, allowed)
}

/// HTTP/2 has it in the request line, HTTP/1 in a header.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    uri.authority().map(|own| own.as_str().to_ascii_lowercase()).or_else(|| lower(headers, &header::HOST))
}

fn lower(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default().to_ascii_lowercase())
}

fn is_allowed(origin: &str, allowed: &[String]) -> bool {
    allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

/// Lets pages of allowed origins read answers. Never with the browser's own credentials: nothing here is granted by a
/// cookie, and no page may make it so.
pub(super) fn cors(allowed: &[String]) -> CorsLayer {
    let allowed = allowed.to_vec();
    let may_read = move |origin: &HeaderValue, _: &axum::http::request::Parts| {
        origin.to_str().is_ok_and(|origin| is_allowed(origin, &allowed))
    };
    let headers = ["idempotency-key", "last-event-id"].map(HeaderName::from_static).into_iter();
    let headers = headers.chain([header::AUTHORIZATION, header::CONTENT_TYPE, header::CACHE_CONTROL]);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(may_read))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(AllowHeaders::list(headers))
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_LASTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(origin: Option<&str>, allowed: &[&str]) -> bool {
        let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("chat.example:8080"))]);
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).expect("a header"));
        }
        let allowed = allowed.iter().map(ToString::to_string).collect::<Vec<_>>();
        is_welcome(&Uri::from_static("/v1/ws"), &headers, &allowed)
    }

    #[test]
    fn only_our_own_and_allowed_pages_may_connect() {
        assert!(may(None, &[]), "programs send no origin");
        assert!(may(Some("http://chat.example:8080"), &[]));
        assert!(may(Some("HTTPS://APP.example"), &["https://app.example"]));
        assert!(may(Some("https://anything.example"), &["*"]));
        for foreign in [
            "null",
            "",
            "http://chat.example",
            "http://chat.example:8080.evil",
            "http://chat.example:80801",
            "http://evil",
            "ftp://chat.example:8080",
            "chat.example:8080",
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil",
            "https://xapp.example",
            "https://app.example/",
            "https://user@app.example",
        ] {
            assert!(!may(Some(foreign), &["https://app.example"]), "{foreign}");
        }
    }

    #[test]
    fn the_second_version_of_http_names_us_in_its_own_way() {
        let uri = Uri::from_static("https://chat.example/v1/events");
        let from = |origin| HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
        assert!(is_welcome(&uri, &from("https://chat.example"), &[]));
        assert!(!is_welcome(&uri, &from("https://evil.example"), &[]));
    }
}
