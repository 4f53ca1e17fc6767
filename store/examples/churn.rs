//! Puts cached blocks into a store and tells what that took: time, disk and memory.
//!
//! `churn QUOTA_MIB TOTAL_MIB [BLOCK_BYTES]` puts blocks through a quota until so much was put;
//! with a quota of 0 nothing is evicted, which with short blocks makes a large index. Then the
//! store is opened anew. Figures go to the standard output, one a line.

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use xorfs_store::{Block, BlockStore, Inventory, Local, LocalConfig, Purpose};

type Failure = Box<dyn Error + Send + Sync>;

const MIB: u64 = 1 << 20;

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(200);

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(quota), Some(total)) = (arguments.next(), arguments.next()) else {
        return Err("churn QUOTA_MIB TOTAL_MIB [BLOCK_BYTES]".into());
    };
    let (quota, total) = (quota? * MIB, total? * MIB);
    let length = arguments.next().unwrap_or(Ok(256 << 10))?;
    let dir = tempfile::tempdir()?;
    let config =
        LocalConfig { quota_bytes: (quota > 0).then_some(quota), ..LocalConfig::default() };
    let store = Local::open(dir.path(), config)?;
    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(allocated_bytes(dir.path()), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        let put = put_blocks(&store, total / length, length as usize);
        done.store(true, Ordering::Relaxed);
        put
    })?;
    let took = begun.elapsed();
    let usage = store.usage();
    let rate = total as f64 / MIB as f64 / took.as_secs_f64();
    say("put, MiB/s", rate.round() as u64);
    say("put, blocks/s", ((total / length) as f64 / took.as_secs_f64()) as u64);
    say("peak on disk, MiB", peak.into_inner() / MIB);
    say("held, blocks", usage.blocks);
    say("held, MiB", usage.used_bytes() / MIB);
    say("peak memory, MiB", memory("VmHWM")? / MIB);
    drop(store);
    let occupied = allocated_bytes(dir.path());
    say("closed, MiB on disk", occupied / MIB);
    let beside = occupied.saturating_sub(usage.used_bytes());
    say("beside the blocks, bytes a block", beside / usage.blocks.max(1));
    let (before, begun) = (memory("VmRSS")?, Instant::now());
    let store = Local::open(dir.path(), config)?;
    say("opened anew, ms", begun.elapsed().as_millis() as u64);
    say("memory for that, MiB", memory("VmRSS")?.saturating_sub(before) / MIB);
    assert_eq!(store.usage().blocks, usage.blocks);
    Ok(())
}

/// Blocks of different bytes that do not compress.
fn put_blocks(store: &Local, count: u64, length: usize) -> Result<(), Failure> {
    let mut bytes = vec![0; length];
    for number in 0..count {
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        store.put(&Block::new(Bytes::copy_from_slice(&bytes))?, Purpose::Cache)?;
    }
    store.flush()?;
    Ok(())
}

/// What `du` tells. What vanishes meanwhile is gone.
fn allocated_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let allocated = |entry: fs::DirEntry| match entry.metadata() {
        Ok(file) if file.is_dir() => allocated_bytes(&entry.path()),
        Ok(file) => file.blocks() * 512,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(allocated).sum()
}

/// A figure of this process in bytes.
fn memory(name: &str) -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).ok_or("no such figure")?;
    Ok(kib.parse::<u64>()? * 1024)
}

#[expect(clippy::print_stdout, reason = "figures are what this is for")]
fn say(what: &str, figure: u64) {
    println!("{what}: {figure}");
}
