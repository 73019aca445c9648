//! What a chat message may contain: text, media, system or structured.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest text of a message, in characters.
pub const MAX_TEXT_CHARS: usize = 20_000;

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// `{"text": "…"}`, not blank.
    Text,
    /// An image, a recording, a file: `{"url": "https://…", …}`, or the same inside `media_info`.
    Media,
    /// Something the service says about the conversation; any object that is not empty.
    System,
    /// A card, a form, anything a client renders by its own rules; any object that is not empty.
    Structured,
}

impl MessageType {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Media => "media",
            Self::System => "system",
            Self::Structured => "structured",
        }
    }
}

/// Why a message's content was refused, in words for the person who wrote the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidContent {
    /// A text message without text.
    #[error("a text message needs content.text, a string that is not blank")]
    NoText,
    /// A text beyond [`MAX_TEXT_CHARS`].
    #[error("content.text is longer than {MAX_TEXT_CHARS} characters")]
    TextTooLong,
    /// A media message that points nowhere.
    #[error("a media message needs content.url (or content.media_info.url), an http or https address")]
    NoMediaUrl,
    /// A system or structured message without anything in it.
    #[error("content of a {0} message must be an object with at least one member")]
    Empty(&'static str),
}

/// Checks the content of a message of the given type; it is stored and sent as it came.
pub fn validate(kind: MessageType, content: &Map<String, Value>) -> Result<(), InvalidContent> {
    match kind {
        MessageType::Text => validate_text(content.get("text")),
        MessageType::Media => validate_media(content),
        MessageType::System | MessageType::Structured if content.is_empty() => {
            Err(InvalidContent::Empty(kind.as_str()))
        }
        MessageType::System | MessageType::Structured => Ok(()),
    }
}

/// Checks the text of a text message.
pub fn validate_plain_text(text: &str) -> Result<(), InvalidContent> {
    if text.trim().is_empty() {
        return Err(InvalidContent::NoText);
    }
    // A character has at least one byte, so short texts need no counting.
    let too_long = text.len() > MAX_TEXT_CHARS && text.chars().count() > MAX_TEXT_CHARS;
    if too_long { Err(InvalidContent::TextTooLong) } else { Ok(()) }
}

fn validate_text(text: Option<&Value>) -> Result<(), InvalidContent> {
    validate_plain_text(text.and_then(Value::as_str).ok_or(InvalidContent::NoText)?)
}

fn validate_media(content: &Map<String, Value>) -> Result<(), InvalidContent> {
    let nested = content.get("media_info").and_then(|info| info.get("url"));
    let url = content.get("url").or(nested).and_then(Value::as_str).unwrap_or_default();
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let fine = !host.is_empty() && !host.starts_with('/') && !url.contains(char::is_whitespace) && url.len() <= 2_048;
    if fine { Ok(()) } else { Err(InvalidContent::NoMediaUrl) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: MessageType, content: Value) -> Result<(), InvalidContent> {
        validate(kind, content.as_object().expect("an object"))
    }

    #[test]
    fn each_type_has_its_rule() {
        assert_eq!(check(MessageType::Text, json!({"text": "hi"})), Ok(()));
        assert_eq!(check(MessageType::Media, json!({"url": "https://cdn.example/a.png"})), Ok(()));
        assert_eq!(check(MessageType::Media, json!({"media_info": {"url": "http://cdn.example/a"}})), Ok(()));
        assert_eq!(check(MessageType::System, json!({"event": "joined"})), Ok(()));
        assert_eq!(check(MessageType::Structured, json!({"card": {}})), Ok(()));
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        assert_eq!(check(MessageType::Text, json!({})), Err(InvalidContent::NoText));
        assert_eq!(check(MessageType::Text, json!({"text": " \n"})), Err(InvalidContent::NoText));
        assert_eq!(check(MessageType::Text, json!({"text": 5})), Err(InvalidContent::NoText));
        assert_eq!(check(MessageType::Text, json!({"text": "x".repeat(20_001)})), Err(InvalidContent::TextTooLong));
        for url in ["", "javascript:alert(1)", "https://", "https:///x", "ftp://a/b", "https://a b"] {
            assert_eq!(check(MessageType::Media, json!({"url": url})), Err(InvalidContent::NoMediaUrl), "{url}");
        }
        assert_eq!(check(MessageType::System, json!({})), Err(InvalidContent::Empty("system")));
    }
}
