//! The interfaces of a store, and what every implementation promises.
//!
//! `BlockStore` is all that the tree and the mount know of blocks: they cannot tell a local
//! database from a network. `Inventory` adds what replication needs to know about the blocks
//! held here. `Ledger` keeps the small records that must not be lost: heads and the journal.
//! `Local` and `Memory` implement all three and pass one conformance suite.
//!
//! Calls block; callers on an async runtime hand them to a blocking thread.

use bytes::Bytes;

use crate::block::Block;
use crate::error::{ReadError, WriteError};
use crate::gc::{Marked, Swept};
use crate::horizon::{Horizon, WriteGuard};
use crate::id::BlockId;
use crate::pieces::{PieceHash, PiecePlace};

/// What a block is put for. A later `put` adds its purpose to the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Fetched for a reader: evictable.
    Cache,
    /// Stored for the network, because this node is in the block's close group.
    Hold,
    /// Written here for a volume that is not pinned: owed to the network, evictable after that.
    Publish,
    /// Written here for a volume that is pinned: owed to the network and never evicted.
    Own,
    /// Fetched to be kept: never evicted, not owed.
    Pin,
}

impl Purpose {
    /// Whether a block put for this has to get to the network.
    pub fn publishes(self) -> bool {
        matches!(self, Self::Publish | Self::Own)
    }
}

/// Why a block is held, as it is reported: the strongest of its reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Fetched for a reader, or written for a volume that is not pinned.
    Cached,
    /// Stored for the network.
    InRange,
    /// Belongs to a volume or a tree that this home keeps; never evicted.
    Pinned,
}

/// Blocks by id.
///
/// Promises: `get` returns bytes that match the id or an error, never anything else. A held
/// block that does not match is `Corrupt` once; then it is set aside and `Missing`. After
/// `put` returns, `get` on the same store finds the block; after `flush` returns, every earlier
/// `put` survives a crash. A `put` of a block that is there confirms that it still reads,
/// mends it where it does not, and only ever adds reasons to hold it. Every call ends: an
/// implementation that asks the network has a deadline.
pub trait BlockStore: Send + Sync {
    /// Reads a block.
    ///
    /// # Errors
    /// `Missing`, `Corrupt`, `Unreachable` or `Io`, with the id.
    fn get(&self, id: &BlockId) -> Result<Block, ReadError>;

    /// Whether the block is held here, without asking the network and without reading it.
    fn contains(&self, id: &BlockId) -> Result<bool, ReadError>;

    /// Keeps a block.
    ///
    /// # Errors
    /// `Full` leaves the store as it was; `Io` and `Poisoned` mean that the store must be
    /// reopened.
    fn put(&self, block: &Block, purpose: Purpose) -> Result<(), WriteError>;

    /// Whether a block is held. If so it counts as put just now, so that it may be named by what
    /// is being written under a guard. That it reads is not checked.
    fn renew(&self, id: &BlockId) -> Result<bool, WriteError>;

    /// While the guard lives, garbage collection takes nothing that was put or renewed since.
    fn guard(&self) -> WriteGuard;

    /// Makes every earlier `put` crash-safe.
    fn flush(&self) -> Result<(), WriteError>;

    /// Where a piece was noted to be. A hint: the block may be gone by now, and a store that
    /// keeps no such index finds nothing.
    fn find_piece(&self, _hash: &PieceHash) -> Result<Option<PiecePlace>, ReadError> {
        Ok(None)
    }

    /// Notes where pieces are, in blocks that were put before. After a crash it may be forgotten,
    /// and is never remembered without the block.
    fn note_pieces(&self, _pieces: &[(PieceHash, PiecePlace)]) -> Result<(), WriteError> {
        Ok(())
    }

    /// Says that these blocks will be read soon. A hint: it returns at once and never fails.
    fn prefetch(&self, _ids: &[BlockId]) {}
}

/// Bytes and blocks in use, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sealed bytes of pinned blocks.
    pub pinned_bytes: u64,
    /// Sealed bytes held for the network.
    pub in_range_bytes: u64,
    /// Sealed bytes held for readers.
    pub cached_bytes: u64,
    /// Number of blocks of every class.
    pub blocks: u64,
    /// Blocks that were held and did not read; no other figure counts them.
    pub bad_blocks: u64,
    /// Bytes of the journal: changes that are crash-safe here and not sealed yet.
    pub staged_bytes: u64,
    /// What the store takes of the disk, with what is in memory on its way there.
    pub occupied_bytes: u64,
    /// Bytes of forgotten blocks that are still to be given back to the disk.
    pub reclaimable_bytes: u64,
    /// Hard cap in bytes; `u64::MAX` where none was set.
    pub quota_bytes: u64,
    /// Free bytes of the disk beneath, as the system tells.
    pub disk_free_bytes: u64,
}

impl Usage {
    /// Sealed bytes of every class.
    pub fn used_bytes(&self) -> u64 {
        self.pinned_bytes + self.in_range_bytes + self.cached_bytes
    }
}

