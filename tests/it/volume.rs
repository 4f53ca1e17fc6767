//! Volumes by command: made, shared, followed, written elsewhere, forgotten; and commands that
//! share one home without a daemon.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use xorfs_tests::cluster::{Cluster, NODE_DEADLINE, Node, wait_until};
use xorfs_tests::files::write_file;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

#[test]
fn a_volume_is_shared_followed_and_forgotten() {
    let cluster = Cluster::start(2);
    let (owner, friend) = (&cluster.nodes[0], &cluster.nodes[1]);
    let source = cluster.dir().join("shared.txt");
    fs::write(&source, "first").expect("writes");
    owner.xorfs(&["volume", "create", "photos"]).ok();
    owner.xorfs(&["volume", "create", "photos"]).code(4).says(&["photos"]);
    owner.xorfs(&["volume", "create", "link"]).code(2);
    owner.xorfs(&["put", text(&source), "--volume", "photos", "--to", "a/b"]).ok();
    owner.xorfs(&["put", text(&source), "--volume", "nowhere"]).code(3).says(&["nowhere"]);
    owner.xorfs(&["sync"]).ok();

    let link = owner.xorfs(&["volume", "share", "photos"]).ok().text().to_owned();
    friend.xorfs(&["volume", "follow", &link, "theirs"]).ok();
    friend.xorfs(&["volume", "follow", &link, "again"]).code(4).says(&["theirs"]);
    let shown = || friend.xorfs(&["cat", "theirs:/a/b/shared.txt"]).stdout == b"first";
    wait_until("the follower sees the volume", NODE_DEADLINE, shown);
    friend.xorfs(&["put", text(&source), "--volume", "theirs"]).code(4);
    friend.xorfs(&["volume", "share", "theirs", "--write"]).code(4);

    fs::write(&source, "second").expect("writes");
    owner.xorfs(&["put", text(&source), "--volume", "photos", "--to", "a/b"]).ok();
    let shown = || friend.xorfs(&["cat", "theirs:/a/b/shared.txt"]).stdout == b"second";
    wait_until("the follower sees the change", NODE_DEADLINE, shown);

    // The live link is read without following, too.
    let below = format!("{link}/a/b/shared.txt");
    assert_eq!(friend.xorfs(&["cat", &below]).ok().text(), "second");
    friend.xorfs(&["volume", "forget", "theirs"]).ok();
    friend.xorfs(&["ls", "theirs:/"]).code(3).says(&["theirs"]);
    owner.xorfs(&["volume", "forget", "photos"]).code(4).says(&["--force"]);
    let listed = owner.xorfs(&["ls"]).ok();
    assert_eq!(listed.text().lines().collect::<Vec<_>>(), ["main", "photos"]);
}

#[test]
fn a_link_that_writes_takes_a_volume_to_another_machine() {
    let cluster = Cluster::start(2);
    let (old, new) = (&cluster.nodes[0], &cluster.nodes[1]);
    let source = cluster.dir().join("mine.txt");
    fs::write(&source, "mine").expect("writes");
    old.xorfs(&["put", text(&source)]).ok();
    let link = old.xorfs(&["volume", "share", "main", "--write"]).ok().text().to_owned();
    new.xorfs(&["volume", "follow", &link, "home"]).ok();
    assert_eq!(new.xorfs(&["cat", "home:/mine.txt"]).ok().text(), "mine");
    fs::write(&source, "changed").expect("writes");
    new.xorfs(&["put", text(&source), "--volume", "home"]).ok();
    assert_eq!(new.xorfs(&["cat", "home:/mine.txt"]).ok().text(), "changed");
}

#[test]
fn commands_without_a_daemon_take_turns() {
    let mut cluster = Cluster::start(1);
    assert!(cluster.nodes[0].terminate().success());
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let names: Vec<String> = (0..4).map(|number| format!("file-{number}")).collect();
    let start = |name: &String| -> Child {
        fs::write(work.join(name), name).expect("writes");
        let mut command = node.command(&["put", text(&work.join(name))]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
    };
    let running: Vec<Child> = names.iter().map(start).collect();
    for mut child in running {
        assert!(child.wait().expect("ends").success());
    }
    let listed = node.xorfs(&["ls", "main:/"]).ok();
    assert_eq!(listed.text().lines().collect::<Vec<_>>(), names);
}

#[test]
fn hard_links_stay_one_file() {
    let cluster = Cluster::start(1);
    let (node, source) = (&cluster.nodes[0], cluster.dir().join("source"));
    fs::create_dir(&source).expect("creates");
    fs::write(source.join("one"), "content").expect("writes");
    fs::hard_link(source.join("one"), source.join("two")).expect("links");
    node.xorfs(&["put", text(&source)]).ok();
    let listed = node.xorfs(&["ls", "--json", "main:/source"]).ok();
    let rows: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let counts: Vec<_> = rows.as_array().expect("rows").iter().map(|row| &row["nlink"]).collect();
    assert_eq!(counts, [2, 2]);
}

#[test]
fn an_interrupted_put_leaves_nothing() {
    let mut cluster = Cluster::start(1);
    let source = cluster.dir().join("long.bin");
    write_file(&source, 98, 256 << 20).expect("writes");
    let node = &mut cluster.nodes[0];
    let begin = |node: &Node| {
        let mut command = node.command(&["put", text(&source), "--wait", "sealed"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        let begun = || !node.xorfs(&["ls", "main:/"]).ok().text().is_empty();
        wait_until("the put begins", NODE_DEADLINE, begun);
        child
    };
    // Nothing half-written: either it was faster than us and is whole, or there is no trace.
    let clean = |node: &Node| {
        let listed = node.xorfs(&["ls", "main:/"]).ok();
        matches!(listed.text(), "" | "long.bin")
    };
    let mut client = begin(node);
    client.kill().expect("a child can be killed");
    client.wait().expect("a killed child ends");
    wait_until("the put's remains go", NODE_DEADLINE, || clean(node));
    let mut client = begin(node);
    assert!(node.terminate().success());
    client.wait().expect("a put without its node ends");
    assert!(clean(node), "{}", node.xorfs(&["ls", "main:/"]).text());
}
