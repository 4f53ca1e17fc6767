//! Placing pieces in blocks: large ones alone, small ones gathered into shared blocks, so that a
//! source tree is not one block per file.
//!
//! Pieces are handed in and sealed on all cores (see `pool`); until its ref is known a piece is a
//! [`Slot`]. A piece alone in its block has a ref once the block was put; a shared one once the
//! block it lies in is complete, because the block's id is the hash of all of it. `flush` waits
//! for the former and completes the latter.
//!
//! Before a piece is sealed it is looked up in the store's piece index (see `pieces`). What is
//! found there is used only where its block is held, reads, and opens to the same bytes: nothing
//! is named that is not really there.
//!
//! After an error a packer has lost pieces and is to be dropped.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::{BLOCK_BYTES_MAX, Block};
use crate::cache::ByteCache;
use crate::contract::{BlockStore, Purpose};
use crate::error::WriteError;
use crate::id::BlockId;
use crate::pieces::{PieceHash, PieceName};
use crate::plaintext::Plaintext;
use crate::seal::{BlockRef, Encoding, Kind, PieceKey, open_piece, seal_piece};
use crate::tree::pool::Pool;
use crate::tree::volume::ConvergenceSecret;

/// Most plaintext bytes of pieces that are handed in and not placed: enough to keep the cores
/// busy while the caller reads, or waits for the disk.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;

/// Memory for the blocks that lookups found pieces in.
const CONFIRMED_BYTES_MAX: usize = 16 << 20;

/// What a piece takes of memory beside its bytes, roughly: it bounds the number of small ones.
const JOB_BYTES: usize = 1 << 10;

/// A piece that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// Plaintext of one piece, perhaps out of a longer run that was read at once.
#[derive(Clone)]
pub(crate) struct Plain {
    run: Arc<Plaintext>,
    range: Range<usize>,
}

/// Seals pieces and puts blocks.
pub(crate) struct Packer {
    sealer: Arc<Sealer>,
    pool: Pool<Job, Result<Outcome, WriteError>>,
    /// Slots of the jobs in the pool, oldest first.
    in_flight: VecDeque<usize>,
    /// The shared block under way.
    shared: Vec<u8>,
    /// Slots in `shared`, with range, encoding, name and key.
    waiting: Vec<(usize, Range<usize>, Encoding, PieceName, PieceKey)>,
    /// Slots of pieces that equal one in `shared`, with the slot of that.
    twins: Vec<(usize, usize)>,
    settled: Vec<Option<BlockRef>>,
    /// Slots of equal pieces, so that equal small files are stored once per sealing.
    known: HashMap<PieceHash, usize>,
}

/// What the threads of the pool share.
struct Sealer {
    blocks: Arc<dyn BlockStore>,
    purpose: Purpose,
    secret: ConvergenceSecret,
    /// Blocks found by the piece index that were read and put for our purpose, the last ones.
    confirmed: ByteCache<BlockId, Block>,
}

struct Job {
    kind: Kind,
    plain: Plain,
    shares: bool,
}

enum Outcome {
    Placed(BlockRef),
    /// To go into a shared block.
    Sealed {
        name: PieceName,
        key: PieceKey,
        encoding: Encoding,
        bytes: Vec<u8>,
    },
}

impl Plain {
    /// A part of a run.
    pub(crate) fn part(run: &Arc<Plaintext>, range: Range<usize>) -> Self {
        Self { run: Arc::clone(run), range }
    }

    /// A run that is one piece.
    pub(crate) fn whole(run: Plaintext) -> Self {
        let range = 0..run.len();
        Self { run: Arc::new(run), range }
    }

    fn bytes(&self) -> &[u8] {
        &self.run[self.range.clone()]
    }
}

