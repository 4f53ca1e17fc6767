//! Mounts seen from outside: whether they can be made, whether they are there, and taking one
//! off whatever state its process is in.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};

/// Whether this machine can mount; where it cannot, says so past the capture of test output.
#[must_use]
pub fn fuse_available(test: &str) -> bool {
    let there = Path::new("/dev/fuse").exists();
    if !there {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: /dev/fuse is missing on this machine");
    }
    there
}

/// Whether something is mounted at `dir`. Does not touch `dir`, which may answer nobody.
pub fn is_mounted(dir: &Path) -> bool {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return false };
    // Blanks in a path are octal there; the paths of tests have none.
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == dir))
}

/// Takes a mount off at once, busy or dead; nothing happens where there is none.
pub fn detach(dir: &Path) {
    if !is_mounted(dir) {
        return;
    }
    if unmount(dir, UnmountFlags::DETACH).is_err() {
        // Not root: the mount belongs to the user, and fusermount3 may take it off.
        let _ = Command::new("fusermount3")
            .args(["-u", "-z"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
