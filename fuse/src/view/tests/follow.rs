//! Links and followed volumes: read only, and up to date when a head comes.

use std::sync::{Arc, Mutex};

use xorfs_store::{
    Access, Batch, BlockStore, Head, Inventory, Ledger, Link, Memory, Purpose, ReadError, Table,
};

use super::{OWNER, find, make, open, put, quiet, secret, text};
use crate::config::{HeadSource, ViewConfig};
use crate::error::FsError;
use crate::view::View;
use crate::view::types::{InodeNo, Kind, RenameMode, SetAttr, XattrMode};

fn reader() -> Access {
    Access::Reader(secret().id(), secret().read_key())
}

/// A view of another node: the same blocks, a ledger of its own.
fn elsewhere(blocks: &Arc<Memory>, config: ViewConfig) -> Arc<View> {
    let own = Arc::new(Memory::new());
    View::new(
        config,
        Arc::clone(blocks) as Arc<dyn BlockStore>,
        Arc::clone(&own) as Arc<dyn Inventory>,
        own as Arc<dyn Ledger>,
        Arc::new(|_: Head| {}),
    )
}

fn seal(view: &View) -> Head {
    view.seal_volume("main").unwrap().unwrap()
}

#[test]
fn a_follower_sees_each_head_and_hears_what_changed() {
    let store = Arc::new(Memory::new());
    let writer = open(&store);
    make(&writer, "main/dir", Kind::Directory);
    make(&writer, "main/still", Kind::Directory);
    put(&writer, "main/still/same", b"same");
    let file = put(&writer, "main/dir/file", b"one");
    put(&writer, "main/dir/goes", b"goes");
    let first = seal(&writer);

    let follower = elsewhere(&store, quiet());
    follower.add_volume("theirs", &reader()).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let hook: Arc<crate::ChangeHook> = Arc::new(move |inodes: &[InodeNo]| {
        heard.lock().unwrap().extend_from_slice(inodes);
    });
    follower.on_change(&hook);
    assert!(follower.list(find(&follower, "theirs").unwrap().ino).unwrap().is_empty());
    assert!(follower.set_head(&first).unwrap());
    assert!(!follower.set_head(&first).unwrap(), "the same head changes nothing");
    assert_eq!(text(&follower, "theirs/dir/file"), b"one");
    let seen = find(&follower, "theirs/dir/file").unwrap();
    let same = find(&follower, "theirs/still/same").unwrap();
    let goes = find(&follower, "theirs/dir/goes").unwrap();
    let held = follower.open(goes.ino, false, false).unwrap();

    writer.write(file, 0, b"two, longer").unwrap();
    let dir = find(&writer, "main/dir").unwrap().ino;
    writer.unlink(dir, b"goes").unwrap();
    put(&writer, "main/dir/comes", b"comes");
    let second = seal(&writer);
    told.lock().unwrap().clear();
    assert!(follower.set_head(&second).unwrap());
    assert!(!follower.set_head(&first).unwrap(), "an older head is refused");
    assert_eq!(follower.stat(seen.ino).unwrap().size, 11, "the inode that was seen moved along");
    assert_eq!(follower.read(seen.ino, 0, 99).unwrap().as_slice(), b"two, longer");
    assert_eq!(text(&follower, "theirs/dir/comes"), b"comes");
    assert!(matches!(find(&follower, "theirs/dir/goes"), Err(FsError::NotFound)));
    assert_eq!(follower.read(goes.ino, 0, 99).unwrap().as_slice(), b"goes", "still open");
    follower.close(held);
    let told = told.lock().unwrap().clone();
    assert!(told.contains(&seen.ino) && told.contains(&goes.ino) && !told.contains(&same.ino));
}

#[test]
fn a_followed_volume_opens_without_the_network_next_time() {
    let store = Arc::new(Memory::new());
    let writer = open(&store);
    put(&writer, "main/file", b"text");
    let head = seal(&writer);
    let own = Arc::new(Memory::new());
    let open = || {
        let view = View::new(
            quiet(),
            Arc::clone(&store) as Arc<dyn BlockStore>,
            Arc::clone(&own) as Arc<dyn Inventory>,
            Arc::clone(&own) as Arc<dyn Ledger>,
            Arc::new(|_: Head| {}),
        );
        view.add_volume("theirs", &reader()).unwrap();
        view
    };
    open().set_head(&head).unwrap();
    assert_eq!(text(&open(), "theirs/file"), b"text");
}

