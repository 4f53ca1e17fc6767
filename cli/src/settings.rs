//! Settings: arguments and environment, checked once.
//!
//! There is no settings file yet: every setting is a flag of `xorfs daemon` with an environment
//! variable beside it, and a command that runs a node of its own reads the variables. Names of
//! peers are resolved here, so that one that does not resolve is a warning and not the end.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use xorfs_net::NetConfig;
use xorfs_store::LocalConfig;

use crate::args::{DaemonArgs, NodeArgs};
use crate::exit::Failure;

/// Shortest time that may be asked for between two rounds of anything: protects peers and this
/// machine from a slip of the pen.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What a node runs with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    listen: Option<SocketAddr>,
    /// Whether the port of the last run is taken where none was asked for.
    usual_port: bool,
    node: NodeArgs,
}

/// The settings of a node, from the environment alone.
#[derive(Debug, Parser)]
struct FromEnvironment {
    #[command(flatten)]
    node: NodeArgs,
}

impl Settings {
    /// Settings of `xorfs daemon`.
    pub(crate) fn of_daemon(args: &DaemonArgs) -> Result<Self, Failure> {
        Self::checked(args.listen, args.listen.is_none(), args.node.clone())
    }

    /// Settings of a command that runs a node of its own: a free port, the rest from the
    /// environment.
    pub(crate) fn of_command() -> Result<Self, Failure> {
        let parsed = FromEnvironment::try_parse_from(["xorfs"])
            .map_err(|error| Failure::usage(format!("the environment makes no sense: {error}")))?;
        Self::checked(None, false, parsed.node)
    }

    fn checked(
        listen: Option<SocketAddr>,
        usual_port: bool,
        node: NodeArgs,
    ) -> Result<Self, Failure> {
        for (name, value) in [
            ("--fetch-deadline", node.fetch_deadline),
            ("--repair-interval", node.repair_interval),
            ("--head-poll", node.head_poll),
            ("--gc-interval", node.gc_interval),
        ] {
            if value < INTERVAL_MIN {
                return Err(Failure::usage(format!("{name} is at least 100ms")));
            }
        }
        Ok(Self { listen, usual_port, node })
    }

    /// Whether to listen on the port of the last run, where that is free.
    pub(crate) fn takes_usual_port(&self) -> bool {
        self.usual_port
    }

    /// How often followed volumes are asked for news.
    pub(crate) fn head_poll(&self) -> Duration {
        self.node.head_poll
    }

    /// Shortest time between two garbage collections that changes ask for.
    pub(crate) fn gc_interval(&self) -> Duration {
        self.node.gc_interval
    }

    /// Settings of the local store.
    pub(crate) fn store(&self) -> LocalConfig {
        let quota_bytes = self.node.quota.map(|quota| quota.as_u64());
        LocalConfig { quota_bytes, ..LocalConfig::default() }
    }

    /// Settings of the network, with the peers to join through resolved.
    pub(crate) async fn network(&self) -> NetConfig {
        let mut join = Vec::new();
        for peer in &self.node.join {
            match tokio::net::lookup_host(peer).await {
                Ok(addresses) => join.extend(addresses.filter(|at| self.reaches(at))),
                Err(error) => tracing::warn!(%peer, %error, "could not resolve a peer to join"),
            }
        }
        NetConfig {
            listen: self.listen.unwrap_or_else(|| NetConfig::default().listen),
            join,
            replicas: self.node.replicas,
            acks: NetConfig::default().acks.min(self.node.replicas),
            fetch_deadline: self.node.fetch_deadline,
            repair_interval: self.node.repair_interval,
            ..NetConfig::default()
        }
    }

    /// Whether a socket of our family can send there.
    fn reaches(&self, address: &SocketAddr) -> bool {
        self.listen.is_some_and(|listen| listen.is_ipv6()) || address.is_ipv4()
    }
}
