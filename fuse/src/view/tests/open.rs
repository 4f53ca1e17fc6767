//! Open files: what has no name any more, what is written while it is sealed, limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use xorfs_store::{Inventory, Memory};

use super::{OWNER, find, make, open, open_with, put, quiet, text};
use crate::config::ViewConfig;
use crate::error::FsError;
use crate::view::types::{Kind, RenameMode, SetAttr, XattrMode};

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let view = open(&Arc::new(Memory::new()));
    let ino = put(&view, "main/file", b"some bytes");
    let handle = view.open(ino, true, false).unwrap();
    let main = find(&view, "main").unwrap().ino;
    view.unlink(main, b"file").unwrap();
    assert_eq!(view.stat(ino).unwrap().nlink, 0);
    view.write(ino, 5, b"BYTES and more").unwrap();
    view.seal().unwrap();
    view.fsync(ino).unwrap();
    assert_eq!(view.read(ino, 0, 100).unwrap().as_slice(), b"some BYTES and more");
    assert!(matches!(view.link(ino, main, b"again"), Err(FsError::NotFound)));
    view.forget(ino, 1);
    assert!(view.stat(ino).is_ok(), "the handle keeps it");
    view.close(handle);
    assert!(matches!(view.stat(ino), Err(FsError::Stale)));
    view.seal().unwrap();
    assert_eq!(view.around.budget.used(), 0);
}

#[test]
fn nameless_data_is_bounded_too() {
    let store = Arc::new(Memory::new());
    let config = ViewConfig { dirty_bytes_max: 4 << 20, seal_bytes: 1 << 20, ..quiet() };
    let view = open_with(&store, config);
    let ino = make(&view, "main/temporary", Kind::File).ino;
    let _handle = view.open(ino, true, false).unwrap();
    view.unlink(find(&view, "main").unwrap().ino, b"temporary").unwrap();
    let block: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    for round in 0..32 {
        view.write(ino, round << 20, &block).unwrap();
        assert!(view.around.budget.used() <= 5 << 20);
    }
    assert_eq!(view.read(ino, 17 << 20, 1 << 20).unwrap().as_slice(), &block);
}

#[test]
fn a_directory_in_use_outlives_its_name_but_takes_no_more() {
    let view = open(&Arc::new(Memory::new()));
    let dir = make(&view, "main/dir", Kind::Directory).ino;
    let handle = view.open_dir(dir).unwrap();
    view.rmdir(find(&view, "main").unwrap().ino, b"dir").unwrap();
    assert_eq!(view.read_dir(handle, true).unwrap().len(), 0);
    let made = view.make_node(dir, b"late", Kind::File, 0o644, OWNER);
    assert!(matches!(made, Err(FsError::NotFound)));
    view.close(handle);
    view.forget(dir, 1);
    assert!(matches!(view.stat(dir), Err(FsError::Stale)));
}

#[test]
fn a_listing_in_hand_does_not_move_while_names_go() {
    let view = open(&Arc::new(Memory::new()));
    let main = find(&view, "main").unwrap().ino;
    for number in 0..100 {
        put(&view, &format!("main/{number:03}"), b"");
    }
    let handle = view.open_dir(main).unwrap();
    let listing = view.read_dir(handle, true).unwrap();
    for entry in &listing[..50] {
        view.unlink(main, &entry.name).unwrap();
    }
    assert_eq!(view.read_dir(handle, false).unwrap(), listing);
    assert_eq!(view.read_dir(handle, true).unwrap().len(), 50);
    view.close(handle);
    assert!(matches!(view.read_dir(handle, false), Err(FsError::BadHandle)));
}

#[test]
fn writing_goes_on_while_the_volume_is_sealed() {
    let store = Arc::new(Memory::new());
    let view = open(&store);
    let ino = make(&view, "main/growing", Kind::File).ino;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2000u32 {
                view.write(ino, u64::from(round) * 4096, &[round as u8; 4096]).unwrap();
                if round % 100 == 0 {
                    put(&view, &format!("main/{round}"), &round.to_le_bytes());
                }
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            view.seal().unwrap();
        }
    });
    view.fsync(ino).unwrap();
    drop(view);
    let view = open(&store);
    let bytes = text(&view, "main/growing");
    assert_eq!(bytes.len(), 2000 * 4096);
    for (round, part) in bytes.chunks(4096).enumerate() {
        assert!(part.iter().all(|byte| *byte == round as u8), "part {round}");
    }
    assert_eq!(text(&view, "main/1900"), 1900u32.to_le_bytes());
}

