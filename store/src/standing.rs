//! What a store knows of a held block beside its bytes, and how it changes.
//!
//! Pure: `Local` keeps it in rows and `Memory` in entries, and both change it here alone, so
//! that a block has the same fate in every store.

use crate::contract::{Class, Purpose};
use crate::gc::Strength;

/// Why a block is held, and how far it is replicated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Never evicted.
    pub(crate) pinned: bool,
    /// Stored for the network.
    pub(crate) in_range: bool,
    /// The network does not hold it yet. Never evicted either.
    pub(crate) owed: bool,
    /// Nodes that were last known to hold it; 0 where nothing was recorded.
    pub(crate) copies: u8,
}

impl Standing {
    /// The strongest reason.
    pub(crate) fn class(self) -> Class {
        match (self.pinned, self.in_range) {
            (true, _) => Class::Pinned,
            (false, true) => Class::InRange,
            (false, false) => Class::Cached,
        }
    }

    /// After a `put` for `purpose`, which only ever adds reasons; `default()` is the standing of
    /// a block that was not held.
    pub(crate) fn after_put(self, purpose: Purpose) -> Self {
        match purpose {
            Purpose::Cache => self,
            Purpose::Hold => Self { in_range: true, ..self },
            Purpose::Pin => Self { pinned: true, ..self },
            // Where copies were recorded it went to its close group before.
            Purpose::Publish => Self { owed: self.owed || self.copies == 0, ..self },
            // A block that comes from elsewhere and becomes our own is offered once by us.
            Purpose::Own => {
                let owed = self.owed || self.copies == 0 || !self.pinned;
                Self { pinned: true, owed, ..self }
            }
        }
    }

    /// After the network needs the block here no more; `None` where it goes.
    pub(crate) fn after_vacate(self) -> Option<Self> {
        let kept = self.pinned || self.owed || !self.in_range;
        kept.then_some(Self { in_range: false, ..self })
    }

    /// After a garbage collection that found the block reachable with `strength`, or not at all;
    /// `None` where it goes. What was only ever cached stays until the room is needed.
    pub(crate) fn after_sweep(self, strength: Option<Strength>) -> Option<Self> {
        match strength {
            Some(Strength::Pinned) => Some(Self { pinned: true, ..self }),
            Some(Strength::Held) => Some(self),
            Some(Strength::Kept) => Some(Self { pinned: false, ..self }),
            None if self.in_range => Some(Self { pinned: false, owed: false, ..self }),
            None if self.pinned || self.owed => None,
            None => Some(self),
        }
    }
}
