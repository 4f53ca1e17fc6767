//! Marking against what is known to be reachable, and whole collections over `Memory`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{Marked, Root, Strength, Swept, mark, mark_held};
use crate::contract::{BlockStore, Inventory, Purpose};
use crate::tree::edit::FileEdit;
use crate::tree::entry::{Attr, Content, Entry, Node, VolumeRoot, XattrMap, Xattrs};
use crate::tree::head::Head;
use crate::tree::reader::Reader;
use crate::tree::volume::VolumeSecret;
use crate::tree::writer::Writer;
use crate::{BlockId, Memory, ReadError};

struct Volume {
    blocks: Arc<Memory>,
    secret: VolumeSecret,
}

impl Volume {
    fn new(seed: u8) -> Self {
        Self { blocks: Arc::default(), secret: VolumeSecret::from_bytes([seed; 32]) }
    }

    /// A reader that has nothing in memory.
    fn reader(&self) -> Arc<Reader> {
        Arc::new(Reader::new(Arc::clone(&self.blocks) as _, 0))
    }

    fn writer(&self) -> Writer {
        let secret = self.secret.convergence_secret();
        Writer::new(Arc::clone(&self.blocks) as _, self.reader(), secret, Purpose::Own)
    }

    fn file(writer: &mut Writer, seed: u64, length: usize) -> Content {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let mut edit = FileEdit::new(Content::default());
        edit.write(0, Bytes::from(bytes));
        let draft = writer.file(&edit).unwrap();
        writer.flush().unwrap();
        writer.settle(draft)
    }

    /// A tree with everything that names blocks: a file of several maps, small files in a
    /// directory of several nodes below others, extended attributes, the hard-link index.
    fn head(&self, writer: &mut Writer, seed: u64, previous: Option<&Head>) -> Head {
        let large = Self::file(writer, seed, 20 << 20);
        assert!(large.height > 0);
        let mut xattrs = XattrMap::new();
        xattrs.insert(b"user.large".to_vec(), vec![seed as u8; 5000]);
        let xattrs = writer.xattrs(xattrs).unwrap();
        let small = Self::file(writer, seed + 1000, 300);
        let many = (0..200_u64).map(|n| {
            let entry = entry(Node::File(small.clone()), Xattrs::default());
            (format!("file {n}").into_bytes(), Some(entry))
        });
        let mut directory = settled(writer, many.collect());
        for _ in 0..40 {
            let below = entry(Node::Directory(directory), Xattrs::default());
            directory = settled(writer, vec![(b"below".to_vec(), Some(below))]);
        }
        let top = vec![
            (b"large".to_vec(), Some(entry(Node::File(large), xattrs))),
            (b"deep".to_vec(), Some(entry(Node::Directory(directory), Xattrs::default()))),
        ];
        let top = settled(writer, top);
        let name = |n: u64| crate::NameOf { parent: 1, name: n.to_be_bytes().to_vec() };
        let draft = writer
            .names(&Content::default(), (0..300).map(|n| (n, vec![name(n), name(n + 1)])).collect())
            .unwrap();
        writer.flush().unwrap();
        let names = writer.settle(draft);
        let directory = entry(Node::Directory(top), Xattrs::default());
        let root = VolumeRoot { directory, names, next_ino: 400 };
        writer.head(&root, &self.secret, previous, 1).unwrap()
    }

    fn root(&self, head: &Head, strength: Strength) -> Root {
        let (head, key) = (Box::new(head.clone()), self.secret.read_key());
        Root::Volume { head, key, strength }
    }

    fn ids(&self) -> BTreeSet<BlockId> {
        self.blocks.ids(None, usize::MAX).unwrap().into_iter().collect()
    }

    fn collect(&self, roots: &[Root]) -> Result<u64, ReadError> {
        let horizon = self.blocks.horizon();
        let mut marked = Marked::default();
        mark(&self.reader(), roots, &mut marked)?;
        Ok(self.blocks.sweep(horizon, &marked, false).unwrap().removed_blocks)
    }
}

fn entry(node: Node, xattrs: Xattrs) -> Entry {
    Entry { attr: Attr { ino: 2, mode: 0o644, nlink: 1, ..Attr::default() }, node, xattrs }
}

fn settled(writer: &mut Writer, changes: Vec<(Vec<u8>, Option<Entry>)>) -> Content {
    let draft = writer.directory(&Content::default(), changes).unwrap();
    writer.flush().unwrap();
    writer.settle(draft)
}

