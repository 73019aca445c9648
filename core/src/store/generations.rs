//! Which log the store belongs to, and the generations that log has been through.

use async_trait::async_trait;

use super::StoreError;
use crate::{
    generation::{Generation, History},
    partition::Partition,
    position::Position,
};

/// What a log was set up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation {
    /// Which one it is.
    pub epoch: u32,
    /// How many partitions it has; fixed for ever.
    pub partitions: u16,
}

/// A generation that has just begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// It.
    pub generation: Generation,
    /// Up to where everything of the partition was stored when it began. Nothing of an earlier generation is stored
    /// any more from then on, except by whoever began it.
    pub stored: Position,
}

/// The log's past as its store vouches for it.
#[async_trait]
pub trait Generations: Send + Sync {
    /// The log this store belongs to, once it has met one.
    async fn installation(&self) -> Result<Option<Installation>, StoreError>;

    /// Ties the store to a log, if it is not tied yet, and returns what it is tied to. With another log than its own a
    /// store would mix two histories.
    async fn bind(&self, log: Installation) -> Result<Installation, StoreError>;

    /// The generations of all partitions.
    async fn generations(&self, partitions: usize) -> Result<History, StoreError>;

    /// Begins the generation after `present`, with the greater of `survived` and what is stored for its base, and
    /// fences off every lease of earlier ones, in one transaction. `None`, and nothing changed, if `present` is no
    /// longer the present one.
    async fn begin(
        &self,
        partition: Partition,
        present: u16,
        survived: u64,
        reason: &str,
    ) -> Result<Option<Begun>, StoreError>;
}
