//! A store that fails: nothing acknowledged is lost, and what failed is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use xorfs_store::gc::{Marked, Swept};
use xorfs_store::{
    BadBlock, Batch, Block, BlockId, BlockStore, Class, Horizon, Inventory, Ledger, Memory,
    Purpose, ReadError, Table, Usage, WriteError, WriteGuard,
};

use super::{find, make, open, open_with, put, quiet, text};
use crate::config::ViewConfig;
use crate::error::FsError;
use crate::view::types::Kind;

/// `Memory` that refuses blocks after a number of them, and ledger batches on demand.
pub(super) struct Faulty {
    inner: Arc<Memory>,
    pub(super) puts_left: AtomicU64,
    ledger_fails: AtomicBool,
    /// Reads of blocks that are not there.
    pub(super) misses: AtomicU64,
}

impl Faulty {
    pub(super) fn new(inner: &Arc<Memory>) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            puts_left: AtomicU64::new(u64::MAX),
            ledger_fails: AtomicBool::new(false),
            misses: AtomicU64::new(0),
        })
    }
}

impl BlockStore for Faulty {
    fn get(&self, id: &BlockId) -> Result<Block, ReadError> {
        let found = self.inner.get(id);
        self.misses.fetch_add(u64::from(found.is_err()), Ordering::Relaxed);
        found
    }

    fn contains(&self, id: &BlockId) -> Result<bool, ReadError> {
        self.inner.contains(id)
    }

    fn put(&self, block: &Block, purpose: Purpose) -> Result<(), WriteError> {
        let take = |left: u64| left.checked_sub(1);
        self.puts_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map_err(|_| WriteError::Full { used: 1, limit: 1 })?;
        self.inner.put(block, purpose)
    }

    fn renew(&self, id: &BlockId) -> Result<bool, WriteError> {
        self.inner.renew(id)
    }

    fn guard(&self) -> WriteGuard {
        self.inner.guard()
    }

    fn flush(&self) -> Result<(), WriteError> {
        self.inner.flush()
    }
}

impl Inventory for Faulty {
    fn ids(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BlockId>, ReadError> {
        self.inner.ids(after, limit)
    }

    fn owed(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BlockId>, ReadError> {
        self.inner.owed(after, limit)
    }

    fn owed_totals(&self) -> (u64, u64) {
        self.inner.owed_totals()
    }

    fn copies(&self, id: &BlockId) -> Result<u8, ReadError> {
        self.inner.copies(id)
    }

    fn class(&self, id: &BlockId) -> Result<Option<Class>, ReadError> {
        self.inner.class(id)
    }

    fn vacate(&self, id: &BlockId) -> Result<bool, WriteError> {
        self.inner.vacate(id)
    }

    fn set_copies(&self, id: &BlockId, copies: u8, settled: bool) -> Result<(), WriteError> {
        self.inner.set_copies(id, copies, settled)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn bad(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BadBlock>, ReadError> {
        self.inner.bad(after, limit)
    }

    fn remove(&self, id: &BlockId) -> Result<(), WriteError> {
        self.inner.remove(id)
    }

    fn horizon(&self) -> Horizon {
        self.inner.horizon()
    }

    fn sweep(&self, horizon: Horizon, marked: &Marked, dry_run: bool) -> Result<Swept, WriteError> {
        self.inner.sweep(horizon, marked, dry_run)
    }
}

impl Ledger for Faulty {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.inner.read(table, key)
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError> {
        self.inner.scan(table, prefix)
    }

    fn commit(&self, batch: Batch) -> Result<(), WriteError> {
        if self.ledger_fails.load(Ordering::Relaxed) {
            return Err(WriteError::Io(std::io::Error::other("the disk is gone")));
        }
        self.inner.commit(batch)
    }
}

#[test]
fn a_seal_that_fails_at_any_block_keeps_everything() {
    for puts in 0..12 {
        let memory = Arc::new(Memory::new());
        let store = Faulty::new(&memory);
        let view = open_with(&store, quiet());
        make(&view, "main/dir", Kind::Directory);
        put(&view, "main/dir/kept", &vec![7; 300_000]);
        view.seal().unwrap();
        let large: Vec<u8> =
            (0..600_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let ino = put(&view, "main/dir/new", &large);
        store.puts_left.store(puts, Ordering::Relaxed);
        let sealed = view.seal();
        if sealed.is_err() {
            assert!(matches!(sealed, Err(FsError::Write(WriteError::Full { .. }))));
            assert!(view.volumes()[0].seal_error.is_some());
        }
        assert_eq!(text(&view, "main/dir/new"), large, "after {puts} blocks");
        view.write(ino, 0, b"later").unwrap();
        store.puts_left.store(u64::MAX, Ordering::Relaxed);
        view.seal().unwrap();
        assert!(view.volumes()[0].seal_error.is_none());
        drop(view);
        let view = open(&memory);
        assert_eq!(&text(&view, "main/dir/new")[..5], b"later");
        assert_eq!(text(&view, "main/dir/new")[5..], large[5..]);
        assert_eq!(text(&view, "main/dir/kept"), vec![7; 300_000]);
    }
}

#[test]
fn an_fsync_that_failed_says_so_each_time_and_loses_nothing() {
    let memory = Arc::new(Memory::new());
    let store = Faulty::new(&memory);
    let view = open_with(&store, quiet());
    let first = put(&view, "main/first", b"first");
    view.fsync(first).unwrap();
    let second = put(&view, "main/second", b"second");
    store.ledger_fails.store(true, Ordering::Relaxed);
    assert!(view.fsync(second).is_err());
    put(&view, "main/third", b"third");
    assert!(view.fsync(first).is_err(), "what is not durable must not be called durable");
    assert!(view.seal().is_err());
    store.ledger_fails.store(false, Ordering::Relaxed);
    view.fsync(first).unwrap();
    drop(view);
    let view = open(&memory);
    for name in ["first", "second", "third"] {
        assert_eq!(text(&view, &format!("main/{name}")), name.as_bytes());
    }
}

#[test]
fn a_full_store_ends_writes_with_an_error_and_sealing_resumes_when_there_is_room() {
    let memory = Arc::new(Memory::new());
    let store = Faulty::new(&memory);
    let config = ViewConfig {
        dirty_bytes_max: 2 << 20,
        seal_bytes: 1 << 20,
        write_wait_max: Duration::from_millis(200),
        ..quiet()
    };
    let view = open_with(&store, config);
    let ino = make(&view, "main/file", Kind::File).ino;
    store.puts_left.store(0, Ordering::Relaxed);
    let part = vec![1; 1 << 20];
    let failed = (0..8u64).find(|round| view.write(ino, round << 20, &part).is_err());
    let written = failed.expect("memory is bounded");
    assert!(written >= 1, "what fits the memory is taken");
    assert_eq!(text(&view, "main/file").len() as u64, written << 20);
    store.puts_left.store(u64::MAX, Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = view.write(ino, written << 20, &part) {
        assert!(Instant::now() < deadline, "sealing did not resume: {error}");
    }
    view.shutdown().unwrap();
    let stat = find(&open(&memory), "main/file").unwrap();
    assert_eq!(stat.size, (written + 1) << 20);
    assert!(matches!(view.write(ino, 0, b"x"), Err(FsError::ShutDown)));
}
