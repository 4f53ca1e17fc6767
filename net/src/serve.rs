//! What this node does for others, from its store. Blocks, so it runs on a blocking thread.
//!
//! Nothing is kept that was not checked: a block against its id, a head against its signature. A
//! store that fails answers "not here" or "failed", never wrong bytes. Nothing here knows
//! connections; limits on how much is served at a time are the driver's.

use std::sync::Mutex;

use bytes::Bytes;
use xorfs_store::{
    Batch, Block, BlockId, Class, Head, Inventory, Ledger, ReadError, Table, VolumeId, WriteError,
};

use crate::identity::NodeId;
use crate::kad::{Key, Peer};
use crate::wire::{Offered, Refusal, Request, Response};

/// A local store, as far as the network uses it.
pub(crate) trait Holdings: Inventory + Ledger {}

impl<S: Inventory + Ledger> Holdings for S {}

/// What answers need to know about the routing table.
pub(crate) trait Routes {
    /// Peers close to `key`, for `asker`.
    fn closest(&self, key: &Key, asker: &NodeId) -> Vec<Peer>;
    /// Whether this node is close enough to keep things at `key`.
    fn is_close_to(&self, key: &Key) -> bool;
    /// Whether `asker` may send a block that is wanted; false where it is on its way from
    /// somebody else.
    fn expect(&self, id: BlockId, asker: &NodeId) -> bool;
    /// A block that the store holds turned out to be corrupt.
    fn on_corrupt(&self, id: BlockId);
}

/// Serves requests from a store.
pub(crate) struct Server<'a, R> {
    pub(crate) store: &'a dyn Holdings,
    pub(crate) routes: &'a R,
    /// Held while a head is compared and written, so that no older one overtakes a newer.
    pub(crate) head_gate: &'a Mutex<()>,
}

impl<R: Routes> Server<'_, R> {
    /// Answers one request of `asker`.
    pub(crate) fn serve(
        &self,
        asker: &NodeId,
        request: Request,
        payload: Bytes,
    ) -> (Response, Bytes) {
        let response = match request {
            Request::Ping => Response::Pong,
            Request::Sync => kept(self.store.flush()),
            Request::FindNode { key } => self.peers(&key, asker),
            Request::FindBlock { id } => return self.block(BlockId::from_bytes(id), asker),
            Request::FindHead { volume } => {
                return self.head(VolumeId::from_bytes(volume), asker);
            }
            Request::Offer { ids } => Response::Offered(self.offered(asker, &ids)),
            Request::Store { id, .. } => self.keep_block(BlockId::from_bytes(id), payload),
            Request::StoreHead { .. } => self.keep_head(payload),
        };
        (response, Bytes::new())
    }

    fn peers(&self, key: &Key, asker: &NodeId) -> Response {
        Response::Peers { peers: self.routes.closest(key, asker) }
    }

    fn block(&self, id: BlockId, asker: &NodeId) -> (Response, Bytes) {
        match self.store.get(&id) {
            Ok(block) => {
                let bytes = block.bytes().clone();
                (Response::Block { length: bytes.len() as u32 }, bytes)
            }
            Err(error) => {
                if matches!(error, ReadError::Corrupt { .. }) {
                    self.routes.on_corrupt(id);
                }
                (self.peers(&Key::from(id), asker), Bytes::new())
            }
        }
    }

    fn head(&self, volume: VolumeId, asker: &NodeId) -> (Response, Bytes) {
        let peers = self.routes.closest(&Key::from(volume), asker);
        match stored_head(self.store, volume) {
            Some(head) => {
                let bytes = head.encoded().clone();
                (Response::Head { length: bytes.len() as u32, peers }, bytes)
            }
            None => (Response::Peers { peers }, Bytes::new()),
        }
    }

    fn offered(&self, asker: &NodeId, ids: &[[u8; 32]]) -> Offered {
        let usage = self.store.usage();
        // Cached blocks make way for blocks in range, so they leave room.
        let kept_bytes = usage.pinned_bytes + usage.in_range_bytes;
        let room = kept_bytes < usage.quota_bytes && usage.disk_free_bytes > 0;
        let mut offered = Offered::default();
        for (index, id) in ids.iter().enumerate() {
            let id = BlockId::from_bytes(*id);
            match self.store.contains(&id) {
                Ok(true) => offered.set_held(index),
                Ok(false) if room && self.routes.is_close_to(&Key::from(id)) => {
                    if self.routes.expect(id, asker) {
                        offered.set_wanted(index);
                    } else {
                        offered.set_coming(index);
                    }
                }
                Ok(false) | Err(_) => {}
            }
        }
        offered
    }

    fn keep_block(&self, id: BlockId, payload: Bytes) -> Response {
        let Ok(block) = Block::verified(id, payload) else {
            return Response::Refused(Refusal::Invalid);
        };
        if !self.routes.is_close_to(&Key::from(id)) {
            return Response::Refused(Refusal::NotClose);
        }
        kept(self.store.put(&block, Class::InRange))
    }

    fn keep_head(&self, payload: Bytes) -> Response {
        let Ok(head) = Head::decode(payload) else {
            return Response::Refused(Refusal::Invalid);
        };
        if !self.routes.is_close_to(&Key::from(head.volume())) {
            return Response::Refused(Refusal::NotClose);
        }
        let _gate = self.head_gate.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if stored_head(self.store, head.volume()).is_some_and(|held| !head.supersedes(&held)) {
            return Response::Stored;
        }
        let mut batch = Batch::new();
        batch.put(Table::Heads, head.volume().as_bytes().as_slice(), head.encoded().clone());
        kept(self.store.commit(batch))
    }
}

/// The head of a volume in the ledger, if one is there that verifies.
pub(crate) fn stored_head(ledger: &dyn Holdings, volume: VolumeId) -> Option<Head> {
    let encoded = ledger.read(Table::Heads, volume.as_bytes()).ok().flatten()?;
    Head::decode(encoded).ok().filter(|head| head.volume() == volume)
}

fn kept(result: Result<(), WriteError>) -> Response {
    match result {
        Ok(()) => Response::Stored,
        Err(WriteError::Full { .. }) => Response::Refused(Refusal::Full),
        Err(WriteError::Poisoned { .. } | WriteError::Io(_)) => Response::Refused(Refusal::Failed),
    }
}
