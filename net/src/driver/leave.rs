//! Handing over: a node that leaves has others hold what it holds. It removes nothing itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use xorfs_store::BlockId;

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
