//! The command line: what good input gives, and what each kind of bad input gets.
//!
//! Bad input ends in one clear line and the documented exit code, with nothing lost or
//! half-written. Messages are looked at for what they must name, not for their wording.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use xorfs_store::{BlockId, ID_BYTES};
use xorfs_tests::cluster::{COMMAND_DEADLINE, Cluster, Node, Outcome, binary, run};
use xorfs_tests::files::{Tree, difference, files_below, pattern, write_file};

/// A deadline that a test can wait for.
const IMPATIENT: [(&str, &str); 1] = [("XORFS_FETCH_DEADLINE", "2s")];

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn put(node: &Node, path: &Path) -> String {
    node.xorfs(&["put", text(path)]).ok().text().to_owned()
}

/// Says past the capture of test output that nothing was tested.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {why}");
}

/// One line on stderr, whatever was said before on the way: the last one is the error.
#[track_caller]
fn expect_one_line(outcome: &Outcome) {
    let errors = outcome.stderr.lines().filter(|line| line.starts_with("xorfs: "));
    assert_eq!(errors.count(), 1, "{} says: {}", outcome.command, outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn what_is_put_comes_back() {
    let cluster = Cluster::start(1);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let tree = Tree::new(91, 40, 3 << 20);
    let source = work.join("source");
    tree.write(&source).expect("writes");
    symlink("folder-00/file-0001.bin", source.join("shortcut")).expect("links");
    let script = source.join("script.sh");
    fs::write(&script, "#!/bin/sh\n").expect("writes");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o750)).expect("sets");

    let link = put(node, &source);
    assert!(link.starts_with("xorfs:") && !link.contains('\n'), "one link a path: {link}");
    let dest = work.join("dest");
    node.xorfs(&["get", &link, text(&dest)]).ok();
    assert_eq!(files_below(&dest).expect("lists"), files_below(&source).expect("lists"));
    fs::remove_file(dest.join("shortcut")).expect("a link came back");
    let (was, is) = (script.metadata(), dest.join("script.sh").metadata());
    let (was, is) = (was.expect("stats"), is.expect("stats"));
    assert_eq!((was.mode(), was.mtime()), (is.mode(), is.mtime()));
    fs::remove_file(dest.join("script.sh")).expect("removes");
    assert_eq!(tree.differences(&dest), Vec::<String>::new());

    assert_eq!(node.xorfs(&["cat", &format!("{link}/script.sh")]).ok().text(), "#!/bin/sh");
    let listed = node.xorfs(&["ls", &link]).ok();
    assert_eq!(listed.text().lines().count(), 3, "{}", listed.text());
    let long = node.xorfs(&["ls", "-l", &link]).ok();
    assert!(long.text().contains("rwxr-x---"), "{}", long.text());
    assert_eq!(node.xorfs(&["link", "main:/source"]).ok().text(), link);

    let answer = node.xorfs(&["status", "--json"]).ok();
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert!(answer.to_string().contains(&node.id), "{answer}");
}

#[test]
fn several_paths_give_a_link_each() {
    let cluster = Cluster::start(1);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let paths = ["one", "two", "three"].map(|name| work.join(name));
    for (seed, path) in (0..).zip(&paths) {
        write_file(path, seed, 1_000).expect("writes");
    }
    let outcome = node.xorfs(&["put", text(&paths[0]), text(&paths[1]), text(&paths[2])]).ok();
    let links: Vec<&str> = outcome.text().lines().collect();
    assert_eq!(links.len(), paths.len());
    for (seed, link) in (0..).zip(links) {
        assert!(node.xorfs(&["cat", link]).ok().stdout == pattern(seed, 1_000));
    }
}

#[test]
fn commands_work_without_a_daemon_and_without_init() {
    let mut cluster = Cluster::start(1);
    let source = cluster.dir().join("lonely.txt");
    fs::write(&source, "lonely").expect("writes");
    let node = &mut cluster.nodes[0];
    assert!(node.terminate().success());
    fs::remove_dir_all(&node.home).expect("removes");
    let link = put(node, &source);
    assert_eq!(node.xorfs(&["cat", &link]).ok().text(), "lonely");
    assert_eq!(node.xorfs(&["cat", "main:/lonely.txt"]).ok().text(), "lonely");
    for (name, mode) in [("identity", 0o600), ("keyring", 0o600)] {
        let found = node.home.join(name).metadata().expect("stats").mode() & 0o777;
        assert_eq!(found, mode, "mode of {name}: {found:o}");
    }
}

