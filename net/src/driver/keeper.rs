//! Keeps what the network should hold: publishes what is owed, and repairs what lost a holder.
//!
//! One task does both, publishing first, so that a block is never sent twice because of the
//! two. It sleeps until there is something to do: new owed blocks, a peer that came or went, the
//! next repair pass, or a retry.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use xorfs_store::{BlockId, ReadError};

use crate::driver::repair::Pass;
use crate::driver::tasks::Stopped;
use crate::driver::{Change, Shared, clock};
use crate::limits::{PUBLISH_BATCH, PUBLISH_PARALLEL};
use crate::node::Outcome;
use crate::replica::spread::{Aim, Placed};

/// Wait before what could not be settled is offered again; doubled up to `RETRY_LAST`.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_LAST: Duration = Duration::from_secs(300);

/// Blocks remembered as not settled, so that new ones do not make us offer them again and
/// again. Beyond it they are offered again.
const UNSETTLED_MAX: usize = 100_000;

/// See the module's header.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    changes: watch::Receiver<Change>,
    unsettled: HashSet<BlockId>,
    retry: Duration,
    retry_at: Option<Instant>,
    repair_at: Instant,
    repair: Option<Pass>,
    /// When to act on the peers that have changed.
    settle_at: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let changes = shared.changes.subscribe();
        let repair_at = now() + shared.config.repair_interval;
        Self {
            shared,
            changes,
            unsettled: HashSet::new(),
            retry: RETRY_FIRST,
            retry_at: None,
            repair_at,
            repair: None,
            settle_at: None,
        }
    }

    /// Works for as long as the node runs.
    pub(super) async fn run(mut self) {
        let mut publish = true;
        loop {
            if self.shared.live_peers() > 0 {
                if publish && self.publish().await.is_err() {
                    return;
                }
                if now() >= self.repair_at
                    && self.repair.is_none()
                    && self.start_pass().await.is_err()
                {
                    return;
                }
                if let Some(pass) = self.repair.take() {
                    match self.shared.repair_step(pass).await {
                        Ok(next) => self.on_step(next),
                        Err(Stopped) => return,
                    }
                }
            }
            publish = self.wait().await;
        }
    }

    /// Sleeps until there is work; says whether to publish.
    async fn wait(&mut self) -> bool {
        let alone = self.shared.live_peers() == 0;
        let idle_until = now() + Duration::from_secs(86_400);
        let repair_at = if alone { idle_until } else { self.repair_at };
        let retry_at = self.retry_at.filter(|_| !alone).unwrap_or(idle_until);
        if self.repair.is_some() && !alone {
            // A pass is under way: only look whether something is owed by now.
            return self.shared.take_publish_wake();
        }
        let settle_at = self.settle_at.unwrap_or(idle_until);
        tokio::select! {
            biased;
            changed = self.changes.changed() => {
                if changed.is_ok() && self.settle_at.is_none() {
                    self.settle_at = Some(now() + self.shared.config.settle_delay);
                }
                false
            }
            () = self.shared.publish_wake.notified() => true,
            () = sleep_until(settle_at) => {
                self.on_peers_changed();
                true
            }
            () = sleep_until(retry_at) => {
                self.unsettled.clear();
                self.retry_at = None;
                true
            }
            () = sleep_until(repair_at) => false,
        }
    }

    /// A burst of joins and losses is over: everything is looked at again.
    fn on_peers_changed(&mut self) {
        self.settle_at = None;
        self.unsettled.clear();
        self.retry = RETRY_FIRST;
        self.retry_at = None;
        self.repair_at = now();
    }

    /// Offers everything that is owed, except what was tried in vain just now.
    async fn publish(&mut self) -> Result<(), Stopped> {
        loop {
            let progress = self.publish_pass().await?;
            if !progress || self.shared.live_peers() == 0 {
                break;
            }
        }
        if self.unsettled.is_empty() {
            self.retry = RETRY_FIRST;
            self.retry_at = None;
        } else {
            self.plan_retry();
        }
        Ok(())
    }

    fn plan_retry(&mut self) {
        if self.retry_at.is_none() {
            self.retry_at = Some(now() + self.retry);
            self.retry = (self.retry * 2).min(RETRY_LAST);
        }
    }

    /// Goes once over all that is owed; true where anything was settled.
    async fn publish_pass(&mut self) -> Result<bool, Stopped> {
        let mut running = FuturesUnordered::new();
        let (mut after, mut more, mut progress) = (None, true, false);
        while more || !running.is_empty() {
            while more && running.len() < PUBLISH_PARALLEL {
                let owed = self.owed(after).await?;
                more = owed.len() == PUBLISH_BATCH;
                after = owed.last().copied();
                let fresh: Vec<_> =
                    owed.into_iter().filter(|id| !self.unsettled.contains(id)).collect();
                if !fresh.is_empty() {
                    let shared = Arc::clone(&self.shared);
                    running.push(async move { shared.spread(Aim::Publish, fresh).await });
                }
            }
            let Some(placed) = running.next().await else { continue };
            progress |= self.record_published(placed?).await?;
        }
        Ok(progress)
    }

    async fn owed(&self, after: Option<BlockId>) -> Result<Vec<BlockId>, Stopped> {
        let store = Arc::clone(&self.shared.store);
        let owed =
            self.shared.tasks.blocking(move || store.owed(after.as_ref(), PUBLISH_BATCH)).await?;
        Ok(or_warn(owed, "owed blocks could not be listed"))
    }

    async fn record_published(&mut self, placed: Vec<Placed>) -> Result<bool, Stopped> {
        let (done, short): (Vec<_>, Vec<_>) = placed.iter().partition(|block| block.acknowledged);
        let room = UNSETTLED_MAX.saturating_sub(self.unsettled.len());
        self.unsettled.extend(short.into_iter().map(|block: Placed| block.id).take(room));
        let done: Vec<BlockId> = done.into_iter().map(|block: Placed| block.id).collect();
        let progress = !done.is_empty();
        self.shared.counters.published.fetch_add(done.len() as u64, Ordering::Relaxed);
        self.shared.record(placed).await?;
        self.shared.note_published(done);
        Ok(progress)
    }

    async fn start_pass(&mut self) -> Result<(), Stopped> {
        self.repair_at = now() + self.shared.config.repair_interval;
        let share = self.shared.counters.repair_passes.load(Ordering::Relaxed);
        self.repair = Some(self.shared.start_pass(share).await?);
        self.shared.counters.repair_running.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn on_step(&mut self, next: Option<Pass>) {
        self.repair = next;
        if self.repair.is_none() {
            self.shared.counters.repair_running.store(false, Ordering::Relaxed);
            self.shared.counters.repair_passes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Brings blocks to their close groups and tells what became of them.
    pub(super) async fn spread(
        self: &Arc<Self>,
        aim: Aim,
        blocks: Vec<BlockId>,
    ) -> Result<Vec<Placed>, Stopped> {
        match self.operate(|node, now| node.spread(now, aim, blocks)).outcome().await {
            Some(Outcome::Spread(placed)) => Ok(placed),
            _ => Err(Stopped),
        }
    }

    /// Writes down how many copies there are of blocks that are kept for whatever reason. That
    /// there are few does not make them owed: most of them are not ours, and repair goes on. What
    /// others were just sending is looked at again.
    pub(super) async fn record_kept(
        self: &Arc<Self>,
        mut placed: Vec<Placed>,
    ) -> Result<(), Stopped> {
        let coming = placed.iter().filter(|block| block.coming).map(|block| block.id);
        self.note_coming(coming.collect());
        placed.retain(|block| block.acknowledged);
        self.record(placed).await
    }

    /// Writes down how many copies there are.
    async fn record(self: &Arc<Self>, placed: Vec<Placed>) -> Result<(), Stopped> {
        let store = Arc::clone(&self.store);
        let written = move || {
            for block in placed {
                store.set_copies(&block.id, block.copies, block.acknowledged)?;
            }
            Ok::<_, xorfs_store::WriteError>(())
        };
        if let Err(error) = self.tasks.blocking(written).await? {
            tracing::warn!(%error, "copies could not be recorded");
        }
        Ok(())
    }
}

pub(super) fn or_warn<T: Default>(read: Result<T, ReadError>, what: &str) -> T {
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, "{what}");
        T::default()
    })
}

fn now() -> Instant {
    Instant::from_std(clock())
}
