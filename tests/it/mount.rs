//! The mount as a user meets it: made and taken off by commands, by signals, and after a death.
//!
//! The filesystem behind it is tested in `xorfs-fuse`; here it is processes and the kernel.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use xorfs_tests::cluster::{
    COMMAND_DEADLINE, Cluster, NODE_DEADLINE, binary, fuse_available, is_mounted, run, wait_until,
};
use xorfs_tests::files::{Tree, pattern};

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, name, value.as_mut_slice());
    let length = length.unwrap_or_else(|error| panic!("{name} of {}: {error}", path.display()));
    String::from_utf8(value[..length].to_vec()).expect("attributes of ours are text")
}

fn expect_gone(dir: &Path) {
    wait_until("the mount is gone", NODE_DEADLINE, || !is_mounted(dir));
    assert_eq!(fs::read_dir(dir).expect("lists").count(), 0, "what is below a mount is empty");
}

#[test]
fn a_mount_comes_and_goes() {
    if !fuse_available("a_mount_comes_and_goes") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    let dir = node.mount();
    assert!(is_mounted(&dir), "mount returns once it is usable");
    let names: Vec<PathBuf> =
        fs::read_dir(&dir).expect("lists").map(|entry| entry.expect("lists").path()).collect();
    assert!(names.contains(&dir.join("main")), "{names:?}");

    // Busy: a file is open and somebody stands inside.
    let path = dir.join("main/open.txt");
    fs::write(&path, "kept").expect("writes");
    let open = fs::File::open(&path).expect("opens");
    node.xorfs(&["unmount", text(&dir)]).ok();
    expect_gone(&dir);
    drop(open);

    node.mount();
    assert_eq!(fs::read_to_string(&path).expect("reads"), "kept");
}

#[test]
fn a_put_never_swallows_its_own_mount() {
    if !fuse_available("a_put_never_swallows_its_own_mount") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let around = cluster.dir().join("around");
    let dir = around.join("net");
    fs::create_dir_all(&dir).expect("creates");
    fs::write(around.join("file"), "content").expect("writes");
    let node = &mut cluster.nodes[0];
    node.xorfs(&["mount", text(&dir)]).ok();
    node.adopt_mount(&dir);

    node.xorfs(&["put", text(&around)]).code(4).says(&[text(&dir), "left out"]);
    let listed = node.xorfs(&["ls", "main:/around"]).ok();
    assert_eq!(listed.text(), "file");
    let own =
        [dir.clone(), dir.join("main"), dir.join("main/around"), dir.join("main/around/file")];
    for (own, to) in own.iter().zip([".", "deep", "around/deep", "around"]) {
        node.xorfs(&["put", text(own), "--to", to]).code(4).says(&["itself"]);
    }
    assert_eq!(fs::read_to_string(dir.join("main/around/file")).expect("reads"), "content");
    // Beside itself is another matter.
    node.xorfs(&["put", text(&dir.join("main/around")), "--to", "copy"]).ok();
    assert_eq!(node.xorfs(&["cat", "main:/copy/around/file"]).ok().text(), "content");
}

#[test]
fn sigterm_flushes_and_unmounts() {
    if !fuse_available("sigterm_flushes_and_unmounts") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    let dir = node.mount();
    let tree = Tree::new(81, 30, 1 << 20);
    // Not synced by anybody: leaving has to do it.
    tree.write(&dir.join("main/tree")).expect("writes");
    assert!(node.terminate().success());
    expect_gone(&dir);
    node.restart();
    node.mount();
    assert_eq!(tree.differences(&dir.join("main/tree")), Vec::<String>::new());
}

#[test]
fn a_dead_mount_is_cleared_by_the_next() {
    if !fuse_available("a_dead_mount_is_cleared_by_the_next") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    let dir = node.mount();
    node.kill9();
    assert!(is_mounted(&dir), "a killed process leaves its mount behind");
    node.restart();
    node.mount();
    fs::write(dir.join("main/after.txt"), "alive").expect("writes");
    assert_eq!(fs::read_to_string(dir.join("main/after.txt")).expect("reads"), "alive");

    // And by `unmount`, where nobody mounts again.
    node.kill9();
    node.xorfs(&["unmount", text(&dir)]).ok();
    expect_gone(&dir);
}

