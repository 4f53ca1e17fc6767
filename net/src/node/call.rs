//! Requests in the terms of this node, and answers checked before anybody believes them.
//!
//! The driver turns a `Call` into a `wire::Request`, sends it, and turns what comes back into an
//! `Answer` here: an answer of the wrong kind, a block that is not what its id says or a head of
//! another volume never gets past `Call::answer`.

use std::sync::Arc;

use bytes::Bytes;
use xorfs_store::{Block, BlockId, Head, VolumeId};

use crate::kad::{Key, Peer};
use crate::wire::{Name, Nonce, Offered, RangeSum, Refusal, Request, Response};

/// A request to one peer.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Ping,
    FindNode(Key),
    FindBlock(BlockId),
    FindHead(VolumeId),
    Offer(Arc<[BlockId]>),
    /// The driver reads the block from the local store when it sends it.
    Store(BlockId),
    StoreHead(Head),
    Sync,
    /// Answered with `Proofs` by the peer; whoever sends it compares them with the local blocks
    /// and makes `Proved` of it, see `replica::proof`.
    Prove {
        nonce: Nonce,
        ids: Arc<[BlockId]>,
    },
    Compare {
        bits: u8,
        sums: Arc<[RangeSum]>,
    },
}

/// What a peer answered, verified as far as it can be.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Pong,
    Peers(Vec<Peer>),
    Block(Block),
    Head(Head, Vec<Peer>),
    Offered(Offered),
    Stored,
    Refused(Refusal),
    /// What the peer says are proofs.
    Proofs(Vec<Option<Name>>),
    /// What the proofs were worth.
    Proved(Vec<Verdict>),
    /// One bit for each range that was compared.
    Differs(Vec<u8>),
}

/// What is known of a claim to hold a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Proved,
    /// The peer admits that it does not have it.
    Lacking,
    /// It cannot be told here, because the block is not here to compare.
    Unknown,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// No connection, or it broke.
    #[error("the peer could not be reached")]
    Unreachable,
    /// No answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The bytes are not what was asked for.
    #[error("the peer sent something else than was asked for")]
    Wrong,
    /// What was to be sent is not in the local store; says nothing about the peer.
    #[error("the block to be sent is not here")]
    Unsent,
}

impl Call {
    /// Whether a block travels with it or its answer, or a disk works for it: it takes longer.
    pub(crate) fn is_transfer(&self) -> bool {
        matches!(self, Self::FindBlock(_) | Self::Store(_) | Self::Sync | Self::Prove { .. })
    }

    /// Its name in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::FindNode(_) => "find node",
            Self::FindBlock(_) => "find block",
            Self::FindHead(_) => "find head",
            Self::Offer(_) => "offer",
            Self::Store(_) => "store",
            Self::StoreHead(_) => "store head",
            Self::Sync => "sync",
            Self::Prove { .. } => "prove",
            Self::Compare { .. } => "compare",
        }
    }

    /// The message and its payload; `block` is the block of a `Store`.
    pub(crate) fn request(&self, block: Option<&Block>) -> Result<(Request, Bytes), CallError> {
        let request = match self {
            Self::Ping => Request::Ping,
            Self::Sync => Request::Sync,
            Self::FindNode(key) => Request::FindNode { key: *key },
            Self::FindBlock(id) => Request::FindBlock { id: *id.as_bytes() },
            Self::FindHead(volume) => Request::FindHead { volume: *volume.as_bytes() },
            Self::Offer(blocks) => {
                Request::Offer { ids: blocks.iter().map(|id| *id.as_bytes()).collect() }
            }
            Self::Prove { nonce, ids } => {
                Request::Prove { nonce: *nonce, ids: ids.iter().map(|id| *id.as_bytes()).collect() }
            }
            Self::Compare { bits, sums } => Request::Compare { bits: *bits, sums: sums.to_vec() },
            Self::Store(id) => {
                let block = block.filter(|block| block.id() == *id).ok_or(CallError::Unsent)?;
                let length = block.bytes().len() as u32;
                return Ok((Request::Store { id: *id.as_bytes(), length }, block.bytes().clone()));
            }
            Self::StoreHead(head) => {
                let length = head.encoded().len() as u32;
                return Ok((Request::StoreHead { length }, head.encoded().clone()));
            }
        };
        Ok((request, Bytes::new()))
    }

    /// Checks a response against this call. Hashes a block, so not to be called under a lock.
    pub(crate) fn answer(&self, response: Response, payload: Bytes) -> Result<Answer, CallError> {
        match (self, response) {
            (_, Response::Refused(refusal)) => Ok(Answer::Refused(refusal)),
            (Self::Ping, Response::Pong) => Ok(Answer::Pong),
            (
                Self::FindNode(_) | Self::FindBlock(_) | Self::FindHead(_),
                Response::Peers { peers },
            ) => Ok(Answer::Peers(peers)),
            (Self::FindBlock(id), Response::Block { .. }) => {
                Block::verified(*id, payload).map(Answer::Block).map_err(|_| CallError::Wrong)
            }
            (Self::FindHead(volume), Response::Head { peers, .. }) => {
                let head = Head::decode(payload).ok().filter(|head| head.volume() == *volume);
                head.map(|head| Answer::Head(head, peers)).ok_or(CallError::Wrong)
            }
            (Self::Offer(_), Response::Offered(offered)) => Ok(Answer::Offered(offered)),
            (Self::Store(_) | Self::StoreHead(_) | Self::Sync, Response::Stored) => {
                Ok(Answer::Stored)
            }
            (Self::Prove { ids, .. }, Response::Proofs { proofs }) if proofs.len() == ids.len() => {
                Ok(Answer::Proofs(proofs))
            }
            (Self::Compare { .. }, Response::Differs { ranges }) => Ok(Answer::Differs(ranges)),
            _ => Err(CallError::Wrong),
        }
    }
}