impl Packer {
    pub(crate) fn new(
        blocks: Arc<dyn BlockStore>,
        purpose: Purpose,
        secret: ConvergenceSecret,
    ) -> Self {
        let confirmed = ByteCache::new(CONFIRMED_BYTES_MAX);
        let sealer = Arc::new(Sealer { blocks, purpose, secret, confirmed });
        let pool = Pool::new({
            let sealer = Arc::clone(&sealer);
            move |job: Job| sealer.work(&job)
        });
        Self {
            sealer,
            pool,
            in_flight: VecDeque::new(),
            shared: Vec::new(),
            waiting: Vec::new(),
            twins: Vec::new(),
            settled: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// Hands in a small piece, to lie in a shared block.
    pub(crate) fn share(&mut self, kind: Kind, plain: Plain) -> Result<Slot, WriteError> {
        self.submit(Job { kind, plain, shares: true })
    }

    /// Hands in a large piece, to be a block of its own.
    pub(crate) fn submit_alone(&mut self, kind: Kind, plain: Plain) -> Result<Slot, WriteError> {
        self.submit(Job { kind, plain, shares: false })
    }

    /// Seals a piece into a block of its own, here and now.
    pub(crate) fn alone(&self, kind: Kind, plaintext: &[u8]) -> Result<BlockRef, WriteError> {
        let key = PieceKey::derive(&self.sealer.secret, plaintext);
        self.sealer.place(kind, key, plaintext)
    }

    /// Waits for every piece handed in and completes the shared block.
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        while let Some(result) = self.pool.take() {
            self.accept(result)?;
        }
        self.complete()
    }

    /// Where a piece is.
    ///
    /// # Panics
    /// If it was not flushed: `flush` comes first.
    pub(crate) fn settle(&self, slot: Slot) -> BlockRef {
        self.settled[slot.0].clone().expect("pieces are flushed before they are named")
    }

    fn submit(&mut self, job: Job) -> Result<Slot, WriteError> {
        let slot = self.settled.len();
        self.settled.push(None);
        self.in_flight.push_back(slot);
        let weight = job.plain.range.len() + JOB_BYTES;
        self.pool.submit(job, weight);
        while let Some(result) = self.pool.take_done() {
            self.accept(result)?;
        }
        while self.pool.weight() > IN_FLIGHT_BYTES_MAX
            && let Some(result) = self.pool.take()
        {
            self.accept(result)?;
        }
        Ok(Slot(slot))
    }

    fn accept(&mut self, result: Result<Outcome, WriteError>) -> Result<(), WriteError> {
        let slot = self.in_flight.pop_front().expect("every job in the pool has its slot");
        match result? {
            Outcome::Placed(piece) => self.settled[slot] = Some(piece),
            Outcome::Sealed { name, key, encoding, bytes } => {
                if let Some(twin) = self.known.get(&name.hash) {
                    match &self.settled[*twin] {
                        Some(piece) => self.settled[slot] = Some(piece.clone()),
                        None => self.twins.push((slot, *twin)),
                    }
                    return Ok(());
                }
                if self.shared.len() + bytes.len() > BLOCK_BYTES_MAX {
                    self.complete()?;
                }
                let from = self.shared.len();
                self.shared.extend_from_slice(&bytes);
                self.known.insert(name.hash, slot);
                self.waiting.push((slot, from..self.shared.len(), encoding, name, key));
            }
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<(), WriteError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let shared = std::mem::take(&mut self.shared);
        let id = self.sealer.put(shared)?;
        let mut noted = Vec::with_capacity(self.waiting.len());
        for (slot, range, encoding, name, key) in self.waiting.drain(..) {
            let (offset, length) = (range.start as u32, range.len() as u32);
            let piece = BlockRef { id, offset, length, encoding, key };
            noted.push((name.hash, name.place(&piece)));
            self.settled[slot] = Some(piece);
        }
        self.sealer.blocks.note_pieces(&noted)?;
        for (slot, twin) in self.twins.drain(..) {
            self.settled[slot] = self.settled[twin].clone();
        }
        Ok(())
    }
}

impl Sealer {
    fn work(&self, job: &Job) -> Result<Outcome, WriteError> {
        let plaintext = job.plain.bytes();
        let key = PieceKey::derive(&self.secret, plaintext);
        let name = PieceName::of(job.kind, &key);
        if let Some(piece) = self.find(job.kind, &name, &key, plaintext)? {
            return Ok(Outcome::Placed(piece));
        }
        if !job.shares {
            let piece = self.place(job.kind, key, plaintext)?;
            self.blocks.note_pieces(&[(name.hash, name.place(&piece))])?;
            return Ok(Outcome::Placed(piece));
        }
        let mut bytes = Vec::new();
        let encoding = seal_piece(job.kind, &key, plaintext, &mut bytes);
        Ok(Outcome::Sealed { name, key, encoding, bytes })
    }

    /// The piece as it is stored already, if it is. Whatever speaks against an entry, a missing
    /// block or one that does not read among it, means that the piece is stored anew.
    fn find(
        &self,
        kind: Kind,
        name: &PieceName,
        key: &PieceKey,
        plaintext: &[u8],
    ) -> Result<Option<BlockRef>, WriteError> {
        let Ok(Some(place)) = self.blocks.find_piece(&name.hash) else { return Ok(None) };
        let Ok(piece) = name.piece(&place, key) else { return Ok(None) };
        if piece.plain_length() != plaintext.len() as u64 {
            return Ok(None);
        }
        let Some(block) = self.confirm(&piece.id)? else { return Ok(None) };
        let from = piece.offset as usize;
        let sealed = block.bytes().get(from..from + piece.length as usize);
        let opens = sealed.is_some_and(|sealed| {
            open_piece(kind, &piece, sealed, 0..plaintext.len())
                .is_ok_and(|opened| opened[..] == *plaintext)
        });
        Ok(opens.then_some(piece))
    }

    /// A block that is held and reads; from then on it is held for our purpose too.
    fn confirm(&self, id: &BlockId) -> Result<Option<Block>, WriteError> {
        if let Some(block) = self.confirmed.find(id) {
            return Ok(Some(block));
        }
        if !self.blocks.renew(id)? {
            return Ok(None);
        }
        let Ok(block) = self.blocks.get(id) else { return Ok(None) };
        self.blocks.put(&block, self.purpose)?;
        self.confirmed.keep(*id, block.clone(), block.bytes().len());
        Ok(Some(block))
    }

    fn place(&self, kind: Kind, key: PieceKey, plaintext: &[u8]) -> Result<BlockRef, WriteError> {
        let mut sealed = Vec::new();
        let encoding = seal_piece(kind, &key, plaintext, &mut sealed);
        let length = sealed.len() as u32;
        let id = self.put(sealed)?;
        Ok(BlockRef { id, offset: 0, length, encoding, key })
    }

    fn put(&self, sealed: Vec<u8>) -> Result<BlockId, WriteError> {
        let block = Block::new(Bytes::from(sealed)).expect("pieces are cut to fit a block");
        self.blocks.put(&block, self.purpose)?;
        Ok(block.id())
    }
}
