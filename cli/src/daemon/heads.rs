//! Heads in and out: announcing what was sealed here, and asking for news of followed volumes.
//!
//! A new head is announced when the blocks that it names have reached the network, so that a
//! follower who hears of it can read it; where blocks keep being owed, it is announced anyway
//! after `SETTLE_MAX`. A head stays pending until the network acknowledged it, and all heads are
//! announced again when a new peer appears, because the nodes that should hold them may have
//! changed. Heads are held in the ledger; what is pending here is only what a restart would
//! announce anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use xorfs_fuse::View;
use xorfs_net::{Network, NodeId};
use xorfs_store::{Head, Inventory, Local, VolumeId};

/// How long a head waits for the blocks below it. Longer shows followers older content while a
/// writer never pauses; shorter shows them content that they cannot read yet.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// Time between two looks at what is pending: announcing is that much behind the last block.
const TICK: Duration = Duration::from_millis(100);

/// The same where there is nothing to announce, or nobody to announce it to.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// First and longest pause after a head was not acknowledged by enough nodes.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A head that the network has not acknowledged.
struct Pending {
    head: Head,
    since: Instant,
    next_try: Instant,
    pause: Duration,
}

/// What is to be announced.
#[derive(Default)]
pub(crate) struct Announcer {
    pending: Mutex<BTreeMap<VolumeId, Pending>>,
    wake: Notify,
}

impl Announcer {
    /// Takes a head to announce; an older one of the same volume is dropped. Never blocks.
    pub(crate) fn offer(&self, head: Head) {
        let now = Instant::now();
        let pending = Pending { head, since: now, next_try: now, pause: RETRY_FIRST };
        let mut heads = self.lock();
        let volume = pending.head.volume();
        let newer = heads.get(&volume).is_none_or(|known| pending.head.supersedes(&known.head));
        if newer {
            heads.insert(volume, pending);
        }
        drop(heads);
        self.wake.notify_one();
    }

    /// Number of heads that the network has not acknowledged.
    pub(crate) fn pending(&self) -> usize {
        self.lock().len()
    }

    /// Announces what is offered until stopped.
    pub(crate) async fn run(
        self: Arc<Self>,
        network: Network,
        store: Arc<Local>,
        known: impl Fn() -> Vec<Head> + Send + 'static,
        stop: CancellationToken,
    ) {
        let mut peers = BTreeSet::new();
        loop {
            let busy = self.pending() > 0 && !peers.is_empty();
            let pause = if busy { TICK } else { IDLE_TICK };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let now: BTreeSet<NodeId> = live_peers(&network);
            if now.difference(&peers).next().is_some() {
                known().into_iter().for_each(|head| self.offer(head));
            }
            peers = now;
            if !peers.is_empty() {
                self.announce_due(&network, &store).await;
            }
        }
    }

    /// Announces every head that is due.
    async fn announce_due(&self, network: &Network, store: &Local) {
        let settled = store.owed_totals().0 == 0;
        for head in self.due(settled) {
            let volume = head.volume();
            match network.publish_head(&head).await {
                Ok(acks) => {
                    tracing::debug!(%volume, sequence = head.sequence(), acks, "announced a head");
                    let mut heads = self.lock();
                    if heads.get(&volume).is_some_and(|pending| pending.head == head) {
                        heads.remove(&volume);
                    }
                }
                Err(error) => {
                    tracing::debug!(%volume, %error, "a head waits to be announced");
                    if let Some(pending) = self.lock().get_mut(&volume) {
                        pending.next_try = Instant::now() + pending.pause;
                        pending.pause = (pending.pause * 2).min(RETRY_MAX);
                    }
                }
            }
        }
    }

    fn due(&self, settled: bool) -> Vec<Head> {
        let now = Instant::now();
        let due = |pending: &&Pending| {
            pending.next_try <= now && (settled || now >= pending.since + SETTLE_MAX)
        };
        self.lock().values().filter(due).map(|pending| pending.head.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Pending>> {
        // The map is whole after every statement, so a panic elsewhere leaves nothing behind.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Other nodes that are believed to live.
pub(crate) fn live_peers(network: &Network) -> BTreeSet<NodeId> {
    network.peers().into_iter().map(|peer| peer.id).collect()
}

/// Asks for news of followed volumes until stopped.
pub(crate) async fn follow(
    network: Network,
    view: Arc<View>,
    followed: impl Fn() -> Vec<VolumeId> + Send + 'static,
    interval: Duration,
    stop: CancellationToken,
) {
    loop {
        for volume in followed() {
            let found = tokio::select! {
                () = stop.cancelled() => return,
                found = network.fetch_head(volume) => found,
            };
            match found {
                Ok(Some(head)) => show(&view, head).await,
                Ok(None) => tracing::debug!(%volume, "no head of a followed volume was found"),
                Err(error) => tracing::debug!(%volume, %error, "could not ask for a head"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// Switches a followed volume to a head, if it is newer.
pub(crate) async fn show(view: &Arc<View>, head: Head) {
    let (view, volume, sequence) = (Arc::clone(view), head.volume(), head.sequence());
    let set = tokio::task::spawn_blocking(move || view.set_head(&head)).await;
    match set {
        Ok(Ok(true)) => tracing::info!(%volume, sequence, "a followed volume has changed"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => tracing::warn!(%volume, sequence, %error, "could not open a new head"),
        Err(error) => tracing::warn!(%volume, %error, "a head was not looked at"),
    }
}
