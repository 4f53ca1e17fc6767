//! Whether a new block fits, and which blocks go so that it does.
//!
//! Two limits: the quota over what the store occupies, and the reserve of the disk. A forgotten
//! block gives its room back only when its blob file goes, so making room is: evict a batch, the
//! oldest first, whose files then hold little else; let the reclaimer drop and empty files; look
//! at the directory again. Who puts a block waits for that, for a bounded time, without keeping
//! others from reading or from putting what fits. On a short disk a block is refused at once, and
//! cached blocks are forgotten and reclaimed so that the next one may fit.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::change::Change;
use super::columns::{Column, evictable_key, parse_evictable_key, rank_of};
use super::reclaim::Pass;
use super::{Local, Writer, locked};
use crate::block::Block;
use crate::contract::Purpose;
use crate::crash;
use crate::error::WriteError;
use crate::id::BlockId;

/// What a row, its place and the overhead of both take, roughly.
const ROW_BYTES: u64 = 256;

/// Most rows that one batch of an eviction changes: writers wait meanwhile.
const EVICTED_ROWS_MAX: usize = 4096;

/// Longest time that a put waits for room.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long a deleted file may take to leave the directory.
const UNLINK_WAIT: Duration = Duration::from_millis(20);

/// Longest block that may use the cushion: metadata, and shorter than any piece of a large file.
const CUSHIONED_BYTES_MAX: u64 = 64 << 10;

/// What is to be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    bytes: u64,
    /// Whether it may use the room that is kept for removing files.
    cushioned: bool,
}

impl Wanted {
    pub(super) fn block(block: &Block, purpose: Purpose) -> Self {
        let bytes = block.bytes().len() as u64;
        Self { bytes, cushioned: purpose.publishes() && bytes <= CUSHIONED_BYTES_MAX }
    }

    /// Records of the journal.
    pub(super) fn records(bytes: u64) -> Self {
        Self { bytes, cushioned: true }
    }
}

/// What came of putting a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is there.
    Done,
    /// Something has to go first.
    Short,
}

impl Local {
    /// Puts a block that is not held, where there is room.
    pub(super) fn insert(
        &self,
        writer: &mut Writer,
        block: &Block,
        purpose: Purpose,
    ) -> Result<Admission, WriteError> {
        let wanted = Wanted::block(block, purpose);
        self.check_disk(writer, wanted)?;
        if self.shortage(wanted) > 0 {
            return Ok(Admission::Short);
        }
        let before = self.bad_row(&block.id()).map_err(|error| self.health.fail(error))?;
        let mut change = self.change(writer);
        change.insert(block, purpose, before);
        crash::point("put-before");
        self.apply(writer, change)?;
        crash::point("put-after");
        writer.unflushed.note(block.id(), Some(block.clone()));
        Ok(Admission::Done)
    }

    /// Bytes that have to go before what is wanted fits the quota.
    pub(super) fn shortage(&self, wanted: Wanted) -> u64 {
        let Some(limit) = self.budget.blocks_limit else { return 0 };
        let limit = if wanted.cushioned { limit + self.budget.cushion_bytes } else { limit };
        let short = |(occupied, _): (u64, u64)| {
            occupied.saturating_add(wanted.bytes + ROW_BYTES).saturating_sub(limit)
        };
        let known = self.space.occupied();
        if short(known) == 0 || known.1 < self.budget.scan_step_bytes {
            return short(known);
        }
        self.look();
        short(self.space.occupied())
    }

    /// Makes room for what is wanted.
    ///
    /// # Errors
    /// `Full` where nothing more can go, or not in time.
    pub(super) fn make_room(&self, wanted: Wanted) -> Result<(), WriteError> {
        let started = Instant::now();
        // One at a time: whoever comes second finds the room that the first one made.
        let _turn = locked(&self.making_room);
        let mut pass = Pass::Keys;
        let mut records = false;
        loop {
            self.health.check()?;
            self.look();
            let short = self.shortage(wanted);
            if short == 0 {
                return Ok(());
            }
            if started.elapsed() > ROOM_WAIT_MAX {
                return Err(self.full());
            }
            // The first time what is garbage already may be enough.
            let garbage = if pass == Pass::Keys { self.reclaimer.garbage_bytes() } else { 0 };
            let enough = short.max(self.budget.evicted_bytes).saturating_sub(garbage);
            let evicted = self.evict_batch(enough)?;
            let before = self.space.occupied().0;
            self.reclaimer.pass(pass);
            self.look();
            // The last of the files may be on its way out.
            if self.space.occupied().0 >= before {
                std::thread::sleep(UNLINK_WAIT);
                self.look();
            }
            let gained = evicted > 0 || self.space.occupied().0 < before;
            if !gained && pass == Pass::Blobs && self.shortage(wanted) > 0 {
                if records {
                    return Err(self.full());
                }
                self.reclaimer.drop_records();
                records = true;
            }
            pass = Pass::Blobs;
        }
    }

