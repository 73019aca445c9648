//! The ways to break a promise, each with a name.

use std::{collections::BTreeMap, fmt};

use uuid::Uuid;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// Acknowledged, and this observer does not have it at that number.
    LostAccepted { observer: String, conversation: String, seq: u64, id: Uuid },
    /// Nobody sent this.
    Phantom { observer: String, conversation: String, seq: u64 },
    /// A tombstone nobody expects.
    Buried { observer: String, conversation: String, seq: u64 },
    /// A number was left out.
    Hole { observer: String, conversation: String, after: u64, next: u64 },
    /// A number came after a higher one.
    Reorder { observer: String, conversation: String, seq: u64 },
    /// A number came twice.
    Duplicate { observer: String, conversation: String, seq: u64 },
    /// One message has two numbers.
    DuplicateId { id: Uuid, seqs: Vec<(String, u64)> },
    /// One number has two contents.
    Fork { conversation: String, seq: u64 },
    /// A sender or listener was told what it should not have been.
    Refused { answer: String },
    /// Something did not come to an end in time.
    Unsettled { what: String },
    /// Somebody who had lost the right to write did.
    Fence { what: String },
    /// Something was slower, larger or more than it may be.
    Bound { what: String, measured: String, limit: String },
    /// A process or the scenario itself broke.
    Broken { what: String },
}

impl Violation {
    /// A short word for it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::LostAccepted { .. } => "lost-accepted",
            Self::Phantom { .. } => "phantom",
            Self::Buried { .. } => "buried",
            Self::Hole { .. } => "hole",
            Self::Reorder { .. } => "reorder",
            Self::Duplicate { .. } | Self::DuplicateId { .. } => "duplicate",
            Self::Fork { .. } => "fork",
            Self::Refused { .. } => "refused",
            Self::Unsettled { .. } => "unsettled",
            Self::Fence { .. } => "fence",
            Self::Bound { .. } => "bound",
            Self::Broken { .. } => "broken",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound { what, measured, limit } => write!(f, "{what}: {measured}, at most {limit}"),
            Self::Fence { what } | Self::Broken { what } | Self::Unsettled { what } => f.write_str(what),
            other => write!(f, "{other:?}"),
        }
    }
}

/// How many there are of each name.
pub(crate) fn summary(violations: &[Violation]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for violation in violations {
        *counts.entry(violation.name()).or_default() += 1;
    }
    let counted: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    if counted.is_empty() { "none".to_owned() } else { counted.join(", ") }
}
