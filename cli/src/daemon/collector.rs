//! Garbage collection of a node: what its roots are, one collection at a time, and when one runs
//! by itself.
//!
//! Roots are the heads that the home's own volumes go on from, pins, and what is open in the view.
//! Invariant: a collection that does not know a root, because the keyring is locked or a volume
//! of our own is not open, does not begin; one that cannot read what lies below a root of our own
//! removes nothing. A pin whose tree is not here whole keeps everything that is pinned, because
//! nobody knows what it needs, and stops no collection: whoever wrote it may never come back.
//! Deliberately no roots: volumes that are followed without being pinned, for what was fetched of
//! them is cached, and newer heads of another writer, for the same reason.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use xorfs_fuse::{View, ViewRoots};
use xorfs_net::Replicated;
use xorfs_store::gc::{Marked, Root, mark, mark_held};
use xorfs_store::{BlockStore, Inventory, Local, ReadError, Reader};

use crate::api::types::Collected;
use crate::daemon::volumes::{Needed, Volumes};

/// Memory for the metadata that marking reads: each node is read once, so a large cache helps
/// little.
const CACHE_BYTES: usize = 8 << 20;

/// What a collection needs of its node.
pub(super) struct Collector {
    local: Arc<Local>,
    blocks: Replicated,
    view: Arc<View>,
    volumes: Arc<Volumes>,
    store: std::path::PathBuf,
    one_at_a_time: Mutex<()>,
    last: Mutex<Option<Collected>>,
    /// What was unpinned and no collection has released yet; changed under `one_at_a_time`.
    released: Mutex<Vec<Root>>,
}

impl Collector {
    pub(super) fn new(
        local: Arc<Local>,
        blocks: Replicated,
        view: Arc<View>,
        volumes: Arc<Volumes>,
        store: std::path::PathBuf,
    ) -> Self {
        Self {
            local,
            blocks,
            view,
            volumes,
            store,
            one_at_a_time: Mutex::default(),
            last: Mutex::default(),
            released: Mutex::default(),
        }
    }

    /// What the last collection did, if there was one since the start.
    pub(super) fn last(&self) -> Option<Collected> {
        locked(&self.last).clone()
    }

    /// Collects; with `dry_run` only says what would go. Waits until the disk has back what it
    /// gets.
    pub(super) fn collect(&self, dry_run: bool) -> anyhow::Result<Collected> {
        let _one_at_a_time = locked(&self.one_at_a_time);
        let begun = Instant::now();
        let disk_before = allocated_bytes(&self.store);
        // What was removed is garbage once that is sealed. Where sealing fails, what it would have
        // let go stays until it succeeds.
        if !dry_run && let Err(error) = self.view.seal() {
            tracing::debug!(%error, "could not seal before collecting garbage");
        }
        // Before the roots, so that what is written meanwhile is out of reach.
        let horizon = self.local.horizon();
        let Needed { roots, unknown_pins } = self.volumes.roots(&self.view, &*self.local)?;
        let mut marked = Marked::default();
        let reader = Reader::new(Arc::new(self.blocks.clone()), CACHE_BYTES);
        mark(&reader, &roots.owned, &mut marked)
            .context("nothing was removed, because not all that is needed can be read")?;
        let incomplete_pins = unknown_pins + self.mark_foreign(&roots, &mut marked)?;
        if incomplete_pins > 0 {
            marked.spare_pinned();
        }
        let swept = self.local.sweep(horizon, &marked, dry_run)?;
        if !dry_run {
            self.local.flush()?;
            self.local.reclaim()?;
        }
        let collected = Collected {
            dry_run,
            removed_blocks: swept.removed_blocks,
            removed_bytes: swept.removed_bytes,
            pinned_blocks: swept.pinned_blocks,
            released_blocks: swept.released_blocks,
            kept_blocks: marked.blocks() as u64,
            incomplete_pins,
            disk_before_bytes: disk_before,
            disk_after_bytes: allocated_bytes(&self.store),
            took_ms: begun.elapsed().as_millis() as u64,
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        if !dry_run {
            locked(&self.released).clear();
            *locked(&self.last) = Some(collected.clone());
        }
        Ok(collected)
    }

    /// Takes a pin off with `unpin`, which says whether it was on. The next collection finds what
    /// was below `root` evictable where it would else find garbage.
    pub(super) fn release(
        &self,
        root: Option<Root>,
        unpin: impl FnOnce() -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        // A collection between the two would see neither the pin nor the root.
        let _one_at_a_time = locked(&self.one_at_a_time);
        let changed = unpin()?;
        if changed {
            locked(&self.released).extend(root);
        }
        Ok(changed)
    }

    /// Marks what is held here of what others wrote; how many pins are not here whole. What is
    /// not held is not fetched: pins are looked after by themselves, and the rest is somebody
    /// else's to keep.
    fn mark_foreign(&self, roots: &ViewRoots, marked: &mut Marked) -> Result<u64, ReadError> {
        let held: Arc<dyn BlockStore> = Arc::clone(&self.local) as _;
        let reader = Reader::new(held, CACHE_BYTES);
        let mut incomplete = 0;
        for pin in &roots.pinned {
            incomplete += u64::from(!mark_held(&reader, pin, marked)?);
        }
        for root in roots.links.iter().chain(locked(&self.released).iter()) {
            mark_held(&reader, root, marked)?;
        }
        Ok(incomplete)
    }
}

/// When collections run by themselves.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two collections that changes ask for.
    interval: Duration,
    /// What the volumes were at the last one.
    seen: Option<Vec<u64>>,
    next: Instant,
    /// Between two that a lack of space asks for; longer after each that freed nothing.
    urgent_pause: Duration,
    next_urgent: Instant,
}