#[test]
fn a_followed_volume_that_does_not_open_is_empty_until_it_does() {
    let store = Arc::new(Memory::new());
    let writer = open(&store);
    put(&writer, "main/file", b"text");
    let head = seal(&writer);
    let (blocks, own) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
    let view = View::new(
        quiet(),
        Arc::clone(&blocks) as Arc<dyn BlockStore>,
        Arc::clone(&own) as Arc<dyn Inventory>,
        Arc::clone(&own) as Arc<dyn Ledger>,
        Arc::new(|_: Head| {}),
    );
    let mut batch = Batch::new();
    batch.put(Table::Heads, *head.volume().as_bytes(), head.encoded().clone());
    own.commit(batch).unwrap();
    view.add_volume("theirs", &reader()).unwrap();
    let top = find(&view, "theirs").unwrap().ino;
    assert!(view.list(top).unwrap().is_empty());
    assert!(view.set_head(&head).is_err(), "its blocks are still away");
    for id in store.ids(None, 1_000).unwrap() {
        blocks.put(&store.get(&id).unwrap(), Purpose::Cache).unwrap();
    }
    assert!(view.set_head(&head).unwrap());
    assert_eq!(text(&view, "theirs/file"), b"text");
}

#[test]
fn what_is_followed_cannot_be_changed() {
    let store = Arc::new(Memory::new());
    let writer = open(&store);
    let file = put(&writer, "main/file", b"text");
    let link = writer.link_of(file).unwrap();
    seal(&writer);
    writer.add_volume("copy", &reader()).unwrap();
    let linked = find(&writer, &format!("link/{link}")).unwrap();
    assert_eq!((linked.size, linked.kind), (4, Kind::File));
    assert_eq!(text(&writer, &format!("link/{link}")), b"text");
    let dir = find(&writer, "copy").unwrap().ino;
    let ino = find(&writer, "copy/file").unwrap().ino;
    let refused = [
        writer.make_node(dir, b"new", Kind::File, 0o644, OWNER).map(drop),
        writer.unlink(dir, b"file"),
        writer.rename(dir, b"file", dir, b"other", RenameMode::Replace),
        writer.write(ino, 0, b"x"),
        writer.write(linked.ino, 0, b"x"),
        writer.open(ino, true, false).map(drop),
        writer.open(linked.ino, false, true).map(drop),
        writer.set_attr(ino, &SetAttr { size: Some(0), ..SetAttr::default() }).map(drop),
        writer.set_xattr(ino, b"user.x", Some(b"x"), XattrMode::Any),
    ];
    for outcome in refused {
        assert!(matches!(outcome, Err(FsError::ReadOnly)), "{outcome:?}");
    }
    let main = find(&writer, "main").unwrap().ino;
    let moved = writer.rename(main, b"file", dir, b"file", RenameMode::Replace);
    assert!(matches!(moved, Err(FsError::CrossVolume)));
    assert!(matches!(writer.link(ino, main, b"hard"), Err(FsError::CrossVolume)));
}

