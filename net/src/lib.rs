//! The network of xorfs: who the nodes are, where blocks live, and how they get there.
//!
//! [`Network`] runs a node: it joins, serves other nodes from the local store, publishes what
//! this home owes the network and repairs what lost a holder. [`Replicated`] is the block store
//! that looks locally first and asks the network next. All protocol logic (`kad`, `wire`,
//! `replica`, `node`) is pure: it takes the time as a parameter and its randomness from a seed,
//! and is tested with virtual time; only `driver` touches sockets, tasks and clocks. This crate
//! knows nothing of files or mounts.

mod config;
mod driver;
mod error;
mod identity;
mod kad;
mod limits;
mod node;
mod replica;
mod replicated;
mod serve;
mod wire;

pub use config::NetConfig;
pub use driver::{NetStatus, Network, PeerStatus, RepairStatus};
pub use error::{FetchError, PublishError, StartError};
pub use identity::{Identity, NodeId, ParseNodeIdError};
pub use replicated::Replicated;
