//! Importing: one step, and what is remembered of it.

use bytes::Bytes;
use xorfs_store::{SourceStamp, Table, XattrMap};

use super::faults::Faulty;
use super::*;
use crate::view::types::{Import, ImportBody};

fn stamp(inode: u64, size: u64) -> SourceStamp {
    let time = Timestamp { seconds: 7, nanos: 8 };
    SourceStamp { device: 1, inode, size, mtime: time, ctime: time }
}

fn import(body: ImportBody) -> Import {
    Import {
        mode: 0o640,
        uid: 5,
        gid: 6,
        mtime: Timestamp { seconds: -3, nanos: 999_999_999 },
        atime: Timestamp { seconds: 9, nanos: 1 },
        xattrs: XattrMap::from([(b"user.colour".to_vec(), b"blue".to_vec())]),
        body,
    }
}

fn file(parts: &[(u64, &'static [u8])], size: u64) -> Import {
    let parts = parts.iter().map(|(at, bytes)| (*at, Bytes::from_static(bytes))).collect();
    import(ImportBody::File { size, parts })
}

fn top(view: &View) -> InodeNo {
    find(view, "main").unwrap().ino
}

fn is_unchanged(view: &View, path: &str, stamp: SourceStamp) -> bool {
    view.unchanged(&[(path.as_bytes(), stamp)]).unwrap()[0].is_some()
}

#[test]
fn a_file_comes_with_all_of_it_in_place_of_another() {
    let store = Arc::new(Memory::new());
    let view = open(&store);
    let (top, old) = (top(&view), put(&view, "main/file", b"old"));
    let new = file(&[(2, b"ab"), (100, b"c")], 200);
    view.import(top, b"file", &new, None).unwrap();
    for round in ["in memory", "sealed", "reopened"] {
        let stat = find(&view, "main/file").unwrap();
        let read = view.read(stat.ino, 0, 1000).unwrap();
        assert!(read.len() == 200 && read[2..4] == *b"ab" && read[100] == b'c', "{round}");
        assert!(read.iter().filter(|byte| **byte != 0).count() == 3, "{round}");
        assert_eq!((stat.mode, stat.uid, stat.gid), (0o640, 5, 6), "{round}");
        assert_eq!((stat.mtime, stat.atime), (new.mtime, new.atime), "{round}");
        assert_eq!(view.xattr(stat.ino, b"user.colour").unwrap(), b"blue", "{round}");
        view.forget(stat.ino, 1);
        if round == "in memory" {
            view.seal().unwrap();
            assert_eq!(view.read(old, 0, 10).unwrap()[..], *b"old", "who has it open reads on");
        }
    }
    drop(view);
    let view = open(&store);
    let stat = find(&view, "main/file").unwrap();
    assert_eq!((stat.size, stat.mtime), (200, new.mtime));
    // A directory is never replaced, and nothing is left of the attempt.
    make(&view, "main/dir", Kind::Directory);
    let refused = view.import(self::top(&view), b"dir", &new, None);
    assert!(matches!(refused, Err(FsError::IsDirectory)));
    assert_eq!(view.list(find(&view, "main").unwrap().ino).unwrap().len(), 2);
}

#[test]
fn attributes_that_the_mount_does_not_show_are_kept() {
    let view = open(&Arc::new(Memory::new()));
    let mut new = file(&[], 0);
    new.xattrs.insert(b"security.capability".to_vec(), b"c".to_vec());
    let ino = view.import(top(&view), b"file", &new, None).unwrap().ino;
    let ino = find(&view, "main/file").map(|stat| stat.ino).unwrap_or(ino);
    assert_eq!(view.xattr_names(ino).unwrap(), [b"user.colour".to_vec()]);
    assert_eq!(view.all_xattrs(ino).unwrap(), new.xattrs);
    for bad in [&b"user.xorfs.state"[..], b"elsewhere.name", &[b'u'; 300]] {
        let mut new = file(&[], 0);
        new.xattrs.insert(bad.to_vec(), Vec::new());
        assert!(view.import(top(&view), b"bad", &new, None).is_err());
        assert!(matches!(find(&view, "main/bad"), Err(FsError::NotFound)));
    }
}

#[test]
fn what_is_there_already_is_not_changed() {
    let view = open(&Arc::new(Memory::new()));
    let link = import(ImportBody::Symlink(b"target".to_vec()));
    let link = Import { xattrs: XattrMap::new(), ..link };
    view.import(top(&view), b"link", &link, None).unwrap();
    let dir = make(&view, "main/dir", Kind::Directory).ino;
    view.dress(dir, &import(ImportBody::Directory)).unwrap();
    view.seal().unwrap();
    let sealed = view.volumes()[0].head.clone();
    view.import(top(&view), b"link", &link, None).unwrap();
    let later = Timestamp { seconds: 100, nanos: 0 };
    view.dress(dir, &Import { atime: later, ..import(ImportBody::Directory) }).unwrap();
    view.seal().unwrap();
    assert_eq!(view.volumes()[0].head, sealed);
    view.import(top(&view), b"link", &Import { uid: 7, ..link }, None).unwrap();
    view.seal().unwrap();
    assert_ne!(view.volumes()[0].head, sealed);
}

#[test]
fn a_file_is_unchanged_until_anything_of_it_or_its_source_changes() {
    let store = Arc::new(Memory::new());
    let view = open(&store);
    let same = stamp(1, 3);
    for name in [&b"file"[..], b"other", b"gone"] {
        view.import(top(&view), name, &file(&[(0, b"abc")], 3), Some(&same)).unwrap();
    }
    assert!(is_unchanged(&view, "main/file", same), "before it is sealed");
    assert!(!is_unchanged(&view, "main/file", stamp(2, 3)), "another source");
    assert!(!is_unchanged(&view, "main/none", same) && !is_unchanged(&view, "none/file", same));
    view.unlink(top(&view), b"gone").unwrap();
    assert!(!is_unchanged(&view, "main/gone", same));
    view.seal().unwrap();
    drop(view);
    // The clock of these tests begins anew with each view, and would repeat itself.
    let clock = ViewConfig::default().clock;
    let view = open_with(&store, ViewConfig { clock, ..quiet() });
    assert!(is_unchanged(&view, "main/file", same), "after a restart");
    // The same bytes and times, but somebody was at it.
    let ino = find(&view, "main/file").unwrap().ino;
    view.write(ino, 0, b"abc").unwrap();
    view.dress(ino, &file(&[], 0)).unwrap();
    assert!(!is_unchanged(&view, "main/file", same));
    assert!(is_unchanged(&view, "main/other", same));
}

#[test]
fn what_a_crash_took_is_not_called_unchanged() {
    let store = Arc::new(Memory::new());
    let view = open(&store);
    view.import(top(&view), b"kept", &file(&[(0, b"abc")], 3), Some(&stamp(1, 3))).unwrap();
    view.seal().unwrap();
    view.import(top(&view), b"lost", &file(&[(0, b"abc")], 3), Some(&stamp(2, 3))).unwrap();
    drop(view);
    let view = open(&store);
    assert!(is_unchanged(&view, "main/kept", stamp(1, 3)));
    assert!(!is_unchanged(&view, "main/lost", stamp(2, 3)));
}

#[test]
fn all_names_of_a_file_are_unchanged_together() {
    let view = open(&Arc::new(Memory::new()));
    let same = stamp(1, 3);
    view.import(top(&view), b"a", &file(&[(0, b"abc")], 3), Some(&same)).unwrap();
    put(&view, "main/b", b"in the way");
    let ino = find(&view, "main/a").unwrap().ino;
    let first = view.import_link(ino, top(&view), b"b").unwrap();
    let second = view.import_link(ino, top(&view), b"c").unwrap();
    assert_eq!(first.1, second.0, "nothing else changed it");
    assert!(!is_unchanged(&view, "main/a", same), "a link changes the file");
    view.remember_links(ino, &same, second.0).unwrap();
    assert!(!is_unchanged(&view, "main/a", same), "something changed it since");
    view.remember_links(ino, &same, second.1).unwrap();
    view.seal().unwrap();
    let asked = [(&b"main/a"[..], same), (b"main/b", same), (b"main/c", same)];
    assert_eq!(view.unchanged(&asked).unwrap(), [Some(ino); 3]);
    assert_eq!(view.stat(ino).unwrap().nlink, 3);
}

/// Settings whose clock has another share of the records looked at each time.
fn with_micros() -> ViewConfig {
    let ticks = AtomicU64::new(0);
    let clock = move || {
        let micros = ticks.fetch_add(1, Ordering::Relaxed) as u32;
        Timestamp { seconds: 1, nanos: micros * 1000 }
    };
    ViewConfig { clock: Arc::new(clock), ..quiet() }
}

#[test]
fn sealing_does_not_ask_others_what_became_of_older_files() {
    let store = Arc::new(Memory::new());
    let view = open_with(&store, with_micros());
    let dir = make(&view, "main/dir", Kind::Directory).ino;
    for n in 0..300_u64 {
        let name = n.to_string();
        view.import(dir, name.as_bytes(), &file(&[], 0), Some(&stamp(n, 0))).unwrap();
    }
    view.seal().unwrap();
    let older = store.ids(None, 1000).unwrap();
    put(&view, "main/file", b"newer");
    view.seal().unwrap();
    drop(view);
    // The directory was evicted; others may have it.
    older.iter().for_each(|id| store.remove(id).unwrap());
    let everywhere = Faulty::new(&store);
    let blocks = Arc::clone(&everywhere) as Arc<dyn BlockStore>;
    let (inventory, ledger) = (Arc::clone(&store), Arc::clone(&store));
    let view = View::new(with_micros(), blocks, inventory, ledger, Arc::new(|_: Head| {}));
    view.add_volume("main", &Access::Owner(secret())).unwrap();
    for n in 0..100 {
        let newer = file(&[(0, b"again")], 5);
        view.import(top(&view), b"file", &newer, Some(&stamp(n, 5))).unwrap();
        view.seal().unwrap();
    }
    assert_eq!(everywhere.misses.load(Ordering::Relaxed), 0);
    let kept = store.scan(Table::Sources, &[]).unwrap().len();
    assert_eq!(kept, 301, "what cannot be told is left");
}

#[test]
fn records_of_files_that_have_gone_are_dropped() {
    let store = Arc::new(Memory::new());
    let view = open_with(&store, with_micros());
    let count = || store.scan(Table::Sources, &[]).unwrap().len();
    for n in 0..40_u64 {
        let name = format!("gone-{n}");
        view.import(top(&view), name.as_bytes(), &file(&[], 0), Some(&stamp(n, 0))).unwrap();
    }
    view.seal().unwrap();
    assert_eq!(count(), 40);
    for n in 0..40 {
        view.unlink(top(&view), format!("gone-{n}").as_bytes()).unwrap();
    }
    let mut rounds = 0;
    while count() > 1 {
        view.import(top(&view), b"file", &file(&[], 0), Some(&stamp(99, 0))).unwrap();
        view.seal().unwrap();
        rounds += 1;
        assert!(rounds < 5000, "{} records stay for ever", count());
    }
}
