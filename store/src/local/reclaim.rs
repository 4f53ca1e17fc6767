//! Giving the space of forgotten blocks back to the disk.
//!
//! A forgotten block stays in its blob file as garbage until a compaction drops its key and
//! nothing else in the file is alive, or what is alive is copied out. There are two kinds of
//! pass. [`Pass::Keys`] merges the keys and so drops the files that hold nothing but garbage,
//! which is what evicting the oldest blocks leaves. [`Pass::Blobs`] has RocksDB copy the live
//! blobs out of the oldest files too, of so many that the copies fit the room kept for them.
//!
//! One thread does the latter while garbage is over a limit, so that what is written stays in
//! proportion to what was forgotten; a pass that gains nothing ends the work until more is
//! forgotten. Whoever needs room at once calls for a pass and waits for it. The thread also
//! flushes write buffers that nobody has written to for a while, which gives their memory back.
//!
//! Records leave garbage as well: what was staged and is sealed by now stays in the log until all
//! write buffers are flushed, and in the tables of the journal until they are merged. RocksDB
//! does both when more is written, which on a full disk nobody can, so whoever is short of room
//! has it done.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rocksdb::{BottommostLevelCompaction, CompactOptions, DB, FlushOptions};

use super::budget::Budget;
use super::columns::Column;
use super::family;
use super::space::{blob_bytes, blob_files, buffer_bytes, journal_bytes};
use crate::crash;

/// Largest share of the oldest blob files that a pass empties.
const AGE_CUTOFF_MAX: f64 = 0.25;

/// How often the write buffers are looked at; they are flushed when nothing was written in
/// between. Shorter makes more small files of a store in daily use.
const IDLE_PERIOD: Duration = Duration::from_secs(30);

/// Write buffers below this are not worth a file.
const IDLE_BUFFER_BYTES_MIN: u64 = 2 << 20;

/// Garbage in the tables of the journal that is left alone: merging them takes milliseconds.
const JOURNAL_GARBAGE_BYTES: u64 = 2 << 20;

/// Tells how many bytes are alive, which garbage is measured against.
type LiveBytes = Box<dyn Fn() -> u64 + Send + Sync>;

/// What a pass does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Drops the files that hold nothing alive.
    Keys,
    /// Empties the oldest files as well.
    Blobs,
}

/// The thread, and what it works on.
pub(super) struct Reclaimer {
    work: Arc<Work>,
    thread: Option<JoinHandle<()>>,
}

struct Work {
    db: Arc<DB>,
    budget: Budget,
    /// Of blobs.
    live_bytes: LiveBytes,
    /// Of the journal.
    staged_bytes: LiveBytes,
    /// One pass at a time.
    passing: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    /// The disk is short: reclaim what little garbage there is.
    urgent: bool,
    /// Bytes forgotten since the last pass began.
    dropped_bytes: u64,
    look: bool,
}

impl Reclaimer {
    pub(super) fn start(
        db: Arc<DB>,
        budget: Budget,
        live_bytes: LiveBytes,
        staged_bytes: LiveBytes,
    ) -> std::io::Result<Self> {
        // Garbage may be left from before.
        let state = Mutex::new(State { look: true, ..State::default() });
        let (passing, changed) = (Mutex::default(), Condvar::new());
        let work = Work { db, budget, live_bytes, staged_bytes, passing, state, changed };
        let work = Arc::new(work);
        let thread = std::thread::Builder::new().name("xorfs-reclaim".to_owned()).spawn({
            let work = Arc::clone(&work);
            move || work.run()
        })?;
        Ok(Self { work, thread: Some(thread) })
    }

    /// Bytes were forgotten.
    pub(super) fn dropped(&self, bytes: u64) {
        let mut state = self.work.state();
        state.dropped_bytes += bytes;
        if state.dropped_bytes >= self.work.budget.garbage_bytes {
            state.look = true;
            self.work.changed.notify_one();
        }
    }

    /// The disk is short of room.
    pub(super) fn urge(&self) {
        let mut state = self.work.state();
        state.look = true;
        state.urgent = true;
        self.work.changed.notify_one();
    }

    /// Bytes forgotten that no pass has looked at yet.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.work.state().dropped_bytes
    }

    /// Bytes of blob files that are not alive. What is not flushed yet is alive and in no file,
    /// so this may be too little by the size of the write buffers.
    pub(super) fn garbage_bytes(&self) -> u64 {
        blob_bytes(&self.work.db).saturating_sub((self.work.live_bytes)())
    }

    /// Does one pass now.
    pub(super) fn pass(&self, pass: Pass) {
        self.work.pass(pass);
    }

    /// Gives back what records take that are no more.
    pub(super) fn drop_records(&self) {
        self.work.drop_records();
    }

    /// Does passes until little garbage is left, or one gains nothing.
    pub(super) fn drain(&self) {
        self.work.drop_records();
        self.work.pass(Pass::Keys);
        self.work.reduce(true);
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.work.state().stop = true;
        self.work.changed.notify_one();
        // Ends a pass that is under way; RocksDB flushes what is only in memory first.
        self.work.db.cancel_all_background_work(false);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reclaims space had panicked");
        }
    }
}

