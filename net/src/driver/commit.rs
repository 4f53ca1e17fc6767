//! Blocks on their way: the group commit of those received, which of them are expected from
//! whom, and those just read for sending.
//!
//! A peer asks for a sync after a batch of blocks, and counts them as held only then. Syncs are
//! expensive and serve all puts before them, so everybody who waits while one runs shares the
//! next.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use xorfs_store::{Block, BlockId};

use crate::driver::Shared;
use crate::identity::NodeId;

/// Blocks remembered for sending: those of one push window, which is what several peers get at
/// about the same time.
const SENDING_BLOCKS_MAX: usize = 16;

/// Puts that wait for a sync.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    waiting: Mutex<Vec<oneshot::Sender<bool>>>,
    wake: Notify,
}

impl Commits {
    /// Waits until every put before this call is crash-safe; false where the sync failed.
    pub(super) async fn synced(&self) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        self.wake.notify_one();
        receiver.await.unwrap_or(false)
    }

    /// Syncs for whoever waits, for as long as the node runs.
    pub(super) async fn run(shared: Arc<Shared>) {
        loop {
            shared.commits.wake.notified().await;
            let waiting = std::mem::take(
                &mut *shared.commits.waiting.lock().unwrap_or_else(PoisonError::into_inner),
            );
            if waiting.is_empty() {
                continue;
            }
            let store = Arc::clone(&shared.store);
            let flushed = shared.tasks.blocking(move || store.flush()).await;
            if let Ok(Err(error)) = &flushed {
                tracing::error!(%error, "blocks received from peers could not be synced");
            }
            for sender in waiting {
                let _ = sender.send(matches!(flushed, Ok(Ok(()))));
            }
        }
    }
}

/// Blocks remembered as expected: those of several full offers. Beyond it a block may be sent by
/// two peers, which costs bandwidth and nothing else.
const EXPECTED_MAX: usize = 16_384;

/// Which peer was told to send which block, so that no two send the same.
#[derive(Debug)]
pub(crate) struct Expected {
    patience: Duration,
    senders: Mutex<HashMap<BlockId, (NodeId, Instant)>>,
}

impl Expected {
    /// A peer that has not sent a block after `patience` loses its turn.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, senders: Mutex::default() }
    }

    /// Whether `sender` is the one to send a block that is not here yet.
    pub(super) fn may_send(&self, id: BlockId, sender: NodeId, now: Instant) -> bool {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((holder, until)) = senders.get(&id)
            && *until > now
        {
            // Asking again does not lengthen a turn: a peer that never sends must not keep a
            // block from everybody else for ever.
            return *holder == sender;
        }
        if senders.len() >= EXPECTED_MAX {
            senders.retain(|_, (_, until)| *until > now);
        }
        if senders.len() < EXPECTED_MAX {
            senders.insert(id, (sender, now + self.patience));
        }
        true
    }

    /// A block has come, or was refused.
    pub(super) fn forget(&self, id: &BlockId) {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// A few blocks that were just read to be sent.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    blocks: Mutex<VecDeque<Block>>,
}

impl Sending {
    pub(super) fn find(&self, id: &BlockId) -> Option<Block> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.iter().find(|block| block.id() == *id).cloned()
    }

    pub(super) fn keep(&self, block: Block) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() == SENDING_BLOCKS_MAX {
            blocks.pop_front();
        }
        blocks.push_back(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::clock;

    #[test]
    fn asking_again_does_not_lengthen_a_turn() {
        let (id, now, patience) = (BlockId::of(b"a block"), clock(), Duration::from_secs(20));
        let (first, second) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let expected = Expected::new(patience);
        assert!(expected.may_send(id, first, now));
        assert!(expected.may_send(id, first, now + patience / 2));
        assert!(!expected.may_send(id, second, now + patience / 2));
        assert!(expected.may_send(id, second, now + patience));
        assert!(!expected.may_send(id, first, now + patience));
        expected.forget(&id);
        assert!(expected.may_send(id, first, now + patience));
    }
}
