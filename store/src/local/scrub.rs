//! The slow background check: every block is read and compared with its id, over and over.
//!
//! A step reads some blocks in the order of their ids and never holds the writer lock while it
//! reads; what does not match is set aside as by any other read. Where it is, is noted at most
//! once a minute, so that a restart goes on there. [`Scrubber`] paces the steps: time and waiting
//! are its own, so a step can be tested without either.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rocksdb::{ReadOptions, WriteBatch, WriteOptions};

use super::columns::{Column, parse_id};
use super::{Local, family, locked, scan_error};
use crate::contract::{BlockStore, Inventory};
use crate::error::{ReadError, WriteError};
use crate::id::BlockId;

/// Where the scrub is, in `notes`: the last id that was read; empty at the start of a round.
const NOTE: &[u8] = b"scrub";

/// Ids that are listed at once.
const IDS_AT_ONCE: usize = 32;

/// Bytes that are read between two waits: a quarter of a second at the default pace.
const STEP_BYTES: u64 = 1 << 20;

/// Time between two notes of where it is: each is a synced write.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// Time between two rounds. A small store would otherwise be read all day for nothing.
const PAUSE: Duration = Duration::from_secs(24 * 3600);

/// What one step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Blocks that were read.
    pub blocks: u64,
    /// Sealed bytes that were read.
    pub bytes: u64,
    /// Blocks that were set aside.
    pub bad: u64,
    /// Whether the last block was reached; the next step starts again.
    pub round_ended: bool,
}

/// Where the scrub is.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Read from the notes by the first step.
    known: bool,
    after: Option<BlockId>,
    noted: Option<Instant>,
}

impl Local {
    /// Reads the next blocks, up to about `bytes_max`, and sets aside what is bad.
    ///
    /// # Errors
    /// `Io` where the disk does not answer.
    pub fn scrub_step(&self, now: Instant, bytes_max: u64) -> Result<ScrubStep, ReadError> {
        let mut place = locked(&self.scrub);
        if !place.known {
            let note = self.db.get_pinned_cf(family(&self.db, Column::Notes), NOTE);
            place.after = note.map_err(scan_error)?.and_then(|note| parse_id(&note));
            place.known = true;
        }
        let mut step = ScrubStep::default();
        while step.bytes < bytes_max && !step.round_ended {
            let ids = self.ids(place.after.as_ref(), IDS_AT_ONCE)?;
            step.round_ended = ids.len() < IDS_AT_ONCE;
            for id in ids {
                place.after = Some(id);
                self.scrub_block(&id, &mut step)?;
                if step.bytes >= bytes_max {
                    step.round_ended = false;
                    break;
                }
            }
        }
        if step.round_ended {
            place.after = None;
        }
        if step.round_ended || place.noted.is_none_or(|noted| now >= noted + NOTE_EVERY) {
            place.noted = Some(now);
            if let Err(error) = self.note_place(place.after.as_ref()) {
                tracing::warn!(%error, "could not note how far the store was scrubbed");
            }
        }
        Ok(step)
    }

    fn scrub_block(&self, id: &BlockId, step: &mut ScrubStep) -> Result<(), ReadError> {
        let mut options = ReadOptions::default();
        // What is read once a round must not push out what is read all the time.
        options.fill_cache(false);
        match self.find(id, options) {
            Ok(Some(block)) => step.bytes += block.bytes().len() as u64,
            Ok(None) | Err(ReadError::Corrupt { .. }) => match self.get(id) {
                Ok(block) => step.bytes += block.bytes().len() as u64,
                // Removed since the ids were listed.
                Err(ReadError::Missing { .. }) => return Ok(()),
                Err(ReadError::Corrupt { .. }) => step.bad += 1,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
        step.blocks += 1;
        Ok(())
    }

    fn note_place(&self, after: Option<&BlockId>) -> Result<(), WriteError> {
        self.health.check()?;
        let mut batch = WriteBatch::default();
        let place: &[u8] = after.map_or(&[], |id| id.as_bytes().as_slice());
        batch.put_cf(family(&self.db, Column::Notes), NOTE, place);
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(|error| self.write_error(error))
    }
}

/// The thread that scrubs a store. Dropped, it stops at once and is waited for.
#[derive(Debug)]
pub struct Scrubber {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    /// Starts to scrub at the pace of the store's settings; nothing happens where that is 0. It
    /// does not keep the store open.
    pub fn start(local: &Arc<Local>) -> io::Result<Self> {
        let stop = Arc::<(Mutex<bool>, Condvar)>::default();
        let pace = local.config.scrub_bytes_per_second;
        let thread = match pace {
            0 => None,
            pace => Some(std::thread::Builder::new().name("xorfs-scrub".to_owned()).spawn({
                let (local, stop) = (Arc::downgrade(local), Arc::clone(&stop));
                move || run(&local, &stop, pace)
            })?),
        };
        Ok(Self { stop, thread })
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that scrubs the store had panicked");
        }
    }
}

fn run(local: &Weak<Local>, stop: &(Mutex<bool>, Condvar), pace: u64) {
    loop {
        let wait = {
            let Some(local) = local.upgrade() else { return };
            match local.scrub_step(Instant::now(), STEP_BYTES) {
                Ok(step) if step.round_ended => PAUSE,
                Ok(step) => Duration::from_secs_f64(step.bytes as f64 / pace as f64),
                Err(error) => {
                    tracing::warn!(%error, "could not scrub the store; trying again later");
                    PAUSE
                }
            }
        };
        let stopped = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = stop.1.wait_timeout_while(stopped, wait, |stopped| !*stopped);
        if *waited.unwrap_or_else(PoisonError::into_inner).0 {
            return;
        }
    }
}