#[test]
fn a_link_may_be_written_in_capitals() {
    let cluster = Cluster::start(1);
    let source = cluster.dir().join("capitals");
    fs::write(&source, "loud").expect("writes");
    let link = put(&cluster.nodes[0], &source).to_uppercase();
    assert_eq!(cluster.nodes[0].xorfs(&["cat", &link]).ok().text(), "loud");
}

#[test]
fn bad_links_are_told_apart() {
    let cluster = Cluster::with_environment(2, &IMPATIENT);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let source = work.join("linked");
    fs::write(&source, "linked").expect("writes");
    let link = put(node, &source);
    let dest = work.join("never");

    // No link at all, and one without anything behind the prefix.
    for bad in ["http://example.org/", "xorfs:", "xorfs:!!!!"] {
        let outcome = node.xorfs(&["get", bad, text(&dest)]).code(2).says(&["link"]);
        expect_one_line(&outcome);
    }
    // A letter mistyped anywhere is a typing error, not a missing file.
    let body = link.find(':').expect("a prefix") + 1;
    for at in [body + 4, (body + link.len()) / 2, link.len() - 1] {
        let mut bytes = link.clone().into_bytes();
        bytes[at] = if bytes[at] == b'q' { b'p' } else { b'q' };
        let mistyped = String::from_utf8(bytes).expect("ASCII");
        let outcome = node.xorfs(&["get", &mistyped, text(&dest)]).code(2).says(&["typ"]);
        expect_one_line(&outcome);
    }
    // Cut off while it was copied.
    let outcome = node.xorfs(&["get", &link[..link.len() - 5], text(&dest)]).code(2);
    expect_one_line(&outcome);
    assert!(!dest.exists(), "nothing is left of a get that failed");

    let outcome = node.xorfs(&["cat", &format!("{link}/below")]);
    assert!(outcome.code.is_some_and(|code| code != 0), "a file has nothing below");
    let outcome = node.xorfs(&["cat", "main:/nowhere"]).code(3).says(&["nowhere"]);
    expect_one_line(&outcome);
    let outcome = node.xorfs(&["cat", "nosuchvolume:/file"]).code(3).says(&["nosuchvolume"]);
    expect_one_line(&outcome);
}

#[test]
fn a_link_that_nobody_holds_ends_after_the_deadline() {
    let cluster = Cluster::with_environment(2, &IMPATIENT);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    // Made at a home that never met the others.
    let source = work.join("elsewhere.bin");
    write_file(&source, 92, 400_000).expect("writes");
    let home = work.join("stranger");
    let args = ["--home", text(&home), "put", text(&source), "--wait", "sealed"];
    let mut stranger = Command::new(binary());
    let link = run(stranger.args(args), COMMAND_DEADLINE).ok().text().to_owned();

    let dest = work.join("never");
    let begun = Instant::now();
    let outcome = node.xorfs(&["get", &link, text(&dest)]).code(3).says(&["block"]);
    expect_one_line(&outcome);
    let named = outcome.stderr.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() == 64);
    assert!(named, "the missing block is named: {}", outcome.stderr);
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    assert!(!dest.exists());
}

#[test]
fn an_existing_destination_is_kept() {
    let cluster = Cluster::start(1);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let source = work.join("source");
    fs::write(&source, "new").expect("writes");
    let link = put(node, &source);
    let dest = work.join("dest");
    fs::write(&dest, "old").expect("writes");
    let outcome = node.xorfs(&["get", &link, text(&dest)]).code(4).says(&[text(&dest)]);
    expect_one_line(&outcome);
    assert_eq!(fs::read_to_string(&dest).expect("reads"), "old");
    node.xorfs(&["get", "--force", &link, text(&dest)]).ok();
    assert_eq!(fs::read_to_string(&dest).expect("reads"), "new");

    // Nor does a file ever replace a directory with all that is in it.
    let folder = work.join("folder");
    fs::create_dir(&folder).expect("creates");
    fs::write(folder.join("kept"), "kept").expect("writes");
    for args in [&["get", &link, text(&folder)][..], &["get", "--force", &link, text(&folder)]] {
        expect_one_line(&node.xorfs(args).code(4).says(&[text(&folder), "directory"]));
    }
    assert_eq!(fs::read_to_string(folder.join("kept")).expect("reads"), "kept");

    // A file in the volume is never replaced by a directory.
    let directory = work.join("other/source");
    fs::create_dir_all(&directory).expect("creates");
    let outcome = node.xorfs(&["put", text(&directory)]).code(4).says(&["source"]);
    expect_one_line(&outcome);
    assert_eq!(node.xorfs(&["cat", "main:/source"]).ok().text(), "new");
}