#[test]
fn links_open_trees_and_live_volumes() {
    let store = Arc::new(Memory::new());
    let writer = open(&store);
    make(&writer, "main/dir", Kind::Directory);
    put(&writer, "main/dir/file", b"one");
    let dir = find(&writer, "main/dir").unwrap().ino;
    let tree = writer.link_of(dir).unwrap();
    let text_form = writer.xattr(dir, b"user.xorfs.link").unwrap();
    assert_eq!(text_form, tree.to_string().into_bytes());
    let newest = Arc::new(Mutex::new(seal(&writer)));
    let source = Arc::clone(&newest);
    let heads: HeadSource = Arc::new(move |_| Ok(Some(source.lock().unwrap().clone())));
    let config = ViewConfig { heads, link_head_age_max: std::time::Duration::ZERO, ..quiet() };
    let reader = elsewhere(&store, config);
    let live = Link::Read(secret().id(), secret().read_key());
    assert_eq!(text(&reader, &format!("link/{tree}/file")), b"one");
    assert_eq!(text(&reader, &format!("link/{live}/dir/file")), b"one");
    let bare = tree.to_string()["xorfs:".len()..].to_owned();
    assert_eq!(text(&reader, &format!("link/{bare}/file")), b"one");

    let file = find(&writer, "main/dir/file").unwrap().ino;
    writer.write(file, 0, b"two").unwrap();
    *newest.lock().unwrap() = seal(&writer);
    assert_eq!(text(&reader, &format!("link/{live}/dir/file")), b"two");
    assert_eq!(text(&reader, &format!("link/{tree}/file")), b"one", "a tree never changes");
    let links = find(&reader, "link").unwrap().ino;
    assert!(reader.list(links).unwrap().is_empty(), "links are never listed");
    let top = find(&reader, &format!("link/{tree}")).unwrap().ino;
    assert_eq!(reader.parent(top).unwrap(), links);
    assert!(matches!(find(&reader, "link/nonsense"), Err(FsError::Link(_))));
}

#[test]
fn a_live_link_that_nobody_answers_for_says_why() {
    let silent: HeadSource = Arc::new(|id| {
        let waited = std::time::Duration::from_secs(1);
        Err(ReadError::Unreachable { id: id.point(), waited })
    });
    let reader = elsewhere(&Arc::new(Memory::new()), ViewConfig { heads: silent, ..quiet() });
    let live = Link::Read(secret().id(), secret().read_key());
    let found = find(&reader, &format!("link/{live}"));
    assert!(matches!(found, Err(FsError::Read(ReadError::Unreachable { .. }))));
}

#[test]
fn open_links_are_bounded_and_those_in_use_stay() {
    let store = Arc::new(Memory::new());
    let writer = open(&store);
    let links: Vec<_> = (0..5)
        .map(|number| {
            let file = put(&writer, &format!("main/{number}"), &[number; 10]);
            writer.link_of(file).unwrap().to_string()
        })
        .collect();
    let reader = elsewhere(&store, ViewConfig { links_max: 2, ..quiet() });
    let held = find(&reader, &format!("link/{}", links[0])).unwrap();
    for link in &links[1..] {
        let stat = find(&reader, &format!("link/{link}")).unwrap();
        reader.forget(stat.ino, 1);
    }
    assert_eq!(reader.read(held.ino, 0, 20).unwrap().as_slice(), [0; 10]);
    let second = find(&reader, &format!("link/{}", links[1])).unwrap();
    let third = find(&reader, &format!("link/{}", links[2]));
    assert!(matches!(third, Err(FsError::Busy)));
    reader.forget(second.ino, 1);
    assert!(find(&reader, &format!("link/{}", links[2])).is_ok());
}

#[test]
fn safety_is_told_from_unsynced_to_replicated() {
    let store = Arc::new(Memory::new());
    let view = open(&store);
    let file = put(&view, "main/file", &[5; 100_000]);
    let tell = |name: &str| {
        let value = view.xattr(file, format!("user.xorfs.{name}").as_bytes()).unwrap();
        String::from_utf8(value).unwrap()
    };
    assert_eq!((tell("state"), tell("replicas"), tell("id")), pair("unsynced", "0/5", "-"));
    view.fsync(file).unwrap();
    assert_eq!(tell("state"), "staged");
    view.seal().unwrap();
    assert_eq!((tell("state"), tell("replicas")), ("sealed".into(), "0/5".into()));
    let blocks = view.blocks_of(file, false).unwrap();
    assert!(!blocks.is_empty() && tell("id").len() == 64);
    for id in &blocks {
        store.set_copies(id, 5, true).unwrap();
    }
    assert_eq!((tell("state"), tell("replicas")), ("replicated".into(), "5/5".into()));
    let main = find(&view, "main").unwrap().ino;
    assert!(view.blocks_of(main, true).unwrap().len() >= blocks.len());
    assert!(view.xattr_names(file).unwrap().is_empty(), "virtual ones are not listed");
    let status = &view.volumes()[0];
    assert!(status.sealed && status.writable && status.head.is_some());
}

fn pair(state: &str, replicas: &str, id: &str) -> (String, String, String) {
    (state.into(), replicas.into(), id.into())
}
