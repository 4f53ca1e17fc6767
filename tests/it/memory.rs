//! Bounded memory: what is moved does not decide how much a process holds.

use std::fs;
use std::path::Path;

use xorfs_tests::cluster::{Cluster, fuse_available};
use xorfs_tests::files::{difference, write_file};

/// The promise: resident bytes of a process that moves a file of `FILE_BYTES`.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;

/// Twice the bound, so that a process which keeps the file cannot stay below it.
const FILE_BYTES: u64 = 1 << 30;

fn expect_bounded(who: &str, peak_bytes: u64) {
    let mib = peak_bytes >> 20;
    assert!(peak_bytes > 0, "the memory of {who} was not seen");
    assert!(peak_bytes < RESIDENT_BYTES_MAX, "{who} held {mib} MiB");
}

#[test]
fn a_large_file_copied_into_the_mount_stays_below_the_bound() {
    if !fuse_available("a_large_file_copied_into_the_mount_stays_below_the_bound") {
        return;
    }
    let mut cluster = Cluster::start(2);
    let writer = &mut cluster.nodes[0];
    let path = writer.mount().join("main/large.bin");
    write_file(&path, 51, FILE_BYTES).expect("the file can be copied in");
    writer.xorfs(&["sync"]).ok();
    expect_bounded("the writer", writer.peak_bytes());
    assert_eq!(difference(&path, 51, FILE_BYTES), None);
    expect_bounded("the writer that reads back", writer.peak_bytes());
    expect_bounded("the storing node", cluster.nodes[1].peak_bytes());
}

#[test]
fn a_large_file_put_by_command_stays_below_the_bound() {
    let cluster = Cluster::start(2);
    let source = cluster.dir().join("large.bin");
    write_file(&source, 52, FILE_BYTES).expect("the file can be written");
    let text = |path: &Path| path.to_str().expect("paths of tests are text").to_owned();
    let put = cluster.nodes[0].xorfs(&["put", &text(&source), "--wait", "replicated"]).ok();
    expect_bounded("the put command", put.peak_bytes);
    expect_bounded("the daemon that was put to", cluster.nodes[0].peak_bytes());
    fs::remove_file(&source).expect("removes");

    let dest = cluster.dir().join("fetched.bin");
    let get = cluster.nodes[1].xorfs(&["get", put.text(), &text(&dest)]).ok();
    expect_bounded("the get command", get.peak_bytes);
    expect_bounded("the daemon that was read from", cluster.nodes[1].peak_bytes());
    assert_eq!(difference(&dest, 52, FILE_BYTES), None);
}
