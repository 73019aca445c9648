//! Worker roles: who follows the log.

use std::{fmt, str::FromStr};

/// A kind of work done for every event, in order. Each role reads the log at its own pace, as one consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Stores events in the database.
    Persist,
    /// Hands events to the gateways that have listeners.
    Fanout,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Self; 2] = [Self::Persist, Self::Fanout];

    /// The one word for it: group name, flag value, metric label, span.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persist => "persist",
            Self::Fanout => "fanout",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a worker role; there are: persist, fanout")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}
