//! A disk that runs full, and one that fails, under a daemon with a mount.
//!
//! Full: the home lies on a small tmpfs that writers, and then somebody else's file, fill to the
//! last byte in the middle of puts, mount writes, sealing and upkeep. What was acknowledged stays
//! and reads; `ls` and `df` answer; what does not fit is refused as `ENOSPC` and exit code 4;
//! once there is room, writing works again without a restart.
//!
//! Failing: a write that the kernel refuses for another reason ends all writing until the store
//! is reopened, with the reason, and reads go on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use xorfs_tests::cluster::{Cluster, Node, fuse_available, wait_until};
use xorfs_tests::effort::skipped;
use xorfs_tests::files::{pattern, write_file};

/// The small disk. Blocks leave a reserve of 256 MiB alone.
const DISK: &std::ffi::CStr = c"size=352m";

/// The same, grown.
const DISK_GROWN: &std::ffi::CStr = c"size=800m";

/// Bytes of a file that is written until nothing fits.
const FILE_BYTES: usize = 3 << 20;

/// How long writing may take to work again once there is room: above the longest pause between
/// two attempts to seal.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(90);

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// What was promised: paths below the volume, and the seed and length of each content.
#[derive(Debug, Default)]
struct Promised(BTreeMap<String, (u64, usize)>);

impl Promised {
    fn note(&mut self, path: &str, seed: u64, length: usize) {
        self.0.insert(path.to_owned(), (seed, length));
    }

    #[track_caller]
    fn check(&self, top: &Path) {
        for (path, (seed, length)) in &self.0 {
            let found = fs::read(top.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(found == pattern(*seed, *length), "{path} is not what was written");
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes files through the mount until one is refused.
#[track_caller]
fn fill_through_mount(top: &Path, promised: &mut Promised) {
    for number in 0.. {
        let path = format!("written-{number}");
        match write_synced(&top.join(&path), &pattern(1000 + number, FILE_BYTES)) {
            Ok(()) => promised.note(&path, 1000 + number, FILE_BYTES),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{path}: {error}");
                return;
            }
        }
        assert!(number < 1000, "a small disk is never full");
    }
}

/// Puts files by command until one is refused.
#[track_caller]
fn fill_by_command(node: &Node, work: &Path) -> Promised {
    let mut promised = Promised::default();
    for number in 0.. {
        let name = format!("put-{number}");
        let source = work.join(&name);
        write_file(&source, 2000 + number, FILE_BYTES as u64).expect("the other disk has room");
        let outcome = node.xorfs(&["put", text(&source), "--wait", "sealed"]);
        fs::remove_file(&source).expect("removes");
        if outcome.code != Some(0) {
            outcome.code(4).says(&["full"]).one_error();
            return promised;
        }
        promised.note(&name, 2000 + number, FILE_BYTES);
        assert!(number < 1000, "a small disk is never full");
    }
    promised
}

/// What has to answer whatever the disk is like.
#[track_caller]
fn expect_answers(node: &Node, top: &Path, promised: &Promised) {
    let listed = node.xorfs(&["ls", "main:/"]).ok();
    let mounted: Vec<_> = fs::read_dir(top).expect("lists").collect();
    assert!(mounted.len() >= promised.0.len(), "{} are listed", mounted.len());
    assert!(listed.text().lines().count() >= promised.0.len(), "{}", listed.text());
    let room = rustix::fs::statvfs(top).expect("df answers");
    assert!(room.f_blocks > 0, "df tells a size");
    node.xorfs(&["status", "--json"]).ok();
    promised.check(top);
}

/// Writes through the mount and by command until both work.
#[track_caller]
fn expect_recovery(node: &Node, top: &Path, work: &Path, promised: &mut Promised) {
    let start = Instant::now();
    wait_until("writing through the mount works again", RECOVERY_DEADLINE, || {
        match write_synced(&top.join("after"), &pattern(3, 500_000)) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                false
            }
        }
    });
    promised.note("after", 3, 500_000);
    let source = work.join("after-put");
    fs::write(&source, pattern(4, 500_000)).expect("the other disk has room");
    wait_until("a put works again", RECOVERY_DEADLINE, || {
        let outcome = node.xorfs(&["put", text(&source), "--wait", "sealed"]);
        outcome.code == Some(0) || {
            outcome.code(4).one_error();
            false
        }
    });
    fs::remove_file(&source).expect("removes");
    promised.note("after-put", 4, 500_000);
    eprintln!("recovered after {:.1?}", start.elapsed());
}

/// A node whose home lies on a tmpfs of its own; none, and said why, where that cannot be made.
fn node_on_small_disk(cluster: &Cluster, test: &str) -> Option<(Node, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        skipped(test, "only root can make a small disk");
        return None;
    }
    let disk = cluster.dir().join("disk");
    fs::create_dir(&disk).expect("creates");
    if let Err(error) = mount("none", &disk, "tmpfs", MountFlags::empty(), DISK) {
        skipped(test, &format!("no small disk can be made here: {error}"));
        return None;
    }
    let mut node = Node::start(&disk, 1, std::iter::empty(), &[]);
    node.adopt_mount(&disk);
    Some((node, disk))
}

