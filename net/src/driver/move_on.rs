//! Blocks that move on: from a node that is far from them by now, and from one that leaves.
//!
//! Invariant: a copy goes only after every node of its close group proved its own. A node that
//! leaves removes nothing; it makes sure that enough copies are elsewhere.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use xorfs_store::{BlockId, Class, ReadError, WriteError};

use crate::driver::tasks::Stopped;
use crate::driver::{Network, Shared, clock};
use crate::kad::Key;
use crate::limits::FRESH_BATCH;
use crate::replica::spread::Aim;

/// How long a node that leaves goes on without having finished a batch of blocks.
const LEAVE_IDLE: Duration = Duration::from_secs(3);

/// How long a node takes at most to hand over what it holds.
const LEAVE_MAX: Duration = Duration::from_secs(30);

impl Shared {
    /// Gives up those of `held` that others are to keep, once these have proved that they do.
    /// Returns how many copies were sent for it.
    pub(super) async fn vacate(self: &Arc<Self>, held: Vec<BlockId>) -> Result<u64, Stopped> {
        let far = self.with_node(|node| {
            let far = held.into_iter().filter(|id| node.is_far_from(&Key::from(*id)));
            far.collect::<Vec<_>>()
        });
        let store = Arc::clone(&self.store);
        let listed = move || {
            let for_network = far.into_iter().filter_map(|id| match store.class(&id) {
                Ok(Some(Class::InRange)) => Some(Ok(id)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            });
            for_network.collect::<Result<Vec<_>, ReadError>>()
        };
        let far = self.tasks.blocking(listed).await?.unwrap_or_else(|error| {
            tracing::warn!(%error, "blocks to move on could not be listed");
            Vec::new()
        });
        if far.is_empty() {
            return Ok(0);
        }
        let placed = self.spread(Aim::Vacate, far).await?;
        let sent = placed.iter().map(|block| u64::from(block.sent)).sum();
        let store = Arc::clone(&self.store);
        let forget = move || {
            for block in placed.iter().filter(|block| block.settled) {
                store.vacate(&block.id)?;
            }
            Ok::<_, WriteError>(())
        };
        if let Err(error) = self.tasks.blocking(forget).await? {
            tracing::warn!(%error, "blocks that moved on could not be removed");
        }
        Ok(sent)
    }

    async fn hand_over_batch(
        self: &Arc<Self>,
        after: Option<BlockId>,
    ) -> Result<Option<BlockId>, Stopped> {
        let store = Arc::clone(&self.store);
        let held = self.tasks.blocking(move || store.ids(after.as_ref(), FRESH_BATCH)).await?;
        let held = held.unwrap_or_default();
        let last = held.last().copied();
        let ours = self.with_node(|node| {
            let ours = held.into_iter().filter(|id| node.is_in_close_group(&Key::from(*id)));
            ours.collect::<Vec<_>>()
        });
        if !ours.is_empty() {
            self.spread(Aim::Leave, ours).await?;
        }
        Ok(last)
    }
}

impl Network {
    /// Has others hold what this node holds, before it leaves: for as long as that gets on, and
    /// half a minute at most.
    pub async fn hand_over(&self) {
        let shared = self.shared();
        let end = Instant::from_std(clock()) + LEAVE_MAX;
        let mut after = None;
        while shared.live_peers() > 0 {
            let limit = end.min(Instant::from_std(clock()) + LEAVE_IDLE);
            match timeout_at(limit, shared.hand_over_batch(after)).await {
                Ok(Ok(Some(last))) => after = Some(last),
                Ok(Ok(None) | Err(Stopped)) => return,
                Err(_) => return tracing::warn!("left before all blocks were handed over"),
            }
        }
    }
}
