//! What a running node tells of itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::driver::{Network, clock};
use crate::identity::NodeId;

/// A peer that is believed to live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its id, proven by its key.
    pub id: NodeId,
    /// Where it was reached last.
    pub address: Option<SocketAddr>,
    /// Round trip of its connection, where there is one.
    pub rtt: Option<Duration>,
    /// Whether there is a connection to it now.
    pub connected: bool,
    /// How long ago it was heard of.
    pub last_seen: Duration,
}

/// What repair has done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepairStatus {
    /// Passes over all held blocks that were finished.
    pub passes: u64,
    /// Blocks whose copies were counted.
    pub checked: u64,
    /// Copies that were sent because one was missing.
    pub sent: u64,
    /// Whether a pass is under way.
    pub running: bool,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetStatus {
    /// Peers that are believed to live, this node not included.
    pub peers: usize,
    /// Blocks of this home that the network does not hold often enough yet.
    pub owed_blocks: u64,
    /// Their sealed bytes.
    pub owed_bytes: u64,
    /// Owed blocks that reached all nodes they should since the start.
    pub published_blocks: u64,
    /// Bytes of messages and payloads received since the start.
    pub bytes_in: u64,
    /// Bytes of messages and payloads sent since the start.
    pub bytes_out: u64,
    /// Repair.
    pub repair: RepairStatus,
}

/// Sums since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) published: AtomicU64,
    pub(super) repair_passes: AtomicU64,
    pub(super) repair_checked: AtomicU64,
    pub(super) repair_sent: AtomicU64,
    pub(super) repair_running: AtomicBool,
}

impl Network {
    /// The peers that are believed to live, the closest to this node first.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let (shared, now) = (self.shared(), clock());
        let own = shared.own.into();
        let known = shared.with_node(|node| {
            let entries = node.table().closest(&own, usize::MAX).into_iter();
            entries.map(|entry| (entry.peer.clone(), entry.last_seen)).collect::<Vec<_>>()
        });
        let status = known.into_iter().map(|(peer, last_seen)| {
            let live = shared.links.live(&peer.id);
            PeerStatus {
                id: peer.id,
                address: peer.addresses.first().copied(),
                rtt: live.as_ref().map(quinn::Connection::rtt),
                connected: live.is_some(),
                last_seen: now.saturating_duration_since(last_seen),
            }
        });
        status.collect()
    }

    /// What this node is doing.
    pub fn status(&self) -> NetStatus {
        let shared = self.shared();
        let counters = &shared.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (owed_blocks, owed_bytes) = shared.store.owed_totals();
        NetStatus {
            peers: shared.live_peers(),
            owed_blocks,
            owed_bytes,
            published_blocks: count(&counters.published),
            bytes_in: count(&counters.bytes_in),
            bytes_out: count(&counters.bytes_out),
            repair: RepairStatus {
                passes: count(&counters.repair_passes),
                checked: count(&counters.repair_checked),
                sent: count(&counters.repair_sent),
                running: counters.repair_running.load(Ordering::Relaxed),
            },
        }
    }
}
