//! Blocks that are new here, until their close group has been checked once.
//!
//! A writer stops at a few copies; whoever got one looks soon after whether the rest of the
//! close group has it too, and brings it there. The writer itself looks a little later, when the
//! others are probably done, to know how many copies there are. What does not fit the queue, or
//! fails, is found by the next repair pass.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;
use xorfs_store::BlockId;

use crate::driver::{Shared, clock};
use crate::limits::{FRESH_BATCH, FRESH_MAX};
use crate::replica::spread::Aim;

/// How many times longer than a holder the writer waits.
const WRITER_PATIENCE: u32 = 5;

/// See the module's header.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    waiting: Mutex<BTreeSet<(Instant, BlockId)>>,
    wake: Notify,
}

impl Fresh {
    /// Has a block checked at `due`.
    fn note(&self, due: Instant, ids: impl IntoIterator<Item = BlockId>) {
        let mut waiting = self.lock();
        let room = FRESH_MAX.saturating_sub(waiting.len());
        waiting.extend(ids.into_iter().take(room).map(|id| (due, id)));
        drop(waiting);
        self.wake.notify_one();
    }

    fn next_due(&self) -> Option<Instant> {
        self.lock().first().map(|(due, _)| *due)
    }

    fn take_due(&self, now: Instant) -> Vec<BlockId> {
        let mut waiting = self.lock();
        let mut batch = Vec::new();
        while batch.len() < FRESH_BATCH
            && let Some((due, id)) = waiting.first().copied()
            && due <= now
        {
            waiting.pop_first();
            batch.push(id);
        }
        batch.sort_unstable();
        batch.dedup();
        batch
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Instant, BlockId)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// A block of another node's is held now.
    pub(super) fn note_stored(&self, id: BlockId) {
        self.digests.note_moved();
        self.fresh.note(clock() + self.config.settle_delay, [id]);
    }

    /// Blocks of this home are acknowledged now.
    pub(super) fn note_published(&self, ids: Vec<BlockId>) {
        let wait: Duration = self.config.settle_delay * WRITER_PATIENCE;
        self.fresh.note(clock() + wait, ids);
    }

    /// Somebody else is bringing these to nodes that should have them: looked at again later.
    pub(super) fn note_coming(&self, ids: Vec<BlockId>) {
        let wait: Duration = self.config.settle_delay * WRITER_PATIENCE;
        self.fresh.note(clock() + wait, ids);
    }

    /// Checks what is due, for as long as the node runs.
    pub(super) async fn check_fresh(self: Arc<Self>) {
        loop {
            let woken = self.fresh.wake.notified();
            match self.fresh.next_due() {
                None => woken.await,
                Some(due) if due > clock() => tokio::select! {
                    () = woken => {}
                    () = sleep_until(due.into()) => {}
                },
                Some(_) => {
                    let batch = self.fresh.take_due(clock());
                    let Ok(placed) = self.spread(Aim::Repair, batch).await else { return };
                    if self.record_kept(placed).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
