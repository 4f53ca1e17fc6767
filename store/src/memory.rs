//! `Memory`: the reference implementation of the store's contract.
//!
//! Everything is a sorted map behind one lock and every figure is counted anew, so what it does
//! can be read off the code; the other implementations are compared with it. Tests and the
//! simulator run on it. It promises nothing across a restart: `flush` has nothing to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::block::Block;
use crate::contract::{
    BadBlock, Batch, BlockStore, Class, Inventory, Ledger, Purpose, Table, Usage,
};
use crate::error::{ReadError, WriteError};
use crate::gc::{Marked, Swept};
use crate::horizon::{Guards, Horizon, WriteGuard};
use crate::id::BlockId;
use crate::pieces::{PieceHash, PiecePlace};
use crate::standing::Standing;

/// A store in memory.
#[derive(Debug, Default)]
pub struct Memory {
    quota_bytes: Option<u64>,
    state: Mutex<State>,
    guards: Arc<Guards>,
}

#[derive(Debug, Default)]
struct State {
    blocks: BTreeMap<BlockId, Entry>,
    bad: BTreeMap<BlockId, Entry>,
    records: BTreeMap<(Table, Vec<u8>), Bytes>,
    pieces: BTreeMap<PieceHash, PiecePlace>,
    /// The number of the next put or renewal, so that the oldest block is known.
    next: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    standing: Standing,
    order: u64,
}

impl Memory {
    /// An empty store without a quota.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that takes at most this many sealed bytes.
    pub fn with_quota(quota_bytes: u64) -> Self {
        Self { quota_bytes: Some(quota_bytes), ..Self::default() }
    }

    /// For tests: damages a held block as a failing disk would, so that reading it is `Corrupt`.
    /// Whether it was held.
    pub fn corrupt(&self, id: &BlockId) -> bool {
        let mut state = self.state();
        let Some(entry) = state.blocks.get_mut(id) else { return false };
        let mut bytes = entry.bytes.to_vec();
        bytes[0] ^= 1;
        entry.bytes = bytes.into();
        true
    }

