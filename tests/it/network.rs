//! Several nodes: what was replicated outlives those who wrote it, and readers see news.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use xorfs_tests::cluster::{Cluster, Node, fuse_available, wait_until};
use xorfs_tests::files::{Tree, difference, pattern, write_file};

/// How long a change may take to reach a follower: a few polls of the head, on a busy machine.
const FOLLOW_DEADLINE: Duration = Duration::from_secs(60);

/// Nodes that bring blocks back to their copies without the usual patience.
const QUICK: [(&str, &str); 3] = [
    ("XORFS_REPAIR_INTERVAL", "1s"),
    ("XORFS_HEAD_POLL", "200ms"),
    ("XORFS_FETCH_DEADLINE", "20s"),
];

/// What is put by `put_samples`: link → what it names.
struct Samples {
    tree: (String, Tree),
    files: BTreeMap<String, (u64, u64)>,
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn put_samples(node: &Node, from: &Path) -> Samples {
    let tree = Tree::new(11, 60, 4 << 20);
    let root = from.join("samples");
    tree.write(&root).expect("the samples can be written");
    let put = |path: &Path| {
        node.xorfs(&["put", path_text(path), "--wait", "replicated"]).ok().text().to_owned()
    };
    let tree = (put(&root), tree);
    let mut files = BTreeMap::new();
    // Nothing, less than a block, and several blocks.
    for (seed, length) in [(21, 0), (22, 1), (23, 5_000), (24, 3 << 20)] {
        let path = from.join(format!("single-{seed}"));
        write_file(&path, seed, length).expect("a sample can be written");
        files.insert(put(&path), (seed, length));
    }
    Samples { tree, files }
}

/// Fetches everything through one node's commands into a fresh directory, and compares.
#[track_caller]
fn expect_by_get(node: &Node, samples: &Samples, into: &Path) {
    fs::create_dir(into).expect("the directory is fresh");
    let (link, tree) = &samples.tree;
    let dest = into.join("tree");
    node.xorfs(&["get", link, path_text(&dest)]).ok();
    assert_eq!(tree.differences(&dest), Vec::<String>::new());
    for (at, (link, (seed, length))) in samples.files.iter().enumerate() {
        let dest = into.join(format!("file-{at}"));
        node.xorfs(&["get", link, path_text(&dest)]).ok();
        assert_eq!(difference(&dest, *seed, *length), None);
    }
    fs::remove_dir_all(into).expect("the directory can be removed");
}

/// Reads everything through one node's mount, and compares.
#[track_caller]
fn expect_by_mount(mount: &Path, samples: &Samples) {
    let links = mount.join("link");
    let (link, tree) = &samples.tree;
    assert_eq!(tree.differences(&links.join(link)), Vec::<String>::new());
    for (link, (seed, length)) in &samples.files {
        assert_eq!(difference(&links.join(link), *seed, *length), None);
    }
}

#[test]
fn any_two_of_five_may_die() {
    let mut cluster = Cluster::with_environment(5, &QUICK);
    let work = cluster.dir().to_owned();
    let samples = put_samples(&cluster.nodes[0], &work);
    let mounts = fuse_available("the mounts of any_two_of_five_may_die");
    if mounts {
        cluster.nodes.iter_mut().for_each(|node| drop(node.mount()));
    }
    let pairs = (0..5).flat_map(|first| (first + 1..5).map(move |second| [first, second]));
    for pair in pairs {
        pair.iter().for_each(|place| cluster.nodes[*place].kill9());
        let living: Vec<usize> = (0..5).filter(|place| !pair.contains(place)).collect();
        let into = work.join(format!("got-without-{}-and-{}", pair[0], pair[1]));
        expect_by_get(&cluster.nodes[living[0]], &samples, &into);
        if mounts {
            expect_by_mount(&cluster.nodes[living[1]].mount_point(), &samples);
        }
        for place in pair {
            cluster.nodes[place].restart();
            if mounts {
                cluster.nodes[place].mount();
            }
        }
        cluster.await_acquaintance();
    }

    // All of the above may have been read at home. A newcomer holds nothing, so what it reads
    // came from the three that live.
    cluster.nodes[0].kill9();
    cluster.nodes[3].kill9();
    let newcomer = cluster.add_node();
    cluster.await_acquaintance();
    if mounts {
        let mount = cluster.nodes[newcomer].mount();
        expect_by_mount(&mount, &samples);
    }
    expect_by_get(&cluster.nodes[newcomer], &samples, &work.join("got-by-newcomer"));
}

#[test]
fn a_thousand_files_outlive_their_writer() {
    if !fuse_available("a_thousand_files_outlive_their_writer") {
        return;
    }
    let mut cluster = Cluster::with_environment(5, &QUICK);
    let tree = Tree::new(31, 1000, 256 << 20);
    let written = cluster.nodes[0].mount().join("main/thousand");
    let reader = cluster.nodes[4].mount();
    tree.write(&written).expect("the files can be copied in");
    let link = cluster.nodes[0].xorfs(&["link", path_text(&written)]).ok().text().to_owned();
    cluster.nodes[0].xorfs(&["sync"]).ok();
    cluster.nodes[0].kill9();
    cluster.nodes[2].kill9();
    assert_eq!(tree.differences(&reader.join("link").join(&link)), Vec::<String>::new());

    let newcomer = cluster.add_node();
    cluster.await_acquaintance();
    let dest = cluster.dir().join("thousand");
    cluster.nodes[newcomer].xorfs(&["get", &link, path_text(&dest)]).ok();
    assert_eq!(tree.differences(&dest), Vec::<String>::new());
}

#[test]
fn a_node_comes_back_with_its_data() {
    let mut cluster = Cluster::start(1);
    let source = cluster.dir().join("kept.bin");
    write_file(&source, 41, 2 << 20).expect("a sample can be written");
    let node = &mut cluster.nodes[0];
    let link = node.xorfs(&["put", path_text(&source), "--wait", "sealed"]).ok().text().to_owned();

    assert!(node.terminate().success(), "a node that is told to leave exits with 0");
    node.restart();
    assert!(node.xorfs(&["cat", &link]).ok().stdout == pattern(41, 2 << 20));

    node.kill9();
    node.restart();
    assert!(node.xorfs(&["cat", &link]).ok().stdout == pattern(41, 2 << 20));
    assert!(node.xorfs(&["cat", "main:/kept.bin"]).ok().stdout == pattern(41, 2 << 20));

    // Without a daemon the command opens the same home by itself.
    assert!(node.terminate().success());
    assert!(node.xorfs(&["cat", "main:/kept.bin"]).ok().stdout == pattern(41, 2 << 20));
}

#[test]
fn a_follower_sees_updates() {
    if !fuse_available("a_follower_sees_updates") {
        return;
    }
    let mut cluster = Cluster::with_environment(2, &QUICK);
    let main = cluster.nodes[0].mount().join("main");
    fs::write(main.join("news.txt"), "first").expect("writes");
    fs::create_dir(main.join("folder")).expect("creates");
    fs::write(main.join("folder/old.txt"), "old").expect("writes");
    cluster.nodes[0].xorfs(&["sync"]).ok();
    let link = cluster.nodes[0].xorfs(&["link", "main:/", "--live"]).ok().text().to_owned();

    let reader = &mut cluster.nodes[1];
    let friend = reader.mount().join("friend");
    reader.xorfs(&["volume", "follow", &link, "friend"]).ok();
    let shows = |path: &str, text: &str| {
        let (file, what) = (friend.join(path), format!("the follower's {path} says {text:?}"));
        wait_until(&what, FOLLOW_DEADLINE, || {
            fs::read_to_string(&file).is_ok_and(|read| read == text)
        });
    };
    shows("news.txt", "first");

    // Longer than before, so that a stale size would show.
    fs::write(main.join("news.txt"), "second, and longer").expect("writes");
    shows("news.txt", "second, and longer");

    fs::rename(main.join("folder/old.txt"), main.join("folder/new.txt")).expect("renames");
    shows("folder/new.txt", "old");
    assert!(!friend.join("folder/old.txt").exists(), "both changes came in one root");

    fs::remove_file(main.join("news.txt")).expect("removes");
    wait_until("the removal reaches the follower", FOLLOW_DEADLINE, || {
        !friend.join("news.txt").exists()
    });

    let refused = fs::write(friend.join("mine.txt"), "x").expect_err("a follower only reads");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{refused}");
}
