//! Sealing into a real store and reading back from it, as an import and a restore do.
//!
//! Prints MiB a second for content that does not shrink, for text, for a tree of small files, and
//! for reading the first back. Everything is measured in one run on one disk, so ratios between
//! two versions mean more than the figures.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use xorfs_store::{
    BlockStore, Content, FileEdit, Local, LocalConfig, Purpose, Reader, VolumeSecret, Writer,
};

/// Bytes sealed at a time, as the mount does; more is more memory.
const EDIT_BYTES: usize = 64 << 20;

const SMALL_FILE_BYTES: usize = 9 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mib: usize = std::env::var("XORFS_BENCH_MIB").map_or(Ok(256), |mib| mib.parse())?;
    let rounds = (mib << 20).div_ceil(EDIT_BYTES) as u64;
    let dir = tempfile::tempdir()?;
    let store = Arc::new(Local::open(dir.path(), LocalConfig::default())?);
    let mut contents = Vec::new();
    run("noise", &store, rounds, |round| vec![noise(round, EDIT_BYTES)], &mut contents)?;
    run("text", &store, rounds, |round| vec![text(round, EDIT_BYTES)], &mut Vec::new())?;
    let files = |round| (0..EDIT_BYTES / SMALL_FILE_BYTES).map(move |n| round << 32 | n as u64);
    let small = |round| files(round).map(|n| text(n, SMALL_FILE_BYTES)).collect();
    run("small files of text", &store, rounds, small, &mut Vec::new())?;
    let small = |round| files(round).map(|n| noise(n, SMALL_FILE_BYTES)).collect();
    run("small files of noise", &store, rounds, small, &mut Vec::new())?;
    let reader = Reader::new(Arc::clone(&store) as _, 16 << 20);
    for pass in ["first", "second"] {
        let started = Instant::now();
        let mut read = 0;
        for content in &contents {
            for at in (0..content.size).step_by(1 << 20) {
                read += reader.read_at(content, at, 1 << 20)?.len();
            }
        }
        report(&format!("reading noise back on one core, {pass} pass"), read, started);
    }
    Ok(())
}

fn run(
    what: &str,
    store: &Arc<Local>,
    rounds: u64,
    make: impl Fn(u64) -> Vec<Vec<u8>>,
    contents: &mut Vec<Content>,
) -> Result<(), Box<dyn Error>> {
    let secret = VolumeSecret::from_bytes([1; 32]);
    let (mut sealed, mut made) = (0, std::time::Duration::ZERO);
    let started = Instant::now();
    for round in 0..rounds {
        let making = Instant::now();
        let files = make(round);
        made += making.elapsed();
        let reader = Arc::new(Reader::new(Arc::clone(store) as _, 16 << 20));
        let mut writer =
            Writer::new(Arc::clone(store) as _, reader, secret.convergence_secret(), Purpose::Own);
        let mut drafts = Vec::new();
        for bytes in files {
            sealed += bytes.len();
            let mut edit = FileEdit::new(Content::default());
            edit.write(0, Bytes::from(bytes));
            drafts.push(writer.file(&edit)?);
        }
        writer.flush()?;
        contents.extend(drafts.into_iter().map(|draft| writer.settle(draft)));
    }
    report(&format!("sealing {what}"), sealed, started + made);
    store.flush()?;
    report(&format!("sealing {what}, flushed"), sealed, started + made);
    Ok(())
}

fn report(what: &str, bytes: usize, started: Instant) {
    let mib = bytes as f64 / f64::from(1 << 20);
    let rate = mib / started.elapsed().as_secs_f64();
    #[expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]
    {
        println!("{what}: {rate:.0} MiB/s");
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines that shrink about as much as source code does.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(length + 64);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while text.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let words = ["fn ", "let ", "self.", "Result<", "match ", "return ", "bytes", "length"];
        text.extend_from_slice(words[(state >> 60) as usize % words.len()].as_bytes());
        if state >> 40 & 3 == 0 {
            text.extend_from_slice(format!("{:x}\n    ", state >> 44).as_bytes());
        }
    }
    text.truncate(length);
    text
}
