//! What can go wrong, split by what the caller does about it.

use std::net::SocketAddr;
use std::time::Duration;

use xorfs_store::{ReadError, VolumeId};

/// A node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process listens there.
    #[error("UDP port {addr} is in use by another process")]
    PortInUse {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The address is not ours, or the system refused a socket.
    #[error("could not listen on {addr}")]
    Socket {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The identity does not make a TLS configuration.
    #[error("could not set up TLS with this node's identity")]
    Tls(#[from] rustls::Error),
    /// The peers of the last run could not be read.
    #[error("could not read the known peers")]
    Store(#[from] ReadError),
}

/// A head did not reach enough nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Fewer nodes than needed have stored it. What was stored stays, and repair spreads it
    /// further.
    #[error("the head of volume {volume} reached {acks} nodes of the {needed} needed")]
    TooFew {
        /// The volume.
        volume: VolumeId,
        /// Nodes that stored it, this one included where it is one of the closest.
        acks: u8,
        /// Nodes that had to.
        needed: u8,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopped,
}

/// A head could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No peer is known, or none answered.
    #[error("no peer answered for volume {volume} within {} s", waited.as_secs_f32())]
    Unreachable {
        /// The volume.
        volume: VolumeId,
        /// How long was waited.
        waited: Duration,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopped,
}
