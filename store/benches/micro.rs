//! The store's inner steps one by one, so that a regression is seen where it happens.
//! `cargo bench -p xorfs-store --bench micro [-- NAME]`.

use std::sync::Arc;

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use xorfs_store::bench::{SealedPiece, cut, map_node, probe};
use xorfs_store::{
    Attr, Content, Entry, FileEdit, Memory, Node, Purpose, Reader, VolumeSecret, Writer, Xattrs,
};

/// An average piece.
const PIECE_BYTES: usize = 256 << 10;

fn main() {
    divan::main();
}

fn secret() -> VolumeSecret {
    VolumeSecret::from_bytes([1; 32])
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

/// Words in an order that does not repeat: shrinks to a third or so, as source code does.
fn text(length: usize) -> Vec<u8> {
    let words = ["fn ", "let ", "self.", "Result<", "match ", "return ", "bytes", "length\n"];
    let order = noise(length);
    order.iter().flat_map(|n| words[*n as usize % 8].bytes()).take(length).collect()
}

#[divan::bench(args = [4 << 10, 64 << 10, PIECE_BYTES])]
fn seal_noise(bencher: Bencher, length: usize) {
    let (plain, secret) = (noise(length), secret().convergence_secret());
    bencher
        .counter(BytesCount::new(length))
        .bench(|| SealedPiece::of(&secret, black_box(&plain)).length());
}

#[divan::bench(args = [4 << 10, 64 << 10, PIECE_BYTES])]
fn seal_text(bencher: Bencher, length: usize) {
    let (plain, secret) = (text(length), secret().convergence_secret());
    bencher
        .counter(BytesCount::new(length))
        .bench(|| SealedPiece::of(&secret, black_box(&plain)).length());
}

#[divan::bench(args = [4 << 10, PIECE_BYTES])]
fn unseal_noise(bencher: Bencher, length: usize) {
    let piece = SealedPiece::of(&secret().convergence_secret(), &noise(PIECE_BYTES));
    bencher.counter(BytesCount::new(length)).bench(|| piece.open(black_box(0..length)).len());
}

/// The first is a random read: a frame is opened for it.
#[divan::bench(args = [4 << 10, PIECE_BYTES])]
fn unseal_text(bencher: Bencher, length: usize) {
    let piece = SealedPiece::of(&secret().convergence_secret(), &text(PIECE_BYTES));
    bencher.counter(BytesCount::new(length)).bench(|| piece.open(black_box(0..length)).len());
}

#[divan::bench]
fn probe_noise(bencher: Bencher) {
    let plain = noise(PIECE_BYTES);
    bencher.counter(BytesCount::new(PIECE_BYTES)).bench(|| probe(black_box(&plain)));
}

#[divan::bench]
fn cut_noise(bencher: Bencher) {
    let (run, secret) = (noise(8 << 20), secret().convergence_secret());
    bencher.counter(BytesCount::new(run.len())).bench(|| cut(&secret, black_box(&run)));
}

#[divan::bench]
fn map_node_codec(bencher: Bencher) {
    let piece = SealedPiece::of(&secret().convergence_secret(), &noise(1_000));
    bencher.bench(|| map_node(black_box(&piece), 300));
}

/// A volume over a store in memory.
struct Volume {
    blocks: Arc<Memory>,
    reader: Arc<Reader>,
}

impl Volume {
    fn new() -> Self {
        let blocks = Arc::new(Memory::new());
        let reader = Arc::new(Reader::new(Arc::clone(&blocks) as _, 64 << 20));
        Self { blocks, reader }
    }

    fn writer(&self) -> Writer {
        let (blocks, reader) = (Arc::clone(&self.blocks) as _, Arc::clone(&self.reader));
        Writer::new(blocks, reader, secret().convergence_secret(), Purpose::Own)
    }

    /// A directory of so many names.
    fn directory(&self, names: u64) -> Content {
        self.changed(&Content::default(), (0..names).map(|n| (name(n), Some(entry(n)))).collect())
    }

    fn changed(&self, base: &Content, changes: Vec<(Vec<u8>, Option<Entry>)>) -> Content {
        let mut writer = self.writer();
        let draft = writer.directory(base, changes).expect("memory takes everything");
        writer.flush().expect("memory takes everything");
        writer.settle(draft)
    }
}

fn name(n: u64) -> Vec<u8> {
    format!("file {n}").into_bytes()
}

fn entry(ino: u64) -> Entry {
    let attr = Attr { ino, mode: 0o644, nlink: 1, ..Attr::default() };
    Entry { attr, node: Node::File(Content::default()), xattrs: Xattrs::default() }
}

/// 4 KiB at many places of a file of 64 MiB whose maps are at hand.
#[divan::bench]
fn map_lookup(bencher: Bencher) {
    let volume = Volume::new();
    let mut edit = FileEdit::new(Content::default());
    edit.write(0, Bytes::from(noise(64 << 20)));
    let mut writer = volume.writer();
    let draft = writer.file(&edit).expect("memory takes everything");
    writer.flush().expect("memory takes everything");
    let file = writer.settle(draft);
    let mut at = 0_u64;
    bencher.bench_local(|| {
        at = (at + 7_919 * 4_096) % file.size;
        volume.reader.read_at(&file, at, 4_096).expect("memory holds it").len()
    });
}

#[divan::bench(args = [100, 100_000])]
fn directory_lookup(bencher: Bencher, names: u64) {
    let volume = Volume::new();
    let directory = volume.directory(names);
    let mut n = 0;
    bencher.bench_local(|| {
        n = (n + 7_919) % names;
        volume.reader.lookup(&directory, &name(n)).expect("memory holds it").is_some()
    });
}

/// One name of many changes, and is sealed.
#[divan::bench(args = [100, 100_000])]
fn directory_update(bencher: Bencher, names: u64) {
    let volume = Volume::new();
    let directory = volume.directory(names);
    let mut n = 0;
    bencher.bench_local(|| {
        n += 1;
        volume.changed(&directory, vec![(name(n % names), Some(entry(n + names)))])
    });
}
