//! The piece index on disk (see `crate::pieces`).
//!
//! Entries are written without the log into a family that is flushed together with the blocks,
//! after their block was put: after a crash no entry is ahead of its block. What a crash loses is
//! stored once more, no worse. Entries of blocks that are gone do no harm; a collection that
//! removed blocks drops them.

use std::num::NonZeroUsize;

use rocksdb::{IteratorMode, WriteBatch};

use super::columns::Column;
use super::{Local, family, scan_error};
use crate::error::{ReadError, WriteError};
use crate::id::BlockId;
use crate::pieces::{PieceHash, PiecePlace};

/// Entries dropped in one batch.
const BATCH_ENTRIES: usize = 4096;

/// Blocks of which a walk remembers whether they are held: some 100 bytes each.
const BLOCKS_REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 << 10).expect("it is not zero");

impl Local {
    pub(super) fn piece(&self, hash: &PieceHash) -> Result<Option<PiecePlace>, ReadError> {
        let found = self
            .db
            .get_pinned_cf(family(&self.db, Column::Pieces), hash.as_bytes())
            .map_err(scan_error)?;
        // What does not decode is no hint.
        Ok(found.and_then(|entry| PiecePlace::decode(&entry).ok()))
    }

    pub(super) fn write_pieces(
        &self,
        pieces: &[(PieceHash, PiecePlace)],
    ) -> Result<(), WriteError> {
        self.health.check()?;
        let mut batch = WriteBatch::default();
        for (hash, place) in pieces {
            let family = family(&self.db, Column::Pieces);
            batch.put_cf(family, hash.as_bytes(), place.encode());
        }
        self.db.write_without_wal(batch).map_err(|error| self.write_error(error))
    }

    /// Drops the entries of blocks that are not held. One that is written anew meanwhile may go
    /// as well, which costs a copy of its piece at the most.
    pub(super) fn drop_stale_pieces(&self) -> Result<(), WriteError> {
        let pieces = family(&self.db, Column::Pieces);
        let mut batch = WriteBatch::default();
        // The pieces of a block are spread over the index, so what was asked is remembered.
        let mut held: lru::LruCache<BlockId, bool> = lru::LruCache::new(BLOCKS_REMEMBERED);
        for found in self.db.iterator_cf(pieces, IteratorMode::Start) {
            let (hash, entry) = found.map_err(|error| self.write_error(error))?;
            let is_held = match PiecePlace::decode(&entry) {
                Err(_) => false,
                Ok(place) => {
                    let id = place.block();
                    *held.try_get_or_insert(id, || Ok(self.row_to_change(&id)?.is_some()))?
                }
            };
            if !is_held {
                batch.delete_cf(pieces, hash);
            }
            if batch.len() >= BATCH_ENTRIES {
                let batch = std::mem::take(&mut batch);
                self.db.write_without_wal(batch).map_err(|error| self.write_error(error))?;
            }
        }
        self.db.write_without_wal(batch).map_err(|error| self.write_error(error))
    }
}
