//! One pass over a JSON text before anything parses it: depth, NUL and broken surrogates.
//!
//! Payloads are kept as the sender wrote them, so what a parser or a database further on would stumble over has to be
//! refused here. The pass assumes nothing about validity; `serde_json` decides about that afterwards.

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 32;

/// What is wrong with a text that may otherwise be valid JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// Nested beyond [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// The escape `\u0000`, which no text column can hold.
    #[error("contains a NUL character")]
    Nul,
    /// Half of a surrogate pair, which is not a character.
    #[error("contains a lone surrogate")]
    LoneSurrogate,
}

/// Refuses texts that nest too deeply or carry characters that cannot be stored.
pub fn scan(text: &str) -> Result<(), JsonFault> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut in_string) = (0, 0_usize, false);
    while at < bytes.len() {
        match (in_string, bytes[at]) {
            (true, b'\\') => at = skip_escape(bytes, at)?,
            (_, b'"') => in_string = !in_string,
            (_, 0) => return Err(JsonFault::Nul),
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(JsonFault::TooDeep);
        }
        at += 1;
    }
    Ok(())
}

/// Returns the index of the last byte of the escape that starts at `at`.
fn skip_escape(bytes: &[u8], at: usize) -> Result<usize, JsonFault> {
    match unicode_escape(bytes, at) {
        None => Ok(at + 1),
        Some(0) => Err(JsonFault::Nul),
        Some(0xdc00..=0xdfff) => Err(JsonFault::LoneSurrogate),
        Some(0xd800..=0xdbff) => match unicode_escape(bytes, at + 6) {
            Some(0xdc00..=0xdfff) => Ok(at + 11),
            _ => Err(JsonFault::LoneSurrogate),
        },
        Some(_) => Ok(at + 5),
    }
}

fn unicode_escape(bytes: &[u8], at: usize) -> Option<u16> {
    let escape = bytes.get(at..at + 6)?;
    let hex = std::str::from_utf8(escape.strip_prefix(b"\\u")?).ok()?;
    u16::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn depth_is_counted_outside_strings_only() {
        assert_eq!(scan(&"[".repeat(MAX_DEPTH)), Ok(()));
        assert_eq!(scan(&"[".repeat(MAX_DEPTH + 1)), Err(JsonFault::TooDeep));
        assert_eq!(scan(&format!("\"{}\"", "[".repeat(100))), Ok(()));
        assert_eq!(scan(&format!("\"\\\"{}\"", "[".repeat(100))), Ok(()));
    }

    #[test]
    fn characters_that_cannot_be_stored_are_refused() {
        assert_eq!(scan(r#""a\u0000b""#), Err(JsonFault::Nul));
        assert_eq!(scan("\"a\0b\""), Err(JsonFault::Nul));
        assert_eq!(scan(r#""\ud83d""#), Err(JsonFault::LoneSurrogate));
        assert_eq!(scan(r#""\ud83d\u0041""#), Err(JsonFault::LoneSurrogate));
        assert_eq!(scan(r#""\ude00""#), Err(JsonFault::LoneSurrogate));
        assert_eq!(scan(r#""\ud83d\ude00 \\u0000""#), Ok(()));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,300}") {
            let _ = scan(&text);
        }

        #[test]
        fn strings_serde_writes_pass(text in "[^\0]{0,100}") {
            let json = serde_json::to_string(&text).expect("strings serialize");
            prop_assert_eq!(scan(&json), Ok(()));
        }
    }
}
