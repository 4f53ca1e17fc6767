//! Gathering small pieces into shared blocks, so that a source tree is not one block per file.
//!
//! A piece's ref is known once the block it lies in is complete, because the block's id is the
//! hash of all of it. Until then it is a slot; `flush` completes the block. Large pieces are
//! blocks of their own, which is what makes equal content one block.

use std::collections::HashMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;

use crate::block::{BLOCK_BYTES_MAX, Block};
use crate::contract::{BlockStore, Purpose};
use crate::error::WriteError;
use crate::id::BlockId;
use crate::seal::{BlockRef, Encoding, Kind, PieceKey, seal_piece, sealed_length};
use crate::tree::volume::ConvergenceSecret;

/// A piece in the shared block under way, or in one completed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// Seals pieces and puts blocks.
pub(crate) struct Packer {
    blocks: Arc<dyn BlockStore>,
    purpose: Purpose,
    secret: ConvergenceSecret,
    shared: Vec<u8>,
    /// Slots in `shared`, with range, encoding and key.
    waiting: Vec<(usize, Range<usize>, Encoding, PieceKey)>,
    settled: Vec<Option<BlockRef>>,
    /// Slots of equal pieces, so that equal small files are stored once per sealing.
    known: HashMap<(Kind, [u8; 32]), Slot>,
}

impl Packer {
    pub(crate) fn new(
        blocks: Arc<dyn BlockStore>,
        purpose: Purpose,
        secret: ConvergenceSecret,
    ) -> Self {
        Self {
            blocks,
            purpose,
            secret,
            shared: Vec::new(),
            waiting: Vec::new(),
            settled: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// Seals a small piece into the shared block.
    pub(crate) fn share(&mut self, kind: Kind, plaintext: &[u8]) -> Result<Slot, WriteError> {
        let key = PieceKey::derive(&self.secret, plaintext);
        if let Some(slot) = self.known.get(&(kind, *key.as_bytes())) {
            return Ok(*slot);
        }
        if self.shared.len() + sealed_length(plaintext.len()) > BLOCK_BYTES_MAX {
            self.flush()?;
        }
        let from = self.shared.len();
        let encoding = seal_piece(kind, &key, plaintext, &mut self.shared);
        let slot = Slot(self.settled.len());
        self.settled.push(None);
        self.known.insert((kind, *key.as_bytes()), slot);
        self.waiting.push((slot.0, from..self.shared.len(), encoding, key));
        Ok(slot)
    }

    /// Completes the shared block.
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let shared = std::mem::take(&mut self.shared);
        let id = self.put(shared)?;
        for (slot, range, encoding, key) in self.waiting.drain(..) {
            let (offset, length) = (range.start as u32, range.len() as u32);
            self.settled[slot] = Some(BlockRef { id, offset, length, encoding, key });
        }
        Ok(())
    }

    /// Where a shared piece is.
    ///
    /// # Panics
    /// If its block is not complete: `flush` comes first.
    pub(crate) fn settle(&self, slot: Slot) -> BlockRef {
        self.settled[slot.0].clone().expect("the shared block was flushed before it is named")
    }

    /// Seals a piece into a block of its own.
    pub(crate) fn alone(&self, kind: Kind, plaintext: &[u8]) -> Result<BlockRef, WriteError> {
        let key = PieceKey::derive(&self.secret, plaintext);
        let mut sealed = Vec::new();
        let encoding = seal_piece(kind, &key, plaintext, &mut sealed);
        let length = sealed.len() as u32;
        let id = self.put(sealed)?;
        Ok(BlockRef { id, offset: 0, length, encoding, key })
    }

    /// Seals runs of `plaintext` into blocks of their own, on all cores.
    pub(crate) fn alone_many(
        &self,
        kind: Kind,
        plaintext: &[u8],
        runs: &[Range<usize>],
    ) -> Result<Vec<BlockRef>, WriteError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let share = runs.len().div_ceil(cores).max(1);
        let seal_share = |runs: &[Range<usize>]| -> Result<Vec<BlockRef>, WriteError> {
            runs.iter().map(|run| self.alone(kind, &plaintext[run.clone()])).collect()
        };
        let mut shares = runs.chunks(share);
        let mine = shares.next().unwrap_or_default();
        thread::scope(|scope| {
            let others: Vec<_> =
                shares.map(|share| scope.spawn(move || seal_share(share))).collect();
            let mut refs = seal_share(mine)?;
            for other in others {
                refs.extend(other.join().expect("sealing does not panic")?);
            }
            Ok(refs)
        })
    }

    fn put(&self, sealed: Vec<u8>) -> Result<BlockId, WriteError> {
        let block = Block::new(Bytes::from(sealed)).expect("pieces are cut to fit a block");
        self.blocks.put(&block, self.purpose)?;
        Ok(block.id())
    }
}
