//! Kademlia (Maymounkov and Mazières, IPTPS 2002): who is close to what, and how to find out.
//!
//! Pure: the routing table and the lookups are told what happened and when, and say whom to ask.
//! Invariant: the table holds verified peers only, peers that proved their key to us; peers that
//! others named are candidates of a lookup until they answer.

pub(crate) mod bucket;
pub(crate) mod key;
pub(crate) mod lookup;
pub(crate) mod region;
pub(crate) mod rtt;
pub(crate) mod table;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::identity::NodeId;
use crate::limits::ADDRESSES_MAX;

pub(crate) use key::{Distance, Key};

/// A node and where it was last seen, the newest address first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Peer {
    pub(crate) fn key(&self) -> Key {
        Key::from(self.id)
    }

    /// Puts the addresses of `newer` first and forgets the oldest beyond the limit.
    pub(crate) fn learn(&mut self, newer: &[SocketAddr]) {
        let mut merged: Vec<SocketAddr> = Vec::with_capacity(ADDRESSES_MAX);
        for address in newer.iter().chain(&self.addresses) {
            if merged.len() < ADDRESSES_MAX && !merged.contains(address) {
                merged.push(*address);
            }
        }
        self.addresses = merged;
    }
}