/// A block that was held and did not read: it is not held any more, and missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBlock {
    /// The block.
    pub id: BlockId,
    /// Why it was held.
    pub class: Class,
    /// Whether the network did not hold it yet.
    pub owed: bool,
    /// Its sealed bytes.
    pub length: u32,
    /// When it was set aside, in seconds since 1970.
    pub since_seconds: u64,
}

/// What replication knows about the blocks held here.
///
/// A block put for `Own` or `Publish` is *owed* to the network until `set_copies` has recorded
/// enough acknowledgements; what is owed survives a restart together with the block.
pub trait Inventory: BlockStore {
    /// Up to `limit` ids of held blocks in ascending order, starting after `after`. Reads no
    /// block bytes.
    fn ids(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BlockId>, ReadError>;

    /// Up to `limit` ids of owed blocks in ascending order, starting after `after`.
    fn owed(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BlockId>, ReadError>;

    /// Number of owed blocks and their sealed bytes, kept as counters: cheap to ask often.
    fn owed_totals(&self) -> (u64, u64);

    /// How many nodes, this one included where it is one of the block's close group, were last
    /// known to hold the block. 0 where nothing was recorded.
    fn copies(&self, id: &BlockId) -> Result<u8, ReadError>;

    /// Records that `copies` nodes hold the block; with `settled` it is owed no longer, without
    /// it becomes (or stays) owed. A block that is not held here is ignored.
    fn set_copies(&self, id: &BlockId, copies: u8, settled: bool) -> Result<(), WriteError>;

    /// Why a block is held; `None` where it is not.
    fn class(&self, id: &BlockId) -> Result<Option<Class>, ReadError>;

    /// Says that a block need not be held for the network any more, because those closer to it
    /// are known to hold it. Forgets it where it was held for nothing else; whether it did.
    fn vacate(&self, id: &BlockId) -> Result<bool, WriteError>;

    /// What is in use.
    fn usage(&self) -> Usage;

    /// Up to `limit` bad blocks in the order of their ids, starting after `after`. A `put` that
    /// brings one back gives it its old standing.
    fn bad(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BadBlock>, ReadError>;

    /// Compares what is known of blocks with everything that repeats it, and mends it with
    /// `repair`. Returns the number of entries that were wrong; 0 where nothing is repeated.
    fn check_rows(&self, _repair: bool) -> Result<u64, WriteError> {
        Ok(0)
    }

    /// Forgets a block. Nothing happens where it is not held.
    fn remove(&self, id: &BlockId) -> Result<(), WriteError>;

    /// Says from which length of the prefix that a block's id shares with this node's own point
    /// on the block is in range. What is in range is never evicted; what is held for the network
    /// and no longer in range may be, after everything that is cached and the farthest first.
    /// Until it is called everything held for the network counts as in range, and always where
    /// the store has no point.
    fn set_range(&self, _prefix_bits: u8) {}

    /// Gives the space of forgotten blocks back to the disk, as far as that is worth what it
    /// costs, and waits for it.
    fn reclaim(&self) -> Result<(), WriteError> {
        Ok(())
    }

    /// Below which order blocks belong to no work in flight: taken before roots are listed.
    fn horizon(&self) -> Horizon;

    /// Ends a garbage collection, see `gc`. Of the blocks older than `horizon`, those that are
    /// marked are pinned or not as their mark says; of the others those that were pinned or owed
    /// go, or stay for the network alone where they are in range. With `dry_run` nothing changes.
    ///
    /// # Errors
    /// What was done until then stays done; a later collection does the rest.
    fn sweep(&self, horizon: Horizon, marked: &Marked, dry_run: bool) -> Result<Swept, WriteError>;
}

/// A kind of record in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Volume id → newest signed head that is known, whoever wrote it.
    Heads,
    /// Volume id → the head that this home's own changes go on from. Another writer's newer head
    /// never takes its place while the journal holds changes made after it.
    Bases,
    /// Volume id, sequence number → sealed journal record (see `staging`).
    Journal,
    /// Node id → last known addresses of a peer.
    Peers,
    /// Volume id, keyed hash of a path → sealed record of what was put there (see `sources`).
    Sources,
}

/// Changes that take effect together.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    pub(crate) changes: Vec<(Table, Vec<u8>, Option<Bytes>)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a record.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.changes.push((table, key.into(), Some(value.into())));
    }

    /// Removes a record, if it is there.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), None));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Small records, written through a log.
///
/// Promise: `commit` is atomic and, once it returned, survives a crash; of two batches the one
/// committed first is never lost while the later one is kept.
pub trait Ledger: Send + Sync {
    /// Reads a record.
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// All records whose key starts with `prefix`, in key order.
    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError>;

    /// Applies a batch, atomically and synced.
    fn commit(&self, batch: Batch) -> Result<(), WriteError>;
}
