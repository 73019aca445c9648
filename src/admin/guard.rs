//! Who may use the admin listener: whoever has the key, and nobody through the browser of somebody who has.
//!
//! On loopback there may be no key. Then any page its administrator looks at could send requests there, so requests of
//! other origins are refused, and so are names that somebody else may have pointed at this machine.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};

use crate::gateway::{auth::is_same_secret, error::ApiError};

/// What is asked for, if anything.
pub(super) type Key = Option<Arc<SecretString>>;

pub(super) async fn guard(State(key): State<Key>, request: Request, next: Next) -> Response {
    match check(key.as_deref(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(key: Option<&SecretString>, headers: &HeaderMap) -> Result<(), ApiError> {
    if !is_of_our_own(headers) {
        return Err(ApiError::Forbidden("pages of other origins may not use the admin listener"));
    }
    let Some(key) = key else {
        let here = ApiError::Forbidden("without a key the admin listener answers to addresses and to localhost only");
        return if names_an_address(headers) { Ok(()) } else { Err(here) };
    };
    let given = text(headers, header::AUTHORIZATION).and_then(|given| given.strip_prefix("Bearer "));
    let is_right = given.is_some_and(|given| is_same_secret(given, key.expose_secret()));
    if is_right { Ok(()) } else { Err(ApiError::Unauthenticated("the admin listener asks for its key")) }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Programs send no origin; browsers do with whatever may change something.
fn is_of_our_own(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority
        .is_some_and(|authority| text(headers, header::HOST).is_some_and(|own| own.eq_ignore_ascii_case(authority)))
}

fn names_an_address(headers: &HeaderMap) -> bool {
    let named = text(headers, header::HOST).and_then(|host| host.parse::<Authority>().ok());
    named.is_some_and(|named| {
        let host = named.host().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const HOST: (HeaderName, &str) = (header::HOST, "127.0.0.1:8081");

    fn is_welcome(key: Option<&str>, given: &[(HeaderName, &str)]) -> bool {
        let key = key.map(SecretString::from);
        let header =
            |(name, value): &(HeaderName, &str)| (name.clone(), HeaderValue::from_str(value).expect("a header"));
        check(key.as_ref(), &given.iter().map(header).collect()).is_ok()
    }

    #[test]
    fn a_key_is_asked_for_where_there_is_one() {
        assert!(is_welcome(Some("the-key"), &[HOST, (header::AUTHORIZATION, "Bearer the-key")]));
        assert!(is_welcome(Some("k"), &[(header::HOST, "admin.example"), (header::AUTHORIZATION, "Bearer k")]));
        for wrong in ["Bearer the-kez", "Bearer ", "the-key", "Basic the-key", "Bearer the-key2"] {
            assert!(!is_welcome(Some("the-key"), &[HOST, (header::AUTHORIZATION, wrong)]), "{wrong}");
        }
        assert!(!is_welcome(Some("the-key"), &[HOST]));
    }

    #[test]
    fn pages_of_others_are_refused_with_or_without_a_key() {
        for foreign in ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:8080", ""] {
            assert!(!is_welcome(None, &[HOST, (header::ORIGIN, foreign)]), "{foreign}");
            let with_key = [HOST, (header::ORIGIN, foreign), (header::AUTHORIZATION, "Bearer k")];
            assert!(!is_welcome(Some("k"), &with_key), "{foreign}");
        }
        assert!(is_welcome(None, &[HOST, (header::ORIGIN, "http://127.0.0.1:8081")]));
    }

    #[test]
    fn a_name_may_be_pointed_here_by_anybody() {
        for ours in ["127.0.0.1:8081", "localhost:8081", "LOCALHOST", "[::1]:8081", "::1"] {
            let welcome = is_welcome(None, &[(header::HOST, ours)]);
            assert_eq!(welcome, ours != "::1", "{ours}");
        }
        for theirs in ["evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(!is_welcome(None, &[(header::HOST, theirs)]), "{theirs}");
        }
        assert!(!is_welcome(None, &[]));
    }
}
