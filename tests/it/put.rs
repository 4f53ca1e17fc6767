//! `put` and `get` of whole trees: everything a file is comes back, and what has not changed is
//! not read again, whatever was interrupted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use xorfs_tests::cluster::{COMMAND_DEADLINE, Cluster, Node, wait_until};
use xorfs_tests::files::{files_below, pattern, write_file};

const HOLE_BYTES: u64 = 1 << 30;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// Waits until everything below has been left alone long enough for its times to tell a change.
fn await_settled(root: &Path) {
    wait_until("the files are older than a tick", Duration::from_secs(10), || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
        let age = Duration::from_millis(200);
        let old = |path: &PathBuf| {
            let found = root.join(path).symlink_metadata().expect("stats");
            now >= Duration::new(found.ctime() as u64, found.ctime_nsec() as u32) + age
        };
        files_below(root).expect("lists").iter().all(old)
    });
}

/// What `put --json` counted: files sent, files unchanged.
fn put(node: &Node, source: &Path) -> (String, u64, u64) {
    let answer = node.xorfs(&["put", "--json", text(source), "--wait", "sealed"]).ok();
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    let count = |name: &str| answer[0][name].as_u64().expect("a count");
    let link = answer[0]["link"].as_str().expect("a link").to_owned();
    (link, count("files"), count("unchanged"))
}

/// The number of the volume's newest head.
fn sequence(node: &Node) -> u64 {
    let answer = node.xorfs(&["--json", "volume", "list"]).ok();
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    answer[0]["sequence"].as_u64().expect("a number")
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("sets");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets");
}

/// A tree with every kind of file.
fn make_everything(root: &Path) {
    fs::create_dir_all(root.join("dir/deep/empty")).expect("creates");
    for (seed, size) in [(1, 0), (2, 1), (3, 70_000), (4, 600_000), (5, 3_000_000)] {
        write_file(&root.join(format!("dir/size-{size}")), seed, size).expect("writes");
    }
    fs::write(root.join("dir/linked"), "several names").expect("writes");
    fs::hard_link(root.join("dir/linked"), root.join("linked too")).expect("links");
    fs::hard_link(root.join("dir/linked"), root.join("dir/deep/linked three")).expect("links");
    symlink("nowhere/at all", root.join("dangling")).expect("links");
    symlink("dir", root.join("shortcut")).expect("links");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, mode, 0).expect("makes");
    rustix::fs::mknodat(CWD, root.join("socket"), FileType::Socket, mode, 0).expect("makes");
    let mut hole = File::create(root.join("hole")).expect("creates");
    hole.set_len(HOLE_BYTES).expect("sets");
    hole.seek(SeekFrom::Start(HOLE_BYTES / 2)).expect("seeks");
    hole.write_all(b"in the middle of nothing").expect("writes");
    for name in [vec![b'n'; 255], [vec![0xff, 0xfe], vec![b'\n'; 253]].concat()] {
        fs::write(root.join(OsStr::from_bytes(&name)), "a long name").expect("writes");
    }
    for (at, name, value) in [("dir/size-1", "user.a", "1"), ("dir/deep", "user.b", "of a dir")] {
        // A disk without attributes is the same on both sides.
        let _ = rustix::fs::setxattr(root.join(at), name, value.as_bytes(), XattrFlags::empty());
    }
    let long = vec![7; 3000];
    let _ = rustix::fs::setxattr(root.join("hole"), "user.long", &long, XattrFlags::empty());
    set_mode(&root.join("dir/size-0"), 0o400);
    set_mode(&root.join("dir/deep/empty"), 0o1777);
    for (nanos, at) in (0..).zip(["dir/size-1", "dangling", "pipe", "dir/deep/empty", "dir/deep"]) {
        set_mtime(&root.join(at), 1_000_000_000, 123_456_789 + nanos);
    }
    set_mtime(&root.join("dir/size-70000"), -86_400, 999_999_999);
    set_mtime(&root.join("dir"), 1_100_000_000, 1);
}

/// All that can be compared of an entry, as text.
fn describe(path: &Path, names: &mut BTreeMap<u64, Vec<u8>>) -> String {
    let found = path.symlink_metadata().expect("stats");
    let kind = found.file_type();
    let content = if kind.is_symlink() {
        format!("{:?}", fs::read_link(path).expect("reads"))
    } else if kind.is_file() && found.len() < HOLE_BYTES {
        format!("{:x?}", xorfs_store::BlockId::of(&fs::read(path).expect("reads")))
    } else {
        format!("{} {} {}", kind.is_dir(), kind.is_fifo(), kind.is_socket())
    };
    let first = names.entry(found.ino()).or_insert_with(|| path.as_os_str().as_bytes().to_vec());
    let first = first.rsplit(|byte| *byte == b'/').next().expect("a name").to_vec();
    let mut xattrs = Vec::new();
    for name in ["user.a", "user.b", "user.long"] {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
        xattrs.push((name, value[..length].to_vec()));
    }
    format!(
        "{:o} {}:{} {} {}.{:09} {} {content} {first:?} {xattrs:?}",
        found.mode(),
        found.uid(),
        found.gid(),
        if kind.is_dir() { 0 } else { found.len() },
        found.mtime(),
        found.mtime_nsec(),
        if kind.is_dir() { 0 } else { found.nlink() },
    )
}