#[test]
fn everything_below_a_head_is_marked_and_nothing_else() {
    let volume = Volume::new(1);
    let mut writer = volume.writer();
    let first = volume.head(&mut writer, 1, None);
    let below_first = volume.ids();
    let second = volume.head(&mut writer, 2, Some(&first));
    let all = volume.ids();
    assert!(below_first.len() > 40 && all.len() > below_first.len() + 40);

    let mut marked = Marked::default();
    mark(&volume.reader(), &[volume.root(&first, Strength::Kept)], &mut marked).unwrap();
    for id in &all {
        let expected = below_first.contains(id).then_some(Strength::Kept);
        assert_eq!(marked.strength(id), expected);
    }
    assert_eq!(marked.blocks(), below_first.len());
    // What two heads share becomes as strong as the stronger one, whichever came first.
    mark(&volume.reader(), &[volume.root(&second, Strength::Pinned)], &mut marked).unwrap();
    mark(&volume.reader(), &[volume.root(&second, Strength::Held)], &mut marked).unwrap();
    assert!(all.iter().all(|id| marked.strength(id).is_some()));
    let pinned = all.iter().filter(|id| marked.strength(id) == Some(Strength::Pinned));
    assert!(pinned.count() >= all.len() - below_first.len());
    assert_eq!(marked.blocks(), all.len());
}

#[test]
fn a_collection_waits_for_the_writer() {
    let volume = Volume::new(2);
    let mut writer = volume.writer();
    let first = volume.head(&mut writer, 1, None);
    drop(writer);
    let below_first = volume.ids();
    let mut writer = volume.writer();
    let second = volume.head(&mut writer, 2, Some(&first));
    let all = volume.ids();
    let first = volume.root(&first, Strength::Pinned);
    assert_eq!(volume.collect(&[first]).unwrap(), 0, "the second head is not committed yet");
    assert_eq!(volume.ids(), all);
    drop(writer);
    let second = [volume.root(&second, Strength::Pinned)];
    assert!(
        volume.collect(&second).unwrap() > 0,
        "the second head has taken the first one's place"
    );
    let left = volume.ids();
    assert!(left.len() < all.len() && !left.is_superset(&below_first));
    assert_eq!(volume.collect(&second).unwrap(), 0);
    assert!(volume.collect(&[]).unwrap() > 0);
    assert_eq!(volume.ids(), BTreeSet::new());
}

#[test]
fn an_open_file_stays_as_it_is() {
    let volume = Volume::new(3);
    let mut writer = volume.writer();
    let node = Node::File(Volume::file(&mut writer, 1, 3 << 20));
    drop(writer);
    let (held, owed) = (volume.ids(), volume.blocks.owed_totals());
    let open = Root::Tree { node, strength: Strength::Held };
    assert_eq!(volume.collect(&[open]).unwrap(), 0);
    assert_eq!((volume.ids(), volume.blocks.owed_totals()), (held, owed));
    assert_eq!(volume.blocks.usage().cached_bytes, 0, "it is still pinned");
}

#[test]
fn what_cannot_be_read_ends_the_collection() {
    let volume = Volume::new(4);
    let mut writer = volume.writer();
    let head = volume.head(&mut writer, 1, None);
    drop(writer);
    let all = volume.ids();
    let roots = [volume.root(&head, Strength::Pinned)];
    let mut metadata = 0;
    for id in &all {
        let block = volume.blocks.get(id).unwrap();
        volume.blocks.remove(id).unwrap();
        match volume.collect(&roots) {
            Err(ReadError::Missing { id: missing }) => {
                assert_eq!(missing, *id);
                metadata += 1;
            }
            Ok(removed) => assert_eq!(removed, 0, "data is not read"),
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(volume.ids().len(), all.len() - 1, "nothing else is removed");
        // What others wrote does not end it, and nothing of it goes.
        let mut marked = Marked::default();
        let strict = mark(&volume.reader(), &roots, &mut Marked::default());
        let whole = mark_held(&volume.reader(), &roots[0], &mut marked).unwrap();
        assert_eq!(whole, strict.is_ok());
        marked.spare_pinned();
        let swept = volume.blocks.sweep(volume.blocks.horizon(), &marked, false).unwrap();
        assert_eq!(swept, Swept::default());
        volume.blocks.put(&block, Purpose::Own).unwrap();
    }
    assert!(metadata >= 40, "{metadata}");
}

#[test]
fn marking_passes_over_what_is_not_here() {
    let volume = Volume::new(5);
    let head = volume.head(&mut volume.writer(), 1, None);
    let all = volume.ids();
    let reader = volume.reader();
    let top = reader.root(&head, &volume.secret.read_key()).unwrap().directory;
    let Node::Directory(top) = top.node else { panic!("the top is a directory") };
    // A map above many blocks; what is in directories below is walked after it.
    let large = reader.lookup(&top, b"large").unwrap().unwrap();
    let Node::File(large) = large.node else { panic!("a large file") };
    volume.blocks.remove(&large.root.unwrap().id).unwrap();
    let root = volume.root(&head, Strength::Held);
    assert!(mark(&volume.reader(), std::slice::from_ref(&root), &mut Marked::default()).is_err());
    let mut marked = Marked::default();
    assert!(!mark_held(&volume.reader(), &root, &mut marked).unwrap());
    let lost = all.iter().filter(|id| marked.strength(id).is_none()).count();
    let data = (20 << 20) / (64 << 10);
    assert!(lost > 0 && lost < data, "only what lies below it: {lost}");
    assert!(marked.blocks() >= 40, "{}", marked.blocks());
}
