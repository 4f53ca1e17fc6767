//! Space: what `gc` gives back and never takes, and what a pin keeps.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use xorfs_tests::cluster::{Cluster, NODE_DEADLINE, Node, fuse_available, wait_until};
use xorfs_tests::files::{difference, pattern, write_file};

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn json(node: &Node, args: &[&str]) -> serde_json::Value {
    let outcome = node.xorfs(&[args, &["--json"]].concat()).ok();
    serde_json::from_slice(&outcome.stdout).expect("JSON")
}

fn space(node: &Node, field: &str) -> u64 {
    json(node, &["status"])["space"][field].as_u64().expect("a number")
}

#[test]
fn what_was_replaced_gives_its_disk_back() {
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];
    let source = work.join("film.bin");
    write_file(&source, 71, 40 * MIB).expect("writes");
    node.xorfs(&["put", text(&source)]).ok();
    let kept = work.join("kept.bin");
    write_file(&kept, 72, 4 * MIB).expect("writes");
    node.xorfs(&["put", text(&kept)]).ok();
    let would = json(node, &["gc", "--dry-run"])["removed_bytes"].as_u64().expect("a number");
    assert!(would < MIB, "only what was superseded on the way may go: {would} bytes");

    fs::remove_file(&source).expect("removes");
    write_file(&source, 73, MIB).expect("writes");
    node.xorfs(&["put", text(&source)]).ok();
    let would = json(node, &["gc", "--dry-run"]);
    let removed = would["removed_bytes"].as_u64().expect("a number");
    assert!(removed >= 39 << 20, "{would}");
    assert!(space(node, "pinned_bytes") >= 44 << 20, "a dry run removes nothing");

    let done = json(node, &["gc"]);
    assert_eq!(done["removed_bytes"], would["removed_bytes"]);
    assert!(space(node, "pinned_bytes") < 8 << 20);
    assert_eq!(json(node, &["status"])["last_gc"]["removed_bytes"], done["removed_bytes"]);
    node.xorfs(&["gc"]).ok();

    // What stayed reads, also after a restart, when nothing is remembered.
    assert!(node.terminate().success());
    node.restart();
    let dest = work.join("dest");
    node.xorfs(&["get", "main:/kept.bin", text(&dest)]).ok();
    assert_eq!(difference(&dest, 72, 4 * MIB), None);
    assert!(node.xorfs(&["cat", "main:/film.bin"]).ok().stdout == pattern(73, MIB as usize));
}

#[test]
fn a_file_that_is_open_keeps_its_blocks() {
    if !fuse_available("a_file_that_is_open_keeps_its_blocks") {
        return;
    }
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];
    let source = work.join("open.bin");
    write_file(&source, 74, 6 * MIB).expect("writes");
    let link = node.xorfs(&["put", text(&source)]).ok().text().to_owned();
    let mount = node.mount();
    let mut open = File::open(mount.join("main/open.bin")).expect("opens");
    fs::remove_file(mount.join("main/open.bin")).expect("removes");
    // Sealing without it, so that no head names it any more.
    let other = work.join("other");
    fs::write(&other, "other").expect("writes");
    node.xorfs(&["put", text(&other)]).ok();
    node.xorfs(&["gc"]).ok();
    assert!(space(node, "pinned_bytes") >= 6 << 20, "the open file is still here");
    let mut read = Vec::new();
    open.read_to_end(&mut read).expect("reads");
    assert!(read == pattern(74, (6 * MIB) as usize));

    drop(open);
    wait_until("the closed file is garbage", NODE_DEADLINE, || {
        node.xorfs(&["gc"]).ok();
        space(node, "pinned_bytes") < 1 << 20
    });
    // What is in memory still reads, so nothing may be remembered.
    assert!(node.terminate().success());
    node.restart();
    node.xorfs(&["get", &link, text(&work.join("gone"))]).code(3);
}

#[test]
fn what_is_being_written_is_never_collected() {
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];
    let done = AtomicBool::new(false);
    let name = |at: u64| work.join(format!("file-{at}.bin"));
    let seeds = || 0..6_u64;
    for at in seeds() {
        write_file(&name(at), at, 5 * MIB).expect("writes");
    }
    thread::scope(|scope| {
        let (node, done) = (&*node, &done);
        let collecting = scope.spawn(move || {
            let mut collected = 0;
            while !done.load(Ordering::Acquire) {
                node.xorfs(&["gc"]).ok();
                collected += 1;
            }
            collected
        });
        // Each is written twice, so that there is garbage to take and content to find again.
        for at in seeds().chain(seeds()) {
            node.xorfs(&["put", text(&name(at))]).ok();
        }
        done.store(true, Ordering::Release);
        assert!(collecting.join().expect("collects") > 0);
    });
    assert!(node.terminate().success());
    node.restart();
    for at in seeds() {
        let dest = work.join(format!("back-{at}"));
        node.xorfs(&["get", &format!("main:/file-{at}.bin"), text(&dest)]).ok();
        assert_eq!(difference(&dest, at, 5 * MIB), None);
    }
}

