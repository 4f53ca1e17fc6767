//! Space and integrity: what `gc` gives back and never takes, what a pin keeps, and what `check`
//! finds and mends.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
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
    json_of(node, args, 0)
}

#[track_caller]
fn json_of(node: &Node, args: &[&str], code: i32) -> serde_json::Value {
    let outcome = node.xorfs(&[args, &["--json"]].concat()).code(code);
    serde_json::from_slice(&outcome.stdout).expect("JSON")
}

fn space(node: &Node, field: &str) -> u64 {
    json(node, &["status"])["space"][field].as_u64().expect("a number")
}

/// Bytes that a folder takes of the disk, as `du` counts.
fn disk_usage(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).expect("lists").filter_map(Result::ok) {
        // What the store removed meanwhile takes nothing.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes +=
            if metadata.is_dir() { disk_usage(&entry.path()) } else { metadata.blocks() * 512 };
    }
    bytes
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

    let before = disk_usage(&node.home.join("store"));
    let done = json(node, &["gc"]);
    let after = disk_usage(&node.home.join("store"));
    assert!(after + (30 << 20) < before, "{before} bytes before, {after} after");
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
    // What was only cached until then is pinned when the command says so, not later.
    reader.xorfs(&["get", &link, text(&work.join("cached"))]).ok();
    let said = reader.xorfs(&["pin", &link]).ok();
    assert!(said.text().contains("is kept"), "{}", said.text());
    assert!(space(reader, "pinned_bytes") >= 6 << 20);
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
    // Nobody else has it any more: it is evictable now, and there until the room is needed.
    reader.xorfs(&["gc"]).ok();
    let left = space(reader, "cached_bytes") + space(reader, "in_range_bytes");
    assert!(left >= 11 << 20, "{left} bytes");
    reader.xorfs(&["get", &link, text(&work.join("unpinned"))]).ok();
    assert_eq!(difference(&work.join("unpinned"), 75, 6 * MIB), None);
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

/// Flips one bit in the middle of the largest blob file of a node that does not run.
fn damage(node: &Node) {
    let files = fs::read_dir(node.home.join("store/db")).expect("lists");
    let blobs = files.map(|entry| entry.expect("lists").path());
    let blobs = blobs.filter(|path| path.extension().is_some_and(|extension| extension == "blob"));
    let length = |path: &std::path::PathBuf| fs::metadata(path).expect("stats").len();
    let largest = blobs.max_by_key(length).expect("a blob file");
    let mut bytes = fs::read(&largest).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).expect("writes");
}

#[test]
fn a_check_finds_damage_and_mends_it_from_others() {
    let mut cluster = Cluster::with_environment(2, &[("XORFS_FETCH_DEADLINE", "5s")]);
    let work = cluster.dir().to_owned();
    let film = work.join("film.bin");
    write_file(&film, 81, 8 * MIB).expect("writes");
    cluster.nodes[0].xorfs(&["put", text(&film)]).ok();
    let clean = json(&cluster.nodes[0], &["check"]);
    assert_eq!((&clean["clean"], &clean["bad"]), (&true.into(), &serde_json::json!([])));

    // Alone, the node can only say what is damaged and who needs it.
    assert!(cluster.nodes[1].terminate().success());
    let node = &mut cluster.nodes[0];
    assert!(node.terminate().success());
    damage(node);
    node.restart();
    let outcome = node.xorfs(&["check"]).code(5);
    let said = outcome.text();
    assert!(said.contains("damaged: block") && said.contains("main:/film.bin"), "{said}");
    assert_eq!(json_of(node, &["check", "--repair"], 5)["bad"].as_array().map(Vec::len), Some(1));
    assert_eq!(space(node, "bad_blocks"), 1);

    cluster.nodes[1].restart();
    cluster.await_acquaintance();
    let node = &cluster.nodes[0];
    let mended = json_of(node, &["check", "--repair"], 0);
    assert_eq!(mended["clean"], true, "{mended}");
    assert_eq!(space(node, "bad_blocks"), 0);
    let dest = work.join("dest");
    node.xorfs(&["get", "main:/film.bin", text(&dest)]).ok();
    assert_eq!(difference(&dest, 81, 8 * MIB), None);
    node.xorfs(&["check"]).ok();
}
