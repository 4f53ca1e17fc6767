//! What a daemon does by itself about its store: collecting garbage when it pays, fetching what
//! is pinned and not here, and fetching again what was found to be damaged.
//!
//! Two tasks, one look each every few seconds, at nothing that costs anything: a pin may take
//! hours to fetch, and collections go on meanwhile. A failure is logged and tried again later;
//! nobody waits for it. While the keyring is locked damage is mended and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use xorfs_store::{BlockId, Inventory, Link};

use crate::daemon::Daemon;
use crate::daemon::collector::Pace;
use crate::daemon::pins::Pinned;
use crate::exit::Failure;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// How long nothing may have been sealed or be waiting to be for the node to count as idle.
const IDLE: Duration = Duration::from_secs(10);

/// Parts of the quota, in percent, beyond which space counts as short.
const SHORT_PERCENT: u64 = 90;

/// Time between two attempts at a pin that could not be fetched whole.
const PIN_RETRY: Duration = Duration::from_secs(60);

/// Time between two attempts to fetch damaged blocks again.
const MEND_PAUSE: Duration = Duration::from_secs(60);

/// What the task remembers.
struct Tending {
    pace: Pace,
    /// The volumes' versions at the last look, and since when they are so.
    versions: Vec<u64>,
    still_since: Instant,
    next_mending: Instant,
    /// The bad block that was looked at last; mending goes on behind it.
    mended_up_to: Option<BlockId>,
}

/// Starts the tasks. They end with the daemon.
pub(super) fn spawn(daemon: &Arc<Daemon>, gc_interval: Duration) {
    let now = Instant::now();
    let tending = Tending {
        pace: Pace::new(gc_interval, now),
        versions: Vec::new(),
        still_since: now,
        next_mending: now,
        mended_up_to: None,
    };
    let wake = Arc::clone(&daemon.wake_collector);
    spawn_looks(daemon, wake, tending, Tending::look);
    spawn_looks(daemon, Arc::default(), Pins::default(), |pins, daemon, _| pins.look(daemon));
}

/// Looks every few seconds, and when woken, with what the looks before remembered.
fn spawn_looks<T: Send + 'static>(
    daemon: &Arc<Daemon>,
    wake: Arc<Notify>,
    mut state: T,
    look: fn(&mut T, &Daemon, bool),
) {
    let (stop, weak) = (daemon.stop.clone(), Arc::downgrade(daemon));
    daemon.tasks.spawn(async move {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = wake.notified() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let weak = Weak::clone(&weak);
            let looked = tokio::task::spawn_blocking(move || {
                if let Some(daemon) = weak.upgrade() {
                    look(&mut state, &daemon, asked);
                }
                state
            });
            match looked.await {
                Ok(back) => state = back,
                Err(error) => {
                    tracing::error!(%error, "the store is not tended any more");
                    return;
                }
            }
        }
    });
}

impl Tending {
    fn look(&mut self, daemon: &Daemon, asked: bool) {
        let now = Instant::now();
        if !daemon.is_locked() {
            self.collect(daemon, now, asked);
        }
        self.mend(daemon, now);
    }

    fn collect(&mut self, daemon: &Daemon, now: Instant, asked: bool) {
        let volumes = daemon.volumes();
        let versions: Vec<u64> = volumes.iter().map(|volume| volume.sequence).collect();
        let is_clean = volumes.iter().all(|volume| volume.sealed || volume.open_error.is_some());
        if versions != self.versions || !is_clean {
            self.versions = versions.clone();
            self.still_since = now;
        }
        let idle = now >= self.still_since + IDLE;
        let is_full = volumes.iter().any(|volume| volume.seal_error.is_some());
        let short = is_full || is_short(&*daemon.local);
        if !asked && !self.pace.is_due(now, &versions, idle, short) {
            return;
        }
        match daemon.collect(false) {
            Ok(collected) => {
                let (blocks, bytes) = (collected.removed_blocks, collected.removed_bytes);
                tracing::info!(blocks, bytes, took_ms = collected.took_ms, "collected garbage");
                self.pace.on_done(Instant::now(), versions, blocks > 0);
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(%error, "could not collect garbage");
                self.pace.on_failed(Instant::now());
            }
        }
    }

    /// Fetches blocks again that were set aside. Needs no key.
    fn mend(&mut self, daemon: &Daemon, now: Instant) {
        if now < self.next_mending || daemon.local.usage().bad_blocks == 0 {
            return;
        }
        self.next_mending = now + MEND_PAUSE;
        match daemon.mend(&mut self.mended_up_to) {
            Ok(0) => {}
            Ok(blocks) => {
                tracing::info!(blocks, "fetched damaged blocks again");
                // While they come, there is no need to wait.
                self.next_mending = now;
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(%error, "could not mend damaged blocks");
            }
        }
    }
}

fn is_short(inventory: &dyn Inventory) -> bool {
    let usage = inventory.usage();
    usage.occupied_bytes > usage.quota_bytes / 100 * SHORT_PERCENT
}

/// Pins that may not be here whole.
#[derive(Default)]
struct Pins {
    /// What was fetched whole: a volume at a version, or a tree, which has none.
    whole: BTreeMap<String, u64>,
    /// Damaged blocks at the last look: one more may be of what was fetched whole.
    bad_blocks: u64,
    next: Option<Instant>,
}

impl Pins {
    fn look(&mut self, daemon: &Daemon) {
        let now = Instant::now();
        let bad_blocks = daemon.local.usage().bad_blocks;
        if bad_blocks > self.bad_blocks {
            self.whole.clear();
        }
        self.bad_blocks = bad_blocks;
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        let Ok(pins) = wanted(daemon) else { return };
        for (key, version, what) in pins {
            if daemon.stop.is_cancelled() {
                return;
            }
            if self.whole.get(&key) == Some(&version) {
                continue;
            }
            let go_on = |_| match daemon.stop.is_cancelled() {
                true => Err(Failure::failed("interrupted")),
                false => Ok(()),
            };
            match daemon.fetch_pinned(&what, go_on) {
                Ok(fetched) => {
                    let blocks = fetched.fetched_blocks;
                    tracing::info!(blocks, "what is pinned is here");
                    self.whole.insert(key, version);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(%error, "what is pinned is not all here yet");
                    self.next = Some(Instant::now() + PIN_RETRY);
                }
            }
        }
    }
}

/// Pins that this node does not write itself: a key, a version, and what to fetch.
fn wanted(daemon: &Daemon) -> anyhow::Result<Vec<(String, u64, Pinned)>> {
    let volumes = daemon.volumes();
    let version = |name: &str| volumes.iter().find(|row| row.name == name).map(|row| row.sequence);
    let mut wanted = Vec::new();
    for row in daemon.pins()? {
        match (row.name, row.link) {
            (Some(name), None) if !row.own => {
                // Before its first head there is nothing to fetch.
                if let Some(sequence) = version(&name).filter(|sequence| *sequence > 0) {
                    wanted.push((name.clone(), sequence, Pinned::Volume(name)));
                }
            }
            (_, Some(link)) => {
                if let Link::Tree(tree) = link.parse()? {
                    wanted.push((link, 0, Pinned::Tree(tree)));
                }
            }
            _ => {}
        }
    }
    Ok(wanted)
}