#[test]
fn background_sealing_bounds_what_waits() {
    let store = Arc::new(Memory::new());
    let config = ViewConfig { dirty_bytes_max: 8 << 20, seal_bytes: 2 << 20, ..quiet() };
    let view = open_with(&store, config);
    let ino = make(&view, "main/large", Kind::File).ino;
    let part: Vec<u8> =
        (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for round in 0..64 {
        view.write(ino, round << 20, &part).unwrap();
        assert!(view.around.budget.used() <= 9 << 20);
    }
    assert!(store.usage().blocks > 8, "sealing did not wait for the end");
}

#[test]
fn times_and_set_id_bits_follow_posix() {
    let view = open(&Arc::new(Memory::new()));
    let dir = make(&view, "main/dir", Kind::Directory);
    let file = make(&view, "main/dir/file", Kind::File);
    let after = view.stat(dir.ino).unwrap();
    assert!(after.mtime > dir.mtime && after.ctime == after.mtime);
    let mode = SetAttr { mode: Some(0o6755), ..SetAttr::default() };
    view.set_attr(file.ino, &mode).unwrap();
    let owner = SetAttr { uid: Some(7), ..SetAttr::default() };
    let owned = view.set_attr(file.ino, &owner).unwrap();
    assert_eq!((owned.uid, owned.mode), (7, 0o755));
    let before = view.stat(file.ino).unwrap();
    view.write(file.ino, 0, b"x").unwrap();
    let written = view.stat(file.ino).unwrap();
    assert!(written.mtime > before.mtime && written.ctime > before.ctime);
    let set = SetAttr { mode: Some(0o2775), gid: Some(42), ..SetAttr::default() };
    view.set_attr(dir.ino, &set).unwrap();
    let inherited = make(&view, "main/dir/sub", Kind::Directory);
    assert_eq!((inherited.gid, inherited.mode), (42, 0o2644));
}

#[test]
fn bad_arguments_are_refused() {
    let view = open(&Arc::new(Memory::new()));
    let main = find(&view, "main").unwrap().ino;
    let root = crate::InodeNo::ROOT;
    let file = put(&view, "main/file", b"1");
    let node = |name: &[u8]| view.make_node(main, name, Kind::File, 0o644, OWNER);
    assert!(matches!(node(&[b'x'; 256]), Err(FsError::NameTooLong)));
    assert!(matches!(node(b"a/b"), Err(FsError::Invalid(_))));
    assert!(matches!(node(b"file"), Err(FsError::Exists)));
    assert!(matches!(view.lookup(main, &[b'x'; 256]), Err(FsError::NameTooLong)));
    assert!(matches!(view.write(file, i64::MAX as u64, b"x"), Err(FsError::TooLarge)));
    assert!(matches!(view.unlink(root, b"main"), Err(FsError::ReadOnly)));
    let renamed = view.rename(main, b"file", root, b"file", RenameMode::Replace);
    assert!(matches!(renamed, Err(FsError::ReadOnly)));
    let set = |name: &[u8], value: &[u8]| view.set_xattr(file, name, Some(value), XattrMode::Any);
    assert!(matches!(set(b"user.xorfs.state", b"x"), Err(FsError::NotPermitted)));
    assert!(matches!(set(b"system.posix_acl_access", b"x"), Err(FsError::Unsupported)));
    assert!(matches!(set(b"user.x", &[0; 65_537]), Err(FsError::XattrTooLarge)));
    for name in 0..7u8 {
        set(&[b'u', b's', b'e', b'r', b'.', name + b'a'], &[0; 65_536]).unwrap();
    }
    assert!(matches!(set(b"user.z", &[0; 65_536]), Err(FsError::NoSpace)));
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn hard_links_stay_one_file_while_their_directories_come_and_go_from_memory() {
    const DIRECTORIES: u32 = 4;
    let view = open(&Arc::new(Memory::new()));
    let chmod = |path: &str, mode: u32| {
        let stat = find(&view, path).unwrap();
        let change = SetAttr { mode: Some(mode), ..SetAttr::default() };
        view.set_attr(stat.ino, &change).unwrap();
        view.forget(stat.ino, 1);
    };
    let mode = |path: &str| {
        let stat = find(&view, path).unwrap();
        view.forget(stat.ino, 1);
        stat.mode
    };
    let file = put(&view, "main/file", b"one");
    for number in 0..DIRECTORIES {
        let dir = make(&view, &format!("main/{number}"), Kind::Directory).ino;
        view.link(file, dir, b"name").unwrap();
        view.forget(file, 1);
        view.forget(dir, 1);
    }
    view.forget(file, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                view.seal().unwrap();
            }
        });
        // Ends the other thread also where an assertion fails.
        let _ends = Ends(&done);
        for round in 0..1_000 {
            // Sealed and unused, all leave memory; a changed directory is back until the other
            // thread has sealed it.
            view.seal().unwrap();
            chmod(&format!("main/{}", round % DIRECTORIES), 0o700 + round % 8);
            chmod(&format!("main/{}/name", (round + 1) % DIRECTORIES), round % 0o1000);
            view.seal().unwrap();
            for number in 0..DIRECTORIES {
                assert_eq!(mode(&format!("main/{number}/name")), round % 0o1000, "in {round}");
            }
        }
    });
}
