//! Getting into the network and back into it: join addresses, peers of the last run, saving.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use xorfs_store::{Batch, Table};

use crate::driver::{Shared, endpoint};
use crate::error::StartError;
use crate::identity::NodeId;
use crate::kad::{Key, Peer};
use crate::limits::{ADDRESSES_MAX, SAVED_PEERS_MAX};
use crate::node::call::Call;
use crate::serve::Holdings;

/// Wait before a join address is tried again; doubled up to `RETRY_LAST`.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// How long after a change the known peers are saved; spares writes while many change.
const SAVE_DELAY: Duration = Duration::from_secs(5);

/// The peers saved by the last run.
pub(super) fn saved(store: &dyn Holdings) -> Result<Vec<Peer>, StartError> {
    let records = store.scan(Table::Peers, &[])?;
    let peers = records.into_iter().filter_map(|(key, value)| {
        let id = NodeId::from_bytes(key.try_into().ok()?);
        let mut addresses: Vec<SocketAddr> = postcard::from_bytes(&value).ok()?;
        addresses.truncate(ADDRESSES_MAX);
        Some(Peer { id, addresses })
    });
    Ok(peers.take(SAVED_PEERS_MAX).collect())
}

/// Keeps one join address: connects to it, again whenever this node has lost everybody. Each
/// first attempt is reported to `tried`.
pub(super) async fn keep(shared: Arc<Shared>, address: SocketAddr, tried: mpsc::Sender<bool>) {
    let mut changes = shared.changes.subscribe();
    let (mut retry, mut joined) = (RETRY_FIRST, false);
    loop {
        if !joined || shared.live_peers() == 0 {
            joined = join(&shared, address).await;
            // Only the first attempt has a listener.
            let _ = tried.try_send(joined);
            if !joined {
                tracing::warn!(%address, retry_s = retry.as_secs(), "could not join through peer");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_LAST);
                continue;
            }
            retry = RETRY_FIRST;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Tries the peers of the last run, all at once, until this node has company. The first attempt
/// is reported to `tried`.
pub(super) async fn recall(shared: Arc<Shared>, peers: Vec<Peer>, tried: mpsc::Sender<bool>) {
    let mut retry = RETRY_FIRST;
    loop {
        let dials = peers.iter().map(|peer| {
            let shared = Arc::clone(&shared);
            async move {
                let asked = shared.request(peer, &Call::Ping);
                // One peer that connects and never answers must not keep the others waiting.
                let limit = shared.config.transfer_timeout;
                matches!(tokio::time::timeout(limit, asked).await, Ok(Ok(_)))
            }
        });
        let joined = futures_util::future::join_all(dials).await.contains(&true);
        if joined {
            find_neighbours(&shared).await;
        }
        // Only the first attempt has a listener.
        let _ = tried.try_send(joined);
        if joined || shared.live_peers() > 0 {
            return;
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_LAST);
    }
}

/// Saves the known peers whenever they have changed.
pub(super) async fn save(shared: Arc<Shared>) {
    let mut changes = shared.changes.subscribe();
    while changes.changed().await.is_ok() {
        tokio::time::sleep(SAVE_DELAY).await;
        changes.borrow_and_update();
        let saving = Arc::clone(&shared);
        let saved = shared.tasks.blocking(move || write(&saving)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "known peers could not be saved");
        }
    }
}

async fn join(shared: &Arc<Shared>, address: SocketAddr) -> bool {
    match endpoint::dial(shared, address, shared.config.ping_timeout).await {
        Ok((id, connection)) => {
            shared.adopt(id, connection);
            find_neighbours(shared).await;
            true
        }
        Err(_) => false,
    }
}

async fn find_neighbours(shared: &Arc<Shared>) {
    let own = Key::from(shared.own);
    shared.operate(|node, now| node.find_nodes(now, own)).outcome().await;
}

/// Replaces the saved peers by the living ones. Where nobody lives the old ones stay.
pub(super) fn write(shared: &Shared) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let peers = shared.with_node(|node| {
        let entries = node.table().iter().take(SAVED_PEERS_MAX);
        entries.map(|entry| entry.peer.clone()).collect::<Vec<_>>()
    });
    if peers.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    for (key, _) in shared.store.scan(Table::Peers, &[])? {
        if !peers.iter().any(|peer| peer.id.as_bytes().as_slice() == key) {
            batch.delete(Table::Peers, key);
        }
    }
    for peer in &peers {
        let addresses = postcard::to_stdvec(&peer.addresses)?;
        batch.put(Table::Peers, peer.id.as_bytes().as_slice(), addresses);
    }
    shared.store.commit(batch)?;
    Ok(())
}
