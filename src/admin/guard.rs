//! Who may use the admin listener: whoever has its key, or, where it has none, programs of this machine.
//!
//! Without a key it listens on loopback only, where a browser can still be sent by any page it shows. Such requests tell
//! on themselves: they carry the page's origin, or come to a name that the page's owner has pointed at this machine.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};

use crate::gateway::auth::is_same_secret;

pub(super) async fn guard(
    State(key): State<Option<Arc<SecretString>>>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let refusal = match key {
        Some(key) if !has_key(&headers, &key) => StatusCode::UNAUTHORIZED,
        None if !is_local(&headers) => StatusCode::FORBIDDEN,
        _ if is_of_another_page(&headers) => StatusCode::FORBIDDEN,
        _ => return next.run(request).await,
    };
    let (method, path) = (request.method().as_str(), request.uri().path());
    tracing::warn!(method, path, status = refusal.as_u16(), "a request to the admin listener was refused");
    refusal.into_response()
}

fn has_key(headers: &HeaderMap, key: &SecretString) -> bool {
    let given = text(headers, header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    given.is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case("bearer") && is_same_secret(given.trim(), key.expose_secret())
    })
}

/// Whether it was sent to this machine by address: a name may be anybody's.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, header::HOST) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_of_another_page(headers: &HeaderMap) -> bool {
    let own = text(headers, header::HOST).unwrap_or_default();
    headers.get(header::ORIGIN).is_some_and(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        origin.split_once("://").is_none_or(|(_, authority)| authority != own)
    })
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(host: &'static str, origin: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        origin.map(|origin| headers.insert(header::ORIGIN, HeaderValue::from_static(origin)));
        headers
    }

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        for host in ["127.0.0.1:8081", "localhost:8081", "localhost", "[::1]:8081", "127.0.0.9"] {
            assert!(is_local(&headers(host, None)), "{host}");
        }
        for host in ["evil.example:8081", "localhost.evil.example", "10.0.0.1:8081", "[::2]:1", "", "127.0.0.1.nip.io"]
        {
            assert!(!is_local(&headers(host, None)), "{host}");
        }
    }

    #[test]
    fn pages_of_others_are_told_by_their_origin() {
        assert!(!is_of_another_page(&headers("127.0.0.1:8081", Some("http://127.0.0.1:8081"))));
        assert!(!is_of_another_page(&headers("127.0.0.1:8081", None)));
        for origin in ["null", "https://evil.example", "http://127.0.0.1:8080", "http://127.0.0.1:8081.evil.example"] {
            assert!(is_of_another_page(&headers("127.0.0.1:8081", Some(origin))), "{origin}");
        }
    }
}
