//! The store: conversations, and every event for good.
//!
//! Small traits by noun, one file each; the adapters mirror the file names. A method is one use case and one
//! transaction; no transaction crosses a trait.

mod burial;
mod columns;
mod conflicts;
pub mod conversations;
pub mod dead_letters;
mod error;
pub mod generations;
pub mod isolation;
pub mod jobs;
pub mod marks;
pub mod messages;
pub mod overviews;
pub mod postgres;
pub mod presence;
pub mod revocations;
pub mod sqlite;
pub mod tenures;

pub use self::{
    conversations::{Conversation, Conversations, Created, NewConversation, Standing},
    dead_letters::{DeadLetter, DeadLetters, Death, Decision, Fate, Reason, Redriven, Sieve},
    error::StoreError,
    generations::{Begun, Generations, Installation},
    jobs::{Job, Jobs, NewJob, Verdict},
    marks::{Mark, Marks, Reach},
    messages::{Ask, Messages, Stretch, Want},
    overviews::{Activity, Overview, Overviews},
    presence::Presence,
    revocations::{MAX_REVOKED, Revocation, Revocations, Revoked},
    tenures::{Legacy, Tenures},
};

/// Everything a deployment keeps.
pub trait Store:
    Conversations + DeadLetters + Generations + Jobs + Messages + Marks + Overviews + Presence + Revocations + Tenures
{
}

impl<
    S: Conversations + DeadLetters + Generations + Jobs + Messages + Marks + Overviews + Presence + Revocations + Tenures,
> Store for S
{
}
