//! Frames from clients: JSON to a command, or a reason why not.

use everpost_core::{
    content::{InvalidContent, MessageType, validate, validate_plain_text},
    identity::{Digest, Key},
    json,
    name::ConversationId,
};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::error::ApiError;

/// What a client wants.
#[derive(Debug)]
pub(crate) enum Command {
    Publish { conversation: Option<ConversationId>, key: Option<Key>, body: Body },
    Typing { conversation: Option<ConversationId>, is_typing: bool },
    Read { conversation: Option<ConversationId>, seq: u64 },
    Ack { cursor: String },
    Subscribe { conversation: Option<ConversationId>, after: Option<u64> },
    Unsubscribe { conversation: Option<ConversationId> },
    Refresh { token: SecretString },
    Ping,
    Pong,
}

/// A message as its sender wrote it, checked.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) kind: MessageType,
    /// The JSON object, as text.
    pub(crate) content: String,
    pub(crate) is_important: bool,
    pub(crate) reply_to_message_id: Option<String>,
    /// The JSON object, as text.
    pub(crate) extra_metadata: Option<String>,
}

/// The members of a message, over HTTP and in a `message` frame.
#[derive(Debug, Deserialize)]
pub(crate) struct RawBody<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(default)]
    is_important: Option<bool>,
    #[serde(default)]
    reply_to_message_id: Option<String>,
    #[serde(borrow, default)]
    extra_metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Inbound<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    conversation_id: Option<String>,
    message_type: Option<MessageType>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    is_important: Option<bool>,
    reply_to_message_id: Option<String>,
    #[serde(borrow)]
    extra_metadata: Option<&'a RawValue>,
    is_typing: Option<bool>,
    seq: Option<u64>,
    cursor: Option<String>,
    after: Option<u64>,
    token: Option<String>,
}

/// A frame that could be read, with the id its answer carries.
pub(crate) struct Parsed {
    pub(crate) id: Option<String>,
    pub(crate) command: Result<Command, ApiError>,
}

/// Reads one text frame.
pub(crate) fn parse(text: &str) -> Parsed {
    if let Err(fault) = json::scan(text) {
        return Parsed { id: None, command: Err(ApiError::invalid("bad_json", fault)) };
    }
    match serde_json::from_str::<Inbound<'_>>(text) {
        Ok(inbound) => Parsed { id: inbound.id.clone(), command: command(inbound) },
        Err(error) => Parsed { id: id_of(text), command: Err(unreadable(&error)) },
    }
}

/// The id of a frame whose other members are wrong, so that its sender can match the error.
fn id_of(text: &str) -> Option<String> {
    let frame: Map<String, Value> = serde_json::from_str(text).ok()?;
    frame.get("id")?.as_str().map(str::to_owned)
}

/// Names the place and not the value, which is the sender's business.
pub(crate) fn unreadable(error: &serde_json::Error) -> ApiError {
    let at = format!("at column {}", error.column());
    match error.classify() {
        serde_json::error::Category::Data => {
            ApiError::invalid("bad_frame", format!("a member has the wrong type or is missing, {at}"))
        }
        _ => ApiError::invalid("bad_json", format!("not valid JSON, {at}")),
    }
}

