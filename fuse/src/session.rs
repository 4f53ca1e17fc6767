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
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fuser::{Session, SessionACL};

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

#[derive(Debug, Default)]
struct Ended {
    ended: Mutex<bool>,
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
        let mount = Self { dir, device: mounted.device, ended: Arc::default() };
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
        if !self.wait_ended(Some(Duration::ZERO)) {
            detach_own(&self.dir, &self.device)?;
            self.wait_ended(Some(END_WAIT));
        }
        Ok(())
    }

    /// Waits until the last request was answered and the kernel let go of the mount, at most for
    /// `timeout`, and tells whether it has.
    pub fn wait_ended(&self, timeout: Option<Duration>) -> bool {
        let ended = self.ended.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let going_on = |ended: &mut bool| !*ended;
        match timeout {
            None => *self
                .ended
                .changed
                .wait_while(ended, going_on)
                .unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                *self
                    .ended
                    .changed
                    .wait_timeout_while(ended, timeout, going_on)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    /// Comes to terms with the kernel and starts the threads that answer it.
    fn serve(&self, view: Arc<View>, descriptor: std::os::fd::OwnedFd) -> io::Result<()> {
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
            if let Err(error) = detach_own(&dir, &device) {
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
    fn set(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
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
