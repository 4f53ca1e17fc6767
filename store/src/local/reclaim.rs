//! Giving the space of forgotten blocks back to the disk.
//!
//! A forgotten block stays in its blob file as garbage until a compaction drops its key and
//! nothing else in the file is alive, or what is alive is copied out. One thread does that, and
//! only while garbage is over a limit: a pass lets RocksDB copy the live blobs out of the oldest
//! quarter of the files and delete those, so a pass needs at most a quarter of the store as
//! room, and what is written stays in proportion to what was forgotten. A pass that gains
//! nothing ends the work until more is forgotten.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rocksdb::{BottommostLevelCompaction, CompactOptions, DB};

use super::columns::Column;
use super::family;
use super::space::blob_bytes;
use crate::crash;

/// Garbage below this is left alone: a pass rewrites every key.
const GARBAGE_BYTES_MIN: u64 = 64 << 20;

/// Share of the oldest blob files that a pass empties.
const AGE_CUTOFF: &str = "0.25";

/// Tells how many bytes are alive, which garbage is measured against.
type LiveBytes = Box<dyn Fn() -> u64 + Send>;

/// The thread, and what it is told.
pub(super) struct Reclaimer {
    signal: Arc<Signal>,
    db: Arc<DB>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Signal {
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

impl Signal {
    /// Every change is a single assignment, so a holder that panicked left the state whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reclaimer {
    pub(super) fn start(db: Arc<DB>, live_bytes: LiveBytes) -> std::io::Result<Self> {
        let signal = Arc::new(Signal::default());
        // Garbage may be left from before.
        signal.state().look = true;
        let thread = std::thread::Builder::new().name("xorfs-reclaim".to_owned()).spawn({
            let (signal, db) = (Arc::clone(&signal), Arc::clone(&db));
            move || run(&signal, &db, &live_bytes)
        })?;
        Ok(Self { signal, db, thread: Some(thread) })
    }

    /// Bytes were forgotten.
    pub(super) fn dropped(&self, bytes: u64) {
        let mut state = self.signal.state();
        state.dropped_bytes += bytes;
        if state.dropped_bytes >= GARBAGE_BYTES_MIN {
            state.look = true;
            self.signal.changed.notify_one();
        }
    }

    /// The disk is short of room.
    pub(super) fn urge(&self) {
        let mut state = self.signal.state();
        state.look = true;
        state.urgent = true;
        self.signal.changed.notify_one();
    }

    /// Bytes forgotten that no pass has looked at yet.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.signal.state().dropped_bytes
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.signal.state().stop = true;
        self.signal.changed.notify_one();
        // Ends a pass that is under way; RocksDB flushes what is only in memory first.
        self.db.cancel_all_background_work(false);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reclaims space had panicked");
        }
    }
}

fn run(signal: &Signal, db: &DB, live_bytes: &LiveBytes) {
    // Where a pass gained nothing, another one would not either unless more was forgotten.
    let mut before = u64::MAX;
    loop {
        let mut state = signal.state();
        while !state.look && !state.stop {
            state = signal.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stop {
            return;
        }
        let urgent = std::mem::take(&mut state.urgent);
        state.look = false;
        if state.dropped_bytes > 0 {
            before = u64::MAX;
        }
        drop(state);
        let excess = || {
            let (live, held) = (live_bytes(), blob_bytes(db));
            let allowed = if urgent { live / 16 } else { (live / 4).max(GARBAGE_BYTES_MIN) };
            (held > live.saturating_add(allowed)).then_some(held)
        };
        while let Some(held) = excess()
            && held != before
            && !signal.state().stop
        {
            before = held;
            signal.state().dropped_bytes = 0;
            crash::point("reclaim-before");
            pass(db);
            crash::point("reclaim-after");
            tracing::debug!(before, after = blob_bytes(db), "reclaimed space of forgotten blocks");
        }
    }
}

fn pass(db: &DB) {
    let blocks = family(db, Column::Blocks);
    let collect = |on: &str| {
        db.set_options_cf(
            blocks,
            &[
                ("enable_blob_garbage_collection", on),
                ("blob_garbage_collection_age_cutoff", AGE_CUTOFF),
            ],
        )
    };
    if let Err(error) = collect("true") {
        tracing::warn!(%error, "could not start to reclaim space");
        return;
    }
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    db.compact_range_cf_opt(blocks, None::<&[u8]>, None::<&[u8]>, &options);
    if let Err(error) = collect("false") {
        tracing::warn!(%error, "could not end reclaiming space; compactions copy more than needed");
    }
}
