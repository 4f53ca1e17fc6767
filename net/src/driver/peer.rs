//! Connections to peers, and single requests on them in both directions.
//!
//! A peer has one connection that both sides use; where both dialled at once there are two for
//! a while, and the newest is used, because after a restart only the newest lives. Lock order:
//! `Links` is never locked together with the node.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::OwnedSemaphorePermit;
use xorfs_store::{Block, BlockId, ReadError};

use crate::driver::endpoint::{self, CODE_BUSY, CODE_LEAVING, CODE_WRONG_NODE};
use crate::driver::{Shared, clock};
use crate::identity::NodeId;
use crate::kad::Peer;
use crate::limits::CONNECTIONS_MAX;
use crate::node::call::{Answer, Call, CallError};
use crate::replica::proof;
use crate::serve::Server;
use crate::wire::{PREFIX_BYTES, Refusal, Request, Response, header_length};

/// Connections kept per peer: the one in use, and one that still drains.
const PER_PEER_MAX: usize = 2;

/// After a failed dial, how long requests to that peer fail at once instead of dialling again.
const DIAL_PAUSE: Duration = Duration::from_millis(500);

/// When the last dial of a peer failed; locked while one dials, so that only one does.
type DialGate = Arc<tokio::sync::Mutex<Option<Instant>>>;

#[derive(Debug, Default)]
struct Link {
    /// Newest first.
    connections: Vec<Connection>,
    gate: DialGate,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Mutex<HashMap<NodeId, Link>>,
}

impl Links {
    /// Number of connected peers; those that are only being dialled do not count.
    pub(super) fn count(&self) -> usize {
        connected(&self.lock())
    }

    /// The connection to use for a peer, if there is one.
    pub(super) fn live(&self, id: &NodeId) -> Option<Connection> {
        let links = self.lock();
        let connections = links.get(id)?.connections.iter();
        connections.into_iter().find(|open| open.close_reason().is_none()).cloned()
    }

    fn dial(&self, id: NodeId) -> Dial<'_> {
        let gate = Arc::clone(&self.lock().entry(id).or_default().gate);
        Dial { links: self, id, gate }
    }

    fn add(&self, id: NodeId, connection: Connection) -> bool {
        let mut links = self.lock();
        let known = links.get(&id).is_some_and(|link| !link.connections.is_empty());
        if !known && connected(&links) >= CONNECTIONS_MAX {
            return false;
        }
        let connections = &mut links.entry(id).or_default().connections;
        connections.insert(0, connection);
        // Without this one peer could hold any number open under the same name.
        for surplus in connections.drain(PER_PEER_MAX.min(connections.len())..) {
            surplus.close(VarInt::from_u32(CODE_BUSY), b"too many connections");
        }
        true
    }

    /// Forgets a closed connection; true where the peer has no other.
    fn remove(&self, id: &NodeId, stable_id: usize) -> bool {
        let mut links = self.lock();
        let Some(link) = links.get_mut(id) else { return true };
        link.connections
            .retain(|open| open.stable_id() != stable_id && open.close_reason().is_none());
        let last = link.connections.is_empty();
        if last {
            links.remove(id);
        }
        last
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connected(links: &HashMap<NodeId, Link>) -> usize {
    links.values().filter(|link| !link.connections.is_empty()).count()
}

/// A dial under way. However it ends, also where its request is given up meanwhile, the link of
/// a peer that nothing connects to is forgotten: the links would grow by every dead peer.
struct Dial<'a> {
    links: &'a Links,
    id: NodeId,
    gate: DialGate,
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        let mut links = self.links.lock();
        drop(std::mem::take(&mut self.gate));
        let idle = |link: &Link| link.connections.is_empty() && Arc::strong_count(&link.gate) == 1;
        if links.get(&self.id).is_some_and(idle) {
            links.remove(&self.id);
        }
    }
}

impl Shared {
    /// Takes a connection whose handshake is done into use, and serves what comes on it.
    pub(super) fn adopt(self: &Arc<Self>, id: NodeId, connection: Connection) {
        if id == self.own {
            return connection.close(VarInt::from_u32(CODE_WRONG_NODE), b"this is me");
        }
        if !self.links.add(id, connection.clone()) {
            return connection.close(VarInt::from_u32(CODE_BUSY), b"too many connections");
        }
        let peer = proven_peer(id, &connection);
        let shared = Arc::clone(self);
        self.tasks.spawn(async move { shared.serve_connection(id, connection).await });
        self.act(|node, now| node.handle_connected(now, peer));
    }

