//! What the opening handshake of RFC 6455 asks for beyond what axum looks at.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::error::ApiError;

const VERSION: HeaderValue = HeaderValue::from_static("13");
/// What a key encodes.
const KEY_BYTES: usize = 16;

/// Refuses a version nobody speaks any more, naming ours, and a key that is none.
pub(super) fn refusal(headers: &HeaderMap) -> Option<Response> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_some_and(|version| *version != VERSION) {
        let refusal = ApiError::invalid("not_websocket", "the version of WebSocket spoken here is 13");
        let version = [(header::SEC_WEBSOCKET_VERSION, VERSION)];
        return Some((StatusCode::UPGRADE_REQUIRED, version, refusal.into_response()).into_response());
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if !is_key(key) => {
            Some(ApiError::invalid("not_websocket", "Sec-WebSocket-Key must be 16 bytes in base64").into_response())
        }
        (Some(_), Some(_)) => {
            Some(ApiError::invalid("not_websocket", "Sec-WebSocket-Key must be given once").into_response())
        }
        _ => None,
    }
}

fn is_key(key: &HeaderValue) -> bool {
    STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == KEY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pairs: &[(&'static str, &'static str)]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        refusal(&headers).map(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn a_key_is_sixteen_bytes_and_the_version_is_ours() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let version = ("sec-websocket-version", "13");
        assert_eq!(status(&[key, version]), None);
        assert_eq!(status(&[key, ("sec-websocket-version", "8")]), Some(426));
        assert_eq!(status(&[("sec-websocket-key", "c2hvcnQ="), version]), Some(400));
        assert_eq!(status(&[("sec-websocket-key", "not base64 at all!!!!!!!"), version]), Some(400));
        assert_eq!(status(&[key, key, version]), Some(400));
        assert_eq!(status(&[]), None, "what is missing altogether is said by whoever misses it");
    }
}
