//! The names of Redis keys. All keys of a partition share a hash tag, so each script works on one slot.

use crate::{name::InstanceId, partition::Partition, role::Role};

/// Makes key names under one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn of(&self, partition: Partition, what: &str) -> String {
        format!("{}:{{{}}}:{what}", self.prefix, partition.0)
    }

    /// What this installation was set up with (hash).
    pub(crate) fn install(&self) -> String {
        format!("{}:install", self.prefix)
    }

    /// The events (stream).
    pub(crate) fn log(&self, partition: Partition) -> String {
        self.of(partition, "log")
    }

    /// Generation, last offset, what the roles have acknowledged (hash).
    pub(crate) fn meta(&self, partition: Partition) -> String {
        self.of(partition, "meta")
    }

    /// Each conversation's last seq and birth (hash).
    pub(crate) fn tops(&self, partition: Partition) -> String {
        self.of(partition, "tops")
    }

    /// Identities being collected (hash).
    pub(crate) fn new_identities(&self, partition: Partition) -> String {
        self.of(partition, "identities:new")
    }

    /// Identities of the window before (hash).
    pub(crate) fn old_identities(&self, partition: Partition) -> String {
        self.of(partition, "identities:old")
    }

    /// A role's lease (hash).
    pub(crate) fn lease(&self, role: Role, partition: Partition) -> String {
        self.of(partition, &format!("lease:{role}"))
    }

    /// A role's workers and their announcements (hash).
    pub(crate) fn workers(&self, role: Role) -> String {
        format!("{}:workers:{role}", self.prefix)
    }

    /// Topic to instances (hash).
    pub(crate) fn interest(&self, partition: Partition) -> String {
        self.of(partition, "interest")
    }

    /// Running gateways and their beats (hash).
    pub(crate) fn gateways(&self) -> String {
        format!("{}:gateways", self.prefix)
    }

    /// Gateways that entered connections into the roster, and when they were forgotten (hash).
    pub(crate) fn roster(&self) -> String {
        format!("{}:roster", self.prefix)
    }

    /// One part of the roster in a partition, see [`crate::roster::redis`].
    pub(crate) fn roster_of(&self, partition: Partition, what: &str) -> String {
        self.of(partition, &format!("roster:{what}"))
    }

    /// What is on its way to a gateway (stream).
    pub(crate) fn inbox(&self, instance: &InstanceId) -> String {
        format!("{}:{{{instance}}}:inbox", self.prefix)
    }

    /// Something kept for a moment (string).
    pub(crate) fn note(&self, name: &str) -> String {
        format!("{}:note:{name}", self.prefix)
    }
}