/// First and longest pause between two collections for want of space.
const URGENT_FIRST: Duration = Duration::from_secs(30);
const URGENT_MAX: Duration = Duration::from_secs(3600);

impl Pace {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        let urgent_pause = URGENT_FIRST;
        Self { interval, seen: None, next: now + interval, urgent_pause, next_urgent: now }
    }

    /// Whether a collection is due: `versions` are those of the volumes, `idle` says that nothing
    /// is being written, `short` that space is running out.
    pub(super) fn is_due(&self, now: Instant, versions: &[u64], idle: bool, short: bool) -> bool {
        let changed = self.seen.as_deref() != Some(versions);
        (changed && idle && now >= self.next) || (short && now >= self.next_urgent)
    }

    /// Takes note of a collection that ended, and whether it freed anything.
    pub(super) fn on_done(&mut self, now: Instant, versions: Vec<u64>, freed: bool) {
        self.seen = Some(versions);
        self.next = now + self.interval;
        self.urgent_pause =
            if freed { URGENT_FIRST } else { (self.urgent_pause * 2).min(URGENT_MAX) };
        self.next_urgent = now + self.urgent_pause;
    }

    /// Takes note of one that could not be done.
    pub(super) fn on_failed(&mut self, now: Instant) {
        self.next = now + self.interval;
        self.urgent_pause = (self.urgent_pause * 2).min(URGENT_MAX);
        self.next_urgent = now + self.urgent_pause;
    }
}

/// Bytes that a folder takes of the disk, as `du` counts them. What vanishes meanwhile is gone.
fn allocated_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;

    let entries = walkdir::WalkDir::new(dir).into_iter().filter_map(Result::ok);
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// What these locks hold is replaced as a whole, so a holder that panicked left it whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_rare_and_quick_when_needed() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        let mut pace = Pace::new(hour, now);
        assert!(!pace.is_due(now, &[1], true, false), "not at once");
        assert!(pace.is_due(now + hour, &[1], true, false));
        assert!(!pace.is_due(now + hour, &[1], false, false), "not while somebody writes");
        pace.on_done(now + hour, vec![1], true);
        assert!(!pace.is_due(now + hour * 5, &[1], true, false), "not where nothing changed");
        assert!(pace.is_due(now + hour * 2, &[2], true, false));

        assert!(pace.is_due(now + hour * 2, &[1], false, true), "at once where space is short");
        pace.on_done(now + hour * 2, vec![1], false);
        assert!(!pace.is_due(now + hour * 2 + URGENT_FIRST, &[1], true, true), "less and less");
        pace.on_failed(now + hour * 3);
        assert!(!pace.is_due(now + hour * 3 + URGENT_FIRST * 3, &[1], true, true));
        assert!(pace.is_due(now + hour * 3 + URGENT_FIRST * 4, &[1], true, true));
    }
}
