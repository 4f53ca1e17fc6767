//! A running node: the pure `Node` connected to sockets, tasks, clocks and the store.
//!
//! Owns everything impure in this crate. One lock guards the `Node`; it is held for the length
//! of one `handle_*` or `poll_*` and never across an await. `Network::shutdown` stops accepting,
//! cancels every task, waits for them and closes the connections; dropping the last handle alone
//! does none of that.

mod commit;
mod endpoint;
mod engine;
mod fetch;
mod fresh;
mod join;
mod keeper;
mod leave;
mod peer;
mod repair;
mod status;
mod tasks;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::{Endpoint, VarInt};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use xorfs_store::{Head, Inventory, Ledger, VolumeId};

use crate::config::NetConfig;
use crate::error::{FetchError, PublishError, StartError};
use crate::identity::{Identity, NodeId};
use crate::limits::{INBOUND_BYTES_MAX, PREFETCH_QUEUE_MAX, SERVING_MAX};
use crate::node::search::Found;
use crate::node::{Node, Outcome};
use crate::serve::{HeadGate, Holdings, stored_head};
use commit::{Commits, Expected, Sending};
use engine::Engine;
use fetch::Fetches;
use fresh::Fresh;
use keeper::Keeper;
use peer::Links;
use repair::Digests;
use status::Counters;
use tasks::Tasks;

pub use status::{NetStatus, PeerStatus, RepairStatus};

/// How long `start` waits for the first peers, so that what follows finds a network. A node
/// whose peers are down starts after it all the same.
const JOIN_WAIT: Duration = Duration::from_secs(4);

/// How long `shutdown` waits for peers to learn that this node leaves.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);

/// Counts changes of the peers in the table.
type Change = u64;

/// A running node. Cheap to clone; all clones are one node.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

/// What the tasks of a node share.
pub(crate) struct Shared {
    own: NodeId,
    config: NetConfig,
    local_addr: SocketAddr,
    /// There are addresses through which peers may turn up, or others may find us.
    expects_peers: bool,
    store: Arc<dyn Holdings>,
    endpoint: Endpoint,
    engine: Mutex<Engine>,
    timer_wake: Notify,
    changes: watch::Sender<Change>,
    publish_wake: Notify,
    publish_woken: AtomicBool,
    links: Links,
    serving: Arc<Semaphore>,
    inbound: Semaphore,
    head_gate: HeadGate,
    commits: Commits,
    sending: Sending,
    expected: Expected,
    fetches: Fetches,
    fresh: Fresh,
    digests: Digests,
    counters: Counters,
    tasks: Tasks,
}

