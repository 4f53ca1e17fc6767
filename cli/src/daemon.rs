//! A node as a process: the store, the network, the view and the local API, started and stopped
//! in order.
//!
//! The same node runs in `xorfs daemon` and, for the duration of a command, wherever no daemon
//! answers. Start: lock the home, open identity, store and keyring, join the network, show the
//! volumes, serve the API. Stop: no new requests, unmount, seal, a last bounded attempt to hand
//! over what is owed, close the network, remove the socket. Dropping a `Daemon` without `stop`
//! loses nothing that was acknowledged, but leaves what is only in memory unsealed.

mod checking;
mod collector;
pub(crate) mod heads;
mod identity;
pub(crate) mod keys;
pub(crate) mod lock;
mod mounts;
pub(crate) mod pins;
mod port;
mod report;
mod tend;
mod volumes;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use xorfs_fuse::{MountOptions, Owner, View, ViewConfig};
use xorfs_net::{Identity, NetConfig, Network, Replicated, StartError};
use xorfs_store::{
    Convergence, Head, Inventory, Ledger, Link, Local, LocalConfig, Passphrase, ReadError,
    Scrubber, Table, VolumeId,
};

use crate::api::incoming::Temporaries;
use crate::api::server;
use crate::api::types::{Collected, VolumeRow};
use crate::daemon::collector::Collector;
use crate::daemon::heads::{Announcer, live_peers};
use crate::daemon::lock::{Lock, Role};
use crate::daemon::mounts::Mounts;
use crate::daemon::volumes::Volumes;
use crate::exit::Failure;
use crate::home::{Home, SocketPath};
use crate::settings::Settings;

/// How long a node that leaves tries to hand over blocks and heads that nobody else has.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);

/// How often mounts are looked at, to notice one that was taken away from outside.
const MOUNT_WATCH: Duration = Duration::from_millis(250);

/// A running node.
pub(crate) struct Daemon {
    /// Declared first: it ends before the store closes. A command's node leaves too soon for it.
    _scrubber: Option<Scrubber>,
    home: Home,
    role: Role,
    started: Instant,
    expects_peers: bool,
    local: Arc<Local>,
    network: Network,
    view: Arc<View>,
    volumes: Arc<Volumes>,
    announcer: Arc<Announcer>,
    mounts: Arc<Mounts>,
    collector: Arc<Collector>,
    wake_collector: Arc<Notify>,
    tasks: TaskTracker,
    uploads: TaskTracker,
    temporaries: Temporaries,
    stop: CancellationToken,
    stop_api: CancellationToken,
    socket: SocketPath,
    _lock: Lock,
}

