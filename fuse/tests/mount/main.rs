//! The mount on the real kernel: a view over a store in memory, mounted and used by programs'
//! own means. Skips, loudly, where this process may not use `/dev/fuse`.

mod files;
mod followed;
mod listing;
mod model;
mod names;
mod session;
mod trouble;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use xorfs_fuse::{Mount, MountError, MountOptions, Owner, View, ViewConfig};
use xorfs_store::{Access, BlockStore, Memory, VolumeSecret};

/// Longest that anything here waits for something to happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A view with one writable volume, `main`, mounted on a directory of its own.
struct Mounted {
    store: Arc<Memory>,
    secret: VolumeSecret,
    view: Arc<View>,
    mount: Mount,
    options: MountOptions,
    home: TempDir,
}

impl Mounted {
    /// None where mounting is not possible here, after saying so.
    fn new() -> Option<Self> {
        Self::with(MountOptions::default())
    }

    fn with(options: MountOptions) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let (store, secret) = (Arc::new(Memory::new()), VolumeSecret::generate());
        let view = open_view(&store, &secret);
        let home = tempfile::tempdir().expect("a temporary directory");
        let mount = Mount::start(Arc::clone(&view), home.path(), options).expect("it mounts");
        Some(Self { store, secret, view, mount, options, home })
    }

    /// The writable volume.
    fn dir(&self) -> PathBuf {
        self.home.path().join("main")
    }

    /// A path in the writable volume.
    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Mounts the same view anew, so that the kernel has nothing cached.
    fn remount(self) -> Self {
        let Self { store, secret, view, mount, options, home } = self;
        mount.unmount().expect("it unmounts");
        drop(mount);
        let mount = Mount::start(Arc::clone(&view), home.path(), options).expect("it mounts");
        Self { store, secret, view, mount, options, home }
    }

    /// Ends the view too and opens another over the same store, as a new process would.
    fn reopen(self) -> Self {
        let Self { store, secret, view, mount, options, home } = self;
        mount.unmount().expect("it unmounts");
        drop(mount);
        view.shutdown().expect("everything is sealed");
        drop(view);
        let view = open_view(&store, &secret);
        let mount = Mount::start(Arc::clone(&view), home.path(), options).expect("it mounts");
        Self { store, secret, view, mount, options, home }
    }
}

/// A view over a store in memory with one writable volume, `main`.
fn open_view(store: &Arc<Memory>, secret: &VolumeSecret) -> Arc<View> {
    open_view_over(store, Arc::clone(store) as _, secret)
}

/// The same, reading and writing blocks through something else.
fn open_view_over(
    store: &Arc<Memory>,
    blocks: Arc<dyn BlockStore>,
    secret: &VolumeSecret,
) -> Arc<View> {
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    let view = View::new(
        ViewConfig { owner, ..ViewConfig::default() },
        blocks,
        Arc::clone(store) as _,
        Arc::clone(store) as _,
        Arc::new(|_| {}),
    );
    view.add_volume("main", &Access::Owner(secret.clone())).expect("a new volume");
    view
}

/// Whether the kernel's device is there for us.
fn can_mount() -> bool {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &device {
        // Straight to the terminal: what the macros print is shown of failed tests only.
        writeln!(std::io::stderr(), "SKIPPED: /dev/fuse cannot be used here: {error}").ok();
    }
    device.is_ok()
}

/// Mounts a fresh view where that is expected to fail.
fn refused(dir: &Path) -> MountError {
    let view = open_view(&Arc::new(Memory::new()), &VolumeSecret::generate());
    Mount::start(view, dir, MountOptions::default()).expect_err("it must not mount")
}

/// The errno of a failure.
fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Waits until a condition holds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
