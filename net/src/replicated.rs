//! `Replicated`: the block store that looks locally first and then asks the network.
//!
//! The only place where blocking callers meet async tasks. Reads of what is not here wait, at
//! most until the fetch deadline; writes go to the local store and are published in the
//! background. Not to be called from a thread that runs async tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use xorfs_store::{
    Block, BlockId, BlockStore, PieceHash, PiecePlace, Purpose, ReadError, WriteError, WriteGuard,
};

use crate::driver::{Network, clock};
use crate::node::search::Found;

/// Blocks to publish put without a flush after which publishing starts all the same: enough to
/// leave small writes alone, few enough that a large one is published while it is written.
const WAKE_AFTER_PUTS: usize = 64;

/// A block store over a local one and the network.
#[derive(Clone)]
pub struct Replicated {
    local: Arc<dyn BlockStore>,
    network: Network,
    unflushed: Arc<AtomicUsize>,
}

impl Replicated {
    /// Looks into `local`, which should be the store that `network` serves from, first.
    pub fn new<S: BlockStore + 'static>(local: Arc<S>, network: Network) -> Self {
        Self { local, network, unflushed: Arc::default() }
    }

    fn fetch(&self, id: &BlockId, local: ReadError) -> Result<Block, ReadError> {
        let started = clock();
        match (self.network.shared().fetch_blocking(*id), &local) {
            (Found::It(block), _) => Ok(block),
            // That the local copy is corrupt tells more than that no other one was found.
            (Found::Missing, _) | (Found::Unreachable, ReadError::Corrupt { .. }) => Err(local),
            (Found::Unreachable, _) => {
                Err(ReadError::Unreachable { id: *id, waited: clock() - started })
            }
        }
    }
}

impl BlockStore for Replicated {
    fn get(&self, id: &BlockId) -> Result<Block, ReadError> {
        match self.local.get(id) {
            Ok(block) => Ok(block),
            Err(error @ (ReadError::Missing { .. } | ReadError::Corrupt { .. })) => {
                self.fetch(id, error)
            }
            Err(error) => Err(error),
        }
    }

    fn contains(&self, id: &BlockId) -> Result<bool, ReadError> {
        self.local.contains(id)
    }

    fn put(&self, block: &Block, purpose: Purpose) -> Result<(), WriteError> {
        self.local.put(block, purpose)?;
        if purpose.publishes()
            && self.unflushed.fetch_add(1, Ordering::Relaxed) + 1 >= WAKE_AFTER_PUTS
        {
            self.unflushed.store(0, Ordering::Relaxed);
            self.network.wake_publisher();
        }
        Ok(())
    }

    fn renew(&self, id: &BlockId) -> Result<bool, WriteError> {
        self.local.renew(id)
    }

    fn guard(&self) -> WriteGuard {
        self.local.guard()
    }

    fn flush(&self) -> Result<(), WriteError> {
        self.local.flush()?;
        if self.unflushed.swap(0, Ordering::Relaxed) > 0 {
            self.network.wake_publisher();
        }
        Ok(())
    }

    fn find_piece(&self, hash: &PieceHash) -> Result<Option<PiecePlace>, ReadError> {
        self.local.find_piece(hash)
    }

    fn note_pieces(&self, pieces: &[(PieceHash, PiecePlace)]) -> Result<(), WriteError> {
        self.local.note_pieces(pieces)
    }

    fn prefetch(&self, ids: &[BlockId]) {
        self.network.shared().prefetch(ids);
    }
}
