//! One repair pass: where neighbours hold something else than this node, what belongs there is
//! offered, and what others are to keep moves on.
//!
//! A pass compares digests first and names blocks only where these differ. Besides it audits a
//! few blocks that nobody differs about, and looks at a share of what this home keeps for itself,
//! so that each such block is looked at every few hours. It goes in steps, so that what is owed
//! is published in between.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use xorfs_store::{BlockId, Class, Head, Purpose, ReadError, Table, WriteError};

use crate::driver::keeper::or_warn;
use crate::driver::tasks::Stopped;
use crate::driver::{Shared, clock};
use crate::identity::NodeId;
use crate::kad::Key;
use crate::limits::{AUDITS, OFFER_IDS_MAX};
use crate::node::Outcome;
use crate::replica::digest::{Differences, Digest};
use crate::replica::spread::{Aim, Placed};

/// Ids that are summed up under one lock of the node.
const SUM_BATCH: usize = 256;

/// Passes in which all that this home keeps for itself was looked at once.
const OWN_SHARES: u64 = 16;

/// Where a repair pass stands.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    /// The last id that was checked; none at the very start of the key space.
    after: Option<BlockId>,
    start: BlockId,
    wrapped: bool,
    differences: Arc<Differences>,
    audits_left: usize,
    share: u64,
}

/// The newest digest of this node, and what it was made from.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    newest: Mutex<Option<(Arc<Digest>, u64, Instant)>>,
    /// Counts blocks that came or went through the network.
    moved: AtomicU64,
}

impl Digests {
    /// A block came or went.
    pub(super) fn note_moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one step has to look at.
#[derive(Default)]
struct Share {
    /// Blocks that a neighbour may lack.
    suspects: Vec<BlockId>,
    /// Blocks that this node is to keep.
    ours: Vec<BlockId>,
    others: Vec<BlockId>,
}

impl Shared {
    /// Compares with all neighbours, and begins a pass where this node's own point is, so that
    /// the holders of a block do not all start with the same one.
    pub(super) async fn start_pass(self: &Arc<Self>, share: u64) -> Result<Pass, Stopped> {
        let shared = Arc::clone(self);
        let digest = self.tasks.blocking(move || shared.digest(true)).await?;
        let compared = self.operate(|node, now| node.compare(now, &digest)).outcome().await;
        let Some(Outcome::Compared(differences)) = compared else { return Err(Stopped) };
        let start = BlockId::from_bytes(*self.own.as_bytes());
        let differences = Arc::new(differences);
        let (after, audits_left, share) = (Some(start), AUDITS, share % OWN_SHARES);
        Ok(Pass { after, start, wrapped: false, differences, audits_left, share })
    }

    /// Checks the next batch of held blocks; the last step spreads the heads.
    pub(super) async fn repair_step(
        self: &Arc<Self>,
        mut pass: Pass,
    ) -> Result<Option<Pass>, Stopped> {
        let (store, after) = (Arc::clone(&self.store), pass.after);
        let held = self.tasks.blocking(move || store.ids(after.as_ref(), OFFER_IDS_MAX)).await?;
        let mut held = or_warn(held, "held blocks could not be listed");
        let full = held.len() == OFFER_IDS_MAX;
        if pass.wrapped {
            held.retain(|id| *id <= pass.start);
        }
        let last = held.last().copied();
        let more = full && !(pass.wrapped && held.len() < OFFER_IDS_MAX);
        self.repair_batch(held, &mut pass).await?;
        if more {
            return Ok(Some(Pass { after: last, ..pass }));
        }
        if !pass.wrapped {
            return Ok(Some(Pass { after: None, wrapped: true, ..pass }));
        }
        self.spread_heads().await?;
        Ok(None)
    }

    async fn repair_batch(
        self: &Arc<Self>,
        held: Vec<BlockId>,
        pass: &mut Pass,
    ) -> Result<(), Stopped> {
        let checked = held.len() as u64;
        let mut share = self.share_of(held, pass);
        let (far, kept) = self.sort_out(share.ours, share.others).await?;
        share.suspects.extend(
            kept.into_iter().filter(|id| u64::from(id.as_bytes()[0]) % OWN_SHARES == pass.share),
        );
        share.suspects.sort_unstable();
        share.suspects.dedup();
        let mut sent = self.vacate(far).await?;
        if !share.suspects.is_empty() {
            let placed = self.spread(Aim::Repair, share.suspects).await?;
            sent += placed.iter().map(|block| u64::from(block.sent)).sum::<u64>();
            self.record_kept(placed).await?;
        }
        self.counters.repair_checked.fetch_add(checked, Ordering::Relaxed);
        self.counters.repair_sent.fetch_add(sent, Ordering::Relaxed);
        Ok(())
    }

