//! Keys at rest: the life of a passphrase, and what a node does while its keyring is locked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use xorfs_tests::cluster::{Cluster, NODE_DEADLINE, Node, fuse_available, wait_until};
use xorfs_tests::files::{difference, write_file};

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// A file that holds a passphrase.
fn passphrase(dir: &Path, words: &str) -> PathBuf {
    let file = dir.join(words.replace(' ', "-"));
    fs::write(&file, format!("{words}\n")).expect("writes");
    file
}

fn keyring_state(node: &Node) -> (bool, bool) {
    let answer = node.xorfs(&["status", "--json"]).ok();
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    let said = |key| answer["keyring"][key].as_bool().expect("a truth");
    (said("passphrase"), said("locked"))
}

#[test]
fn a_lost_keyring_is_not_replaced() {
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];
    let source = work.join("letter");
    fs::write(&source, "dear reader").expect("writes");
    node.xorfs(&["put", text(&source)]).ok();
    assert!(node.terminate().success());
    let (keyring, kept) = (node.home.join("keyring"), work.join("keyring"));
    fs::rename(&keyring, &kept).expect("moves");
    for command in [&["gc"][..], &["ls", "main:/"], &["put", text(&source)]] {
        node.xorfs(command).code(1).says(&["keyring is missing", "backup"]);
    }
    assert!(!keyring.exists());
    fs::rename(&kept, &keyring).expect("moves");
    node.xorfs(&["gc"]).ok();
    assert_eq!(node.xorfs(&["cat", "main:/letter"]).ok().text(), "dear reader");
}

#[test]
fn a_passphrase_is_set_changed_and_taken_off() {
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let (one, two) = (passphrase(&work, "first words"), passphrase(&work, "second words"));
    let node = &mut cluster.nodes[0];
    let source = work.join("letter");
    fs::write(&source, "dear reader").expect("writes");
    node.xorfs(&["put", text(&source)]).ok();
    let keyring = node.home.join("keyring");
    let plain = fs::read(&keyring).expect("reads");
    assert!(plain.windows(4).any(|window| window == b"main"));
    node.xorfs(&["lock"]).code(4).says(&["passphrase"]);

    node.xorfs(&["passphrase", "--new-passphrase-file", text(&one)]).ok();
    assert_eq!(keyring_state(node), (true, false), "it stays open");
    let sealed = fs::read(&keyring).expect("reads");
    assert!(!sealed.windows(4).any(|window| window == b"main"), "the names are sealed too");
    assert_eq!(node.xorfs(&["cat", "main:/letter"]).ok().text(), "dear reader");

    // Changing it needs the present one.
    let change = ["passphrase", "--new-passphrase-file", text(&two)];
    node.xorfs(&change).code(2).says(&["passphrase"]);
    node.xorfs(&[&change[..], &["--passphrase-file", text(&two)]].concat()).code(4);
    assert!(fs::read(&keyring).expect("reads") == sealed, "nothing was changed");
    node.xorfs(&[&change[..], &["--passphrase-file", text(&one)]].concat()).ok();

    // A command without a daemon opens it for itself, with the right one only.
    assert!(node.terminate().success());
    node.xorfs(&["cat", "main:/letter"]).code(4).says(&["xorfs unlock"]);
    node.xorfs(&["cat", "main:/letter", "--passphrase-file", text(&one)]).code(4);
    let said = node.xorfs(&["cat", "main:/letter", "--passphrase-file", text(&two)]).ok();
    assert_eq!(said.text(), "dear reader");
    assert_eq!(keyring_state(node), (true, true), "status asks nobody");
    node.xorfs(&["passphrase", "--remove", "--passphrase-file", text(&two)]).ok();
    assert_eq!(node.xorfs(&["cat", "main:/letter"]).ok().text(), "dear reader");
    node.xorfs(&["passphrase", "--remove"]).code(4);
}

#[test]
fn a_locked_node_serves_blocks_and_nothing_of_its_own() {
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let (right, wrong) = (passphrase(&work, "right"), passphrase(&work, "wrong"));
    let source = work.join("film.bin");
    write_file(&source, 61, 3 << 20).expect("writes");
    let node = &mut cluster.nodes[0];
    let link = node.xorfs(&["put", text(&source)]).ok().text().to_owned();
    node.xorfs(&["passphrase", "--new-passphrase-file", text(&right)]).ok();
    assert!(node.terminate().success());
    node.restart();
    assert_eq!(keyring_state(node), (true, true));

    for args in [
        &["ls"][..],
        &["ls", "main:/"],
        &["cat", "main:/film.bin"],
        &["put", text(&source)],
        &["link", "main:/film.bin"],
        &["volume", "list"],
        &["volume", "create", "other"],
        &["volume", "share", "main"],
        &["volume", "forget", "main", "--force"],
    ] {
        let outcome = node.xorfs(args).code(4).says(&["xorfs unlock"]);
        let lines = outcome.stderr.lines().filter(|line| line.starts_with("xorfs: "));
        assert_eq!(lines.count(), 1, "{}", outcome.stderr);
    }
    node.xorfs(&["peers"]).ok();
    node.xorfs(&["sync", "--timeout", "1s"]);
    // Whoever has the link needs nobody's keyring: not here, and not over the network.
    let here = work.join("here");
    node.xorfs(&["get", &link, text(&here)]).ok();
    assert_eq!(difference(&here, 61, 3 << 20), None);
    let other = cluster.add_node();
    cluster.await_acquaintance();
    let there = work.join("there");
    cluster.nodes[other].xorfs(&["get", &link, text(&there)]).ok();
    assert_eq!(difference(&there, 61, 3 << 20), None);

    let node = &cluster.nodes[0];
    node.xorfs(&["unlock"]).code(2).says(&["terminal"]);
    let begun = Instant::now();
    node.xorfs(&["unlock", "--passphrase-file", text(&wrong)]).code(4).says(&["passphrase"]);
    assert!(begun.elapsed() > Duration::from_millis(40), "a guess is cheap: {:?}", begun.elapsed());
    assert_eq!(keyring_state(node), (true, true));
    node.xorfs(&["unlock", "--passphrase-file", text(&right)]).ok();
    assert_eq!(keyring_state(node), (true, false));
    assert_eq!(node.xorfs(&["ls", "main:/"]).ok().text(), "film.bin");
    node.xorfs(&["unlock"]).ok();

    // Locked again, it forgets what it knew; what was being written is there afterwards.
    fs::write(work.join("late"), "late").expect("writes");
    node.xorfs(&["put", text(&work.join("late")), "--wait", "staged"]).ok();
    node.xorfs(&["lock"]).ok();
    node.xorfs(&["cat", "main:/late"]).code(4);
    node.xorfs(&["unlock", "--passphrase-file", text(&right)]).ok();
    assert_eq!(node.xorfs(&["cat", "main:/late"]).ok().text(), "late");
}

