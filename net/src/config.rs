//! Settings of a node, with their defaults and the reasons for them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How a node behaves. `NetConfig::default()` suits a home machine; tests shorten the times.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// UDP address to listen on. Default: any IPv4 interface, a port that the system picks.
    pub listen: SocketAddr,
    /// Addresses of nodes to join the network through. Default: none.
    pub join: Vec<SocketAddr>,
    /// Copies of each block. Default 5: with a month of node life and repair within hours, a
    /// block is lost once in millions of years.
    pub replicas: u8,
    /// Copies after which a head counts as published, or all nodes where there are fewer.
    /// Default 3: two may fail before repair has caught up.
    pub acks: u8,
    /// How long a peer may take to answer a small request. Default 5 s: several round trips to
    /// the far side of the world on a congested link.
    pub request_timeout: Duration,
    /// How long a request that carries a block may take. Default 20 s: 1 MiB at 50 KiB/s.
    pub transfer_timeout: Duration,
    /// How long a peer may be silent in a lookup before the next one is asked as well, where
    /// its own answers say no less, and before whether it lives is checked. Default 1 s: above
    /// all healthy round trips.
    pub hedge_delay: Duration,
    /// How long a peer has to answer when its life is in doubt, connecting included. Default
    /// 3 s: less makes a busy machine look dead.
    pub ping_timeout: Duration,
    /// How long a reader waits for a block before the read fails. Default 30 s.
    pub fetch_deadline: Duration,
    /// Time between two repair passes. Default 10 min: a pass costs up to 3 kB
    /// a neighbour where nothing is lost. A peer that fell silent is waited for as long.
    pub repair_interval: Duration,
    /// How long to wait after a peer came or went before publishing and repairing anew.
    /// Default 2 s: one pass then serves a whole burst of changes.
    pub settle_delay: Duration,
    /// Interval of the keep-alive that tells whether a connection lives. Default 5 s.
    pub keep_alive: Duration,
    /// Silence after which a connection is given up. Default 15 s: three keep-alives lost.
    pub idle_timeout: Duration,
    /// Whether the kernel splits large sends into packets. Default true, which halves the cost of
    /// sending; some network drivers fail such sends.
    pub segmentation_offload: bool,
    /// Blocks fetched ahead of their readers at the same time. Default 16: hides the round trip
    /// at 256 KiB a block without filling memory.
    pub prefetch_parallel: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            join: Vec::new(),
            replicas: 5,
            acks: 3,
            request_timeout: Duration::from_secs(5),
            transfer_timeout: Duration::from_secs(20),
            hedge_delay: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(3),
            fetch_deadline: Duration::from_secs(30),
            repair_interval: Duration::from_secs(600),
            settle_delay: Duration::from_secs(2),
            keep_alive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(15),
            segmentation_offload: true,
            prefetch_parallel: 16,
        }
    }
}
