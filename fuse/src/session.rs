//! A mount's life: checked, made, usable, ended.
//!
//! [`Mount::start`] returns once programs can use the directory. A mount ends when
//! [`Mount::unmount`] is called, when the value is dropped, or when somebody unmounts it from
//! outside, which [`Mount::wait_ended`] tells.
//!
//! Invariants: nothing but our own mount is ever taken away, even where another one has taken
//! its place since; unmounting succeeds however busy the mount is. A busy one disappears at once
//! and serves the files still open in it until they are closed or the process ends.
//!
//! Deliberately absent: flushing. What was written is in the [`View`], which outlives the mount;
//! whoever ends both unmounts first and then shuts the view down. Signals belong to the command.

mod announce;
mod attach;
mod detach;
mod point;

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fuser::{Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::View;
use crate::adapter::{Adapter, Opened};
use crate::session::announce::Announcer;
use crate::session::attach::{KIND, attach};
use crate::session::detach::{detach, detach_own};

/// What mounts and unmounts for users; setuid root, from the package fuse3.
const FUSERMOUNT: &str = "fusermount3";

/// How long unmounting waits for the last request. An idle mount ends within milliseconds; a
/// busy one goes on in the background.
const END_WAIT: Duration = Duration::from_secs(2);

/// Read-ahead in KiB: 15 to 35 % faster cold reads than the kernel's 128, and more adds nothing.
const READ_AHEAD_KIB: u32 = 1024;

/// Event-loop threads besides those that may be waiting for a disk or a network; see
/// `adapter::workers`.
const SPARE_THREADS: usize = 2;

/// How to mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Refuse every change, whatever the volumes allow.
    pub read_only: bool,
    /// Let other users in; each file's permissions decide what they may do.
    pub allow_other: bool,
}

