//! The messages. A variant's position is its number on the wire: append, never reorder.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xorfs_store::BLOCK_BYTES_MAX;

use crate::kad::{Key, Peer};
use crate::limits::{ADDRESSES_MAX, HEAD_MAX, K, OFFER_IDS_MAX, PROVE_IDS_MAX, RANGE_BITS_MAX};
use crate::wire::frame::{self, WireError};

/// A block id or a volume id as it is sent.
pub(crate) type Name = [u8; 32];

/// Makes the proofs of one request worthless for another.
pub(crate) type Nonce = [u8; 16];

/// A range of blocks in short: how many there are, and the sum of what stands for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct RangeSum {
    pub(crate) count: u32,
    pub(crate) sum: u64,
}

/// What a node asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Are you there?
    Ping,
    /// Which peers do you know close to this?
    FindNode { key: Key },
    /// This block, or the peers you know close to it.
    FindBlock { id: Name },
    /// The newest head of this volume, and the peers you know close to it.
    FindHead { volume: Name },
    /// Which of these blocks do you have, and which do you want?
    Offer { ids: Vec<Name> },
    /// Keep this block; it is the payload.
    Store { id: Name, length: u32 },
    /// Keep this head; it is the payload.
    StoreHead { length: u32 },
    /// Make every block that you said you stored crash-safe, then answer.
    Sync,
    /// Show that you have these blocks: the proof of each under this nonce.
    Prove { nonce: Nonce, ids: Vec<Name> },
    /// Here is what I hold of the blocks that belong to both of us, a sum for each range of
    /// `bits` leading bits. Where does yours differ?
    Compare { bits: u8, sums: Vec<RangeSum> },
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// To a ping.
    Pong,
    /// To a find that found nothing: the closest peers known.
    Peers { peers: Vec<Peer> },
    /// To a find: the block is the payload.
    Block { length: u32 },
    /// To a find: the head is the payload; others may have a newer one.
    Head { length: u32, peers: Vec<Peer> },
    /// To an offer.
    Offered(Offered),
    /// To a store: it is held, though a crash may still lose it. To a stored head: this or a
    /// newer one is on disk. To a sync: all is on disk.
    Stored,
    /// To a request that was not done.
    Refused(Refusal),
    /// To a request for proofs, in its order; none for a block that is not held.
    Proofs { proofs: Vec<Option<Name>> },
    /// To a comparison: one bit for each range, set where they differ.
    Differs { ranges: Vec<u8> },
}

/// Two bits for each offered id, in the order of the offer. Neither: not held and not wanted.
/// Both: not held yet, and on its way from somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Offered {
    held: Vec<u8>,
    wanted: Vec<u8>,
}

/// What a node says of one offered id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfferReply {
    Held,
    Wanted,
    Coming,
    Refused,
}

/// Why a request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// There is no room.
    Full,
    /// The payload is not what the request says.
    Invalid,
    /// This node is too far from the key to keep it.
    NotClose,
    /// This node failed at it; try another.
    Failed,
}

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        frame::encode(self)
    }

    pub(crate) fn decode(header: &[u8]) -> Result<Self, WireError> {
        let request = frame::decode(header)?;
        match &request {
            Self::Offer { ids } => limit("an offer", ids.len(), 1, OFFER_IDS_MAX)?,
            Self::Store { length, .. } => block_limit(*length)?,
            Self::StoreHead { length } => head_limit(*length)?,
            Self::Prove { ids, .. } => limit("a request for proofs", ids.len(), 1, PROVE_IDS_MAX)?,
            Self::Compare { bits, sums } => {
                limit("a prefix", usize::from(*bits), 0, RANGE_BITS_MAX)?;
                limit("a comparison", sums.len(), 1 << bits, 1 << bits)?;
            }
            Self::Ping
            | Self::FindNode { .. }
            | Self::FindBlock { .. }
            | Self::FindHead { .. }
            | Self::Sync => {}
        }
        Ok(request)
    }

    /// Bytes of payload that follow the header.
    pub(crate) fn payload_length(&self) -> usize {
        match self {
            Self::Store { length, .. } | Self::StoreHead { length } => *length as usize,
            _ => 0,
        }
    }
}

impl Response {
    pub(crate) fn encode(&self) -> Bytes {
        frame::encode(self)
    }