    /// Makes a request of a peer and checks the answer.
    pub(super) async fn request(
        self: &Arc<Self>,
        to: &Peer,
        call: &Call,
    ) -> Result<Answer, CallError> {
        let block = match call {
            Call::Store(id) => Some(self.block_to_send(*id).await?),
            _ => None,
        };
        let (request, payload) = call.request(block.as_ref())?;
        let connection = self.connection(to).await?;
        let (response, payload) = self.exchange(&connection, &request, payload).await?;
        match (call, call.answer(response, payload)?) {
            (Call::Prove { nonce, ids }, Answer::Proofs(proofs)) => {
                let (store, ids, prover) = (Arc::clone(&self.store), Arc::clone(ids), to.id);
                let nonce = *nonce;
                let checked =
                    move || proof::check(&nonce, &prover, &ids, &proofs, |id| store.get(id).ok());
                self.tasks.blocking(checked).await.map_err(|_| CallError::Unsent)?
            }
            (_, answer) => Ok(answer),
        }
    }

    /// The connection to a peer, dialled where there is none.
    async fn connection(self: &Arc<Self>, to: &Peer) -> Result<Connection, CallError> {
        if let Some(open) = self.links.live(&to.id) {
            return Ok(open);
        }
        let dial = self.links.dial(to.id);
        let mut failed_at = dial.gate.lock().await;
        if let Some(open) = self.links.live(&to.id) {
            return Ok(open);
        }
        if failed_at.is_some_and(|at| clock().duration_since(at) < DIAL_PAUSE) {
            return Err(CallError::Unreachable);
        }
        for address in &to.addresses {
            match endpoint::dial(self, *address, self.config.ping_timeout).await {
                Ok((id, connection)) if id == to.id => {
                    *failed_at = None;
                    self.adopt(id, connection.clone());
                    return Ok(connection);
                }
                Ok((_, other)) => {
                    other.close(VarInt::from_u32(CODE_WRONG_NODE), b"another node was wanted");
                }
                Err(_) => {}
            }
        }
        *failed_at = Some(clock());
        Err(CallError::Unreachable)
    }

    async fn exchange(
        &self,
        connection: &Connection,
        request: &Request,
        payload: Bytes,
    ) -> Result<(Response, Bytes), CallError> {
        let unreachable = |_| CallError::Unreachable;
        let (mut send, mut receive) = connection.open_bi().await.map_err(unreachable)?;
        match self.send_frame(&mut send, request.encode(), payload).await {
            // The answer is on its way already: the peer has what we were sending.
            Ok(()) | Err(quinn::WriteError::Stopped(_)) => {}
            Err(_) => return Err(CallError::Unreachable),
        }
        let header = self.read_header(&mut receive).await?;
        let response = Response::decode(&header).map_err(|_| CallError::Wrong)?;
        let payload = self.read_payload(&mut receive, response.payload_length()).await?;
        Ok((response, payload))
    }

    async fn serve_connection(self: Arc<Self>, id: NodeId, connection: Connection) {
        let ended = loop {
            let (send, receive) = match connection.accept_bi().await {
                Ok(stream) => stream,
                Err(ended) => break ended,
            };
            let Ok(permit) = Arc::clone(&self.serving).acquire_owned().await else { return };
            let asker = proven_peer(id, &connection);
            self.act(|node, now| node.handle_request(now, asker));
            let shared = Arc::clone(&self);
            self.tasks.spawn(async move { shared.serve_stream(id, send, receive, permit).await });
        };
        if self.links.remove(&id, connection.stable_id()) {
            let left = matches!(&ended, ConnectionError::ApplicationClosed(close)
                if close.error_code == VarInt::from_u32(CODE_LEAVING));
            tracing::debug!(peer = %id, reason = %ended, "connection closed");
            self.act(|node, now| node.handle_disconnected(now, &id, left));
        }
    }

