//! Volumes of others, and links.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::getxattr;
use xorfs_fuse::{Mount, MountOptions, View, ViewConfig};
use xorfs_store::{Access, Memory, VolumeSecret};

use crate::{Mounted, can_mount, errno, open_view, wait_until};

/// Two views over one store, as if on two machines: one writes, the other follows.
struct Pair {
    writer: Arc<View>,
    follower: Arc<View>,
    _writes: Mount,
    _follows: Mount,
    home: tempfile::TempDir,
}

impl Pair {
    fn new() -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let (store, secret) = (Arc::new(Memory::new()), VolumeSecret::generate());
        let writer = open_view(&store, &secret);
        let follower = View::new(
            ViewConfig::default(),
            Arc::clone(&store) as _,
            Arc::clone(&store) as _,
            Arc::new(Memory::new()),
            Arc::new(|_| {}),
        );
        follower
            .add_volume("theirs", &Access::Reader(secret.id(), secret.read_key()))
            .expect("a followed volume");
        let home = tempfile::tempdir().expect("a temporary directory");
        let start = |view: &Arc<View>, name: &str| {
            fs::create_dir(home.path().join(name)).expect("a mount point");
            Mount::start(Arc::clone(view), &home.path().join(name), MountOptions::default())
                .expect("it mounts")
        };
        let (writes, follows) = (start(&writer, "w"), start(&follower, "f"));
        Some(Self { writer, follower, _writes: writes, _follows: follows, home })
    }

    fn ours(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join("w/main").join(name)
    }

    fn theirs(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join("f/theirs").join(name)
    }

    /// What the network does: bring the newest head over.
    fn publish(&self) {
        let head = self.writer.seal_volume("main").expect("it seals").expect("there is a head");
        assert!(self.follower.set_head(&head).expect("a good head"));
    }
}

#[test]
fn a_follower_sees_what_is_published() {
    let Some(pair) = Pair::new() else { return };
    assert_eq!(fs::read_dir(pair.theirs("")).expect("it lists").count(), 0);
    fs::create_dir(pair.ours("dir")).expect("a directory");
    fs::write(pair.ours("dir/file"), b"first").expect("it writes");
    fs::write(pair.ours("gone"), b"soon").expect("it writes");
    pair.publish();
    let read = |name: &str| fs::read(pair.theirs(name)).unwrap_or_default();
    wait_until("the file appears", || read("dir/file") == b"first");
    assert_eq!(read("gone"), b"soon");
    let mut open = File::open(pair.theirs("dir/file")).expect("it opens");
    let mut before = String::new();
    open.read_to_string(&mut before).expect("it reads");
    assert_eq!(before, "first");

    // Of the same length, so that the size tells nothing.
    fs::write(pair.ours("dir/file"), b"later").expect("it writes");
    fs::write(pair.ours("dir/new"), b"new").expect("it writes");
    fs::remove_file(pair.ours("gone")).expect("it goes");
    pair.publish();
    wait_until("the change appears", || read("dir/file") == b"later");
    wait_until("the new file appears", || read("dir/new") == b"new");
    wait_until("the old file goes", || !pair.theirs("gone").exists());
    let mut after = [0; 5];
    wait_until("an open file shows it too", || {
        open.read_exact_at(&mut after, 0).expect("it reads");
        &after == b"later"
    });
}

#[test]
fn every_mount_of_a_view_is_told() {
    let Some(pair) = Pair::new() else { return };
    fs::write(pair.ours("file"), b"first").expect("it writes");
    pair.publish();
    let second = tempfile::tempdir().expect("a temporary directory");
    let mount = Mount::start(Arc::clone(&pair.follower), second.path(), MountOptions::default())
        .expect("a view can be mounted twice");
    let read = |path: &Path| fs::read(path).unwrap_or_default();
    let there = second.path().join("theirs/file");
    wait_until("the file appears", || read(&pair.theirs("file")) == b"first");
    assert_eq!(read(&there), b"first");
    fs::write(pair.ours("file"), b"later").expect("it writes");
    pair.publish();
    wait_until("the first mount shows it", || read(&pair.theirs("file")) == b"later");
    wait_until("the second mount shows it", || read(&there) == b"later");
    drop(mount);
    fs::write(pair.ours("file"), b"again").expect("it writes");
    pair.publish();
    wait_until("the first mount goes on", || read(&pair.theirs("file")) == b"again");
}

#[test]
fn a_follower_cannot_write() {
    let Some(pair) = Pair::new() else { return };
    fs::write(pair.ours("file"), b"x").expect("it writes");
    pair.publish();
    wait_until("the file appears", || pair.theirs("file").exists());
    assert_eq!(errno(fs::write(pair.theirs("file"), b"y")), Some(libc::EROFS));
    assert_eq!(errno(fs::write(pair.theirs("new"), b"y")), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(pair.theirs("file"))), Some(libc::EROFS));
}

#[test]
fn a_link_opens_below_link() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir_all(mounted.path("dir/sub")).expect("directories");
    fs::write(mounted.path("dir/sub/file"), b"linked").expect("it writes");
    mounted.view.seal().expect("it seals");
    let link = |path: &Path| {
        let mut text = [0; 4_096];
        let length = getxattr(path, "user.xorfs.link", &mut text).expect("a link");
        std::ffi::OsStr::from_bytes(&text[..length]).to_owned()
    };
    let links = mounted.home.path().join("link");
    assert_eq!(fs::read_dir(&links).expect("it lists").count(), 0);
    let dir = links.join(link(&mounted.path("dir")));
    assert_eq!(fs::read(dir.join("sub/file")).expect("it reads"), b"linked");
    assert_eq!(errno(fs::write(dir.join("sub/file"), b"")), Some(libc::EROFS));
    let file = links.join(link(&mounted.path("dir/sub/file")));
    assert_eq!(fs::read(&file).expect("it reads"), b"linked");
    assert_eq!(errno(fs::read(links.join("xorfs:nonsense"))), Some(libc::ENOENT));
    // What a link names does not change.
    fs::write(mounted.path("dir/sub/file"), b"changed").expect("it writes");
    mounted.view.seal().expect("it seals");
    assert_eq!(fs::read(&file).expect("it reads"), b"linked");
}
