//! Nodes over real QUIC on loopback, with stores in memory.

use std::future::Future;
use std::net::Ipv4Addr;

use bytes::Bytes;
use xorfs_store::{Block, BlockId, BlockStore, Memory, Purpose, ReadError, VolumeSecret};

use super::*;
use crate::replicated::Replicated;
use crate::wire::{Offered, PREFIX_BYTES, Request, Response, header_length};

const WAIT: Duration = Duration::from_secs(30);

struct TestNode {
    network: Network,
    store: Arc<Memory>,
    blocks: Replicated,
}

fn config(join: &[SocketAddr]) -> NetConfig {
    NetConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        join: join.to_vec(),
        request_timeout: Duration::from_secs(2),
        transfer_timeout: Duration::from_secs(5),
        hedge_delay: Duration::from_millis(300),
        ping_timeout: Duration::from_secs(2),
        fetch_deadline: Duration::from_secs(6),
        repair_interval: Duration::from_secs(1),
        settle_delay: Duration::from_millis(100),
        ..NetConfig::default()
    }
}

async fn start_with(config: NetConfig, seed: u8, store: Arc<Memory>) -> TestNode {
    let identity = Identity::from_seed([seed; 32]);
    let network = Network::start(config, identity, Arc::clone(&store)).await.unwrap();
    let blocks = Replicated::new(Arc::clone(&store), network.clone());
    TestNode { network, store, blocks }
}

async fn start(seed: u8, join: &[SocketAddr]) -> TestNode {
    start_with(config(join), seed, Arc::new(Memory::new())).await
}

async fn cluster(count: u8) -> Vec<TestNode> {
    let mut nodes = vec![start(1, &[]).await];
    for seed in 2..=count {
        nodes.push(start(seed, &[nodes[0].network.local_addr()]).await);
    }
    for node in &nodes {
        until("everybody knows everybody", || node.network.status().peers + 1 == nodes.len()).await;
    }
    nodes
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT, waited).await.is_ok(), "waited in vain until {what}");
}

#[expect(clippy::disallowed_methods, reason = "tests call the blocking store as the mount does")]
fn read(node: &TestNode, id: BlockId) -> impl Future<Output = Result<Block, ReadError>> {
    let blocks = node.blocks.clone();
    let reading = tokio::task::spawn_blocking(move || blocks.get(&id));
    async { reading.await.unwrap() }
}

fn block(number: u32) -> Block {
    let mut bytes = vec![0; 10_000];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    Block::new(bytes.into()).unwrap()
}

/// A peer that proves a key and answers with whatever `answer` says, or not at all.
fn odd_peer(seed: u8, answer: fn(Request) -> Option<(Response, Bytes)>) -> SocketAddr {
    let endpoint = endpoint::open(&config(&[]), &Identity::from_seed([seed; 32])).unwrap();
    let address = endpoint.local_addr().unwrap();
    let serve = async move {
        let mut open = Vec::new();
        while let Some(incoming) = endpoint.accept().await {
            let connection = incoming.await.unwrap();
            open.push(connection.clone());
            spawn(async move {
                let mut open = Vec::new();
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    let mut prefix = [0; PREFIX_BYTES];
                    receive.read_exact(&mut prefix).await.unwrap();
                    let mut header = vec![0; header_length(prefix).unwrap()];
                    receive.read_exact(&mut header).await.unwrap();
                    if let Some((response, payload)) = answer(Request::decode(&header).unwrap()) {
                        send.write_all(&response.encode()).await.unwrap();
                        send.write_all(&payload).await.unwrap();
                    }
                    open.push((send, receive));
                }
            });
        }
    };
    spawn(serve);
    address
}

