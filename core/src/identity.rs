//! Idempotency: when two publishes are the same event.
//!
//! A publish is identified by conversation, sender and the key its sender chose. The log remembers identities for a
//! while, the store forever. Asking the store about every publish would cost more than publishing, so a key may prove by
//! itself that it is new: a version 7 UUID carries the time it was made, and one younger than the log's memory cannot
//! have been used before that memory began. Every other key is looked up, unless its whole conversation is that young.

use std::fmt;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::name::{ConversationId, UserId};

/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// How far a sender's clock may be off before its keys no longer count as new by themselves.
pub const CLOCK_LEEWAY_MS: u64 = 60_000;

/// What a sender names its publish by, so that a repeat is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key must be 1 to {MAX_KEY_BYTES} printable ASCII characters")]
pub struct InvalidKey;

impl Key {
    /// A key of 1 to 128 printable ASCII characters.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        let printable = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let sized = (1..=MAX_KEY_BYTES).contains(&text.len());
        if printable && sized { Ok(Self(text.into())) } else { Err(InvalidKey) }
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the key was made, if it tells: milliseconds since the epoch. A time ahead of `now_ms` is not believed.
    pub fn minted_ms(&self, now_ms: u64) -> Option<u64> {
        let uuid = Uuid::try_parse(&self.0).ok().filter(|uuid| uuid.get_version_num() == 7)?;
        let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
        let minted = seconds * 1_000 + u64::from(nanos / 1_000_000);
        (minted <= now_ms + CLOCK_LEEWAY_MS / 2).then_some(minted)
    }
}

/// 128 bits that stand for one identity, or for one body; SHA-256, cut, because senders choose what goes in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The identity of a publish. Other senders cannot collide with it, in this conversation or another.
    pub fn of_key(conversation: &ConversationId, sender: &UserId, key: &Key) -> Self {
        Self::of(&[conversation.as_str(), sender.as_str(), key.as_str()])
    }

    /// The identity of a publish without a key: its message, which nothing else repeats.
    pub fn of_message(message_id: Uuid) -> Self {
        Self(*message_id.as_bytes())
    }

    /// What a repeat is compared with, to tell a retry from a mistake.
    pub fn of_body(parts: &[&str]) -> Self {
        Self::of(parts)
    }

    /// What tells bytes that should have been a record from any others.
    pub fn of_bytes(parts: &[&[u8]]) -> Self {
        Self::of(parts)
    }

    fn of(parts: &[impl AsRef<[u8]>]) -> Self {
        let mut hash = Sha256::new();
        for part in parts.iter().map(AsRef::as_ref) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let full: [u8; 32] = hash.finalize().into();
        let mut cut = [0; 16];
        cut.copy_from_slice(&full[..16]);
        Self(cut)
    }

    /// As 32 hexadecimal digits.
    pub fn hex(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// Reads 32 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(|n| Self(n.to_be_bytes())))?
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        assert_ne!(Digest::of_body(&["ab", "c"]), Digest::of_body(&["a", "bc"]));
    }

    #[test]
    fn hex_and_back() {
        let digest = Digest::of_body(&["x"]);
        assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
        assert_eq!(Digest::from_hex("zz"), None);
    }

    #[test]
    fn only_version_7_keys_tell_their_age() {
        let now = crate::clock::now_ms();
        let key = |uuid: Uuid| Key::new(&uuid.to_string()).expect("printable");
        let minted = key(Uuid::now_v7()).minted_ms(now + 1).expect("a version 7 UUID");
        assert!(minted.abs_diff(now) < 5_000);
        assert_eq!(key(Uuid::new_v4()).minted_ms(now), None);
        assert_eq!(Key::new("order-17").expect("printable").minted_ms(now), None);
        assert_eq!(key(Uuid::now_v7()).minted_ms(now - CLOCK_LEEWAY_MS), None, "a key from the future proves nothing");
    }

    #[test]
    fn keys_are_bounded_and_printable() {
        assert!(Key::new("").is_err() && Key::new("a\n").is_err() && Key::new(&"x".repeat(129)).is_err());
    }
}
