//! Every bound of the protocol in one place.
//!
//! Each constant says its unit, why it has its value and what changing it does. Limits that an
//! operator may want to change are fields of `NetConfig` instead.

use std::time::Duration;

use xorfs_store::HEAD_BYTES_MAX;

/// Peers a bucket holds and peers an answer carries. The value Kademlia was studied with: large
/// enough that all peers of a bucket do not fail within an hour.
pub(crate) const K: usize = 20;

/// Requests a lookup keeps in flight. Three hides one slow peer without tripling the traffic.
pub(crate) const ALPHA: usize = 3;

/// Candidates a lookup remembers. Bounds what lying peers can make us hold; the closest stay.
pub(crate) const CANDIDATES_MAX: usize = 8 * K;

/// Addresses kept and sent per peer: one per address family and interface that matters.
pub(crate) const ADDRESSES_MAX: usize = 4;

/// Longest header of a frame in bytes: a full offer (1,000 ids of 32 bytes) with room to spare.
pub(crate) const HEADER_BYTES_MAX: usize = 40 * 1024;

/// Blocks to be proved in one request: the prover reads and hashes each, up to 16 MiB.
pub(crate) const PROVE_IDS_MAX: usize = 16;

/// Of the blocks that a peer says it holds in answer to an offer, how many have to be proved.
/// Each costs both sides a read; a peer that lies about half of them is caught with one offer in
/// four believed.
pub(crate) const PROOF_SAMPLE: usize = 2;

/// Claims that a peer may fail to prove before it is distrusted. A block may be lost or evicted
/// between a claim and its proof, so one is forgiven.
pub(crate) const UNPROVED_MAX: u32 = 3;

/// Most leading bits that tell ranges apart in a comparison: 256 ranges cost about 3 kB.
pub(crate) const RANGE_BITS_MAX: usize = 8;

/// Neighbours that are asked to compare at the same time.
pub(crate) const COMPARES_MAX: usize = 4;

/// Blocks that each repair pass looks at though no neighbour differs: claims are audited so.
pub(crate) const AUDITS: usize = 4;

/// Ids in one offer. One offer then costs 32 KB and one round trip for up to 1 GB of blocks.
pub(crate) const OFFER_IDS_MAX: usize = 1_000;

/// Peers that are gone and will be tried again. Beyond it the longest gone are forgotten.
pub(crate) const ABSENT_MAX: usize = 256;

/// Re-dials of a peer that is gone, before it is forgotten. With doubling waits from
/// `REDIAL_FIRST` up to `REDIAL_LAST` this spans more than a day.
pub(crate) const REDIALS_MAX: u32 = 150;

/// Wait before the first re-dial of a peer that is gone.
pub(crate) const REDIAL_FIRST: Duration = Duration::from_secs(5);

/// Longest wait between two re-dials of a peer that is gone.
pub(crate) const REDIAL_LAST: Duration = Duration::from_secs(600);

/// Time between two refreshes of the routing table. Traffic refreshes it anyway; this is for
/// idle nodes.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(900);

/// Searches that one spread runs at a time, where the routing table does not know everybody.
pub(crate) const PLACEMENT_SEARCHES_MAX: usize = 8;

/// Blocks that one spread has in flight. With blocks of 256 KiB on average that is 8 MiB, and
/// the receivers can gather them into few syncs; with blocks of 1 MiB it is 32 MiB.
pub(crate) const PUSHES_MAX: usize = 32;

/// Blocks that a spread has in flight which nobody waits for: repair and the copies that holders
/// bring on. Few, so that it takes little from readers and from publishing.
pub(crate) const BACKGROUND_PUSHES_MAX: usize = 8;

/// Blocks that wait until their close group is checked, because they are new here. Beyond it the
/// next repair pass finds them.
pub(crate) const FRESH_MAX: usize = 65_536;

/// How many closer nodes beyond the replicas a holder allows before it gives up its copy. The
/// copies in between cost room, and spare a transfer each time that one of the closest fails.
pub(crate) const FAR_SLACK: usize = 2;

/// Fresh blocks that are checked in one spread.
pub(crate) const FRESH_BATCH: usize = 256;

/// Payload bytes a peer may make us hold before they are checked and stored, over all peers.
pub(crate) const INBOUND_BYTES_MAX: u32 = 64 << 20;

/// Requests served at the same time, over all peers; further streams wait.
pub(crate) const SERVING_MAX: usize = 256;

/// Calls into the store that run at the same time. The disk gains nothing from more.
pub(crate) const STORE_CALLS_MAX: usize = 16;

/// Streams a peer may have open at once: the requests it can have in flight.
pub(crate) const STREAMS_MAX: u32 = 128;

/// Connections that are kept open at once, over all peers.
pub(crate) const CONNECTIONS_MAX: usize = 512;

/// Connection attempts that wait for their handshake before new ones are refused.
pub(crate) const INCOMING_MAX: usize = 1_024;

/// Largest payload of a head in bytes, as the store defines it.
pub(crate) const HEAD_MAX: usize = HEAD_BYTES_MAX;

/// Volumes whose heads a node keeps. A key costs nothing to make, so without a limit anybody
/// could fill the disk with heads; at most 64 MiB with it. Beyond it unknown volumes are refused.
pub(crate) const HEADS_MAX: usize = 65_536;

/// Ids that wait to be fetched ahead of their reader; further hints are dropped.
pub(crate) const PREFETCH_QUEUE_MAX: usize = 4_096;

/// Blocks the publisher offers in one spread: enough to gather many ids per offer, few enough
/// that acknowledgements are recorded steadily.
pub(crate) const PUBLISH_BATCH: usize = 128;

/// Spreads the publisher runs at a time, so that one offers while another sends.
pub(crate) const PUBLISH_PARALLEL: usize = 2;

/// Peers that are saved for the next start.
pub(crate) const SAVED_PEERS_MAX: usize = 256;