    pub(crate) fn decode(header: &[u8]) -> Result<Self, WireError> {
        let response = frame::decode(header)?;
        match &response {
            Self::Peers { peers } => peers_limit(peers)?,
            Self::Block { length } => block_limit(*length)?,
            Self::Head { length, peers } => {
                head_limit(*length)?;
                peers_limit(peers)?;
            }
            Self::Offered(offered) => {
                limit("a bitmap", offered.held.len(), 0, OFFER_IDS_MAX.div_ceil(8))?;
                limit("a bitmap", offered.wanted.len(), 0, OFFER_IDS_MAX.div_ceil(8))?;
            }
            Self::Proofs { proofs } => limit("a list of proofs", proofs.len(), 0, PROVE_IDS_MAX)?,
            Self::Differs { ranges } => {
                limit("a bitmap", ranges.len(), 0, (1usize << RANGE_BITS_MAX).div_ceil(8))?;
            }
            Self::Pong | Self::Stored | Self::Refused(_) => {}
        }
        Ok(response)
    }

    /// Bytes of payload that follow the header.
    pub(crate) fn payload_length(&self) -> usize {
        match self {
            Self::Block { length } | Self::Head { length, .. } => *length as usize,
            _ => 0,
        }
    }
}

impl Offered {
    /// Says that the id at `index` is held.
    pub(crate) fn set_held(&mut self, index: usize) {
        set(&mut self.held, index);
    }

    /// Says that the id at `index` is wanted.
    pub(crate) fn set_wanted(&mut self, index: usize) {
        set(&mut self.wanted, index);
    }

    /// Says that the id at `index` is on its way from somebody else.
    pub(crate) fn set_coming(&mut self, index: usize) {
        set(&mut self.held, index);
        set(&mut self.wanted, index);
    }

    /// What was said of the id at `index`.
    pub(crate) fn reply(&self, index: usize) -> OfferReply {
        match (is_set(&self.held, index), is_set(&self.wanted, index)) {
            (true, false) => OfferReply::Held,
            (false, true) => OfferReply::Wanted,
            (true, true) => OfferReply::Coming,
            (false, false) => OfferReply::Refused,
        }
    }
}

fn set(bits: &mut Vec<u8>, index: usize) {
    if bits.len() <= index / 8 {
        bits.resize(index / 8 + 1, 0);
    }
    bits[index / 8] |= 1 << (index % 8);
}

fn is_set(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
}

fn limit(what: &'static str, length: usize, min: usize, max: usize) -> Result<(), WireError> {
    if (min..=max).contains(&length) { Ok(()) } else { Err(WireError::Limit { what, length }) }
}

fn block_limit(length: u32) -> Result<(), WireError> {
    limit("a block", length as usize, 1, BLOCK_BYTES_MAX)
}

fn head_limit(length: u32) -> Result<(), WireError> {
    limit("a head", length as usize, 1, HEAD_MAX)
}