impl Daemon {
    /// Starts a node on a home that the caller has locked. A keyring with a passphrase stays
    /// locked where that is not given.
    pub(crate) async fn start(
        home: &Home,
        settings: &Settings,
        role: Role,
        lock: Lock,
        passphrase: Option<Passphrase>,
    ) -> anyhow::Result<Arc<Self>> {
        let (local, identity, volumes) = {
            let (home, config) = (home.clone(), settings.store());
            let open = move || open_home(&home, config, passphrase.as_ref());
            tokio::task::spawn_blocking(open).await??
        };
        let config = settings.network().await;
        let replicas = config.replicas;
        let expects_peers = !config.join.is_empty() || !local.scan(Table::Peers, b"")?.is_empty();
        let network = start_network(home, settings, config, identity, &local).await?;
        let announcer = Arc::new(Announcer::default());
        let view = make_view(&local, &network, &announcer, replicas);
        {
            let (view, volumes) = (Arc::clone(&view), Arc::clone(&volumes));
            tokio::task::spawn_blocking(move || volumes.show_all(&view)).await?;
        }
        let collector = Arc::new(Collector::new(
            Arc::clone(&local),
            Replicated::new(Arc::clone(&local), network.clone()),
            Arc::clone(&view),
            Arc::clone(&volumes),
            home.store(),
        ));
        let socket = match role {
            Role::Daemon => home.socket()?,
            Role::Command => home.command_socket()?,
        };
        let listener = server::bind(&socket)?;
        let scrubber = (role == Role::Daemon).then(|| Scrubber::start(&local)).transpose()?;
        let daemon = Arc::new(Self {
            _scrubber: scrubber,
            home: home.clone(),
            role,
            started: Instant::now(),
            expects_peers,
            local,
            temporaries: Temporaries::new(&network.node_id().to_string()),
            network,
            view,
            volumes,
            announcer,
            collector,
            wake_collector: Arc::default(),
            mounts: Arc::new(Mounts::default()),
            tasks: TaskTracker::new(),
            uploads: TaskTracker::new(),
            stop: CancellationToken::new(),
            stop_api: CancellationToken::new(),
            socket,
            _lock: lock,
        });
        daemon.spawn_tasks(settings.head_poll());
        if role == Role::Daemon {
            tend::spawn(&daemon, settings.gc_interval());
        }
        let serving = server::serve(listener, Arc::clone(&daemon), daemon.stop_api.clone());
        daemon.tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the local API has failed");
            }
        });
        daemon.tasks.close();
        Ok(daemon)
    }

    fn spawn_tasks(&self, head_poll: Duration) {
        self.announce_heads();
        let (volumes, local) = (Arc::clone(&self.volumes), Arc::clone(&self.local));
        let known = {
            let local = Arc::clone(&local);
            move || volumes.heads(&*local)
        };
        let announcer = Arc::clone(&self.announcer);
        self.tasks.spawn(announcer.run(self.network.clone(), local, known, self.stop.clone()));

        let volumes = Arc::clone(&self.volumes);
        let followed = move || volumes.followed();
        let (network, view) = (self.network.clone(), Arc::clone(&self.view));
        self.tasks.spawn(heads::follow(network, view, followed, head_poll, self.stop.clone()));

        let (mounts, stop) = (Arc::clone(&self.mounts), self.stop.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(MOUNT_WATCH) => mounts.drop_ended(),
                }
            }
        });
    }

    /// Leaves: afterwards the home can be opened by the next node.
    pub(crate) async fn stop(self: Arc<Self>) -> anyhow::Result<()> {
        self.stop_api.cancel();
        self.uploads.close();
        if tokio::time::timeout(HAND_OVER_MAX, self.uploads.wait()).await.is_err() {
            tracing::warn!("left while files were still being written");
        }
        let (mounts, view) = (Arc::clone(&self.mounts), Arc::clone(&self.view));
        let shut = tokio::task::spawn_blocking(move || {
            mounts.unmount_all();
            view.shutdown()
        });
        let sealed = shut.await.context("sealing was cut short")?;
        self.hand_over().await;
        self.stop.cancel();
        self.network.clone().shutdown().await;
        if tokio::time::timeout(HAND_OVER_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!("left while requests were still running");
        }
        if let Err(error) = std::fs::remove_file(self.socket.as_path()) {
            tracing::warn!(%error, "could not remove the socket");
        }
        Ok(sealed?)
    }

    /// Waits until what only this node has is elsewhere too, as long as that is worth it.
    async fn hand_over(&self) {
        self.network.wake_publisher();
        let end = Instant::now() + HAND_OVER_MAX;
        let left = || self.local.owed_totals().0 > 0 || self.announcer.pending() > 0;
        while left() && Instant::now() < end && !live_peers(&self.network).is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.network.hand_over().await;
    }

    /// The filesystem.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Cancelled when the node begins to leave.
    pub(crate) fn leaving(&self) -> CancellationToken {
        self.stop_api.clone()
    }

    /// Counts an upload until dropped; a node that leaves lets it clean up behind itself.
    pub(crate) fn upload(&self) -> TaskTrackerToken {
        self.uploads.token()
    }

    /// What files are called that have not arrived whole.
    pub(crate) fn temporaries(&self) -> &Temporaries {
        &self.temporaries
    }

    /// Tells the publisher that there is something new.
    pub(crate) fn wake_publisher(&self) {
        self.network.wake_publisher();
    }

    /// Ends when the last mount is gone, if there was one.
    pub(crate) async fn mounts_gone(&self) {
        self.mounts.all_gone().await;
    }

    /// The line that a daemon starts its output with.
    pub(crate) fn greeting(&self) -> String {
        format!("listening on {} as {}", self.network.local_addr(), self.network.node_id())
    }

    /// Mounts the view.
    pub(crate) fn mount(
        &self,
        dir: &Path,
        read_only: bool,
        allow_other: bool,
    ) -> anyhow::Result<()> {
        if !dir.is_absolute() {
            return Err(Failure::usage("a mount point is an absolute path").into());
        }
        self.mounts.mount(&self.view, dir, MountOptions { read_only, allow_other })
    }

    /// Takes a mount away.
    pub(crate) fn unmount(&self, dir: &Path) -> anyhow::Result<()> {
        self.mounts.unmount(dir)
    }

    /// The view's path of an absolute path in one of the mounts.
    pub(crate) fn path_in_mount(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        self.mounts.path_in(path)
    }

    /// Makes a volume of our own.
    pub(crate) fn create_volume(
        &self,
        name: &str,
        convergence: Convergence,
    ) -> anyhow::Result<VolumeRow> {
        self.volumes.create(&self.view, name, convergence)?;
        self.volume(name)
    }

    /// Takes up a volume that somebody shared. Blocks on the network.
    pub(crate) fn follow_volume(&self, name: &str, link: &Link) -> anyhow::Result<VolumeRow> {
        self.volumes.follow(&self.view, &self.local, &self.network, name, link)?;
        self.volume(name)
    }

    /// A live link to a volume.
    pub(crate) fn share_volume(&self, name: &str, write: bool) -> Result<Link, Failure> {
        self.volumes.share(name, write)
    }

    /// Forgets a volume.
    pub(crate) fn forget_volume(&self, name: &str, force: bool) -> anyhow::Result<()> {
        self.volumes.forget(&self.view, name, force)
    }

    /// Whether the keyring is locked, and with it everything that needs a key.
    pub(crate) fn is_locked(&self) -> bool {
        self.volumes.is_locked()
    }

    /// Collects garbage; with `dry_run` says what would go.
    pub(crate) fn collect(&self, dry_run: bool) -> anyhow::Result<Collected> {
        self.collector.collect(dry_run)
    }

    /// Asks for a collection soon.
    pub(crate) fn wake_collector(&self) {
        self.wake_collector.notify_one();
    }

    /// The blocks of this node and of the network.
    pub(crate) fn replicated(&self) -> Replicated {
        Replicated::new(Arc::clone(&self.local), self.network.clone())
    }

    /// Opens a locked keyring and shows the volumes. Slow on purpose.
    pub(crate) fn unlock(&self, passphrase: &Passphrase) -> anyhow::Result<()> {
        self.volumes.unlock(&self.view, passphrase)?;
        self.announce_heads();
        Ok(())
    }

    fn announce_heads(&self) {
        let heads = self.volumes.heads(&*self.local);
        heads.into_iter().for_each(|head| self.announcer.offer(head));
    }

    /// Closes every volume and forgets the keys.
    pub(crate) fn lock_keys(&self) -> anyhow::Result<()> {
        self.volumes.lock(&self.view)
    }

    /// Sets another passphrase of the keyring, or takes it off. Slow on purpose.
    pub(crate) fn set_passphrase(
        &self,
        current: Option<&Passphrase>,
        new: Option<&Passphrase>,
    ) -> anyhow::Result<()> {
        self.volumes.set_passphrase(&self.view, current, new)?;
        self.announce_heads();
        Ok(())
    }
}