impl Work {
    fn run(&self) {
        let mut buffered = 0;
        loop {
            let waited = self
                .changed
                .wait_timeout_while(self.state(), IDLE_PERIOD, |state| !state.look && !state.stop);
            let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
            if timeout.timed_out() {
                drop(state);
                buffered = self.flush_if_idle(buffered);
                continue;
            }
            let urgent = std::mem::take(&mut state.urgent);
            state.look = false;
            drop(state);
            if urgent {
                self.drop_records();
            }
            self.reduce(urgent);
        }
    }

    /// Does passes while there is more garbage than is left alone.
    fn reduce(&self, urgent: bool) {
        // Where a pass gained nothing, another one would not either.
        let mut before = u64::MAX;
        let excess = || {
            let (live, held) = ((self.live_bytes)(), blob_bytes(&self.db));
            let least = self.budget.garbage_bytes;
            let allowed = if urgent { live / 16 } else { (live / 4).max(least) };
            (held > live.saturating_add(allowed)).then_some(held)
        };
        while let Some(held) = excess()
            && held != before
            && !self.state().stop
        {
            before = held;
            self.pass(Pass::Blobs);
            let after = blob_bytes(&self.db);
            tracing::debug!(before, after, "reclaimed space of forgotten blocks");
        }
    }

    fn pass(&self, pass: Pass) {
        let _turn = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        self.state().dropped_bytes = 0;
        crash::point("reclaim-before");
        let blocks = family(&self.db, Column::Blocks);
        let mut options = CompactOptions::default();
        match pass {
            Pass::Keys => {
                self.db.compact_range_cf_opt(blocks, None::<&[u8]>, None::<&[u8]>, &options);
            }
            Pass::Blobs => {
                let cutoff = self.age_cutoff().to_string();
                if self.collect("true", &cutoff) {
                    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
                    self.db.compact_range_cf_opt(blocks, None::<&[u8]>, None::<&[u8]>, &options);
                    self.collect("false", &cutoff);
                }
            }
        }
        crash::point("reclaim-after");
    }

    /// Share of the oldest blob files to empty: at least one file, at most what fits the room.
    fn age_cutoff(&self) -> f64 {
        let (bytes, files) = (blob_bytes(&self.db).max(1), blob_files(&self.db).max(1));
        let fits = self.budget.copied_bytes.map_or(1.0, |copied| copied as f64 / bytes as f64);
        // RocksDB rounds the number of files down.
        fits.min(AGE_CUTOFF_MAX).max(1.01 / files as f64).min(1.0)
    }

    /// Switches the copying of blobs in compactions on or off; whether that worked.
    fn collect(&self, on: &str, cutoff: &str) -> bool {
        let options = [
            ("enable_blob_garbage_collection", on),
            ("blob_garbage_collection_age_cutoff", cutoff),
        ];
        let set = self.db.set_options_cf(family(&self.db, Column::Blocks), &options);
        if let Err(error) = &set {
            tracing::warn!(%error, on, "could not switch the copying of blobs");
        }
        set.is_ok()
    }

    /// Flushes what was there at the last look and has not changed since. Returns what is there.
    fn flush_if_idle(&self, buffered: u64) -> u64 {
        let now = buffer_bytes(&self.db);
        if now < IDLE_BUFFER_BYTES_MIN || now != buffered {
            return now;
        }
        self.flush_all();
        0
    }

    /// Empties the log, and the journal of what is sealed by now.
    fn drop_records(&self) {
        let _turn = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer_bytes(&self.db) >= IDLE_BUFFER_BYTES_MIN {
            self.flush_all();
        }
        let staged = (self.staged_bytes)();
        let allowed = staged + (staged / 4).max(JOURNAL_GARBAGE_BYTES);
        if journal_bytes(&self.db) > allowed {
            let journal = family(&self.db, Column::Journal);
            self.db.compact_range_cf(journal, None::<&[u8]>, None::<&[u8]>);
        }
    }

    fn flush_all(&self) {
        let families = Column::ALL.map(|column| family(&self.db, column));
        if let Err(error) = self.db.flush_cfs_opt(&families.each_ref(), &FlushOptions::default()) {
            tracing::warn!(%error, "could not flush the write buffers");
        }
    }

    /// Every change is a single assignment, so a holder that panicked left the state whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