#[test]
fn mistaken_places_are_told() {
    let cluster = Cluster::start(1);
    let (node, source) = (&cluster.nodes[0], cluster.dir().join("file"));
    fs::write(&source, "content").expect("writes");
    node.xorfs(&["put", text(&source), "--to", "folder"]).ok();
    // What one would try first is answered with what would have worked.
    for (args, said) in [
        (&["ls", "main"][..], "main:/"),
        (&["put", text(&source), "--to", "main:/folder"], "--volume"),
        (&["put", text(&source), "--volume", "main:/folder"], "--to"),
        (&["put", text(&source), "--volume", ""], "--to"),
        // A live link opens the whole volume, which is more than was asked for here.
        (&["link", "main:/folder", "--live"], "main:/"),
    ] {
        expect_one_line(&node.xorfs(args).code(2).says(&[said]));
    }
    node.xorfs(&["link", "main:/", "--live"]).ok();
    assert_eq!(node.xorfs(&["ls", "main:/"]).ok().text(), "folder");
}

#[test]
fn an_interrupted_get_goes_on() {
    let cluster = Cluster::start(1);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let length = 64 << 20;
    let source = work.join("long.bin");
    write_file(&source, 93, length).expect("writes");
    let link = put(node, &source);
    let dest = work.join("dest.bin");

    let mut command = node.command(&["get", &link, text(&dest)]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let partial = work.join(".dest.bin.xorfs-partial");
    let end = Instant::now() + COMMAND_DEADLINE;
    // Killed at some moment after it began; should it be done already, there is nothing to see.
    while !partial.exists() && child.try_wait().expect("waits").is_none() {
        assert!(Instant::now() < end, "get neither begins nor ends");
    }
    let _ = child.kill();
    let _ = child.wait();
    if !dest.exists() {
        node.xorfs(&["get", &link, text(&dest)]).ok();
    }
    assert_eq!(difference(&dest, 93, length), None);
    assert!(!partial.exists(), "the partial file became the whole one");
}

#[test]
fn bad_sources_are_named_and_leave_nothing() {
    let cluster = Cluster::start(1);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let missing = work.join("missing.bin");
    let outcome = node.xorfs(&["put", text(&missing)]).says(&[text(&missing)]);
    assert!(outcome.code.is_some_and(|code| code != 0));

    // One bad path does not take the good one with it, and the exit code tells.
    let good = work.join("good.txt");
    fs::write(&good, "good").expect("writes");
    let outcome = node.xorfs(&["put", text(&good), text(&missing)]);
    assert!(outcome.code.is_some_and(|code| code != 0));

    assert_eq!(node.xorfs(&["ls", "main:/missing.bin"]).code, Some(3));
    let names = node.xorfs(&["ls", "main:/"]).ok();
    assert!(!names.text().contains("partial"), "no remains: {}", names.text());
}

#[test]
fn a_source_that_changes_meanwhile_is_named() {
    let cluster = Cluster::start(1);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let source = work.join("changing.bin");
    write_file(&source, 94, 32 << 20).expect("writes");
    let mut command = node.command(&["put", text(&source)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    // It grows for as long as it is read, so it cannot be read without a change.
    let mut file = File::options().append(true).open(&source).expect("opens");
    let end = Instant::now() + COMMAND_DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("waits") {
            break status;
        }
        assert!(Instant::now() < end, "put chases a growing file");
        file.write_all(b"more").expect("writes");
    };
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("changing.bin"), "{said}");
    assert_eq!(node.xorfs(&["ls", "main:/changing.bin"]).code, Some(3), "nothing half-written");
}

#[test]
fn one_home_has_one_daemon() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let process = node.process().to_string();
    let outcome = node.xorfs(&["daemon", "--listen", "127.0.0.1:0"]).code(4).says(&[&process]);
    expect_one_line(&outcome);
    assert_eq!(node.xorfs(&["status"]).ok().code, Some(0), "the first one goes on");
}