/// Refuses a home that lost its keyring. A new one would know none of the volumes that are in the
/// store, and a collection would take their blocks for garbage.
fn check_keyring_is_there(home: &Home, local: &Local) -> anyhow::Result<()> {
    if home.keyring().exists() || local.scan(Table::Bases, b"")?.is_empty() {
        return Ok(());
    }
    let (keyring, store) = (home.keyring(), home.store());
    let text = format!(
        "{} is missing, and the store holds volumes that it alone opens: bring it back from a \
         backup, or move {} away to begin anew",
        keyring.display(),
        store.display()
    );
    Err(Failure::failed(text).into())
}

/// Opens what a home holds. Blocks.
fn open_home(
    home: &Home,
    config: LocalConfig,
    passphrase: Option<&Passphrase>,
) -> anyhow::Result<(Arc<Local>, Identity, Arc<Volumes>)> {
    let at = || format!("in the home {}", home.dir().display());
    let identity = identity::open(&home.identity())?;
    // How far a block is from this node decides when it is evicted.
    let config = LocalConfig { point: Some(*identity.node_id().as_bytes()), ..config };
    let local = Local::open(&home.store(), config).with_context(at)?;
    check_keyring_is_there(home, &local)?;
    let volumes = Volumes::open(home, passphrase)?;
    Ok((Arc::new(local), identity, Arc::new(volumes)))
}

async fn start_network(
    home: &Home,
    settings: &Settings,
    config: NetConfig,
    identity: Identity,
    local: &Arc<Local>,
) -> Result<Network, StartError> {
    if !settings.takes_usual_port() {
        return Network::start(config, identity, Arc::clone(local)).await;
    }
    let mut usual = config.clone();
    usual.listen.set_port(port::last(&home.port()).unwrap_or(0));
    let started = match Network::start(usual, identity.clone(), Arc::clone(local)).await {
        Err(StartError::PortInUse { addr }) => {
            tracing::warn!(%addr, "the port of the last run is taken; peers have to learn a new one");
            Network::start(config, identity, Arc::clone(local)).await?
        }
        started => started?,
    };
    port::remember(&home.port(), started.local_addr().port());
    Ok(started)
}

fn make_view(
    local: &Arc<Local>,
    network: &Network,
    announcer: &Arc<Announcer>,
    replicas: u8,
) -> Arc<View> {
    let config = ViewConfig {
        replicas,
        replica_target: {
            let network = network.clone();
            Arc::new(move || network.ack_target())
        },
        owner: Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
        heads: {
            let (network, runtime) = (network.clone(), Handle::current());
            Arc::new(move |volume| fetch_head(&runtime, &network, volume))
        },
        ..ViewConfig::default()
    };
    let blocks = Arc::new(Replicated::new(Arc::clone(local), network.clone()));
    let inventory: Arc<dyn Inventory> = Arc::clone(local) as _;
    let ledger: Arc<dyn Ledger> = Arc::clone(local) as _;
    let announcer = Arc::clone(announcer);
    let announce = Arc::new(move |head: Head| announcer.offer(head));
    View::new(config, blocks, inventory, ledger, announce)
}

/// The newest head of a volume that a live link names. Blocks.
fn fetch_head(
    runtime: &Handle,
    network: &Network,
    volume: VolumeId,
) -> Result<Option<Head>, ReadError> {
    runtime.block_on(network.fetch_head(volume)).map_err(|error| match error {
        xorfs_net::FetchError::Unreachable { waited, .. } => {
            ReadError::Unreachable { id: volume.point(), waited }
        }
        xorfs_net::FetchError::Stopped => ReadError::Missing { id: volume.point() },
    })
}