    fn share_of(&self, held: Vec<BlockId>, pass: &mut Pass) -> Share {
        let mut share = Share::default();
        for batch in held.chunks(SUM_BATCH) {
            self.with_node(|node| {
                for id in batch {
                    let Some(group) = node.group_with_us(&Key::from(*id)) else {
                        share.others.push(*id);
                        continue;
                    };
                    share.ours.push(*id);
                    if pass.differences.concern(id, &group) {
                        share.suspects.push(*id);
                    } else if pass.audits_left > 0 {
                        pass.audits_left -= 1;
                        share.suspects.push(*id);
                    }
                }
            });
        }
        share
    }

    /// What of `ours` is only cached becomes held for the network, so that it stays. Tells which
    /// of `others` are held for the network alone, and which of all this home keeps for itself.
    async fn sort_out(
        self: &Arc<Self>,
        ours: Vec<BlockId>,
        others: Vec<BlockId>,
    ) -> Result<(Vec<BlockId>, Vec<BlockId>), Stopped> {
        let store = Arc::clone(&self.store);
        let sorted = move || {
            let (mut far, mut kept) = (Vec::new(), Vec::new());
            for id in ours {
                match store.class(&id)? {
                    Some(Class::Pinned) => kept.push(id),
                    Some(Class::Cached) => {
                        if let Ok(block) = store.get(&id)
                            && let Err(error) = store.put(&block, Purpose::Hold)
                        {
                            tracing::debug!(block = %id, %error, "a cached block was not kept");
                        }
                    }
                    Some(Class::InRange) | None => {}
                }
            }
            for id in others {
                match store.class(&id)? {
                    Some(Class::InRange) => far.push(id),
                    Some(Class::Pinned) => kept.push(id),
                    Some(Class::Cached) | None => {}
                }
            }
            Ok::<_, ReadError>((far, kept))
        };
        Ok(or_warn(self.tasks.blocking(sorted).await?, "held blocks could not be sorted out"))
    }

    /// Gives up those of `held`, which are held for the network alone, that others are to keep,
    /// once these have proved that they do. Returns how many copies were sent for it.
    async fn vacate(self: &Arc<Self>, held: Vec<BlockId>) -> Result<u64, Stopped> {
        let far = self.with_node(|node| {
            let far = held.into_iter().filter(|id| node.is_far_from(&Key::from(*id)));
            far.collect::<Vec<_>>()
        });
        if far.is_empty() {
            return Ok(0);
        }
        let placed = self.spread(Aim::Vacate, far).await?;
        let sent = placed.iter().map(|block| u64::from(block.sent)).sum();
        let store = Arc::clone(&self.store);
        let forget = move || {
            for block in placed.iter().filter(|block: &&Placed| block.settled) {
                store.vacate(&block.id)?;
            }
            Ok::<_, WriteError>(())
        };
        if let Err(error) = self.tasks.blocking(forget).await? {
            tracing::warn!(%error, "blocks that moved on could not be removed");
        }
        self.digests.note_moved();
        Ok(sent)
    }

    async fn spread_heads(self: &Arc<Self>) -> Result<(), Stopped> {
        let store = Arc::clone(&self.store);
        let records = self.tasks.blocking(move || store.scan(Table::Heads, &[])).await?;
        for (_, encoded) in or_warn(records, "heads could not be listed") {
            if let Ok(head) = Head::decode(encoded) {
                self.operate(|node, now| node.spread_head(now, head)).outcome().await;
            }
        }
        Ok(())
    }

    /// In which ranges this node holds something else than a peer. Reads the store where blocks
    /// or peers have changed.
    pub(super) fn differing_from(
        &self,
        peer: &NodeId,
        bits: u8,
        sums: &[crate::wire::RangeSum],
    ) -> Vec<u8> {
        self.digest(false).differing(peer, bits, sums)
    }

    /// The digest of what is held: a new one where `renew` asks for it, or where the last one is
    /// old and something has changed. Blocks, and makes others who ask meanwhile wait for it.
    fn digest(&self, renew: bool) -> Arc<Digest> {
        let mut newest = self.digests.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let version = *self.changes.borrow() + self.digests.moved.load(Ordering::Relaxed);
        if let Some((digest, of, made)) = &*newest
            && !renew
            && (*of == version || clock().duration_since(*made) < self.config.settle_delay)
        {
            return Arc::clone(digest);
        }
        let digest = Arc::new(self.sum_up().unwrap_or_else(|error| {
            tracing::warn!(%error, "held blocks could not be summed up");
            Digest::default()
        }));
        *newest = Some((Arc::clone(&digest), version, clock()));
        digest
    }

    fn sum_up(&self) -> Result<Digest, ReadError> {
        let (mut digest, mut after) = (Digest::default(), None);
        loop {
            let held = self.store.ids(after.as_ref(), SUM_BATCH)?;
            let Some(last) = held.last().copied() else { return Ok(digest) };
            self.with_node(|node| {
                for id in &held {
                    if let Some(group) = node.group_with_us(&Key::from(*id)) {
                        digest.add(id, group);
                    }
                }
            });
            after = Some(last);
        }
    }
}