impl Network {
    /// Starts a node on the tokio runtime that this is called on, and joins the network.
    ///
    /// Waits a few seconds for the first peers. Peers that cannot be reached are tried again in
    /// the background, with a warning each time; the node runs meanwhile.
    ///
    /// # Errors
    /// Where the address cannot be listened on or the store cannot be read.
    pub async fn start<S: Inventory + Ledger + 'static>(
        config: NetConfig,
        identity: Identity,
        store: Arc<S>,
    ) -> Result<Self, StartError> {
        let endpoint = endpoint::open(&config, &identity)?;
        let addr = config.listen;
        let local_addr =
            endpoint.local_addr().map_err(|source| StartError::Socket { addr, source })?;
        let store: Arc<dyn Holdings> = store;
        let reading = Arc::clone(&store);
        let tasks = Tasks::new();
        let saved = tasks.blocking(move || join::saved(&*reading)).await;
        let saved = saved.unwrap_or_else(|_| Ok(Vec::new()))?;
        let own = identity.node_id();
        let (prefetch, prefetch_queue) = mpsc::channel(PREFETCH_QUEUE_MAX);
        let node = Node::new(own, (&config).into(), rand_seed());
        let shared = Arc::new(Shared {
            own,
            local_addr,
            expects_peers: !config.join.is_empty() || !saved.is_empty(),
            store,
            endpoint,
            engine: Mutex::new(Engine::new(node)),
            timer_wake: Notify::new(),
            changes: watch::Sender::new(0),
            publish_wake: Notify::new(),
            publish_woken: AtomicBool::new(false),
            links: Links::default(),
            serving: Arc::new(Semaphore::new(SERVING_MAX)),
            inbound: Semaphore::new(INBOUND_BYTES_MAX as usize),
            head_gate: HeadGate::default(),
            commits: Commits::default(),
            sending: Sending::default(),
            expected: Expected::new(config.transfer_timeout),
            fetches: Fetches::new(prefetch),
            fresh: Fresh::default(),
            digests: Digests::default(),
            counters: Counters::default(),
            tasks,
            config,
        });
        shared.tasks.spawn(endpoint::accept(Arc::clone(&shared)));
        shared.tasks.spawn(engine::run_timers(Arc::clone(&shared)));
        shared.tasks.spawn(Commits::run(Arc::clone(&shared)));
        shared.tasks.spawn(Arc::clone(&shared).run_prefetch(prefetch_queue));
        shared.tasks.spawn(join::save(Arc::clone(&shared)));
        shared.tasks.spawn(Arc::clone(&shared).check_fresh());
        let network = Self { shared };
        network.join(saved).await;
        let shared = &network.shared;
        shared.tasks.spawn(Keeper::new(Arc::clone(shared)).run());
        tracing::info!(node = %own, address = %local_addr, "node started");
        Ok(network)
    }

    /// The id of this node.
    pub fn node_id(&self) -> NodeId {
        self.shared.own
    }

    /// The address that this node listens on, with the port that the system picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// Stores a head at its close group, and tells how many nodes hold it: this one counts where
    /// it is one of the closest, on the understanding that the caller has it in its ledger.
    ///
    /// # Errors
    /// `TooFew` where fewer than `acks` nodes, or than all where there are fewer, took it.
    pub async fn publish_head(&self, head: &Head) -> Result<u8, PublishError> {
        let volume = head.volume();
        let head = head.clone();
        let spread = self.shared.operate(|node, now| node.spread_head(now, head));
        let Some(Outcome::HeadStored(holders)) = spread.outcome().await else {
            return Err(PublishError::Stopped);
        };
        let acks = u8::try_from(holders).unwrap_or(u8::MAX);
        let needed = self.ack_target();
        if acks < needed {
            return Err(PublishError::TooFew { volume, acks, needed });
        }
        Ok(acks)
    }

    /// The newest head of a volume that its close group or this node has; `None` where all who
    /// were asked answered and none has one.
    ///
    /// # Errors
    /// `Unreachable` where nobody answered and this node has none itself.
    pub async fn fetch_head(&self, volume: VolumeId) -> Result<Option<Head>, FetchError> {
        let shared = &self.shared;
        let started = clock();
        let deadline = started + shared.config.fetch_deadline;
        let store = Arc::clone(&shared.store);
        let own = shared.tasks.blocking(move || stored_head(&*store, volume)).await;
        let own = own.map_err(|_| FetchError::Stopped)?;
        let search = shared.operate(|node, now| node.find_head(now, volume));
        let found = match tokio::time::timeout_at(deadline.into(), search.outcome()).await {
            Ok(Some(Outcome::Head(found))) => found,
            Ok(None) => return Err(FetchError::Stopped),
            Ok(Some(_)) | Err(_) => Found::Unreachable,
        };
        match (found, own) {
            (Found::It(theirs), Some(own)) if own.supersedes(&theirs) => Ok(Some(own)),
            (Found::It(theirs), _) => Ok(Some(theirs)),
            (_, Some(own)) => Ok(Some(own)),
            (Found::Missing, None) => Ok(None),
            (Found::Unreachable, None) => {
                Err(FetchError::Unreachable { volume, waited: clock() - started })
            }
        }
    }

    /// Says that blocks are owed that were not owed before.
    pub fn wake_publisher(&self) {
        self.shared.wake_publisher();
    }

    /// Copies that a block should have now: the configured number, or all nodes where there are
    /// fewer.
    pub fn replica_target(&self) -> u8 {
        let live = self.shared.live_peers() + 1;
        self.shared.config.replicas.max(1).min(u8::try_from(live).unwrap_or(u8::MAX))
    }

    /// Copies after which a block or a head counts as replicated: the holders make the rest.
    pub fn ack_target(&self) -> u8 {
        self.shared.config.acks.max(1).min(self.replica_target())
    }

    /// Leaves the network: stops accepting, cancels all work, waits for its end and closes the
    /// connections so that peers learn of it. Other handles answer errors afterwards.
    pub async fn shutdown(self) {
        self.shared.endpoint.set_server_config(None);
        let saving = Arc::clone(&self.shared);
        if let Ok(Err(error)) = self.shared.tasks.blocking(move || join::write(&saving)).await {
            tracing::warn!(%error, "known peers could not be saved");
        }
        self.shared.tasks.stop().await;
        self.shared.stop_engine();
        self.shared.fetches.abandon();
        self.shared.endpoint.close(VarInt::from_u32(endpoint::CODE_LEAVING), b"leaving");
        let idle = self.shared.endpoint.wait_idle();
        let _ = tokio::time::timeout(GOODBYE_WAIT, idle).await;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Tries all ways into the network, until one led there or all were tried once.
    async fn join(&self, saved: Vec<crate::kad::Peer>) {
        let shared = &self.shared;
        let ways = shared.config.join.len() + usize::from(!saved.is_empty());
        let (tried, mut attempts) = mpsc::channel(ways.max(1));
        for address in shared.config.join.clone() {
            shared.tasks.spawn(join::keep(Arc::clone(shared), address, tried.clone()));
        }
        if !saved.is_empty() {
            shared.tasks.spawn(join::recall(Arc::clone(shared), saved, tried.clone()));
        }
        drop(tried);
        let first_peer = async {
            for _ in 0..ways {
                if attempts.recv().await.unwrap_or(true) {
                    return;
                }
            }
        };
        // Starting without peers is allowed: they are tried again in the background.
        let _ = tokio::time::timeout(JOIN_WAIT, first_peer).await;
    }
}

impl Shared {
    pub(crate) fn wake_publisher(&self) {
        self.publish_woken.store(true, Ordering::Relaxed);
        self.publish_wake.notify_one();
    }

    /// Whether the publisher was woken since this was asked last.
    fn take_publish_wake(&self) -> bool {
        self.publish_woken.swap(false, Ordering::Relaxed)
    }

    fn live_peers(&self) -> usize {
        self.with_node(|node| node.table().len())
    }
}

/// The one clock of this crate.
#[expect(clippy::disallowed_methods, reason = "the driver is where time comes from")]
pub(crate) fn clock() -> Instant {
    Instant::now()
}

fn rand_seed() -> u64 {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("the system's random generator works");
    u64::from_le_bytes(seed)
}
