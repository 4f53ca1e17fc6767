//! How fast blocks move between two nodes over loopback: published to one, then read by another.
//!
//! Prints one line per direction, for stores in memory and for stores on disk. All nodes share
//! this machine's cores and disk, as in any loopback figure.
//! `cargo bench -p xorfs-net [-- MiB]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xorfs_net::{Identity, NetConfig, Network, Replicated};
use xorfs_store::{Block, BlockStore, Inventory, Ledger, Local, LocalConfig, Memory, Purpose};

const BLOCK_BYTES: usize = 256 << 10;

/// Blocks that the reader asks for ahead, as a mount that reads ahead does.
const AHEAD: usize = 32;

fn main() {
    let mib = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1024);
    let blocks: Vec<Block> = (0..mib * 4).map(block).collect();
    measure("memory", &blocks, |_| Arc::new(Memory::new()));
    let root = std::env::temp_dir().join(format!("xorfs-bench-{}", std::process::id()));
    let open = |name: &str| {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).expect("the temporary folder is writable");
        Arc::new(Local::open(&dir, LocalConfig::default()).expect("a new store opens"))
    };
    measure("disk", &blocks, open);
    std::fs::remove_dir_all(&root).expect("our own folder can be removed");
}

/// Publishes the blocks from one node to two, and reads them back from those with a fourth.
fn measure<S: Inventory + Ledger + 'static>(
    kind: &str,
    blocks: &[Block],
    open: impl Fn(&str) -> Arc<S>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let start = |name: &str, join| runtime.block_on(Node::start(open(name), join));
    let first = start("first", None);
    let join = Some(first.network.local_addr());
    let (second, third) = (start("second", join), start("third", join));
    let started = now();
    for block in blocks {
        first.blocks.put(block, Purpose::Own).expect("the store takes a block");
    }
    first.blocks.flush().expect("the store flushes");
    while first.network.status().owed_blocks > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    report(kind, "published to two nodes", blocks, started);
    runtime.block_on(first.network.shutdown());
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    let reader = start("reader", Some(third.network.local_addr()));
    let started = now();
    for (index, id) in ids.iter().enumerate() {
        if index % (AHEAD / 2) == 0 {
            reader.blocks.prefetch(&ids[index..ids.len().min(index + AHEAD)]);
        }
        reader.blocks.get(id).expect("a published block is found");
    }
    report(kind, "read from two nodes", blocks, started);
    for node in [second, third, reader] {
        runtime.block_on(node.network.shutdown());
    }
}

struct Node {
    network: Network,
    blocks: Replicated,
}

impl Node {
    async fn start<S: Inventory + Ledger + 'static>(
        store: Arc<S>,
        join: Option<SocketAddr>,
    ) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // Repair would compete with what is measured.
        let config = NetConfig {
            listen,
            join: join.into_iter().collect(),
            settle_delay: Duration::from_secs(3_600),
            ..NetConfig::default()
        };
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
fn report(kind: &str, what: &str, blocks: &[Block], started: Instant) {
    let seconds = (now() - started).as_secs_f64();
    let mib = blocks.iter().map(|block| block.bytes().len()).sum::<usize>() >> 20;
    println!("{kind}: {mib} MiB {what} in {seconds:.2} s, {:.0} MiB/s", mib as f64 / seconds);
}
