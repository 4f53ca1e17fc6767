//! What can go wrong below the filesystem, split by what the caller does about it.

use std::time::Duration;

use crate::id::BlockId;

/// A block, or what it holds, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody who was asked has the block.
    #[error("block {id} is not held by any node that was asked")]
    Missing {
        /// The block.
        id: BlockId,
    },
    /// The block is there and is not what was written, or does not decode.
    #[error("block {id} is corrupt: {detail}")]
    Corrupt {
        /// The block.
        id: BlockId,
        /// What does not hold.
        detail: String,
    },
    /// Written in a format that this version does not know.
    #[error("block {id} uses format {found}, newer than this version of xorfs reads")]
    Newer {
        /// The block.
        id: BlockId,
        /// The version found.
        found: u8,
    },
    /// The deadline passed, or no peer could be reached, before anybody answered for the block.
    #[error("block {id} could not be fetched: {}", why_unreachable(*waited))]
    Unreachable {
        /// The block.
        id: BlockId,
        /// How long was waited.
        waited: Duration,
    },
    /// The local disk failed.
    #[error("could not read from the local store")]
    Io(#[source] std::io::Error),
}

/// A block or a record could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The quota or the disk leaves no room.
    #[error("the store is full: {used} of {limit} bytes are used")]
    Full {
        /// Bytes in use.
        used: u64,
        /// The quota, or what the disk holds, in bytes.
        limit: u64,
    },
    /// An earlier write or sync failed; nothing is written until the store is reopened.
    #[error("the store refuses writes since one failed: {reason}")]
    Poisoned {
        /// The failure that came first.
        reason: String,
    },
    /// The local disk failed just now.
    #[error("could not write to the local store")]
    Io(#[source] std::io::Error),
}

/// The tree could not be changed: something it builds on did not read, or the result did not
/// write.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Reading what is there failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing what is new failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer version.
    #[error(
        "the store has format {found}, newer than the {known} that this version knows; upgrade xorfs"
    )]
    Newer {
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// The quota leaves no room for blocks.
    #[error("a quota of {quota} bytes is too small; the least is {least} bytes")]
    Quota {
        /// The quota that was asked for.
        quota: u64,
        /// The smallest one that works.
        least: u64,
    },
    /// Another process has it open.
    #[error("the store is in use by another process")]
    Locked,
    /// A file of the store is damaged in a way that cannot be worked around.
    #[error("the store is damaged: {detail}")]
    Damaged {
        /// What is damaged.
        detail: String,
    },
    /// The disk failed.
    #[error("could not open the store")]
    Io(#[source] std::io::Error),
}

/// Where nothing was waited for there was nobody to ask, and a time would mislead.
fn why_unreachable(waited: Duration) -> String {
    if waited < Duration::from_secs(1) {
        return "no node that could be asked is reachable".to_owned();
    }
    format!("no node answered within {:.1} s", waited.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_where_there_was_one() {
        let id = BlockId::of(b"a block");
        let told = |ms| {
            let waited = Duration::from_millis(ms);
            ReadError::Unreachable { id, waited }.to_string()
        };
        let at = format!("block {id} could not be fetched");
        assert_eq!(told(3), format!("{at}: no node that could be asked is reachable"));
        assert_eq!(told(5_004), format!("{at}: no node answered within 5.0 s"));
    }
}