    async fn serve_stream(
        self: Arc<Self>,
        asker: NodeId,
        mut send: SendStream,
        mut receive: RecvStream,
        _permit: OwnedSemaphorePermit,
    ) {
        let limit = self.config.transfer_timeout;
        let served =
            tokio::time::timeout(limit, self.serve_request(asker, &mut send, &mut receive));
        match served.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(peer = %asker, %error, "request not served"),
            Err(_) => tracing::debug!(peer = %asker, "request took too long to serve"),
        }
    }

    async fn serve_request(
        self: &Arc<Self>,
        asker: NodeId,
        send: &mut SendStream,
        receive: &mut RecvStream,
    ) -> Result<(), CallError> {
        let header = self.read_header(receive).await?;
        let request = Request::decode(&header).map_err(|_| CallError::Wrong)?;
        let length = request.payload_length();
        let (response, payload) = if request == Request::Sync {
            let synced = self.commits.synced().await;
            let failed = Response::Refused(Refusal::Failed);
            (if synced { Response::Stored } else { failed }, Bytes::new())
        } else if let Request::Store { id, .. } = &request
            && self.holds(BlockId::from_bytes(*id)).await
        {
            // Somebody else was faster; the sender may spare the rest.
            let _ = receive.stop(VarInt::from_u32(0));
            (Response::Stored, Bytes::new())
        } else {
            let budget = self.inbound.acquire_many(length as u32).await;
            let _budget = budget.map_err(|_| CallError::Unreachable)?;
            let payload = self.read_payload(receive, length).await?;
            let stored = match &request {
                Request::Store { id, .. } => Some(BlockId::from_bytes(*id)),
                _ => None,
            };
            let answered = self.answer(asker, request, payload).await?;
            if let Some(id) = stored {
                self.expected.forget(&id);
            }
            answered
        };
        self.send_frame(send, response.encode(), payload).await.map_err(|_| CallError::Unreachable)
    }

    async fn answer(
        self: &Arc<Self>,
        asker: NodeId,
        request: Request,
        payload: Bytes,
    ) -> Result<(Response, Bytes), CallError> {
        let shared = Arc::clone(self);
        let serve = move || {
            let server =
                Server { store: &*shared.store, routes: &shared, head_gate: &shared.head_gate };
            server.serve(&asker, request, payload)
        };
        self.tasks.blocking(serve).await.map_err(|_| CallError::Unreachable)
    }

    async fn holds(self: &Arc<Self>, id: BlockId) -> bool {
        let store = Arc::clone(&self.store);
        let held = self.tasks.blocking(move || store.contains(&id)).await;
        matches!(held, Ok(Ok(true)))
    }

    /// A block that goes to several peers one after the other is read once.
    async fn block_to_send(self: &Arc<Self>, id: BlockId) -> Result<Block, CallError> {
        if let Some(block) = self.sending.find(&id) {
            return Ok(block);
        }
        let store = Arc::clone(&self.store);
        let read = self.tasks.blocking(move || store.get(&id)).await;
        let block = read.map_err(|_| CallError::Unsent)?.map_err(|error| {
            tracing::warn!(block = %id, %error, "a block to be sent does not read");
            if matches!(error, ReadError::Corrupt { .. }) {
                self.heal(id);
            }
            CallError::Unsent
        })?;
        self.sending.keep(block.clone());
        Ok(block)
    }

    async fn send_frame(
        &self,
        send: &mut SendStream,
        header: Bytes,
        payload: Bytes,
    ) -> Result<(), quinn::WriteError> {
        let length = (header.len() + payload.len()) as u64;
        send.write_all_chunks(&mut [header, payload]).await?;
        // Fails only on a stream that is finished or reset, which this one is not.
        let _ = send.finish();
        self.counters.bytes_out.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    async fn read_header(&self, receive: &mut RecvStream) -> Result<Vec<u8>, CallError> {
        let mut prefix = [0; PREFIX_BYTES];
        receive.read_exact(&mut prefix).await.map_err(|_| CallError::Unreachable)?;
        let length = header_length(prefix).map_err(|_| CallError::Wrong)?;
        let mut header = vec![0; length];
        receive.read_exact(&mut header).await.map_err(|_| CallError::Unreachable)?;
        self.counters.bytes_in.fetch_add((PREFIX_BYTES + length) as u64, Ordering::Relaxed);
        Ok(header)
    }

    async fn read_payload(
        &self,
        receive: &mut RecvStream,
        length: usize,
    ) -> Result<Bytes, CallError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut payload = vec![0; length];
        receive.read_exact(&mut payload).await.map_err(|_| CallError::Unreachable)?;
        self.counters.bytes_in.fetch_add(length as u64, Ordering::Relaxed);
        Ok(payload.into())
    }
}

/// A connected peer under the address that its packets come from.
fn proven_peer(id: NodeId, connection: &Connection) -> Peer {
    let mut address = connection.remote_address();
    address.set_ip(address.ip().to_canonical());
    Peer { id, addresses: vec![address] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_leave_nothing_behind_and_do_not_count() {
        let (links, id) = (Links::default(), NodeId::from_bytes([1; 32]));
        let (first, second) = (links.dial(id), links.dial(id));
        assert!(Arc::ptr_eq(&first.gate, &second.gate), "one dials at a time");
        assert_eq!(links.count(), 0);
        drop(first);
        assert!(Arc::ptr_eq(&links.dial(id).gate, &second.gate));
        drop(second);
        assert!(links.lock().is_empty());
    }
}