#[test]
fn a_passphrase_taken_off_while_locked_loses_nothing() {
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let words = passphrase(&work, "words");
    let source = work.join("film.bin");
    write_file(&source, 62, 3 << 20).expect("writes");
    let node = &mut cluster.nodes[0];
    node.xorfs(&["put", text(&source)]).ok();
    node.xorfs(&["passphrase", "--new-passphrase-file", text(&words)]).ok();
    node.xorfs(&["lock"]).ok();
    node.xorfs(&["gc"]).code(4).says(&["xorfs unlock"]);
    node.xorfs(&["passphrase", "--remove", "--passphrase-file", text(&words)]).ok();
    node.xorfs(&["gc"]).ok();
    assert_eq!(node.xorfs(&["ls", "main:/"]).ok().text(), "film.bin", "it is shown again");
    // What is in memory still reads, so nothing may be remembered.
    assert!(node.terminate().success());
    node.restart();
    let dest = work.join("dest");
    node.xorfs(&["get", "main:/film.bin", text(&dest)]).ok();
    assert_eq!(difference(&dest, 62, 3 << 20), None);
}

#[test]
fn a_daemon_takes_its_passphrase_from_a_file() {
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let (right, wrong) = (passphrase(&work, "right"), passphrase(&work, "wrong"));
    let node = &mut cluster.nodes[0];
    node.xorfs(&["passphrase", "--passphrase-file", text(&right)]).ok();
    assert!(node.terminate().success());
    let args = ["daemon", "--listen", "127.0.0.1:0", "--passphrase-file", text(&wrong)];
    node.xorfs(&args).code(4).says(&["passphrase"]);
    let nowhere = work.join("nowhere");
    let args = ["ls", "main:/", "--passphrase-file", text(&nowhere)];
    node.xorfs(&args).code(3).says(&["nowhere"]);
    node.xorfs(&["ls", "main:/", "--passphrase-file", text(&right)]).ok();
}

#[test]
fn volumes_leave_a_mount_and_come_back() {
    if !fuse_available("volumes_leave_a_mount_and_come_back") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let words = passphrase(&work, "words");
    let node = &mut cluster.nodes[0];
    let mount = node.mount();
    fs::write(mount.join("main/kept"), "kept").expect("writes");
    node.xorfs(&["passphrase", "--new-passphrase-file", text(&words)]).ok();
    // The write that nobody synced is not lost with the keys.
    fs::write(mount.join("main/fresh"), "fresh").expect("writes");
    node.xorfs(&["lock"]).ok();
    let shown = || -> Vec<_> {
        let names = fs::read_dir(&mount).expect("lists").map(|entry| entry.expect("lists"));
        names.map(|entry| entry.file_name()).collect()
    };
    wait_until("the volume has left the mount", NODE_DEADLINE, || {
        !shown().iter().any(|name| name == "main") && fs::read(mount.join("main/kept")).is_err()
    });
    node.xorfs(&["unlock", "--passphrase-file", text(&words)]).ok();
    wait_until("the volume is back", NODE_DEADLINE, || mount.join("main/kept").exists());
    for name in ["kept", "fresh"] {
        let read = fs::read_to_string(mount.join("main").join(name)).expect("reads");
        assert_eq!(read, name);
    }
}

#[test]
fn loose_modes_are_mended_with_a_line() {
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    assert!(node.terminate().success());
    let files = [node.home.clone(), node.home.join("identity"), node.home.join("keyring")];
    for file in &files {
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("sets");
    }
    let outcome = node.xorfs(&["ls"]).ok().says(&["identity", "keyring", "home"]);
    assert_eq!(outcome.stderr.lines().count(), 3, "{}", outcome.stderr);
    for (file, mode) in files.iter().zip([0o700, 0o600, 0o600]) {
        let found = fs::metadata(file).expect("stats").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", file.display());
    }
    assert!(node.xorfs(&["ls"]).ok().stderr.is_empty());
}