    /// Every change is a single assignment or insertion, so a holder that panicked left the
    /// state whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for entry in self.blocks.values() {
            let bytes = match entry.standing.class() {
                Class::Pinned => &mut usage.pinned_bytes,
                Class::InRange => &mut usage.in_range_bytes,
                Class::Cached => &mut usage.cached_bytes,
            };
            *bytes += entry.bytes.len() as u64;
            usage.blocks += 1;
        }
        usage.bad_blocks = self.bad.len() as u64;
        usage
    }

    /// The next number of the order.
    fn stamp(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Makes room for `length` bytes by forgetting cached blocks, oldest first; nothing is
    /// forgotten where that would not be enough.
    fn make_room(&mut self, length: u64, quota: u64) -> Result<(), WriteError> {
        let used = self.usage().used_bytes();
        let mut oldest: Vec<_> = self
            .blocks
            .iter()
            .filter(|(_, entry)| entry.standing.class() == Class::Cached && !entry.standing.owed)
            .map(|(id, entry)| (entry.order, *id, entry.bytes.len() as u64))
            .collect();
        oldest.sort_unstable();
        let mut left = used;
        let mut evicted = Vec::new();
        for (_, id, bytes) in oldest {
            if left + length <= quota {
                break;
            }
            left -= bytes;
            evicted.push(id);
        }
        if left + length > quota {
            return Err(WriteError::Full { used, limit: quota });
        }
        for id in evicted {
            self.blocks.remove(&id);
        }
        Ok(())
    }

    fn ids_where(
        &self,
        after: Option<&BlockId>,
        limit: usize,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Vec<BlockId> {
        self.blocks
            .iter()
            .filter(|(id, entry)| after.is_none_or(|after| *id > after) && wanted(entry))
            .map(|(id, _)| *id)
            .take(limit)
            .collect()
    }
}

impl BlockStore for Memory {
    fn get(&self, id: &BlockId) -> Result<Block, ReadError> {
        let mut state = self.state();
        let bytes = match state.blocks.get(id) {
            Some(entry) => entry.bytes.clone(),
            None => return Err(ReadError::Missing { id: *id }),
        };
        Block::verified(*id, bytes).map_err(|error| {
            if let Some(entry) = state.blocks.remove(id) {
                state.bad.insert(*id, entry);
            }
            ReadError::Corrupt { id: *id, detail: error.to_string() }
        })
    }

    fn contains(&self, id: &BlockId) -> Result<bool, ReadError> {
        Ok(self.state().blocks.contains_key(id))
    }

    fn put(&self, block: &Block, purpose: Purpose) -> Result<(), WriteError> {
        let mut state = self.state();
        let held = state.blocks.get(&block.id()).map(|entry| entry.standing);
        if let (None, Some(quota)) = (held, self.quota_bytes) {
            state.make_room(block.bytes().len() as u64, quota)?;
        }
        let before = state.bad.remove(&block.id()).map(|entry| entry.standing);
        let standing = held.or(before).unwrap_or_default().after_put(purpose);
        let entry = Entry { bytes: block.bytes().clone(), standing, order: state.stamp() };
        state.blocks.insert(block.id(), entry);
        Ok(())
    }

    fn renew(&self, id: &BlockId) -> Result<bool, WriteError> {
        let mut state = self.state();
        let order = state.stamp();
        let entry = state.blocks.get_mut(id);
        Ok(entry.map(|entry| entry.order = order).is_some())
    }

    fn guard(&self) -> WriteGuard {
        let state = self.state();
        self.guards.enter(state.next)
    }

    fn flush(&self) -> Result<(), WriteError> {
        Ok(())
    }

    fn find_piece(&self, hash: &PieceHash) -> Result<Option<PiecePlace>, ReadError> {
        Ok(self.state().pieces.get(hash).copied())
    }

    fn note_pieces(&self, pieces: &[(PieceHash, PiecePlace)]) -> Result<(), WriteError> {
        self.state().pieces.extend(pieces.iter().copied());
        Ok(())
    }
}

impl Inventory for Memory {
    fn ids(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BlockId>, ReadError> {
        Ok(self.state().ids_where(after, limit, |_| true))
    }

    fn owed(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BlockId>, ReadError> {
        Ok(self.state().ids_where(after, limit, |entry| entry.standing.owed))
    }

    fn owed_totals(&self) -> (u64, u64) {
        let state = self.state();
        let owed = state.blocks.values().filter(|entry| entry.standing.owed);
        owed.fold((0, 0), |(blocks, bytes), entry| (blocks + 1, bytes + entry.bytes.len() as u64))
    }

    fn copies(&self, id: &BlockId) -> Result<u8, ReadError> {
        Ok(self.state().blocks.get(id).map_or(0, |entry| entry.standing.copies))
    }

    fn set_copies(&self, id: &BlockId, copies: u8, settled: bool) -> Result<(), WriteError> {
        if let Some(entry) = self.state().blocks.get_mut(id) {
            entry.standing = Standing { copies, owed: !settled, ..entry.standing };
        }
        Ok(())
    }

    fn class(&self, id: &BlockId) -> Result<Option<Class>, ReadError> {
        Ok(self.state().blocks.get(id).map(|entry| entry.standing.class()))
    }

    fn vacate(&self, id: &BlockId) -> Result<bool, WriteError> {
        let mut state = self.state();
        let Some(entry) = state.blocks.get_mut(id) else { return Ok(false) };
        match entry.standing.after_vacate() {
            Some(standing) => entry.standing = standing,
            None => return Ok(state.blocks.remove(id).is_some()),
        }
        Ok(false)
    }

    fn usage(&self) -> Usage {
        let state = self.state();
        let usage = state.usage();
        let quota_bytes = self.quota_bytes.unwrap_or(u64::MAX);
        let occupied_bytes = usage.used_bytes();
        let journal = state.records.iter().filter(|((table, _), _)| *table == Table::Journal);
        let staged_bytes = journal.map(|(_, record)| record.len() as u64).sum();
        let disk_free_bytes = quota_bytes - occupied_bytes;
        Usage { staged_bytes, occupied_bytes, quota_bytes, disk_free_bytes, ..usage }
    }

    fn bad(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BadBlock>, ReadError> {
        let state = self.state();
        let bad = state.bad.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        let told = |(id, entry): (&BlockId, &Entry)| BadBlock {
            id: *id,
            class: entry.standing.class(),
            owed: entry.standing.owed,
            length: entry.bytes.len() as u32,
            since_seconds: 0,
        };
        Ok(bad.map(told).take(limit).collect())
    }

    fn remove(&self, id: &BlockId) -> Result<(), WriteError> {
        self.state().blocks.remove(id);
        Ok(())
    }

    fn horizon(&self) -> Horizon {
        let state = self.state();
        self.guards.horizon(state.next)
    }

    fn sweep(&self, horizon: Horizon, marked: &Marked, dry_run: bool) -> Result<Swept, WriteError> {
        let mut swept = Swept::default();
        let state = &mut *self.state();
        if !dry_run {
            state.bad.retain(|id, _| marked.spares_pinned() || marked.strength(id).is_some());
        }
        state.blocks.retain(|id, entry| {
            if entry.order >= horizon.0 {
                return true;
            }
            let after = marked.after_sweep(id, entry.standing);
            swept.count(entry.bytes.len() as u64, entry.standing, after);
            if let (Some(after), false) = (after, dry_run) {
                entry.standing = after;
            }
            after.is_some() || dry_run
        });
        if swept.removed_blocks > 0 && !dry_run {
            state.pieces.retain(|_, place| state.blocks.contains_key(&place.block()));
        }
        Ok(swept)
    }
}

impl Ledger for Memory {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.state().records.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError> {
        let state = self.state();
        let from = state.records.range((table, prefix.to_vec())..);
        Ok(from
            .take_while(|((found, key), _)| *found == table && key.starts_with(prefix))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: Batch) -> Result<(), WriteError> {
        let mut state = self.state();
        for (table, key, value) in batch.changes {
            match value {
                Some(value) => state.records.insert((table, key), value),
                None => state.records.remove(&(table, key)),
            };
        }
        Ok(())
    }
}
