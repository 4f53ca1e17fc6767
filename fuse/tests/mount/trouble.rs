//! What the rest of the mount does while blocks come slowly, not at all, or with a bug.

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;
use xorfs_fuse::{Mount, MountOptions, View};
use xorfs_store::{
    Block, BlockId, BlockStore, Memory, Purpose, ReadError, VolumeSecret, WriteError, WriteGuard,
};

use crate::{DEADLINE, can_mount, errno, open_view_over, wait_until};

/// A store whose reads can be made to wait or to panic.
struct Gate {
    inner: Arc<Memory>,
    closed: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
    panics: AtomicBool,
}

impl Gate {
    fn set_closed(&self, closed: bool) {
        *self.closed.lock().expect("no holder panics") = closed;
        self.opened.notify_all();
    }
}

impl BlockStore for Gate {
    fn get(&self, id: &BlockId) -> Result<Block, ReadError> {
        assert!(!self.panics.load(Ordering::Acquire), "on purpose");
        let closed = self.closed.lock().expect("no holder panics");
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let (closed, late) = self
            .opened
            .wait_timeout_while(closed, DEADLINE, |closed| *closed)
            .expect("no holder panics");
        drop(closed);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if late.timed_out() {
            return Err(ReadError::Unreachable { id: *id, waited: DEADLINE });
        }
        self.inner.get(id)
    }

    fn contains(&self, id: &BlockId) -> Result<bool, ReadError> {
        self.inner.contains(id)
    }

    fn put(&self, block: &Block, purpose: Purpose) -> Result<(), WriteError> {
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

/// Content that shares nothing with other files'.
fn content(number: usize) -> Vec<u8> {
    (0..300_000_usize).map(|place| (place.wrapping_mul(number * 2 + 7) >> 3) as u8).collect()
}

/// A mount whose volume holds `files` sealed files, none of which is in any memory. The mount comes
/// last, so that it goes before the directory it lies on.
fn mounted(files: usize) -> Option<(Arc<Gate>, Arc<View>, TempDir, Mount)> {
    if !can_mount() {
        return None;
    }
    let (store, secret) = (Arc::new(Memory::new()), VolumeSecret::generate());
    let home = tempfile::tempdir().expect("a temporary directory");
    let view = open_view_over(&store, Arc::clone(&store) as _, &secret);
    let mount = Mount::start(Arc::clone(&view), home.path(), MountOptions::default());
    for number in 0..files {
        let path = home.path().join(format!("main/{number}"));
        fs::write(path, content(number)).expect("it writes");
    }
    drop(mount);
    view.shutdown().expect("everything is sealed");
    let gate = Arc::new(Gate {
        inner: Arc::clone(&store),
        closed: Mutex::new(false),
        opened: Condvar::new(),
        waiting: AtomicUsize::new(0),
        panics: AtomicBool::new(false),
    });
    let view = open_view_over(&store, Arc::clone(&gate) as _, &secret);
    let mount = Mount::start(Arc::clone(&view), home.path(), MountOptions::default());
    let mount = mount.expect("it mounts");
    assert_eq!(fs::read_dir(home.path().join("main")).expect("it lists").count(), files);
    Some((gate, view, home, mount))
}

#[test]
fn slow_blocks_hold_up_only_their_readers() {
    const READERS: usize = 12;
    let Some((gate, _view, home, _mount)) = mounted(READERS) else { return };
    let main = home.path().join("main");
    for number in 0..READERS {
        fs::metadata(main.join(number.to_string())).expect("attributes");
    }
    gate.set_closed(true);
    thread::scope(|scope| {
        for number in 0..READERS {
            let main = &main;
            scope.spawn(move || {
                let found = fs::read(main.join(number.to_string())).expect("it reads, late");
                assert!(found == content(number));
            });
        }
        // More than there are event-loop threads.
        wait_until("readers wait", || gate.waiting.load(Ordering::Acquire) >= READERS / 2);
        let start = Instant::now();
        for turn in 0..50 {
            assert!(fs::read_dir(&main).expect("it lists").count() >= READERS);
            fs::metadata(main.join("0")).expect("attributes");
            let new = main.join(format!("new-{turn}"));
            fs::write(&new, b"meanwhile").expect("it writes");
            assert_eq!(fs::read(&new).expect("it reads"), b"meanwhile");
            File::open(&new).expect("it opens").sync_all().expect("it syncs");
        }
        let took = start.elapsed();
        gate.set_closed(false);
        assert!(took < DEADLINE / 2, "the others had to wait: {took:?}");
    });
}

#[test]
fn a_mount_goes_while_its_readers_wait() {
    let Some((gate, _view, home, mount)) = mounted(1) else { return };
    let path = home.path().join("main/0");
    gate.set_closed(true);
    thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(&path));
        wait_until("the reader waits", || gate.waiting.load(Ordering::Acquire) > 0);
        let start = Instant::now();
        mount.unmount().expect("a busy mount unmounts");
        assert!(start.elapsed() < DEADLINE / 2);
        assert!(!home.path().join("main").exists());
        gate.set_closed(false);
        assert!(reader.join().expect("it ends").expect("it reads, late") == content(0));
    });
    assert!(mount.wait_ended(Some(DEADLINE)));
}

#[test]
fn a_bug_costs_one_request() {
    let Some((gate, _view, home, _mount)) = mounted(2) else { return };
    let main = home.path().join("main");
    gate.panics.store(true, Ordering::Release);
    for _ in 0..10 {
        // Again and again: no event-loop thread may be lost.
        assert_eq!(errno(fs::read(main.join("0"))), Some(libc::EIO));
    }
    gate.panics.store(false, Ordering::Release);
    assert!(fs::read(main.join("0")).expect("it reads") == content(0));
    fs::write(main.join("new"), b"x").expect("it writes");
}

#[test]
fn a_corrupt_block_is_an_io_error() {
    let Some((gate, _view, home, _mount)) = mounted(1) else { return };
    let path = home.path().join("main/0");
    let ids = xorfs_store::Inventory::ids(&*gate.inner, None, usize::MAX).expect("ids");
    let blocks: Vec<Block> = ids.iter().map(|id| gate.inner.get(id).expect("it reads")).collect();
    for id in &ids {
        assert!(gate.inner.corrupt(id));
    }
    assert_eq!(errno(fs::read(&path)), Some(libc::EIO));
    assert_eq!(fs::metadata(&path).expect("attributes are known").len(), 300_000);
    // What reading set aside is put anew, as a fetch from another node would.
    for block in &blocks {
        gate.inner.put(block, Purpose::Cache).expect("there is room");
    }
    assert!(fs::read(&path).expect("it reads") == content(0));
}