fn describe_all(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut names = BTreeMap::new();
    let mut all = files_below(root).expect("lists");
    all.extend(["dir", "dir/deep", "dir/deep/empty", ""].map(PathBuf::from));
    all.sort();
    all.dedup();
    let described = all.into_iter().map(|path| {
        let text = describe(&root.join(&path), &mut names);
        (path, text)
    });
    described.collect()
}

#[test]
fn everything_that_a_file_is_comes_back() {
    let cluster = Cluster::start(1);
    let (node, work) = (&cluster.nodes[0], cluster.dir());
    let source = work.join("source");
    make_everything(&source);
    let (link, files, _) = put(node, &source);
    assert_eq!(files, 11, "further names included");
    let was = describe_all(&source);
    for (from, dest) in [(link.as_str(), "by-link"), ("main:/source", "by-path")] {
        let dest = work.join(dest);
        node.xorfs(&["get", from, text(&dest)]).ok();
        let is = describe_all(&dest);
        assert_eq!(was.keys().collect::<Vec<_>>(), is.keys().collect::<Vec<_>>(), "{from}");
        for (path, was) in &was {
            // The attributes of what a link itself names are not in the link.
            if !path.as_os_str().is_empty() {
                assert_eq!(was, &is[path], "{from}: {}", path.display());
            }
        }
        let hole = dest.join("hole");
        let mut middle = File::open(&hole).expect("opens");
        middle.seek(SeekFrom::Start(HOLE_BYTES / 2)).expect("seeks");
        let mut found = [0; 24];
        std::io::Read::read_exact(&mut middle, &mut found).expect("reads");
        assert_eq!(&found, b"in the middle of nothing");
        let occupied = hole.metadata().expect("stats").blocks() * 512;
        assert!(occupied < 2 << 20, "a hole stays one: {occupied} bytes");
    }
}

#[test]
fn read_only_files_come_back_with_their_attributes() {
    let cluster = Cluster::start(1);
    let (node, source) = (&cluster.nodes[0], cluster.dir().join("source"));
    fs::create_dir_all(source.join("dir")).expect("creates");
    fs::write(source.join("file"), "file").expect("writes");
    for (name, mode) in [("file", 0o444), ("dir", 0o555)] {
        let path = source.join(name);
        if rustix::fs::setxattr(&path, "user.a", name.as_bytes(), XattrFlags::empty()).is_err() {
            let _ = writeln!(std::io::stderr(), "SKIPPED attributes: this disk keeps none");
            return;
        }
        set_mode(&path, mode);
    }
    let (link, ..) = put(node, &source);
    let dest = cluster.dir().join("dest");
    let get = node.command(&["get", &link, text(&dest)]);
    // Root may write to everything, unless it has given that up.
    let mut get = if rustix::process::geteuid().is_root() {
        let mut bare = Command::new("setpriv");
        bare.args(["--bounding-set=-all", "--inh-caps=-all"]);
        bare.arg(get.get_program()).args(get.get_args());
        bare.envs(get.get_envs().filter_map(|(name, value)| Some((name, value?))));
        bare
    } else {
        get
    };
    match get.output() {
        Err(_) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED attributes: no setpriv here");
            return;
        }
        Ok(got) => assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr)),
    }
    for (name, mode) in [("file", 0o444), ("dir", 0o555)] {
        let (path, mut value) = (dest.join(name), [0; 8]);
        let length = rustix::fs::getxattr(&path, "user.a", &mut value).expect("it is there");
        assert_eq!(&value[..length], name.as_bytes());
        assert_eq!(path.metadata().expect("stats").mode() & 0o7777, mode);
    }
}

#[test]
fn what_has_not_changed_is_not_put_again() {
    let mut cluster = Cluster::start(1);
    let source = cluster.dir().join("source");
    make_everything(&source);
    await_settled(&source);
    let node = &mut cluster.nodes[0];
    let (link, files, unchanged) = put(node, &source);
    assert_eq!((files, unchanged), (11, 0));
    let head = sequence(node);
    assert_eq!(put(node, &source), (link.clone(), 0, 11));
    assert_eq!(sequence(node), head, "nothing was written");
    node.kill9();
    node.restart();
    assert_eq!(put(node, &source), (link.clone(), 0, 11), "it is remembered");

    // The same size and mtime, but other bytes.
    let path = source.join("dir/size-70000");
    let mtime = path.metadata().expect("stats");
    fs::write(&path, pattern(77, 70_000)).expect("writes");
    set_mtime(&path, mtime.mtime(), mtime.mtime_nsec());
    let (changed, files, unchanged) = put(node, &source);
    assert_eq!((files, unchanged), (1, 10));
    assert_ne!(changed, link);
    assert!(node.xorfs(&["cat", "main:/source/dir/size-70000"]).ok().stdout == pattern(77, 70_000));

    // Somebody else's file took its place in the volume.
    let other = cluster.dir().join("other/source/dir/size-1");
    fs::create_dir_all(other.parent().expect("a folder")).expect("creates");
    fs::write(&other, "!").expect("writes");
    let node = &cluster.nodes[0];
    assert_eq!(put(node, &cluster.dir().join("other/source")).1, 1);
    await_settled(&source);
    let (_, files, _) = put(node, &source);
    assert!(files >= 1, "what is not as it was put is put again");
    assert!(node.xorfs(&["cat", "main:/source/dir/size-1"]).ok().stdout == pattern(2, 1));
}