#[test]
fn a_home_of_a_newer_version_is_refused_and_kept() {
    const MAGIC: &[u8] = b"xorfs keyring\n";
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    assert!(node.terminate().success());
    // As a later version would write it: the next format, and a checksum that fits.
    let path = node.home.join("keyring");
    let mut bytes = fs::read(&path).expect("reads");
    assert!(bytes.starts_with(MAGIC));
    bytes[MAGIC.len()] += 1;
    let body = MAGIC.len()..bytes.len() - ID_BYTES;
    let checksum = *BlockId::of(&bytes[body.clone()]).as_bytes();
    bytes[body.end..].copy_from_slice(&checksum);
    fs::write(&path, &bytes).expect("writes");

    for args in [&["daemon", "--listen", "127.0.0.1:0"][..], &["ls", "main:/"]] {
        let outcome = node.xorfs(args).says(&["newer"]);
        assert!(outcome.code.is_some_and(|code| code != 0));
        expect_one_line(&outcome);
    }
    assert!(fs::read(&path).expect("reads") == bytes, "what is not understood is not touched");
}

#[test]
fn a_port_in_use_is_named() {
    let mut cluster = Cluster::start(1);
    let taken = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let addr = taken.local_addr().expect("is bound").to_string();
    let node = &mut cluster.nodes[0];
    assert!(node.terminate().success());
    let outcome = node.xorfs(&["daemon", "--listen", &addr]).says(&[&addr, "in use"]);
    assert!(outcome.code.is_some_and(|code| code != 0));
    expect_one_line(&outcome);
}

#[test]
fn an_unreachable_peer_is_retried_and_the_node_runs() {
    let cluster = Cluster::start(1);
    // Bound and silent: nobody answers there, and nobody else takes the port.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let addr = silent.local_addr().expect("is bound");
    let node = Node::start(cluster.dir(), 1, [addr].into_iter(), &[]);
    assert_eq!(node.xorfs(&["status"]).ok().code, Some(0));
    node.await_log(&addr.to_string(), COMMAND_DEADLINE);
    assert!(node.log().contains("WARN"), "{}", node.log());
}

#[test]
fn sync_without_peers_says_so() {
    let cluster = Cluster::start(1);
    let (node, source) = (&cluster.nodes[0], cluster.dir().join("alone.bin"));
    write_file(&source, 95, 100_000).expect("writes");
    node.xorfs(&["put", text(&source)]).ok();
    let outcome = node.xorfs(&["sync"]).code(1).says(&["peer"]);
    expect_one_line(&outcome);
}

/// A node with little room refuses what does not fit, and keeps what it has.
#[track_caller]
fn expect_full(node: &Node, work: &Path) {
    let small = work.join("small.bin");
    write_file(&small, 96, 1 << 20).expect("writes");
    let link = put(node, &small);
    let large = work.join("large.bin");
    write_file(&large, 97, 256 << 20).expect("writes");
    let outcome = node.xorfs(&["put", text(&large), "--wait", "sealed"]).code(4).says(&["full"]);
    expect_one_line(&outcome);
    assert_eq!(node.xorfs(&["ls", "main:/large.bin"]).code, Some(3), "nothing half-written");
    assert!(node.xorfs(&["cat", &link]).ok().stdout == pattern(96, 1 << 20));
}

#[test]
fn a_full_quota_refuses() {
    let cluster = Cluster::with_environment(1, &[("XORFS_QUOTA", "48MiB")]);
    expect_full(&cluster.nodes[0], cluster.dir());
}

#[test]
fn a_full_disk_refuses() {
    if !rustix::process::geteuid().is_root() {
        skipped("a_full_disk_refuses: only root can make a small disk");
        return;
    }
    let cluster = Cluster::start(1);
    let disk = cluster.dir().join("disk");
    fs::create_dir(&disk).expect("creates");
    // Blocks leave a reserve of 256 MiB alone, so little more than a tenth is to be had.
    let size = c"size=300m";
    let flags = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("none", &disk, "tmpfs", flags, size) {
        skipped(&format!("a_full_disk_refuses: no small disk can be made here: {error}"));
        return;
    }
    let mut node = Node::start(&disk, 1, std::iter::empty(), &[]);
    node.adopt_mount(&disk);
    expect_full(&node, cluster.dir());
}

#[test]
fn bad_usage_exits_with_2() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for args in [&["nosuchcommand"][..], &["get"], &["put"], &["daemon", "--listen", "nowhere"]] {
        node.xorfs(args).code(2);
    }
    let help = node.xorfs(&["--help"]).ok();
    for command in
        ["daemon", "mount", "unmount", "put", "get", "cat", "ls", "link", "sync", "status", "peers"]
    {
        assert!(help.text().contains(command), "{command} is missing from --help");
        node.xorfs(&[command, "--help"]).ok();
    }
}
