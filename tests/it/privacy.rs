//! Nobody but a link holder reads it: no plaintext in the files of any store.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use xorfs_tests::cluster::{Cluster, fuse_available};
use xorfs_tests::files::occurrences;

/// What must never be found: content, names and parts of paths, each long enough not to be met
/// by chance.
const MARKERS: [&str; 7] = [
    "marker-of-a-small-file",
    "marker-of-a-large-file",
    "marker-of-a-staged-file",
    "telltale-name.txt",
    "telltale-folder",
    "telltale-target-of-a-link",
    "telltale-attribute",
];

#[track_caller]
fn expect_sealed(home: &Path) {
    let store = home.join("store");
    assert!(store.is_dir(), "{} has no store to search", home.display());
    let needles = MARKERS.map(str::as_bytes);
    let found = occurrences(&store, &needles).expect("the files of a store can be read");
    assert_eq!(found, Vec::<String>::new(), "plaintext was stored");
}

fn repeated(text: &str, bytes: usize) -> String {
    format!("{text} ").repeat(bytes / (text.len() + 1))
}

/// Writes every marker into a volume at `root`; returns a file that is left open and unsealed.
fn write_markers(root: &Path) -> File {
    let folder = root.join("telltale-folder");
    fs::create_dir(&folder).expect("creates");
    fs::write(folder.join("telltale-name.txt"), MARKERS[0]).expect("writes");
    fs::write(folder.join("large.txt"), repeated(MARKERS[1], 3 << 20)).expect("writes");
    std::os::unix::fs::symlink(MARKERS[5], folder.join("symlink")).expect("links");
    let staged = folder.join("staged.txt");
    let mut file = File::create(&staged).expect("creates");
    file.write_all(repeated(MARKERS[2], 20_000).as_bytes()).expect("writes");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&staged, "user.note", MARKERS[6].as_bytes(), flags).expect("sets");
    // Crash-safe from here on, so it is on the disk: in the journal.
    file.sync_all().expect("syncs");
    file
}

#[test]
fn a_storing_node_holds_no_plaintext() {
    if !fuse_available("a_storing_node_holds_no_plaintext") {
        return;
    }
    let mut cluster = Cluster::start(2);
    let mount = cluster.nodes[0].mount();
    let file = write_markers(&mount.join("main"));
    expect_sealed(&cluster.nodes[0].home);

    drop(file);
    cluster.nodes[0].xorfs(&["sync"]).ok();
    for node in &cluster.nodes {
        expect_sealed(&node.home);
    }

    // What a database holds in memory reaches its files when it closes.
    for node in &mut cluster.nodes {
        assert!(node.terminate().success());
        expect_sealed(&node.home);
    }
}
