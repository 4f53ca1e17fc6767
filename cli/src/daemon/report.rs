//! What a node tells about itself: status, peers, volumes, copies.

use xorfs_fuse::VolumeStatus;
use xorfs_store::{BlockId, Head, Inventory};

use crate::api::types::{
    Copies, KeyringState, Name, PeerRow, Replication, Space, Status, VolumeRow,
};
use crate::daemon::Daemon;
use crate::daemon::lock::Role;
use crate::daemon::volumes::Unopened;
use crate::exit::Failure;

impl Daemon {
    /// Everything that `xorfs status` shows.
    pub(crate) fn status(&self) -> anyhow::Result<Status> {
        let network = self.network.status();
        let usage = self.local.usage();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.network.node_id().to_string(),
            address: self.network.local_addr().to_string(),
            pid: std::process::id(),
            home: Name::from(self.home.dir()),
            daemon: self.role == Role::Daemon,
            uptime_s: self.started.elapsed().as_secs(),
            bytes_sent: network.bytes_out,
            bytes_received: network.bytes_in,
            replication: self.replication(),
            space: Space {
                pinned_bytes: usage.pinned_bytes,
                in_range_bytes: usage.in_range_bytes,
                cached_bytes: usage.cached_bytes,
                staged_bytes: usage.staged_bytes,
                reclaimable_bytes: usage.reclaimable_bytes,
                occupied_bytes: usage.occupied_bytes,
                blocks: usage.blocks,
                bad_blocks: usage.bad_blocks,
                quota_bytes: (usage.quota_bytes != u64::MAX).then_some(usage.quota_bytes),
                disk_free_bytes: usage.disk_free_bytes,
            },
            last_gc: self.collector.last(),
            keyring: KeyringState {
                passphrase: self.volumes.has_passphrase(),
                locked: self.volumes.is_locked(),
            },
            volumes: self.volumes(),
            mounts: self.mounts.dirs().iter().map(|dir| Name::from(dir.as_path())).collect(),
        })
    }

    /// How far replication is.
    pub(crate) fn replication(&self) -> Replication {
        let network = self.network.status();
        Replication {
            live_peers: network.peers as u64,
            expects_peers: self.expects_peers,
            target: self.network.ack_target(),
            owed_blocks: network.owed_blocks,
            owed_bytes: network.owed_bytes,
            heads_pending: self.announcer.pending() as u64,
            published_blocks: network.published_blocks,
        }
    }

    /// The other nodes that are known.
    pub(crate) fn peers(&self) -> Vec<PeerRow> {
        let row = |peer: xorfs_net::PeerStatus| PeerRow {
            id: peer.id.to_string(),
            address: peer.address.map(|at| at.to_string()).unwrap_or_default(),
            connected: peer.connected,
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
            last_seen_s: peer.last_seen.as_secs_f64(),
        };
        self.network.peers().into_iter().map(row).collect()
    }

    /// The volumes of this home.
    pub(crate) fn volumes(&self) -> Vec<VolumeRow> {
        let opened = self.view.volumes();
        let unopened = self.volumes.unopened();
        let unopened = unopened.iter().map(|(name, volume)| unopened_row(name, volume));
        let mut rows: Vec<_> = opened.iter().map(volume_row).chain(unopened).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    /// One volume.
    pub(crate) fn volume(&self, name: &str) -> anyhow::Result<VolumeRow> {
        let found = self.volumes().into_iter().find(|volume| volume.name == name);
        let missing = || Failure::not_found(format!("there is no volume named {name:?}"));
        Ok(found.ok_or_else(missing)?)
    }

    /// How many nodes hold these blocks, as far as this one knows.
    pub(crate) fn copies(&self, blocks: &[BlockId]) -> anyhow::Result<Copies> {
        let target = self.network.ack_target();
        let mut copies = Copies { blocks: 0, lacking: 0, lowest: u8::MAX, target };
        for id in blocks {
            let held = self.local.copies(id)?;
            copies.blocks += 1;
            copies.lacking += u64::from(held < target);
            copies.lowest = copies.lowest.min(held);
        }
        if blocks.is_empty() {
            copies.lowest = target;
        }
        Ok(copies)
    }
}

fn volume_row(volume: &VolumeStatus) -> VolumeRow {
    VolumeRow {
        name: volume.name.clone(),
        id: volume.id.to_string(),
        writable: volume.writable,
        sequence: volume.head.as_ref().map_or(0, Head::sequence),
        sealed: volume.sealed,
        dirty_bytes: volume.dirty_bytes,
        seal_error: volume.seal_error.clone(),
        open_error: None,
    }
}

fn unopened_row(name: &str, volume: &Unopened) -> VolumeRow {
    VolumeRow {
        name: name.to_owned(),
        id: volume.id.to_string(),
        writable: volume.writable,
        sequence: 0,
        sealed: false,
        dirty_bytes: 0,
        seal_error: None,
        open_error: Some(volume.error.clone()),
    }
}
