//! How fast blocks move between two nodes over loopback: published to one, then read by another.
//!
//! Prints one line per direction. Both nodes share this machine's cores, as in any loopback
//! figure. `cargo bench -p xorfs-net [-- MiB]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xorfs_net::{Identity, NetConfig, Network, Replicated};
use xorfs_store::{Block, BlockStore, Class, Memory};

const BLOCK_BYTES: usize = 256 << 10;

/// Blocks that the reader asks for ahead, as a mount that reads ahead does.
const AHEAD: usize = 32;

fn main() {
    let mib = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1024);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let blocks: Vec<Block> = (0..mib * 4).map(block).collect();
    let (first, second, third) = runtime.block_on(async {
        let first = Node::start(None).await;
        let join = Some(first.network.local_addr());
        (first, Node::start(join).await, Node::start(join).await)
    });
    let started = now();
    for block in &blocks {
        first.blocks.put(block, Class::Pinned).expect("memory takes a block");
    }
    first.blocks.flush().expect("memory flushes");
    while first.network.status().owed_blocks > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    report("published to two nodes", mib, started);
    runtime.block_on(second.network.shutdown());
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    let reader = runtime.block_on(Node::start(Some(third.network.local_addr())));
    let started = now();
    for (index, id) in ids.iter().enumerate() {
        if index % (AHEAD / 2) == 0 {
            reader.blocks.prefetch(&ids[index..ids.len().min(index + AHEAD)]);
        }
        reader.blocks.get(id).expect("a published block is found");
    }
    report("read from two nodes", mib, started);
}

struct Node {
    network: Network,
    blocks: Replicated,
}

impl Node {
    async fn start(join: Option<SocketAddr>) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // Repair would compete with what is measured.
        let config = NetConfig {
            listen,
            join: join.into_iter().collect(),
            settle_delay: Duration::from_secs(3_600),
            ..NetConfig::default()
        };
        let store = Arc::new(Memory::new());
        let network = Network::start(config, Identity::generate(), Arc::clone(&store)).await;
        let network = network.expect("a node starts");
        Self { blocks: Replicated::new(store, network.clone()), network }
    }
}

fn block(number: usize) -> Block {
    let mut bytes = vec![0; BLOCK_BYTES];
    for (index, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = (number as u64 * 1_000_003 + index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    Block::new(bytes.into()).expect("the length is in range")
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn report(what: &str, mib: usize, started: Instant) {
    let seconds = (now() - started).as_secs_f64();
    println!("{what}: {mib} MiB in {seconds:.2} s, {:.0} MiB/s", mib as f64 / seconds);
}