#[test]
fn a_pin_keeps_what_others_wrote() {
    // One copy of each block, so that what a node reads is cached there and not its to keep.
    let environment = [("XORFS_REPLICAS", "1"), ("XORFS_FETCH_DEADLINE", "2s")];
    let mut cluster = Cluster::with_environment(2, &environment);
    let work = cluster.dir().to_owned();
    let (film, book) = (work.join("film.bin"), work.join("book.bin"));
    write_file(&film, 75, 6 * MIB).expect("writes");
    write_file(&book, 76, 3 * MIB).expect("writes");
    let link = cluster.nodes[0].xorfs(&["put", text(&film)]).ok().text().to_owned();
    cluster.nodes[0].xorfs(&["put", text(&book)]).ok();
    let live = cluster.nodes[0].xorfs(&["volume", "share", "main"]).ok().text().to_owned();

    let reader = &cluster.nodes[1];
    let said = reader.xorfs(&["pin", &link]).ok();
    assert!(said.text().contains("is kept"), "{}", said.text());
    let pins = json(reader, &["pin"]);
    let rows = pins.as_array().expect("rows");
    assert!(rows.iter().any(|row| row["volume"] == true && row["own"] == true), "{pins}");
    assert!(rows.iter().any(|row| row["link"] == link.as_str()), "{pins}");
    assert_eq!(json(reader, &["pin", &link])["fetched_blocks"], 0, "all of it is here");
    reader.xorfs(&["gc"]).ok();
    assert!(space(reader, "pinned_bytes") >= 6 << 20);

    // A followed volume, and what is written to it later.
    reader.xorfs(&["volume", "follow", &live, "theirs"]).ok();
    wait_until("the volume is followed", NODE_DEADLINE, || {
        reader.xorfs(&["ls", "theirs:/"]).text().contains("book.bin")
    });
    reader.xorfs(&["pin", "theirs"]).ok();
    let later = work.join("later.bin");
    write_file(&later, 77, 2 * MIB).expect("writes");
    cluster.nodes[0].xorfs(&["put", text(&later)]).ok();
    wait_until("what came later is pinned too", NODE_DEADLINE, || {
        let reader = &cluster.nodes[1];
        reader.xorfs(&["gc"]).code == Some(0) && space(reader, "pinned_bytes") >= 11 << 20
    });

    cluster.nodes[0].kill9();
    let reader = &mut cluster.nodes[1];
    assert!(reader.terminate().success());
    reader.restart();
    for (name, seed, length) in [("film.bin", 75, 6 * MIB), ("book.bin", 76, 3 * MIB)] {
        let dest = work.join(format!("back-{name}"));
        reader.xorfs(&["get", &format!("theirs:/{name}"), text(&dest)]).ok();
        assert_eq!(difference(&dest, seed, length), None);
    }

    reader.xorfs(&["pin", "theirs", "--remove"]).ok();
    assert!(space(reader, "pinned_bytes") >= 6 << 20, "the link still pins the film");
    reader.xorfs(&["pin", &link, "--remove"]).ok();
    assert!(space(reader, "pinned_bytes") < 1 << 20);
    reader.xorfs(&["pin", &link, "--remove"]).code(3);
    reader.xorfs(&["pin", "nobody"]).code(3).says(&["nobody"]);
    reader.xorfs(&["pin", "--remove"]).code(2);
}

#[test]
fn an_unpinned_volume_goes_on_being_written() {
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];
    let (early, late) = (work.join("early"), work.join("late"));
    write_file(&early, 78, 2 * MIB).expect("writes");
    write_file(&late, 79, 2 * MIB).expect("writes");
    node.xorfs(&["put", text(&early)]).ok();
    node.xorfs(&["pin", "main", "--remove"]).ok();
    assert_eq!(json(node, &["pin"]), serde_json::json!([]));
    node.xorfs(&["put", text(&late)]).ok();
    node.xorfs(&["gc"]).ok();
    assert_eq!(space(node, "pinned_bytes"), 0);
    // Nobody else has it, so it is owed and stays.
    for (name, seed) in [("early", 78), ("late", 79)] {
        assert!(
            node.xorfs(&["cat", &format!("main:/{name}")]).ok().stdout
                == pattern(seed, (2 * MIB) as usize)
        );
    }
    node.xorfs(&["pin", "main"]).ok();
    node.xorfs(&["gc"]).ok();
    assert!(space(node, "pinned_bytes") >= 4 << 20);
    assert!(node.terminate().success());
    node.restart();
    assert_eq!(json(node, &["pin"])[0]["name"], "main");
}