#[test]
fn a_file_tells_its_level() {
    if !fuse_available("a_file_tells_its_level") {
        return;
    }
    let mut cluster = Cluster::start(2);
    let node = &mut cluster.nodes[0];
    let path = node.mount().join("main/level.bin");
    fs::write(&path, pattern(82, 300_000)).expect("writes");
    fs::File::open(&path).expect("opens").sync_all().expect("syncs");
    let state = xattr(&path, "user.xorfs.state");
    assert!(["staged", "sealed", "replicated"].contains(&state.as_str()), "{state}");
    wait_until("it is sealed without being asked", Duration::from_secs(40), || {
        xattr(&path, "user.xorfs.state") != "staged"
    });
    node.xorfs(&["sync", text(&path)]).ok();
    assert_eq!(xattr(&path, "user.xorfs.state"), "replicated");
    assert_eq!(xattr(&path, "user.xorfs.replicas").split('/').next(), Some("2"));
    assert_eq!(xattr(&path, "user.xorfs.link"), node.xorfs(&["link", text(&path)]).ok().text());
    assert_eq!(xattr(&path, "user.xorfs.id").len(), 64);

    // A change takes it back to the first level.
    fs::write(&path, "changed").expect("writes");
    assert_ne!(xattr(&path, "user.xorfs.state"), "replicated");
}

#[test]
fn free_space_is_that_of_the_disk() {
    if !fuse_available("free_space_is_that_of_the_disk") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let dir = cluster.nodes[0].mount();
    let figures = rustix::fs::statvfs(&dir).expect("asks");
    let (all, free) = (figures.f_blocks, figures.f_bfree);
    assert!(0 < free && free <= all, "{free} of {all} blocks are free");
}

#[test]
fn a_mount_without_a_daemon_brings_its_own() {
    if !fuse_available("a_mount_without_a_daemon_brings_its_own") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    assert!(node.terminate().success());
    let dir = node.mount();
    fs::write(dir.join("main/own.txt"), "own").expect("writes");
    node.xorfs(&["unmount", text(&dir)]).ok();
    expect_gone(&dir);
    // The node that came with the mount leaves with it, and with it its lock on the home.
    wait_until("the home is free again", NODE_DEADLINE, || {
        !fs::read_dir("/proc").expect("lists").flatten().any(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("daemon") && line.contains(text(&node.home))
        })
    });
    node.restart();
    assert_eq!(node.xorfs(&["cat", "main:/own.txt"]).ok().text(), "own");
}

#[test]
fn bad_mount_points_are_named() {
    if !fuse_available("bad_mount_points_are_named") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];

    let missing = work.join("missing");
    let outcome = node.xorfs(&["mount", text(&missing)]).says(&[text(&missing)]);
    assert!(outcome.code.is_some_and(|code| code != 0));
    assert!(!missing.exists(), "a mistyped path is not made");

    let full = work.join("full");
    fs::create_dir(&full).expect("creates");
    fs::write(full.join("file"), "kept").expect("writes");
    let outcome = node.xorfs(&["mount", text(&full)]).says(&[text(&full), "not empty"]);
    assert!(outcome.code.is_some_and(|code| code != 0));
    assert_eq!(fs::read_to_string(full.join("file")).expect("reads"), "kept");

    let file = work.join("a-file");
    fs::write(&file, "kept").expect("writes");
    let outcome = node.xorfs(&["mount", text(&file)]).says(&[text(&file), "director"]);
    assert!(outcome.code.is_some_and(|code| code != 0));

    let dir = node.mount();
    let outcome = node.xorfs(&["mount", text(&dir)]).says(&[text(&dir), "already"]);
    assert!(outcome.code.is_some_and(|code| code != 0));
    assert!(dir.join("main").is_dir(), "the mount that was there goes on");

    let outcome = node.xorfs(&["unmount", text(&full)]).says(&[text(&full)]);
    assert!(outcome.code.is_some_and(|code| code != 0), "nothing is mounted there");
}

/// Nobody's user and group id.
const NOBODY: u32 = 65_534;

#[test]
fn a_device_without_permission_is_named() {
    if !fuse_available("a_device_without_permission_is_named") {
        return;
    }
    let open_to_all = fs::metadata("/dev/fuse").expect("stats").mode() & 0o006 == 0o006;
    if open_to_all || !rustix::process::geteuid().is_root() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED a_device_without_permission_is_named: needs root and a /dev/fuse for root only"
        );
        return;
    }
    let cluster = Cluster::start(1);
    let work = cluster.dir();
    // A copy, because the build directory may lie where nobody may look.
    let program = work.join("xorfs");
    fs::copy(binary(), &program).expect("copies");
    fs::set_permissions(work, fs::Permissions::from_mode(0o711)).expect("sets");
    let (home, dir) = (work.join("home-of-nobody"), work.join("mount-of-nobody"));
    for path in [&home, &dir] {
        fs::create_dir(path).expect("creates");
        chown(path, Some(NOBODY), Some(NOBODY)).expect("changes the owner");
    }
    let mut command = Command::new(&program);
    command.args(["--home", text(&home), "mount", text(&dir)]).uid(NOBODY).gid(NOBODY);
    let outcome = run(&mut command, COMMAND_DEADLINE).says(&["/dev/fuse"]);
    assert!(outcome.code.is_some_and(|code| code != 0), "{}", outcome.stderr);
    assert!(!is_mounted(&dir));
}
