//! The UDP socket and the QUIC endpoint on it, and the handshakes in both directions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::NetConfig;
use crate::driver::Shared;
use crate::error::StartError;
use crate::identity::{Identity, NodeId};
use crate::limits::{CONNECTIONS_MAX, INCOMING_MAX, STREAMS_MAX};
use crate::node::call::CallError;

/// Close code of a node that leaves the network.
pub(super) const CODE_LEAVING: u32 = 1;
/// Close code where there are too many connections.
pub(super) const CODE_BUSY: u32 = 2;
/// Close code for a connection to ourselves, or to another node than was wanted.
pub(super) const CODE_WRONG_NODE: u32 = 3;

/// Socket buffers in bytes; the system's 208 KiB overflow at a few hundred MiB/s. The system
/// may grant less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Connected peers from which on strangers first have to prove their address, at the cost of a
/// round trip.
const RETRY_FROM: usize = 128;

/// Bytes a peer may send on one stream before we read them: two blocks.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// Bytes a peer may send on all streams before we read them. Bounds memory per connection, and
/// the rate to `window / round trip`: 8 MiB keep 1 Gbit/s busy over 64 ms.
const WINDOW_BYTES: u32 = 8 << 20;

/// Unacknowledged bytes we keep per connection.
const SEND_WINDOW_BYTES: u64 = 8 << 20;

/// First congestion window in bytes: most messages and small blocks fit one flight.
const INITIAL_WINDOW_BYTES: u64 = 128 << 10;

/// Opens the socket and the endpoint.
pub(super) fn open(config: &NetConfig, identity: &Identity) -> Result<Endpoint, StartError> {
    let addr = config.listen;
    let socket = bind(addr).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::PortInUse { addr },
        _ => StartError::Socket { addr, source },
    })?;
    let transport = Arc::new(transport(config));
    let tls = QuicServerConfig::try_from(identity.server_config()?)
        .expect("TLS 1.3 with ring offers the initial cipher suite of QUIC");
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(Arc::clone(&transport)).max_incoming(INCOMING_MAX);
    let tls = QuicClientConfig::try_from(identity.client_config()?)
        .expect("TLS 1.3 with ring offers the initial cipher suite of QUIC");
    let mut client = quinn::ClientConfig::new(Arc::new(tls));
    client.transport_config(transport);
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime)
        .map_err(|source| StartError::Socket { addr, source })?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// Accepts connections until the endpoint closes; each handshake runs in a task of its own.
pub(super) async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        if shared.links.count() >= CONNECTIONS_MAX {
            incoming.refuse();
            continue;
        }
        if shared.links.count() >= RETRY_FROM && !incoming.remote_address_validated() {
            // Answered with a token: only who receives at its address costs us a handshake.
            let _ = incoming.retry();
            continue;
        }
        let Ok(connecting) = incoming.accept() else { continue };
        let limit = shared.config.ping_timeout;
        let handshaken = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            if let Ok(Ok(connection)) = tokio::time::timeout(limit, connecting).await
                && let Some(id) = proven_id(&connection)
            {
                handshaken.adopt(id, connection);
            }
        });
    }
}

/// Connects to an address and tells who is there.
pub(super) async fn dial(
    shared: &Shared,
    address: SocketAddr,
    limit: Duration,
) -> Result<(NodeId, Connection), CallError> {
    let address = canonical(address, shared.local_addr);
    // The name is neither sent nor checked: peers are known by their key.
    let connecting =
        shared.endpoint.connect(address, "xorfs.invalid").map_err(|_| CallError::Unreachable)?;
    match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(connection)) => {
            let id = proven_id(&connection).ok_or(CallError::Unreachable)?;
            Ok((id, connection))
        }
        Ok(Err(_)) => Err(CallError::Unreachable),
        Err(_) => Err(CallError::TimedOut),
    }
}

/// The id of the key that the other side proved in the handshake.
fn proven_id(connection: &Connection) -> Option<NodeId> {
    let keys = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    NodeId::of_spki(keys.first()?)
}

/// An IPv4 address as an IPv6 socket names it, where ours is one.
fn canonical(address: SocketAddr, local: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if local.is_ipv6() => {
            SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))
        }
        other => other,
    }
}

fn bind(addr: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // More than the system allows is cut down silently, and what is there still works.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn transport(config: &NetConfig) -> TransportConfig {
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .enable_segmentation_offload(config.segmentation_offload)
        .keep_alive_interval(Some(config.keep_alive))
        .max_idle_timeout(IdleTimeout::try_from(config.idle_timeout).ok())
        .congestion_controller_factory(Arc::new(congestion));
    transport
}
