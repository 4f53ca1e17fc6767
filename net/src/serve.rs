//! What this node does for others, from its store. Blocks, so it runs on a blocking thread.
//!
//! Nothing is kept that was not checked: a block against its id, a head against its signature. A
//! store that fails answers "not here" or "failed", never wrong bytes. Nothing here knows
//! connections; limits on how much is served at a time are the driver's.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use xorfs_store::{
    Batch, Block, BlockId, Head, Inventory, Ledger, Purpose, ReadError, Table, VolumeId, WriteError,
};

use crate::identity::NodeId;
use crate::kad::{Key, Peer};
use crate::limits::HEADS_MAX;
use crate::replica::proof::prove;
use crate::wire::{Name, Nonce, Offered, RangeSum, Refusal, Request, Response};

/// A local store, as far as the network uses it.
pub(crate) trait Holdings: Inventory + Ledger {}

impl<S: Inventory + Ledger> Holdings for S {}

/// What answers need to know about the routing table.
pub(crate) trait Routes {
    /// The id of this node.
    fn own(&self) -> NodeId;
    /// Peers close to `key`, for `asker`.
    fn closest(&self, key: &Key, asker: &NodeId) -> Vec<Peer>;
    /// Whether this node is close enough to keep things at `key`.
    fn is_close_to(&self, key: &Key) -> bool;
    /// Whether `asker` may send a block that is wanted; false where it is on its way from
    /// somebody else.
    fn expect(&self, id: BlockId, asker: &NodeId) -> bool;
    /// In which ranges this node holds something else than `asker` does, as far as both should.
    fn differing(&self, asker: &NodeId, bits: u8, sums: &[RangeSum]) -> Vec<u8>;
    /// A block that was not here before is held for the network now.
    fn on_stored(&self, id: BlockId);
    /// A block that the store holds turned out to be corrupt.
    fn on_corrupt(&self, id: BlockId);
}

/// Serves requests from a store.
pub(crate) struct Server<'a, R> {
    pub(crate) store: &'a dyn Holdings,
    pub(crate) routes: &'a R,
    pub(crate) head_gate: &'a HeadGate,
}

/// Held while a head is compared and written, so that no older one overtakes a newer. Holds the
/// number of volumes whose heads are kept, once somebody counted them.
#[derive(Debug, Default)]
pub(crate) struct HeadGate(Mutex<Option<usize>>);

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
            Request::Prove { nonce, ids } => self.proofs(&nonce, &ids),
            Request::Compare { bits, sums } => {
                Response::Differs { ranges: self.routes.differing(asker, bits, &sums) }
            }
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

    /// What does not read is not had: its proof would be worth nothing, and it is mended.
    fn proofs(&self, nonce: &Nonce, ids: &[Name]) -> Response {
        let own = self.routes.own();
        let proof = |id: &Name| {
            let id = BlockId::from_bytes(*id);
            match self.store.get(&id) {
                Ok(block) => Some(prove(nonce, &own, &block)),
                Err(error) => {
                    if matches!(error, ReadError::Corrupt { .. }) {
                        self.routes.on_corrupt(id);
                    }
                    None
                }
            }
        };
        Response::Proofs { proofs: ids.iter().map(proof).collect() }
    }

    fn keep_block(&self, id: BlockId, payload: Bytes) -> Response {
        let Ok(block) = Block::verified(id, payload) else {
            return Response::Refused(Refusal::Invalid);
        };
        if !self.routes.is_close_to(&Key::from(id)) {
            return Response::Refused(Refusal::NotClose);
        }
        let response = kept(self.store.put(&block, Purpose::Hold));
        if response == Response::Stored {
            self.routes.on_stored(id);
        }
        response
    }

    fn keep_head(&self, payload: Bytes) -> Response {
        let Ok(head) = Head::decode(payload) else {
            return Response::Refused(Refusal::Invalid);
        };
        if !self.routes.is_close_to(&Key::from(head.volume())) {
            return Response::Refused(Refusal::NotClose);
        }
        let mut count = self.head_gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        match stored_head(self.store, head.volume()) {
            Some(held) if !head.supersedes(&held) => return Response::Stored,
            Some(_) => {}
            None => {
                let counted = match *count {
                    Some(counted) => Ok(counted),
                    None => self.store.scan(Table::Heads, &[]).map(|heads| heads.len()),
                };
                match counted {
                    Ok(counted) if counted < HEADS_MAX => *count = Some(counted + 1),
                    Ok(_) => return Response::Refused(Refusal::Full),
                    Err(_) => return Response::Refused(Refusal::Failed),
                }
            }
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

#[cfg(test)]
mod tests {
    use xorfs_store::{Memory, VolumeSecret};

    use super::*;

    /// A node that is close to everything and knows nobody.
    struct Anywhere;

    impl Routes for Anywhere {
        fn own(&self) -> NodeId {
            NodeId::from_bytes([0; 32])
        }

        fn closest(&self, _key: &Key, _asker: &NodeId) -> Vec<Peer> {
            Vec::new()
        }

        fn is_close_to(&self, _key: &Key) -> bool {
            true
        }

        fn expect(&self, _id: BlockId, _asker: &NodeId) -> bool {
            true
        }

        fn differing(&self, _asker: &NodeId, _bits: u8, _sums: &[RangeSum]) -> Vec<u8> {
            Vec::new()
        }

        fn on_stored(&self, _id: BlockId) {}

        fn on_corrupt(&self, _id: BlockId) {}
    }

    #[test]
    fn known_volumes_go_on_where_there_is_no_room_for_others() {
        let (store, head_gate) = (Memory::new(), HeadGate::default());
        let server = Server { store: &store, routes: &Anywhere, head_gate: &head_gate };
        let head = |seed, previous: Option<&Head>| {
            let secret = VolumeSecret::from_bytes([seed; 32]);
            Head::sign(&secret, previous, 1, Bytes::from_static(b"root"))
        };
        let keep = |head: &Head| server.keep_head(head.encoded().clone());
        let first = head(1, None);
        assert_eq!(keep(&first), Response::Stored);
        assert_eq!(*head_gate.0.lock().unwrap(), Some(1));
        *head_gate.0.lock().unwrap() = Some(HEADS_MAX);
        assert_eq!(keep(&head(2, None)), Response::Refused(Refusal::Full));
        assert_eq!(keep(&head(1, Some(&first))), Response::Stored);
        assert_eq!(stored_head(&store, first.volume()).map(|held| held.sequence()), Some(2));
    }
}