fn command(inbound: Inbound<'_>) -> Result<Command, ApiError> {
    let kind = inbound.kind.as_deref().ok_or_else(|| missing("type"))?;
    let name = inbound.conversation_id.as_deref().map(ConversationId::new).transpose();
    let conversation = name.map_err(|error| ApiError::invalid("invalid_name", error))?;
    match kind {
        "text" => {
            let body = plain_text(&inbound)?;
            Ok(Command::Publish { conversation, key: key(inbound.id.as_deref())?, body })
        }
        "message" => {
            let kind = inbound.message_type.ok_or_else(|| missing("message_type"))?;
            let key = key(inbound.id.as_deref())?;
            let body = RawBody {
                content: inbound.content,
                is_important: inbound.is_important,
                reply_to_message_id: inbound.reply_to_message_id,
                extra_metadata: inbound.extra_metadata,
            };
            Ok(Command::Publish { conversation, key, body: body.check(kind)? })
        }
        "typing" => Ok(Command::Typing { conversation, is_typing: inbound.is_typing.unwrap_or(true) }),
        "read" => Ok(Command::Read { conversation, seq: inbound.seq.ok_or_else(|| missing("seq"))? }),
        "ack" => Ok(Command::Ack { cursor: inbound.cursor.ok_or_else(|| missing("cursor"))? }),
        "subscribe" => Ok(Command::Subscribe { conversation, after: inbound.after }),
        "unsubscribe" => Ok(Command::Unsubscribe { conversation }),
        "refresh" | "auth" => {
            let token = inbound.token.ok_or_else(|| missing("token"))?;
            Ok(Command::Refresh { token: token.into() })
        }
        "ping" => Ok(Command::Ping),
        "pong" => Ok(Command::Pong),
        _ => Err(ApiError::invalid(
            "unknown_type",
            "the types are text, message, typing, read, ack, subscribe, unsubscribe, refresh, ping and pong",
        )),
    }
}

fn missing(member: &str) -> ApiError {
    ApiError::invalid("bad_frame", format!("the member {member:?} is missing"))
}

/// An idempotency key, if one was given.
pub(crate) fn key(text: Option<&str>) -> Result<Option<Key>, ApiError> {
    text.map(Key::new).transpose().map_err(|error| ApiError::invalid("invalid_key", error))
}

/// The course's short form: `content` is the text itself. The long form `{"text": …}` is taken as well.
fn plain_text(inbound: &Inbound<'_>) -> Result<Body, ApiError> {
    let raw = inbound.content.ok_or(InvalidContent::NoText)?.get();
    if !raw.starts_with('"') {
        let body = RawBody {
            content: inbound.content,
            is_important: inbound.is_important,
            reply_to_message_id: inbound.reply_to_message_id.clone(),
            extra_metadata: inbound.extra_metadata,
        };
        return body.check(MessageType::Text);
    }
    let text: std::borrow::Cow<'_, str> = serde_json::from_str(raw).map_err(|error| unreadable(&error))?;
    validate_plain_text(&text)?;
    Ok(Body {
        kind: MessageType::Text,
        content: format!(r#"{{"text":{raw}}}"#),
        is_important: inbound.is_important.unwrap_or(false),
        reply_to_message_id: reference(inbound.reply_to_message_id.clone())?,
        extra_metadata: object("extra_metadata", inbound.extra_metadata)?,
    })
}

impl RawBody<'_> {
    /// Checks everything a message of this type must keep to.
    pub(crate) fn check(self, kind: MessageType) -> Result<Body, ApiError> {
        let raw = self.content.ok_or_else(|| missing("content"))?.get();
        let content: Map<String, Value> = serde_json::from_str(raw)
            .map_err(|_| ApiError::invalid("invalid_content", "content must be a JSON object"))?;
        validate(kind, &content)?;
        Ok(Body {
            kind,
            content: raw.to_owned(),
            is_important: self.is_important.unwrap_or(false),
            reply_to_message_id: reference(self.reply_to_message_id)?,
            extra_metadata: object("extra_metadata", self.extra_metadata)?,
        })
    }
}

fn reference(id: Option<String>) -> Result<Option<String>, ApiError> {
    match id {
        Some(id) if uuid::Uuid::try_parse(&id).is_err() => {
            Err(ApiError::invalid("invalid_reference", "reply_to_message_id must be a message_id"))
        }
        id => Ok(id),
    }
}

fn object(member: &str, raw: Option<&RawValue>) -> Result<Option<String>, ApiError> {
    let raw = raw.map(RawValue::get).filter(|raw| *raw != "null");
    match raw {
        Some(raw) if !raw.starts_with('{') => {
            Err(ApiError::invalid("bad_frame", format!("{member} must be a JSON object")))
        }
        raw => Ok(raw.map(str::to_owned)),
    }
}

impl Body {
    /// What a repeat with the same key is compared with: the meaning, not the spacing.
    pub(crate) fn digest(&self) -> Digest {
        let important = if self.is_important { "1" } else { "0" };
        let reply = self.reply_to_message_id.as_deref().unwrap_or_default();
        let extra = self.extra_metadata.as_deref().map(canonical).unwrap_or_default();
        Digest::of_body(&[self.kind.as_str(), &canonical(&self.content), important, reply, &extra])
    }
}

