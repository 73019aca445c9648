//! The store: conversations, and every event for good.
//!
//! Small traits by noun, one file each; the adapters mirror the file names. A method is one use case and one
//! transaction; no transaction crosses a trait.

mod columns;
mod conflicts;
pub mod conversations;
mod error;
pub mod marks;
pub mod messages;
pub mod postgres;
pub mod sqlite;

pub use self::{
    conversations::{Conversation, Conversations, Created, NewConversation, Standing},
    error::StoreError,
    marks::{Mark, Marks},
    messages::{Ask, Messages, Want},
};

/// Everything a deployment keeps.
pub trait Store: Conversations + Messages + Marks {}

impl<S: Conversations + Messages + Marks> Store for S {}