#[test]
fn a_disk_full_in_the_middle_of_everything_loses_nothing() {
    const NAME: &str = "a_disk_full_in_the_middle_of_everything_loses_nothing";
    if !fuse_available(NAME) {
        return;
    }
    let cluster = Cluster::start(0);
    let Some((mut node, disk)) = node_on_small_disk(&cluster, NAME) else { return };
    let top = node.mount().join("main");
    let mut promised = Promised::default();
    write_synced(&top.join("first"), &pattern(1, 1_000_000)).expect("writes");
    promised.note("first", 1, 1_000_000);

    // Both ways in at once, with questions and upkeep in between.
    let over = AtomicBool::new(false);
    let put = thread::scope(|scope| {
        let puts = scope.spawn(|| fill_by_command(&node, cluster.dir()));
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                node.xorfs(&["status"]).ok();
                let collected = node.xorfs(&["gc"]);
                assert!(matches!(collected.code, Some(0 | 1 | 4)), "{collected:?}");
            }
        });
        fill_through_mount(&top, &mut promised);
        let put = puts.join();
        over.store(true, Ordering::Release);
        put.expect("puts end as they should")
    });
    promised.0.extend(put.0);
    expect_answers(&node, &top, &promised);

    // Somebody else takes what the reserve left: now the database itself finds no room.
    let ballast = disk.join("ballast");
    let mut file = File::create(&ballast).expect("creates");
    while file.write_all(&[7; 64 << 10]).is_ok() {}
    let error = (0..200)
        .find_map(|n| write_synced(&top.join(format!("over-{n}")), &pattern(n, 200_000)).err())
        .expect("a full disk takes nothing for ever");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    expect_answers(&node, &top, &promised);

    // Room by deletion of something else first, then by a larger disk; each without a restart.
    drop(file);
    fs::remove_file(&ballast).expect("removes");
    mount_remount(&disk, MountFlags::empty(), DISK_GROWN).expect("a tmpfs can grow");
    expect_recovery(&node, &top, cluster.dir(), &mut promised);
    expect_answers(&node, &top, &promised);
    node.xorfs(&["check"]).ok();
    assert!(node.terminate().success(), "it leaves cleanly");
    node.restart();
    let top = node.mount().join("main");
    promised.check(&top);
}

/// Limits the files of a daemon: a write beyond fails with `EFBIG`, as one on a broken disk would
/// with `EIO`.
fn limit_files(node: &Node, bytes: Option<u64>) {
    let process = Pid::from_raw(node.process() as i32);
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(process, Resource::Fsize, limit).expect("a child's limits can be changed");
}

#[test]
fn a_failed_write_ends_writing_until_the_store_is_reopened() {
    if !fuse_available("a_failed_write_ends_writing_until_the_store_is_reopened") {
        return;
    }
    // SAFETY: ignoring a signal touches no memory; what is ignored stays so in the children, where
    // a write beyond the limit then fails instead of ending the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];
    let top = node.mount().join("main");
    let mut promised = Promised::default();
    write_synced(&top.join("before"), &pattern(1, 300_000)).expect("writes");
    promised.note("before", 1, 300_000);

    limit_files(node, Some(100_000));
    let source = work.join("large");
    write_file(&source, 2, 48 << 20).expect("writes");
    let put = |node: &Node| node.xorfs(&["put", text(&source), "--wait", "sealed"]);
    put(node).code(1).one_error();
    limit_files(node, None);
    // The limit is gone; what was lost on the way is not known, so nothing is written.
    put(node).code(1).says(&["refuses writes", "file too large"]).one_error();
    let error = write_synced(&top.join("late"), b"late").expect_err("nothing is promised any more");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    promised.check(&top);
    assert!(node.xorfs(&["cat", "main:/before"]).ok().stdout == pattern(1, 300_000));
    node.xorfs(&["ls", "main:/"]).ok();

    // Leaving cannot seal what is left, and says so; starting again opens the store anew.
    node.terminate();
    node.restart();
    let top = node.mount().join("main");
    promised.check(&top);
    assert_eq!(node.xorfs(&["ls", "main:/large"]).code, Some(3), "nothing half-written");
    put(node).ok();
    write_synced(&top.join("late"), b"late").expect("writes");
}
