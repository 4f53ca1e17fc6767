//! Mounting, unmounting, and what goes wrong with both.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use xorfs_fuse::{Mount, MountError, MountOptions, unmount};
use xorfs_store::{Memory, VolumeSecret};

use crate::{DEADLINE, Mounted, can_mount, errno, open_view, refused, wait_until};

/// Tells the test binary, started anew, to mount there and wait to be killed.
const CHILD_DIR: &str = "XORFS_TEST_MOUNT_AND_WAIT";

#[test]
fn a_mount_appears_and_goes() {
    let Some(mounted) = Mounted::new() else { return };
    let root = mounted.home.path();
    assert!(root.join("main").is_dir());
    assert_ne!(
        fs::metadata(root).expect("the root").dev(),
        fs::metadata(root.parent().expect("a parent")).expect("the parent").dev(),
    );
    mounted.mount.unmount().expect("it unmounts");
    assert!(mounted.mount.wait_ended(Some(DEADLINE)));
    assert_eq!(fs::read_dir(root).expect("the directory below").count(), 0);
    mounted.mount.unmount().expect("twice is no error");
}

#[test]
fn the_kernel_reads_ahead() {
    let Some(mounted) = Mounted::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let device = fs::metadata(mounted.home.path()).expect("the root").dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    // Some containers have sysfs read-only; the mount works without.
    if let Ok(meta) = fs::metadata(&setting)
        && !meta.permissions().readonly()
    {
        assert_eq!(fs::read_to_string(setting).expect("a setting").trim(), "1024");
    }
}

#[test]
fn what_is_open_outlives_the_mount() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("open");
    fs::write(&path, b"still here").expect("a file");
    let mut file = File::options().read(true).write(true).open(&path).expect("the file");
    mounted.mount.unmount().expect("a busy mount unmounts");
    assert!(!path.exists());
    assert!(!mounted.mount.wait_ended(Some(Duration::ZERO)));
    let mut content = String::new();
    file.read_to_string(&mut content).expect("it reads");
    assert_eq!(content, "still here");
    file.rewind().expect("it seeks");
    file.write_all(b"STILL").expect("it writes");
    drop(file);
    assert!(mounted.mount.wait_ended(Some(DEADLINE)));
    let mounted = mounted.remount();
    assert_eq!(fs::read(mounted.path("open")).expect("the file"), b"STILL here");
}

#[test]
fn an_unmount_from_outside_is_noticed() {
    let Some(mounted) = Mounted::new() else { return };
    unmount(mounted.home.path()).expect("it unmounts");
    assert!(mounted.mount.wait_ended(Some(DEADLINE)));
    let nothing = unmount(mounted.home.path());
    assert!(matches!(nothing, Err(MountError::NotMounted { .. })), "{nothing:?}");
}

#[test]
fn a_stranger_at_the_same_place_is_left_alone() {
    let Some(mounted) = Mounted::new() else { return };
    let dir = mounted.home.path().to_owned();
    unmount(&dir).expect("it unmounts");
    let view = open_view(&Arc::new(Memory::new()), &VolumeSecret::generate());
    let other = Mount::start(view, &dir, MountOptions::default()).expect("the place is free");
    mounted.mount.unmount().expect("ours is gone already");
    assert!(dir.join("main").is_dir(), "the other mount is still there");
    other.unmount().expect("it unmounts");
    assert!(!dir.join("main").exists());
}

#[test]
fn a_covered_mount_says_what_covers_it() {
    let Some(mounted) = Mounted::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = mounted.home.path();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", dir, "tmpfs", flags, None::<&std::ffi::CStr>)
        .expect("tmpfs mounts");
    let covered = mounted.mount.unmount();
    rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH).expect("it unmounts");
    let Err(MountError::Covered { filesystem, .. }) = covered else { panic!("{covered:?}") };
    assert_eq!(filesystem, "tmpfs (none)");
    mounted.mount.unmount().expect("free again");
    assert!(!dir.join("main").exists());
}

#[test]
fn what_cannot_be_mounted_on_is_said_in_one_line() {
    if !can_mount() {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    let missing = refused(&home.path().join("missing"));
    assert!(matches!(missing, MountError::Missing { .. }), "{missing}");
    fs::write(home.path().join("file"), b"").expect("a file");
    let file = refused(&home.path().join("file"));
    assert!(matches!(file, MountError::NotDirectory { .. }), "{file}");
    let full = refused(home.path());
    assert!(matches!(full, MountError::NotEmpty { .. }), "{full}");
    for error in [missing, file, full] {
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[test]
fn a_mount_on_a_mount_names_it() {
    let Some(mounted) = Mounted::new() else { return };
    let error = refused(mounted.home.path());
    let MountError::Mounted { filesystem, .. } = error else { panic!("{error}") };
    assert_eq!(filesystem, "fuse.xorfs (xorfs)");
}

#[test]
fn a_link_to_a_directory_can_be_mounted_on() {
    if !can_mount() {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(home.path().join("real")).expect("a directory");
    std::os::unix::fs::symlink("real", home.path().join("link")).expect("a link");
    let view = open_view(&Arc::new(Memory::new()), &VolumeSecret::generate());
    let mount =
        Mount::start(view, &home.path().join("link"), MountOptions::default()).expect("it mounts");
    assert!(home.path().join("real/main").is_dir());
    unmount(&home.path().join("link")).expect("it unmounts by the same name");
    assert!(mount.wait_ended(Some(DEADLINE)));
}

#[test]
fn a_read_only_mount_refuses_changes() {
    let options = MountOptions { read_only: true, ..MountOptions::default() };
    let Some(mounted) = Mounted::with(options) else { return };
    assert_eq!(errno(fs::write(mounted.path("new"), b"")), Some(libc::EROFS));
    assert_eq!(errno(fs::create_dir(mounted.path("new"))), Some(libc::EROFS));
}

#[test]
fn what_a_killed_process_left_is_cleared() {
    if !can_mount() {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "session::child", "--nocapture"])
        .env(CHILD_DIR, home.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("child has mounted"));
    assert!(ready, "the child mounts");
    assert!(home.path().join("main").is_dir());
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    wait_until("the mount is dead", || errno(fs::metadata(home.path())) == Some(libc::ENOTCONN));

    let view = open_view(&Arc::new(Memory::new()), &VolumeSecret::generate());
    let mount = Mount::start(view, home.path(), MountOptions::default()).expect("it mounts");
    fs::write(home.path().join("main/new"), b"alive").expect("it is usable");
    mount.unmount().expect("it unmounts");
    assert_eq!(fs::read_dir(home.path()).expect("the directory below").count(), 0);
}

/// Not a test: the process that `what_a_killed_process_left_is_cleared` starts and kills.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let view = open_view(&Arc::new(Memory::new()), &VolumeSecret::generate());
    let mount = Mount::start(view, dir.as_ref(), MountOptions::default()).expect("it mounts");
    let mut output = std::io::stdout();
    writeln!(output, "child has mounted").and_then(|()| output.flush()).expect("the parent reads");
    mount.wait_ended(Some(DEADLINE));
}
