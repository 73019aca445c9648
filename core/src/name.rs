//! Names that travel through keys, headers and JSON: valid by construction, cheap to clone.
//!
//! A name is 1 to 128 bytes of visible ASCII without the characters that need escaping in JSON, in URLs or in the
//! header of a log record. That makes it safe to splice into a frame without looking at it again.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a name was refused; the text tells the caller what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {MAX_NAME_BYTES} visible ASCII characters without any of \" \\ / ? # % < > {{ }}")]
pub struct InvalidName {
    what: &'static str,
}

fn is_valid(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"\\/?#%<>{}".contains(&byte);
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.bytes().all(allowed)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name, if it keeps the rules of [`crate::name`].
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                if is_valid(text) { Ok(Self(Arc::from(text))) } else { Err(InvalidName { what: $what }) }
            }

            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(std::borrow::Cow::<'de, str>::deserialize(from)?).map_err(D::Error::custom)
            }
        }
    };
}

name!(
    /// A conversation: the unit of order, of sequence numbers and of access.
    ConversationId,
    "a conversation id"
);
name!(
    /// A person or a program that sends and receives: `sub` of its token.
    UserId,
    "a user id"
);
name!(
    /// One of a user's devices; it has a cursor of its own.
    DeviceId,
    "a device id"
);
name!(
    /// What kind of device: `ios`, `web`, ….
    DeviceType,
    "a device type"
);
name!(
    /// One running gateway; new at every start, so that a restart is never mistaken for its predecessor.
    InstanceId,
    "an instance id"
);
name!(
    /// The type of an event as clients see it, `new_message` for messages.
    EventName,
    "an event type"
);

impl InstanceId {
    /// A name no other process has: random, twelve characters.
    pub fn random() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self(Arc::from(&id[..12]))
    }
}

impl UserId {
    /// Who speaks for the service itself.
    pub const SYSTEM: &'static str = "system";
}

impl EventName {
    /// The event every chat message is.
    pub const NEW_MESSAGE: &'static str = "new_message";
    /// The event that keeps a sequence dense where something could not be stored.
    pub const TOMBSTONE: &'static str = "tombstone";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_identifiers_are_names() {
        for text in ["a", "alice@example.com", "auth0|42", "room-1_2.3:4", "0191e7c4-7d6a-7bde-8a54-0242ac120002"] {
            assert!(UserId::new(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_would_need_escaping_is_refused() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for text in ["", " ", "a b", "a\"b", "a\\b", "a/b", "a?b", "a\0b", "a\nb", "é", "{a}", long.as_str()] {
            assert!(ConversationId::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn json_cannot_smuggle_an_invalid_name_in() {
        assert!(serde_json::from_str::<UserId>(r#""a\u0000b""#).is_err());
        assert_eq!(serde_json::from_str::<UserId>(r#""\u0061lice""#).expect("valid").as_str(), "alice");
    }
}