    /// That there is no room.
    fn full(&self) -> WriteError {
        let limit = self.config.quota_bytes.unwrap_or(u64::MAX);
        WriteError::Full { used: self.space.occupied().0, limit }
    }

    /// Looks at the directory. Where that fails what was known before stays, which only grows.
    pub(super) fn look(&self) {
        if let Err(error) = self.space.scan(&self.db) {
            tracing::warn!(%error, "could not tell what the store occupies");
        }
    }

    /// Free bytes of the disk, as the system tells.
    pub(super) fn disk_free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.dir)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Refuses a block that would take from the reserve of the disk. What may use the cushion may
    /// take half of it.
    fn check_disk(&self, writer: &mut Writer, wanted: Wanted) -> Result<(), WriteError> {
        let free = self.disk_free_bytes().map_err(|error| self.health.fail(error))?;
        let reserve = match wanted.cushioned {
            true => self.config.disk_reserve_bytes / 2,
            false => self.config.disk_reserve_bytes,
        };
        let short = reserve.saturating_add(wanted.bytes).saturating_sub(free);
        if short == 0 {
            return Ok(());
        }
        let used = locked(&self.counters).used_bytes();
        // What was forgotten and not yet reclaimed may be enough.
        if self.reclaimer.waiting_bytes() < short {
            let mut change = self.change(writer);
            if self.evict(&mut change, short)? > 0 {
                crash::point("evict");
                self.apply(writer, change)?;
            }
        }
        // A pass needs room itself. On a disk filled to the last byte it would be in the way of
        // RocksDB, which waits for running work to end before it goes on.
        if free >= self.config.memory_bytes as u64 {
            self.reclaimer.urge();
        }
        Err(WriteError::Full { used, limit: used.saturating_add(free.saturating_sub(reserve)) })
    }

    /// Forgets blocks until so many bytes are gone or none is left that may go. Returns the
    /// bytes gone.
    fn evict_batch(&self, wanted: u64) -> Result<u64, WriteError> {
        let mut gone = 0;
        while gone < wanted {
            let mut writer = locked(&self.writer);
            let mut change = self.change(&writer);
            let evicted = self.evict(&mut change, wanted - gone)?;
            crash::point("evict");
            self.apply(&mut writer, change)?;
            gone += evicted;
            if evicted == 0 {
                break;
            }
        }
        Ok(gone)
    }

    /// Forgets blocks in the order of eviction, some thousand at the most. Returns their bytes.
    fn evict(&self, change: &mut Change<'_>, wanted: u64) -> Result<u64, WriteError> {
        let range_bits = self.range_bits.load(Ordering::Relaxed);
        let from = change.cursor.evict_from;
        let mut end = from;
        let mut rows = self.rows(Column::Evictable);
        rows.seek(&evictable_key(0, from, &BlockId::from_bytes([0; _]))[..9]);
        for _ in 0..EVICTED_ROWS_MAX {
            let Some(key) = rows.key().filter(|_| change.dropped_bytes < wanted) else { break };
            let Some((rank, order, id)) = parse_evictable_key(key) else { break };
            // Of rank 1 and above is what is held for the network: in range, or not any more.
            if rank > range_bits {
                break;
            }
            match self.row_to_change(&id)? {
                Some(row)
                    if row.order == order
                        && rank_of(self.config.point.as_ref(), &row, &id) == Some(rank) =>
                {
                    change.remove(&id, row);
                }
                // A crash may leave the place of an earlier put; the row alone is right.
                _ => change.drop_place(key),
            }
            if rank == 0 {
                end = order + 1;
            }
            rows.next();
        }
        rows.status().map_err(|error| self.health.fail(error))?;
        change.cursor.evict_from = end;
        Ok(change.dropped_bytes)
    }
}