#[expect(clippy::disallowed_methods, reason = "odd peers live as long as the test's runtime")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_fetched_and_kept() {
    let nodes = cluster(2).await;
    let block = block(1);
    nodes[0].store.put(&block, Purpose::Cache).unwrap();
    assert_eq!(read(&nodes[1], block.id()).await.unwrap(), block);
    until("it is kept", || nodes[1].store.contains(&block.id()).unwrap()).await;
    assert_eq!(nodes[0].network.peers()[0].id, nodes[1].network.node_id());
    assert_eq!(nodes[0].network.peers()[0].address, Some(nodes[1].network.local_addr()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_reaches_everybody_once() {
    let nodes = cluster(5).await;
    let blocks: Vec<_> = (0..50).map(block).collect();
    for block in &blocks {
        nodes[2].blocks.put(block, Purpose::Own).unwrap();
    }
    nodes[2].blocks.flush().unwrap();
    until("all is settled", || nodes[2].network.status().owed_blocks == 0).await;
    for node in &nodes {
        assert_eq!((node.network.replica_target(), node.network.ack_target()), (5, 3));
        let holds = |block: &Block| node.store.contains(&block.id()).unwrap();
        until("the holders have made the rest", || blocks.iter().all(holds)).await;
    }
    let copies = |block: &Block| nodes[2].store.copies(&block.id()).unwrap();
    until("the writer knows of all", || blocks.iter().all(|block| copies(block) == 5)).await;
    assert_eq!(nodes[2].network.status().published_blocks, 50);
    let sent: u64 = nodes.iter().map(|node| node.network.status().bytes_out).sum();
    assert!(sent < 4 * 50 * 12_000, "{sent} bytes were sent by all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_block_share_a_flight() {
    let nodes = cluster(2).await;
    let block = block(1);
    nodes[0].store.put(&block, Purpose::Cache).unwrap();
    let readers: Vec<_> = (0..20).map(|_| read(&nodes[1], block.id())).collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), block);
    }
    let received = nodes[1].network.status().bytes_in;
    assert!(received < 15_000, "{received} bytes were received");
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_are_fetched_in_the_background() {
    let nodes = cluster(2).await;
    let blocks: Vec<_> = (0..40).map(block).collect();
    blocks.iter().for_each(|block| nodes[0].store.put(block, Purpose::Cache).unwrap());
    nodes[1].blocks.prefetch(&blocks.iter().map(Block::id).collect::<Vec<_>>());
    until("all are there", || blocks.iter().all(|b| nodes[1].store.contains(&b.id()).unwrap()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_missing() {
    let nodes = cluster(3).await;
    let error = read(&nodes[0], BlockId::of(b"nowhere")).await.unwrap_err();
    assert!(matches!(error, ReadError::Missing { .. }), "{error}");
    let head = nodes[0].network.fetch_head(VolumeSecret::from_bytes([1; 32]).id()).await;
    assert_eq!(head, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_nothing_is_reachable_and_nothing_settled() {
    let node = start(1, &[]).await;
    let error = read(&node, BlockId::of(b"nowhere")).await.unwrap_err();
    assert!(matches!(error, ReadError::Unreachable { .. }), "{error}");
    node.blocks.put(&block(1), Purpose::Own).unwrap();
    node.blocks.flush().unwrap();
    assert_eq!(node.network.status().owed_blocks, 1);
    let later = start(2, &[node.network.local_addr()]).await;
    until("it is settled", || node.network.status().owed_blocks == 0).await;
    assert!(later.store.contains(&block(1).id()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_peer_is_caught_and_passed_over() {
    let lie = |request| {
        Some(match request {
            Request::Ping => (Response::Pong, Bytes::new()),
            Request::FindBlock { .. } => {
                (Response::Block { length: 5 }, Bytes::from_static(b"wrong"))
            }
            _ => (Response::Peers { peers: Vec::new() }, Bytes::new()),
        })
    };
    let liar = odd_peer(99, lie);
    let honest = start(1, &[]).await;
    let reader = start(2, &[honest.network.local_addr(), liar]).await;
    until("both are known", || reader.network.status().peers == 2).await;
    // The liar is the closest to about half of these, and asked first for one of them.
    for number in 0..20 {
        honest.store.put(&block(number), Purpose::Cache).unwrap();
        assert_eq!(read(&reader, block(number).id()).await.unwrap(), block(number));
    }
    assert_eq!(reader.network.status().peers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_does_not_hold_a_reader_for_ever() {
    let silent = odd_peer(99, |_| None);
    let reader = start(2, &[silent]).await;
    let started = clock();
    let error = read(&reader, BlockId::of(b"nowhere")).await.unwrap_err();
    assert!(matches!(error, ReadError::Unreachable { .. }), "{error}");
    assert!(clock() - started < Duration::from_secs(12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_restarts_with_its_peers_and_its_blocks() {
    let mut nodes = cluster(3).await;
    let block = block(1);
    nodes[2].store.put(&block, Purpose::Cache).unwrap();
    let gone = nodes.pop().unwrap();
    gone.network.shutdown().await;
    for node in &nodes {
        until("it is missed", || node.network.status().peers == 1).await;
    }
    // No join address: it remembers its peers.
    let back = start_with(config(&[]), 3, gone.store).await;
    for node in &nodes {
        until("it is back", || node.network.status().peers == 2).await;
    }
    assert_eq!(back.network.status().peers, 2);
    assert_eq!(read(&nodes[0], block.id()).await.unwrap(), block);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_head_wins() {
    let nodes = cluster(4).await;
    let secret = VolumeSecret::from_bytes([7; 32]);
    let first = Head::sign(&secret, None, 1, Bytes::from_static(b"root"));
    let second = Head::sign(&secret, Some(&first), 2, Bytes::from_static(b"root 2"));
    assert!(nodes[0].network.publish_head(&first).await.unwrap() >= 3);
    let found = nodes[3].network.fetch_head(secret.id()).await.unwrap();
    assert_eq!(found, Some(first.clone()));
    nodes[0].network.publish_head(&second).await.unwrap();
    nodes[1].network.publish_head(&first).await.unwrap();
    let found = nodes[3].network.fetch_head(secret.id()).await.unwrap();
    assert_eq!(found, Some(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_brought_back_after_a_node_hangs() {
    let mut nodes = Vec::new();
    let few = |join: &[SocketAddr]| NetConfig { replicas: 3, ..config(join) };
    for seed in 1..=6 {
        let join: Vec<_> =
            nodes.first().map(|n: &TestNode| n.network.local_addr()).into_iter().collect();
        nodes.push(start_with(few(&join), seed, Arc::new(Memory::new())).await);
    }
    for node in &nodes {
        until("everybody knows everybody", || node.network.status().peers == 5).await;
    }
    let blocks: Vec<_> = (0..30).map(block).collect();
    for block in &blocks {
        nodes[0].blocks.put(block, Purpose::Own).unwrap();
    }
    nodes[0].blocks.flush().unwrap();
    until("all is settled", || nodes[0].network.status().owed_blocks == 0).await;
    // Its connections stay open, but nobody answers on them any more.
    let hung = nodes.pop().unwrap();
    hung.network.shared().tasks.stop().await;
    let copies = |block: &Block| {
        let mut living = nodes.iter().collect::<Vec<_>>();
        let key = crate::kad::Key::from(block.id());
        living.sort_by_key(|node| crate::kad::Key::from(node.network.node_id()).distance(&key));
        living[..3].iter().filter(|node| node.store.contains(&block.id()).unwrap()).count()
    };
    until("the three closest hold each block", || blocks.iter().all(|b| copies(b) == 3)).await;
    until("it is given up", || nodes.iter().all(|n| n.network.status().peers == 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_each_block_from_one_holder() {
    let nodes = cluster(4).await;
    let blocks: Vec<_> = (0..100).map(block).collect();
    for node in &nodes {
        blocks.iter().for_each(|block| node.store.put(block, Purpose::Hold).unwrap());
    }
    let newcomer = start(5, &[nodes[0].network.local_addr()]).await;
    until("it holds all", || newcomer.store.usage().blocks == 100).await;
    let received = newcomer.network.status().bytes_in;
    assert!(received < 130 * 10_000, "{received} bytes were received");
    // Who found the newcomer equal before it had sent anything knows no more than that.
    until("those who brought them know it", || {
        let copies = |node: &TestNode, block: &Block| node.store.copies(&block.id()).unwrap();
        blocks.iter().all(|block| nodes.iter().any(|node| copies(node, block) == 5))
    })
    .await;
    assert!(nodes.iter().all(|node| node.network.status().owed_blocks == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_refuses_and_the_rest_goes_on() {
    let first = start(1, &[]).await;
    let join = [first.network.local_addr()];
    let full = start_with(config(&join), 2, Arc::new(Memory::with_quota(15_000))).await;
    for number in 0..5 {
        first.blocks.put(&block(number), Purpose::Own).unwrap();
    }
    first.blocks.flush().unwrap();
    until("one is settled", || first.network.status().published_blocks >= 1).await;
    assert_eq!(first.network.status().owed_blocks, 4);
    assert_eq!(full.store.usage().blocks, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_copies_are_enough_where_the_others_are_full() {
    let mut nodes = cluster(3).await;
    for seed in [4, 5] {
        let join = [nodes[0].network.local_addr()];
        nodes.push(start_with(config(&join), seed, Arc::new(Memory::with_quota(5_000))).await);
    }
    until("all are known", || nodes[0].network.status().peers == 4).await;
    for number in 0..20 {
        nodes[0].blocks.put(&block(number), Purpose::Own).unwrap();
    }
    nodes[0].blocks.flush().unwrap();
    until("all is acknowledged", || nodes[0].network.status().owed_blocks == 0).await;
    let copies = |number| nodes[0].store.copies(&block(number).id()).unwrap();
    assert!((0..20).all(|number| copies(number) == 3));
    assert!(nodes[3..].iter().all(|node| node.store.usage().blocks == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_claimed_and_not_proved_does_not_count() {
    // It says that it holds whatever it is offered, and then has no proof of it.
    let boast = |request| {
        Some(match request {
            Request::Ping => (Response::Pong, Bytes::new()),
            Request::Offer { ids } => {
                let mut offered = Offered::default();
                (0..ids.len()).for_each(|index| offered.set_held(index));
                (Response::Offered(offered), Bytes::new())
            }
            Request::Prove { ids, .. } => {
                (Response::Proofs { proofs: vec![None; ids.len()] }, Bytes::new())
            }
            _ => (Response::Peers { peers: Vec::new() }, Bytes::new()),
        })
    };
    let liar = odd_peer(99, boast);
    let honest = start(1, &[]).await;
    let writer = start(2, &[honest.network.local_addr(), liar]).await;
    until("both are known", || writer.network.status().peers == 2).await;
    for number in 0..10 {
        writer.blocks.put(&block(number), Purpose::Own).unwrap();
    }
    writer.blocks.flush().unwrap();
    // It is caught again and again until it is kept out; then two nodes are all there are.
    until("all is settled", || writer.network.status().owed_blocks == 0).await;
    assert_eq!(writer.network.status().peers, 1);
    for number in 0..10 {
        assert!(honest.store.contains(&block(number).id()).unwrap());
        assert_eq!(writer.store.copies(&block(number).id()).unwrap(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_block_is_healed_from_others() {
    let nodes = cluster(3).await;
    for (number, reader) in [(1, 0), (2, 1)] {
        let block = block(number);
        nodes.iter().for_each(|node| node.store.put(&block, Purpose::Hold).unwrap());
        assert!(nodes[0].store.corrupt(&block.id()));
        // The first is read by its holder, the second asked for by another.
        let _ = nodes[1].store.remove(&block.id());
        assert_eq!(read(&nodes[reader], block.id()).await.unwrap(), block);
    }
    until("the first is whole", || nodes[0].store.get(&block(1).id()).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_block_that_nobody_else_has_is_corrupt() {
    let ignorant = odd_peer(99, |request| {
        Some(match request {
            Request::Ping => (Response::Pong, Bytes::new()),
            _ => (Response::Peers { peers: Vec::new() }, Bytes::new()),
        })
    });
    let block = block(1);
    for join in [&[][..], &[ignorant]] {
        let node = start(1, join).await;
        assert_eq!(node.network.status().peers, join.len());
        node.store.put(&block, Purpose::Cache).unwrap();
        assert!(node.store.corrupt(&block.id()));
        let error = read(&node, block.id()).await.unwrap_err();
        assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let node = start(1, &[]).await;
    let listen = node.network.local_addr();
    let taken = NetConfig { listen, ..config(&[]) };
    let started = Network::start(taken, Identity::from_seed([2; 32]), Arc::new(Memory::new()));
    assert!(matches!(started.await, Err(StartError::PortInUse { addr }) if addr == listen));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_join_peer_is_tried_again() {
    let later = config(&[]);
    let first = start(1, &[]).await;
    let address = first.network.local_addr();
    first.network.shutdown().await;
    drop(first.blocks);
    let node = start_with(
        NetConfig { ping_timeout: Duration::from_millis(500), ..config(&[address]) },
        2,
        Arc::new(Memory::new()),
    )
    .await;
    assert_eq!(node.network.status().peers, 0);
    let back = start_with(NetConfig { listen: address, ..later }, 1, Arc::new(Memory::new())).await;
    until("they are together", || node.network.status().peers == 1).await;
    drop(back);
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_that_agree_name_no_blocks() {
    let nodes = cluster(4).await;
    let blocks: Vec<_> = (0..2_000).map(block).collect();
    for node in &nodes {
        blocks.iter().for_each(|block| node.store.put(block, Purpose::Hold).unwrap());
    }
    let passes = || nodes.iter().map(|node| node.network.status().repair.passes).min().unwrap();
    // The first passes may have begun while the blocks were put.
    let settled = passes() + 3;
    until("all have seen all", || passes() >= settled).await;
    let sent = || nodes.iter().map(|node| node.network.status().bytes_out).sum::<u64>();
    let (before, from) = (sent(), passes());
    until("passes went by", || passes() >= from + 4).await;
    let passes = nodes.iter().map(|node| node.network.status().repair.passes).sum::<u64>();
    // Naming them takes 32 bytes a block and neighbour; a comparison takes about 1 kB.
    let each = (sent() - before) / (passes.saturating_sub(4 * from)).max(1);
    assert!(each < 3 * 2_000 * 32 / 10, "{each} bytes were sent in each pass");
    nodes[1].store.remove(&blocks[7].id()).unwrap();
    until("what one lost is back", || nodes[1].store.contains(&blocks[7].id()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_hands_over() {
    let few = |join: &[SocketAddr]| NetConfig {
        replicas: 3,
        // What comes about here is not repair's work.
        repair_interval: Duration::from_secs(3_600),
        settle_delay: Duration::from_secs(600),
        ..config(join)
    };
    let mut nodes = vec![start_with(few(&[]), 1, Arc::new(Memory::new())).await];
    for seed in 2..=6 {
        let join = [nodes[0].network.local_addr()];
        nodes.push(start_with(few(&join), seed, Arc::new(Memory::new())).await);
    }
    for node in &nodes {
        until("everybody knows everybody", || node.network.status().peers == 5).await;
    }
    let leaving = nodes.pop().unwrap();
    let blocks: Vec<_> = (0..40).map(block).collect();
    blocks.iter().for_each(|block| leaving.store.put(block, Purpose::Hold).unwrap());
    let closest = |block: &Block| {
        leaving
            .network
            .shared()
            .with_node(|node| node.is_in_close_group(&crate::kad::Key::from(block.id())))
    };
    let ours: Vec<_> = blocks.iter().filter(|block| closest(block)).collect();
    assert!(ours.len() > 5, "{} blocks are its own to keep", ours.len());
    leaving.network.hand_over().await;
    for block in ours {
        let copies = nodes.iter().filter(|node| node.store.contains(&block.id()).unwrap()).count();
        assert_eq!(copies, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_too_long_or_cut_short_cost_their_stream_and_nothing_else() {
    let node = start(1, &[]).await;
    let endpoint = endpoint::open(&config(&[]), &Identity::from_seed([99; 32])).unwrap();
    let dialled = endpoint.connect(node.network.local_addr(), "xorfs.invalid").unwrap();
    let connection = dialled.await.unwrap();
    let oversized = u32::MAX.to_le_bytes().to_vec();
    let cut_short = [40_u32.to_le_bytes().as_slice(), &[4, 1]].concat();
    let nonsense = [3_u32.to_le_bytes().as_slice(), &[0xff; 3]].concat();
    let mut too_large = Request::Store { id: [1; 32], length: 1 }.encode().to_vec();
    // The length is the last field; a block is at most 1 MiB.
    let last = too_large.len() - 1;
    too_large.splice(last.., [0xff, 0xff, 0xff, 0x7f]);
    too_large[0] += 3;
    for frame in [oversized, cut_short, nonsense, too_large] {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&frame).await.unwrap();
        let _ = send.finish();
        assert!(receive.read_to_end(64).await.is_ok_and(|answer| answer.is_empty()));
    }
    // The same connection still works, and so does the node for others.
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&Request::Ping.encode()).await.unwrap();
    send.finish().unwrap();
    assert_eq!(receive.read_to_end(64).await.unwrap(), Response::Pong.encode());
    let other = start(2, &[node.network.local_addr()]).await;
    node.store.put(&block(1), Purpose::Hold).unwrap();
    assert_eq!(read(&other, block(1).id()).await.unwrap(), block(1));
}
