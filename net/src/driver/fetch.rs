//! Fetching blocks from the network: one flight per block however many want it.
//!
//! A block that arrives is given to everybody who waits at once and written to the local store
//! after that, as `InRange` where this node is in its close group and as `Cached` elsewhere.
//! Until it is there, whoever asks next gets it from the flight.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use xorfs_store::{Block, BlockId, Purpose};

use crate::driver::{Shared, clock};
use crate::kad::Key;
use crate::node::Outcome;
use crate::node::search::Found;

/// Wait before a failed search is tried anew; doubled up to `RETRY_LAST`.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// How long a fetch waits for a first peer to turn up when none is known.
const PEER_WAIT: Duration = Duration::from_secs(5);

/// What a blocked caller waits beyond the deadline before it stops relying on its flight.
const SLACK: Duration = Duration::from_secs(1);

type Waiter = SyncSender<Found<Block>>;

#[derive(Debug)]
enum Flight {
    Waiting(Vec<Waiter>),
    Landed(Block),
}

/// Blocks that are being fetched.
#[derive(Debug)]
pub(crate) struct Fetches {
    flights: Mutex<HashMap<BlockId, Flight>>,
    prefetch: mpsc::Sender<BlockId>,
}

impl Fetches {
    pub(super) fn new(prefetch: mpsc::Sender<BlockId>) -> Self {
        Self { flights: Mutex::default(), prefetch }
    }

    /// Takes off for a block; false where it is under way already.
    fn claim(&self, id: BlockId) -> bool {
        let mut flights = self.lock();
        if flights.contains_key(&id) {
            return false;
        }
        flights.insert(id, Flight::Waiting(Vec::new()));
        true
    }

    /// Whether a block is being fetched.
    pub(super) fn is_under_way(&self, id: &BlockId) -> bool {
        self.lock().contains_key(id)
    }

    fn land(&self, id: BlockId, found: &Found<Block>) {
        let mut flights = self.lock();
        let flight = match found {
            Found::It(block) => flights.insert(id, Flight::Landed(block.clone())),
            Found::Missing | Found::Unreachable => flights.remove(&id),
        };
        drop(flights);
        if let Some(Flight::Waiting(waiters)) = flight {
            for waiter in waiters {
                // Each waiter has room for its one answer; one that gave up is gone.
                let _ = waiter.try_send(found.clone());
            }
        }
    }

    /// Lets everybody who waits for a block know that it will not come. Called once the tasks
    /// have ended, which would have told them.
    pub(super) fn abandon(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BlockId, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Fetches a block, blocking this thread, which must not be one that runs async tasks.
    pub(crate) fn fetch_blocking(self: &Arc<Self>, id: BlockId) -> Found<Block> {
        let (sender, receiver) = sync_channel(1);
        {
            let mut flights = self.fetches.lock();
            match flights.get_mut(&id) {
                Some(Flight::Landed(block)) => return Found::It(block.clone()),
                Some(Flight::Waiting(waiters)) => waiters.push(sender),
                None => {
                    if self.tasks.is_stopped() {
                        return Found::Unreachable;
                    }
                    flights.insert(id, Flight::Waiting(vec![sender]));
                    let shared = Arc::clone(self);
                    self.tasks.spawn(async move { shared.fly(id).await });
                }
            }
        }
        match receiver.recv_timeout(self.config.fetch_deadline + SLACK) {
            Ok(found) => found,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Found::Unreachable,
        }
    }

    /// Asks for blocks ahead of their reader. Never blocks; what does not fit the queue is
    /// dropped.
    pub(crate) fn prefetch(&self, ids: &[BlockId]) {
        for id in ids {
            if self.fetches.prefetch.try_send(*id).is_err() {
                return;
            }
        }
    }

    /// Fetches what `prefetch` queued, for as long as the node runs.
    pub(super) async fn run_prefetch(self: Arc<Self>, mut queue: mpsc::Receiver<BlockId>) {
        let room = Arc::new(Semaphore::new(self.config.prefetch_parallel.max(1)));
        while let Some(id) = queue.recv().await {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let shared = Arc::clone(&self);
            self.tasks.spawn(async move {
                let store = Arc::clone(&shared.store);
                let held = shared.tasks.blocking(move || store.contains(&id)).await;
                if matches!(held, Ok(Ok(false))) && shared.fetches.claim(id) {
                    shared.fly(id).await;
                }
                drop(permit);
            });
        }
    }

    /// Replaces a held block that is corrupt by one that is not, in the background.
    pub(super) fn heal(self: &Arc<Self>, id: BlockId) {
        tracing::error!(block = %id, "a held block is corrupt; fetching it from other nodes");
        if self.fetches.claim(id) {
            let shared = Arc::clone(self);
            self.tasks.spawn(async move { shared.fly(id).await });
        }
    }

    async fn fly(self: Arc<Self>, id: BlockId) {
        let found = self.search_block(id).await;
        self.fetches.land(id, &found);
        let Found::It(block) = found else { return };
        let close = self.with_node(|node| node.is_in_close_group(&Key::from(id)));
        let purpose = if close { Purpose::Hold } else { Purpose::Cache };
        let store = Arc::clone(&self.store);
        // A put mends what is held and corrupt, and keeps the reasons why it is held.
        let kept = self.tasks.blocking(move || store.put(&block, purpose)).await;
        if let Ok(Err(error)) = kept {
            tracing::debug!(block = %id, %error, "a fetched block was not kept");
        }
        self.fetches.lock().remove(&id);
    }

    async fn search_block(self: &Arc<Self>, id: BlockId) -> Found<Block> {
        let start = Instant::from_std(clock());
        let deadline = start + self.config.fetch_deadline;
        if !self.any_peer_by(deadline.min(start + PEER_WAIT)).await {
            return Found::Unreachable;
        }
        let mut retry = RETRY_FIRST;
        loop {
            let search = self.operate(|node, now| node.find_block(now, id));
            match timeout_at(deadline, search.outcome()).await {
                Ok(Some(Outcome::Block(Found::It(block)))) => return Found::It(block),
                Ok(Some(Outcome::Block(Found::Missing))) => return Found::Missing,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Found::Unreachable,
            }
            if timeout_at(deadline, sleep(retry)).await.is_err() {
                return Found::Unreachable;
            }
            retry = (retry * 2).min(RETRY_LAST);
        }
    }

    /// Waits until a peer is known, at most until `limit`, where there is hope for one.
    pub(super) async fn any_peer_by(&self, limit: Instant) -> bool {
        let mut changes = self.changes.subscribe();
        loop {
            if self.live_peers() > 0 {
                return true;
            }
            if !self.expects_peers
                || !matches!(timeout_at(limit, changes.changed()).await, Ok(Ok(())))
            {
                return false;
            }
        }
    }
}