/// Why a directory could not be mounted or unmounted. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point is not there.
    #[error("{} does not exist; make the directory first", dir.display())]
    Missing {
        /// The mount point.
        dir: PathBuf,
    },
    /// The mount point is something else.
    #[error("{} is not a directory", dir.display())]
    NotDirectory {
        /// The mount point.
        dir: PathBuf,
    },
    /// Mounting would hide what is in the directory.
    #[error("{} is not empty; mount on an empty directory", dir.display())]
    NotEmpty {
        /// The mount point.
        dir: PathBuf,
    },
    /// Something is mounted there.
    #[error("{} is already a mount point of {filesystem}", dir.display())]
    Mounted {
        /// The mount point.
        dir: PathBuf,
        /// Kind and source of what is mounted.
        filesystem: String,
    },
    /// The mount point cannot be looked at.
    #[error("could not look at {}", dir.display())]
    Unreadable {
        /// The mount point.
        dir: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The kernel has no FUSE, or the container was not given it.
    #[error("/dev/fuse does not exist; run `modprobe fuse`, or give the container that device")]
    NoDevice,
    /// The device is closed to this user.
    #[error("no permission on /dev/fuse; run `chmod 666 /dev/fuse` as root, or mount as root")]
    DeviceForbidden,
    /// The device does not open for another reason.
    #[error("could not open /dev/fuse")]
    Device(#[source] io::Error),
    /// What mounts for users is not installed.
    #[error("fusermount3 was not found; install the package fuse3")]
    NoFusermount,
    /// Users may not open their mounts to others here.
    #[error("opening the mount to other users needs the line user_allow_other in /etc/fuse.conf")]
    OthersForbidden,
    /// The kernel or `fusermount3` refused.
    #[error("could not mount on {}: {reason}", dir.display())]
    Refused {
        /// The mount point.
        dir: PathBuf,
        /// In the words of who refused.
        reason: String,
    },
    /// The kernel and this process did not come to terms over the new mount.
    #[error("the new mount does not answer")]
    Unusable(#[source] io::Error),
    /// There is no mount of xorfs to unmount.
    #[error("no xorfs is mounted on {}", dir.display())]
    NotMounted {
        /// The directory.
        dir: PathBuf,
    },
    /// Ours is below somebody else's.
    #[error("{} is covered by a mount of {filesystem}; unmount that first", dir.display())]
    Covered {
        /// The mount point.
        dir: PathBuf,
        /// Kind and source of what covers it.
        filesystem: String,
    },
    /// The kernel or `fusermount3` would not unmount.
    #[error("could not unmount {}", dir.display())]
    Unmount {
        /// The mount point.
        dir: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// A mounted [`View`]. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    device: String,
    ended: Arc<Ended>,
}

/// Whether the last request was answered, and whether the kernel still has the mount.
#[derive(Debug)]
struct Ended {
    /// The device, until the end. Its own copy, so it has to go then: a device that is open
    /// makes the kernel wait for answers.
    device: Mutex<Option<OwnedFd>>,
    changed: Condvar,
}

impl Mount {
    /// Mounts a view on an empty directory and returns once it is usable.
    ///
    /// What a killed process left mounted there is cleared first.
    ///
    /// # Errors
    /// One variant for everything that a user can put right.
    pub fn start(view: Arc<View>, dir: &Path, options: MountOptions) -> Result<Self, MountError> {
        let dir = point::prepare(dir)?;
        let descriptor = attach(&dir, &options)?;
        let Some(mounted) = point::mounted_at(&dir).pop() else {
            return Err(MountError::Unusable(io::ErrorKind::NotFound.into()));
        };
        // From here on dropping it takes the mount away again.
        let ended = Arc::new(Ended::new(descriptor.try_clone().map_err(MountError::Unusable)?));
        let mount = Self { dir, device: mounted.device, ended };
        mount.serve(view, descriptor).map_err(MountError::Unusable)?;
        // The first request, answered by the threads just started.
        fs::metadata(&mount.dir).map_err(MountError::Unusable)?;
        set_read_ahead(&mount.device);
        Ok(mount)
    }

    /// Where it is mounted: an absolute path without links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the mount away, also while it is used; nothing happens where that is done already.
    ///
    /// # Errors
    /// `Covered` or `Unmount`; the mount then goes on.
    pub fn unmount(&self) -> Result<(), MountError> {
        if self.ended.is_connected() {
            detach_own(&self.dir, &self.device)?;
        }
        self.wait_ended(Some(END_WAIT));
        Ok(())
    }

    /// Waits until the last request was answered and the kernel let go of the mount, at most for
    /// `timeout`, and tells whether it has.
    pub fn wait_ended(&self, timeout: Option<Duration>) -> bool {
        let device = self.ended.lock();
        let going_on = |device: &mut Option<OwnedFd>| device.is_some();
        let changed = &self.ended.changed;
        let device = match timeout {
            None => changed.wait_while(device, going_on).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                changed
                    .wait_timeout_while(device, timeout, going_on)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        device.is_none()
    }

    /// Comes to terms with the kernel and starts the threads that answer it.
    fn serve(&self, view: Arc<View>, descriptor: OwnedFd) -> io::Result<()> {
        let threads = thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, 8);
        let threads = threads + SPARE_THREADS;
        let opened = Arc::<Opened>::default();
        let adapter = Adapter::new(Arc::clone(&view), Arc::clone(&opened), threads);
        let mut config = fuser::Config::default();
        config.n_threads = Some(threads);
        // The kernel lets in whom the mount options allow; fuser's own check would also turn
        // away the kernel itself, which writes back as root.
        let session = Session::from_fd(adapter, descriptor, SessionACL::All, config)?;
        let announcer = Announcer::start(&view, opened, session.notifier())?;
        let (dir, device, ended) = (self.dir.clone(), self.device.clone(), Arc::clone(&self.ended));
        thread::Builder::new().name("xorfs-mount".into()).spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!(dir = %dir.display(), %error, "the mount ended");
            }
            drop(announcer);
            // A mount without anybody to answer it would be a trap.
            if ended.is_connected()
                && let Err(error) = detach_own(&dir, &device)
            {
                tracing::warn!(dir = %dir.display(), %error, "a dead mount stays behind");
            }
            ended.set();
        })?;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::warn!(dir = %self.dir.display(), %error, "could not unmount");
        }
    }
}

impl Ended {
    fn new(device: OwnedFd) -> Self {
        Self { device: Mutex::new(Some(device)), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the kernel has not let go of the mount. Numbers of devices and mounts are given
    /// out again at once, so only this tells our mount from a stranger's at the same place.
    fn is_connected(&self) -> bool {
        let device = self.lock();
        let Some(device) = device.as_ref() else { return false };
        let mut asked = [PollFd::new(device, PollFlags::empty())];
        match poll(&mut asked, Some(&Timespec::default())) {
            Ok(_) => !asked[0].revents().contains(PollFlags::ERR),
            Err(_) => true,
        }
    }

    fn set(&self) {
        *self.lock() = None;
        self.changed.notify_all();
    }
}

/// Unmounts a xorfs that this process did not mount, whether or not the process that did is
/// alive.
///
/// # Errors
/// `NotMounted` where nothing, or something else, is mounted there; `Unmount` where the kernel
/// or `fusermount3` refuses.
pub fn unmount(dir: &Path) -> Result<(), MountError> {
    let dir = point::absolute(dir)?;
    match point::mounted_at(&dir).pop() {
        Some(mounted) if mounted.kind == KIND => detach(&dir),
        _ => Err(MountError::NotMounted { dir }),
    }
}

/// Only root may, and only a kernel with sysfs can; without it reads are slower, nothing else.
fn set_read_ahead(device: &str) {
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(setting, %error, "read-ahead stays at the kernel's default");
    }
}