#[test]
fn a_put_that_was_cut_short_goes_on() {
    let mut cluster = Cluster::start(1);
    let source = cluster.dir().join("source");
    fs::create_dir(&source).expect("creates");
    // Names in this order: a small one, a long one, a small one.
    write_file(&source.join("a"), 1, 1000).expect("writes");
    write_file(&source.join("b"), 2, 96 << 20).expect("writes");
    write_file(&source.join("c"), 3, 1000).expect("writes");
    await_settled(&source);
    for victim in ["the node", "the command"] {
        let node = &mut cluster.nodes[0];
        let mut command = node.command(&["put", text(&source), "--wait", "sealed"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("starts");
        let before = sequence(node);
        // A head is sealed in the middle of so long a file.
        wait_until("a part of it is sealed", COMMAND_DEADLINE, || {
            sequence(node) > before || child.try_wait().expect("waits").is_some()
        });
        if victim == "the node" {
            node.kill9();
            let _ = child.wait();
            node.restart();
        } else {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    let node = &cluster.nodes[0];
    let (link, files, unchanged) = put(node, &source);
    assert_eq!(files + unchanged, 3);
    let names = node.xorfs(&["ls", "main:/"]).ok();
    assert_eq!(names.text(), "source", "nothing else is left");
    let dest = cluster.dir().join("dest");
    node.xorfs(&["get", &link, text(&dest)]).ok();
    for name in ["a", "b", "c"] {
        assert!(fs::read(dest.join(name)).unwrap() == fs::read(source.join(name)).unwrap());
    }
    assert_eq!(put(node, &source), (link, 0, 3));
}

#[test]
fn what_cannot_be_put_is_named_and_the_rest_goes_on() {
    let cluster = Cluster::start(1);
    let (node, source) = (&cluster.nodes[0], cluster.dir().join("source"));
    fs::create_dir_all(source.join("taken")).expect("creates");
    fs::write(source.join("taken/inside"), "inside").expect("writes");
    fs::write(source.join("good"), "good").expect("writes");
    put(node, &source);
    // What was a directory is a file now, and the other way round.
    fs::remove_dir_all(source.join("taken")).expect("removes");
    fs::write(source.join("taken"), "a file").expect("writes");
    fs::remove_file(source.join("good")).expect("removes");
    fs::create_dir(source.join("good")).expect("creates");
    fs::write(source.join("good/below"), "below").expect("writes");
    fs::write(source.join("new"), "new").expect("writes");
    let outcome = node.xorfs(&["put", text(&source)]).code(4).says(&["taken", "good"]);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert_eq!(node.xorfs(&["cat", "main:/source/new"]).ok().text(), "new");
    assert_eq!(node.xorfs(&["cat", "main:/source/good"]).ok().text(), "good");
    assert_eq!(node.xorfs(&["cat", "main:/source/taken/inside"]).ok().text(), "inside");

    if rustix::process::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "SKIPPED unreadable files: root reads everything");
        return;
    }
    let secret = source.join("secret");
    fs::write(&secret, "secret").expect("writes");
    set_mode(&secret, 0);
    node.xorfs(&["put", text(&source)]).code(4).says(&["secret"]);
}

#[test]
fn a_get_that_lacks_a_device_says_so_and_brings_the_rest() {
    let device = rustix::fs::makedev(1, 3);
    let cluster = Cluster::start(1);
    let (node, source) = (&cluster.nodes[0], cluster.dir().join("source"));
    fs::create_dir(&source).expect("creates");
    fs::write(source.join("file"), "file").expect("writes");
    let kind = FileType::CharacterDevice;
    if rustix::fs::mknodat(CWD, source.join("null"), kind, Mode::RUSR, device).is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED devices: this user makes none");
        return;
    }
    let (link, ..) = put(node, &source);
    let dest = cluster.dir().join("dest");
    node.xorfs(&["get", &link, text(&dest)]).code(4).says(&["null"]);
    assert_eq!(fs::read_to_string(dest.join("file")).expect("reads"), "file");
    assert!(!dest.join("null").exists(), "a link's devices are not made");
    let own = cluster.dir().join("own");
    node.xorfs(&["get", "main:/source", text(&own)]).ok();
    let made = own.join("null").symlink_metadata().expect("stats");
    assert!(made.file_type().is_char_device() && made.rdev() == device);
}