fn canonical(json: &str) -> String {
    // A plain text without escapes is canonical already, and by far the most frequent.
    let plain = json.strip_prefix(r#"{"text":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
    if plain.is_some_and(|text| !text.contains(['"', '\\'])) {
        return json.to_owned();
    }
    serde_json::from_str::<Value>(json).map_or_else(|_| json.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(text: &str) -> &'static str {
        parse(text).command.expect_err("refused").code()
    }

    #[test]
    fn a_text_frame_is_a_publish() {
        let parsed = parse(r#"{"type":"text","id":"k1","conversation_id":"general","content":"hi \"there\""}"#);
        let Ok(Command::Publish { conversation, key, body }) = parsed.command else { panic!("a publish") };
        assert_eq!(conversation.expect("given").as_str(), "general");
        assert_eq!(key.expect("given").as_str(), "k1");
        assert_eq!(body.content, r#"{"text":"hi \"there\""}"#);
    }

    #[test]
    fn each_mistake_has_its_code() {
        assert_eq!(code("{"), "bad_json");
        assert_eq!(code("[]"), "bad_frame");
        assert_eq!(code("5"), "bad_frame");
        assert_eq!(code("{}"), "bad_frame");
        assert_eq!(code(r#"{"type":"dance"}"#), "unknown_type");
        assert_eq!(code(r#"{"type":5}"#), "bad_frame");
        assert_eq!(code(r#"{"type":"text"}"#), "invalid_content");
        assert_eq!(code(r#"{"type":"text","content":5}"#), "invalid_content");
        assert_eq!(code(r#"{"type":"text","content":"a\u0000b"}"#), "bad_json");
        assert_eq!(code(r#"{"type":"text","content":"hi","id":""}"#), "invalid_key");
        assert_eq!(code(r#"{"type":"text","content":"hi","conversation_id":"a b"}"#), "invalid_name");
        assert_eq!(code(r#"{"type":"text","content":"hi","reply_to_message_id":"x"}"#), "invalid_reference");
        assert_eq!(code(r#"{"type":"message","content":{}}"#), "bad_frame");
        assert_eq!(code(r#"{"type":"message","message_type":"media","content":{}}"#), "invalid_content");
        assert_eq!(code(r#"{"type":"read","seq":-1}"#), "bad_frame");
        assert_eq!(code(r#"{"type":"refresh"}"#), "bad_frame");
        assert_eq!(code(&format!(r#"{{"type":"text","content":{}1{}}}"#, "[".repeat(40), "]".repeat(40))), "bad_json");
    }

    #[test]
    fn an_error_names_the_frame_it_answers() {
        assert_eq!(parse(r#"{"type":5,"id":"k9"}"#).id.as_deref(), Some("k9"));
    }

    #[test]
    fn a_repeat_is_the_same_body_however_it_is_spaced() {
        let body = |content: &str| {
            let text = format!(r#"{{"type":"message","message_type":"text","content":{content}}}"#);
            let Ok(Command::Publish { body, .. }) = parse(&text).command else { panic!("a publish") };
            body.digest()
        };
        assert_eq!(body(r#"{"text":"a b","x":1}"#), body(r#"{ "x": 1, "text": "a b" }"#));
        assert_eq!(body(r#"{"text":"ab"}"#), body(r#"{ "text": "ab" }"#));
        assert_ne!(body(r#"{"text":"a"}"#), body(r#"{"text":"b"}"#));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn arbitrary_members_never_panic(
            kind in "(text|message|typing|read|ack|subscribe|[a-z]{1,8})",
            member in "(id|content|seq|cursor|after|is_typing|message_type|conversation_id|extra_metadata)",
            value in r#"(null|true|-1|1e999|"x"|\{\}|\[\]|"\\ud800"|99999999999999999999)"#,
        ) {
            let _ = parse(&format!(r#"{{"type":"{kind}","{member}":{value}}}"#));
        }
    }
}