fn peers_limit(peers: &[Peer]) -> Result<(), WireError> {
    limit("a list of peers", peers.len(), 0, K)?;
    peers
        .iter()
        .try_for_each(|peer| limit("a list of addresses", peer.addresses.len(), 0, ADDRESSES_MAX))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::NodeId;
    use crate::limits::HEADER_BYTES_MAX;
    use crate::wire::frame::{PREFIX_BYTES, header_length};

    fn peers() -> impl Strategy<Value = Vec<Peer>> {
        let address = any::<(std::net::IpAddr, u16)>().prop_map(SocketAddr::from);
        let peer = (any::<[u8; 32]>(), prop::collection::vec(address, 0..=ADDRESSES_MAX))
            .prop_map(|(id, addresses)| Peer { id: NodeId::from_bytes(id), addresses });
        prop::collection::vec(peer, 0..=K)
    }

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            Just(Request::Ping),
            Just(Request::Sync),
            any::<Name>().prop_map(|key| Request::FindNode { key: Key::from_bytes(key) }),
            any::<Name>().prop_map(|id| Request::FindBlock { id }),
            any::<Name>().prop_map(|volume| Request::FindHead { volume }),
            prop::collection::vec(any::<Name>(), 1..=OFFER_IDS_MAX)
                .prop_map(|ids| Request::Offer { ids }),
            (any::<Name>(), 1..=BLOCK_BYTES_MAX as u32)
                .prop_map(|(id, length)| Request::Store { id, length }),
            (1..=HEAD_MAX as u32).prop_map(|length| Request::StoreHead { length }),
            (any::<Nonce>(), prop::collection::vec(any::<Name>(), 1..=PROVE_IDS_MAX))
                .prop_map(|(nonce, ids)| Request::Prove { nonce, ids }),
            (0..=RANGE_BITS_MAX as u8, any::<(u32, u64)>()).prop_map(|(bits, (count, sum))| {
                Request::Compare { bits, sums: vec![RangeSum { count, sum }; 1 << bits] }
            }),
        ]
    }

    fn responses() -> impl Strategy<Value = Response> {
        let bits = prop::collection::vec(any::<u8>(), 0..=OFFER_IDS_MAX / 8);
        prop_oneof![
            Just(Response::Pong),
            Just(Response::Stored),
            Just(Response::Refused(Refusal::Full)),
            Just(Response::Refused(Refusal::NotClose)),
            peers().prop_map(|peers| Response::Peers { peers }),
            (1..=BLOCK_BYTES_MAX as u32).prop_map(|length| Response::Block { length }),
            (1..=HEAD_MAX as u32, peers())
                .prop_map(|(length, peers)| Response::Head { length, peers }),
            (bits.clone(), bits)
                .prop_map(|(held, wanted)| Response::Offered(Offered { held, wanted })),
            prop::collection::vec(any::<Option<Name>>(), 0..=PROVE_IDS_MAX)
                .prop_map(|proofs| Response::Proofs { proofs }),
            prop::collection::vec(any::<u8>(), 0..=32)
                .prop_map(|ranges| Response::Differs { ranges }),
        ]
    }

    fn header(frame: &Bytes) -> Bytes {
        let prefix = frame[..PREFIX_BYTES].try_into().unwrap();
        assert_eq!(header_length(prefix), Ok(frame.len() - PREFIX_BYTES));
        frame.slice(PREFIX_BYTES..)
    }

    #[test]
    fn the_exchange_in_the_docs() {
        let id = [9; 32];
        let offer = Request::Offer { ids: vec![id] }.encode();
        assert_eq!(offer[..6], [0x22, 0, 0, 0, 4, 1]);
        let mut offered = Offered::default();
        offered.set_wanted(0);
        let answer = Response::Offered(offered.clone()).encode();
        assert_eq!(answer[..], [4, 0, 0, 0, 4, 0, 1, 1]);
        assert_eq!(offered.reply(0), OfferReply::Wanted);
        assert_eq!(offered.reply(8), OfferReply::Refused);
        offered.set_coming(8);
        offered.set_held(9);
        assert_eq!((offered.reply(8), offered.reply(9)), (OfferReply::Coming, OfferReply::Held));
        let store = Request::Store { id, length: 5 }.encode();
        assert_eq!((store[..5].to_vec(), store[37]), (vec![0x22, 0, 0, 0, 5], 5));
        assert_eq!(Response::Stored.encode()[..], [1, 0, 0, 0, 5]);
    }

    #[test]
    fn lengths_over_the_limit_are_refused() {
        let too_many = Request::Offer { ids: vec![[0; 32]; OFFER_IDS_MAX + 1] };
        assert!(Request::decode(&header(&too_many.encode())).is_err());
        let too_long = Request::Store { id: [0; 32], length: BLOCK_BYTES_MAX as u32 + 1 };
        assert!(Request::decode(&header(&too_long.encode())).is_err());
        assert!(Request::decode(&header(&Request::StoreHead { length: 0 }.encode())).is_err());
        let uneven = Request::Compare { bits: 2, sums: vec![RangeSum::default(); 3] };
        assert!(Request::decode(&header(&uneven.encode())).is_err());
        assert!(header_length((HEADER_BYTES_MAX as u32 + 1).to_le_bytes()).is_err());
        let mut longer = header(&Request::Ping.encode()).to_vec();
        longer.push(0);
        assert_eq!(Request::decode(&longer), Err(WireError::Header));
    }

    proptest! {
        #[test]
        fn requests_round_trip(request in requests()) {
            prop_assert_eq!(Request::decode(&header(&request.encode())), Ok(request));
        }

        #[test]
        fn responses_round_trip(response in responses()) {
            prop_assert_eq!(Response::decode(&header(&response.encode())), Ok(response));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = Request::decode(&bytes);
            let _ = Response::decode(&bytes);
        }
    }
}
