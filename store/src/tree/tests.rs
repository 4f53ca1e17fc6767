//! The tree against reference models, over the in-memory store.

mod dedup;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::contract::{BlockStore, Inventory, Purpose};
use crate::seal::{BlockRef, Kind};
use crate::tree::edit::FileEdit;
use crate::tree::entry::{Attr, Content, Entry, NameOf, Node, VolumeRoot, Xattrs};
use crate::tree::pack::Packer;
use crate::tree::reader::Reader;
use crate::tree::shard::{Child, Shard};
use crate::tree::volume::{Convergence, VolumeSecret};
use crate::tree::writer::Writer;
use crate::{BLOCK_BYTES_MAX, Memory, ReadError};

struct Volume {
    blocks: Arc<Memory>,
    reader: Arc<Reader>,
    secret: VolumeSecret,
}

impl Volume {
    fn new() -> Self {
        let blocks = Arc::new(Memory::new());
        let reader = Arc::new(Reader::new(Arc::clone(&blocks) as _, 4 << 20));
        Self { blocks, reader, secret: VolumeSecret::from_bytes([2; 32]) }
    }

    fn writer(&self) -> Writer {
        Writer::new(
            Arc::clone(&self.blocks) as _,
            Arc::clone(&self.reader),
            self.secret.convergence_secret(),
            Purpose::Own,
        )
    }

    fn seal(&self, edit: &FileEdit) -> Content {
        let mut writer = self.writer();
        let draft = writer.file(edit).unwrap();
        writer.flush().unwrap();
        writer.settle(draft)
    }

    fn seal_bytes(&self, bytes: &[u8]) -> Content {
        let mut edit = FileEdit::new(Content::default());
        edit.write(0, Bytes::copy_from_slice(bytes));
        self.seal(&edit)
    }

    fn change(&self, base: &Content, changes: Vec<(Vec<u8>, Option<Entry>)>) -> Content {
        let mut writer = self.writer();
        let draft = writer.directory(base, changes).unwrap();
        writer.flush().unwrap();
        writer.settle(draft)
    }

    fn stored_bytes(&self) -> u64 {
        self.blocks.usage().used_bytes()
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn entry(ino: u64) -> Entry {
    let attr = Attr { ino, mode: 0o644, nlink: 1, ..Attr::default() };
    Entry { attr, node: Node::File(Content::default()), xattrs: Xattrs::default() }
}

#[derive(Debug, Clone)]
enum Step {
    Write { offset: usize, length: usize, seed: u64 },
    Resize(usize),
    Freeze,
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![0..3_000_000_usize, 0..70_000_usize];
    let length = prop_oneof![1..2_000_usize, 1..1_500_000_usize];
    prop_oneof![
        4 => (offset.clone(), length, any::<u64>())
            .prop_map(|(offset, length, seed)| Step::Write { offset, length, seed }),
        2 => offset.prop_map(Step::Resize),
        1 => Just(Step::Freeze),
        2 => Just(Step::Seal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever is written, cut, frozen and sealed in between, a file reads as a plain buffer
    /// does, through the edit and through its sealed content alike.
    #[test]
    fn a_file_reads_as_written(steps in proptest::collection::vec(step(), 1..14)) {
        let volume = Volume::new();
        let mut model: Vec<u8> = Vec::new();
        let mut edit = FileEdit::new(Content::default());
        let mut frozen = None;
        for step in steps {
            match step {
                Step::Write { offset, length, seed } => {
                    let bytes = noise(seed, length);
                    model.resize(model.len().max(offset + length), 0);
                    model[offset..offset + length].copy_from_slice(&bytes);
                    edit.write(offset as u64, bytes.into());
                }
                Step::Resize(size) => {
                    model.resize(size, 0);
                    edit.resize(size as u64);
                }
                Step::Freeze => frozen = Some(edit.freeze()),
                Step::Seal => {
                    let frozen = frozen.take().unwrap_or_else(|| edit.freeze());
                    let content = volume.seal(&frozen);
                    edit.rebase(&frozen, content);
                }
            }
            prop_assert_eq!(edit.size(), model.len() as u64);
            let read = edit.read_at(&volume.reader, 0, usize::MAX).unwrap();
            prop_assert!(read[..] == model[..]);
        }
        let content = volume.seal(&edit.freeze());
        let read = volume.reader.read_at(&content, 0, usize::MAX).unwrap();
        prop_assert!(read[..] == model[..]);
        let middle = model.len() / 2;
        let part = volume.reader.read_at(&content, middle as u64, 5_000).unwrap();
        prop_assert!(part[..] == model[middle..model.len().min(middle + 5_000)]);
    }

    /// A directory is the map of its names, and its blocks depend on nothing else.
    #[test]
    fn a_directory_is_its_names(
        rounds in proptest::collection::vec(
            proptest::collection::vec((0..600_u64, any::<bool>(), 1..1_000_u64), 1..300), 1..6)
    ) {
        let volume = Volume::new();
        let mut model: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        let mut content = Content::default();
        for round in rounds {
            let mut changes = Vec::new();
            for (name, remove, ino) in round {
                let name = format!("name {name}").into_bytes();
                let change = (!remove).then(|| entry(ino));
                match &change {
                    Some(entry) => { model.insert(name.clone(), entry.clone()); }
                    None => { model.remove(&name); }
                }
                changes.push((name, change));
            }
            content = volume.change(&content, changes);
            prop_assert_eq!(content.size, model.len() as u64);
            prop_assert_eq!(&volume.reader.list(&content).unwrap(), &model);
        }
        for name in model.keys().take(5) {
            let found = volume.reader.lookup(&content, name).unwrap();
            prop_assert_eq!(found.as_ref(), model.get(name));
        }
        prop_assert_eq!(volume.reader.lookup(&content, b"absent").unwrap(), None);
        let all = model.into_iter().map(|(name, entry)| (name, Some(entry))).collect();
        let at_once = volume.change(&Content::default(), all);
        let walk = |content: &Content| pieces_below(&volume, content);
        prop_assert!(walk(&at_once) == walk(&content), "the shape depends on the history");
    }
}

/// Keys of the pieces of every node of a directory: equal for equal plaintext.
fn pieces_below(volume: &Volume, content: &Content) -> BTreeSet<[u8; 32]> {
    use crate::tree::shard::Shard;
    let mut keys = BTreeSet::new();
    let mut open: Vec<_> = content.root.iter().cloned().collect();
    while let Some(piece) = open.pop() {
        match &*volume.reader.shard::<Entry>(&piece).unwrap() {
            // Leaves are compared by key. A branch holds block ids, which packing may change.
            Shard::Leaf(_) => drop(keys.insert(*piece.key.as_bytes())),
            Shard::Branch(children) => open.extend(children.iter().map(|c| c.piece.clone())),
        }
    }
    keys
}

#[test]
fn one_byte_in_front_republishes_little() {
    let volume = Volume::new();
    let bytes = noise(1, 64 << 20);
    let before = volume.seal_bytes(&bytes);
    let stored = volume.stored_bytes();
    let after = volume.seal_bytes(&[&[1], &bytes[..]].concat());
    let added = volume.stored_bytes() - stored;
    assert!(added <= 4 << 20, "{added} bytes for one");
    assert_ne!(before, after);
}

#[test]
fn one_byte_changed_rewrites_little_and_the_same_as_all_at_once() {
    let volume = Volume::new();
    let mut bytes = noise(2, 32 << 20);
    let content = volume.seal_bytes(&bytes);
    let stored = volume.stored_bytes();
    let at = 17_000_000;
    bytes[at] ^= 1;
    let mut edit = FileEdit::new(content);
    edit.write(at as u64, Bytes::copy_from_slice(&bytes[at..=at]));
    let edited = volume.seal(&edit);
    let added = volume.stored_bytes() - stored;
    assert!(added <= 2 << 20, "{added} bytes for one");
    assert_eq!(edited, volume.seal_bytes(&bytes));
}

#[test]
fn appending_cuts_as_writing_at_once_does() {
    let volume = Volume::new();
    let bytes = noise(3, 5_000_000);
    let mut edit = FileEdit::new(Content::default());
    for (index, part) in bytes.chunks(700_001).enumerate() {
        edit.write(index as u64 * 700_001, Bytes::copy_from_slice(part));
        let frozen = edit.freeze();
        let content = volume.seal(&frozen);
        edit.rebase(&frozen, content);
        assert_eq!(edit.dirty_bytes(), 0);
    }
    assert_eq!(edit.base(), &volume.seal_bytes(&bytes));
}

#[test]
fn a_hole_costs_nothing() {
    let volume = Volume::new();
    let mut edit = FileEdit::new(Content::default());
    edit.resize(1 << 40);
    edit.write(1 << 39, Bytes::from_static(b"in the middle"));
    let content = volume.seal(&edit);
    assert!(volume.stored_bytes() < 4_096);
    let read = volume.reader.read_at(&content, (1 << 39) - 3, 20).unwrap();
    assert_eq!(&read[..], b"\0\0\0in the middle\0\0\0\0");
}

#[test]
fn small_files_share_blocks() {
    let volume = Volume::new();
    let mut writer = volume.writer();
    let drafts: Vec<_> = (0..1_000)
        .map(|seed| {
            let mut edit = FileEdit::new(Content::default());
            edit.write(0, noise(seed, 9_000).into());
            writer.file(&edit).unwrap()
        })
        .collect();
    writer.flush().unwrap();
    let ids: BTreeSet<_> =
        drafts.into_iter().map(|draft| writer.settle(draft).root.unwrap().block()).collect();
    assert!(ids.len() <= 10, "{} blocks", ids.len());
}

#[test]
fn a_large_directory_changes_in_small_steps() {
    let volume = Volume::new();
    let names = (0..20_000_u64).map(|n| (format!("f{n}").into_bytes(), Some(entry(n)))).collect();
    let content = volume.change(&Content::default(), names);
    let stored = volume.stored_bytes();
    let changed = volume.change(&content, vec![(b"f77".to_vec(), None)]);
    assert_eq!(changed.size, 19_999);
    let added = volume.stored_bytes() - stored;
    assert!(added < 64 << 10, "{added} bytes for one name");
    let emptied = (0..20_000_u64).map(|n| (format!("f{n}").into_bytes(), None)).collect();
    assert_eq!(volume.change(&changed, emptied), Content::default());
}

#[test]
fn heads_open_with_the_read_key_only() {
    let volume = Volume::new();
    let mut writer = volume.writer();
    let names = vec![(7, vec![NameOf { parent: 1, name: b"a".to_vec() }])];
    let draft = writer.names(&Content::default(), names.clone()).unwrap();
    writer.flush().unwrap();
    let directory = Entry { node: Node::Directory(Content::default()), ..entry(1) };
    let root = VolumeRoot { directory, names: writer.settle(draft), next_ino: 8 };
    let head = writer.head(&root, &volume.secret, None, 5).unwrap();
    let opened = volume.reader.root(&head, &volume.secret.read_key()).unwrap();
    assert_eq!(opened, root);
    assert_eq!(volume.reader.names_of(&opened.names, 7).unwrap(), names[0].1);
    assert_eq!(volume.reader.names_of(&opened.names, 8).unwrap(), vec![]);
    let other = VolumeSecret::from_bytes([9; 32]).read_key();
    assert!(matches!(volume.reader.root(&head, &other), Err(ReadError::Corrupt { .. })));
}

#[test]
fn large_attributes_get_a_piece() {
    let volume = Volume::new();
    let mut writer = volume.writer();
    let map = BTreeMap::from([(b"user.large".to_vec(), noise(1, 60_000))]);
    let xattrs = writer.xattrs(map.clone()).unwrap();
    assert!(matches!(xattrs, Xattrs::Sealed(_)));
    assert_eq!(volume.reader.xattrs(&xattrs).unwrap(), map);
    let small = BTreeMap::from([(b"user.small".to_vec(), b"1".to_vec())]);
    assert_eq!(writer.xattrs(small.clone()).unwrap(), Xattrs::Inline(small));
}

#[test]
fn a_missing_block_is_named_and_listed() {
    let volume = Volume::new();
    let content = volume.seal_bytes(&noise(4, 3_000_000));
    let file = Entry { node: Node::File(content.clone()), ..entry(2) };
    let ids = volume.reader.blocks_of(&file).unwrap();
    assert!(ids.len() > 3);
    assert!(ids.iter().all(|id| volume.blocks.get(id).unwrap().bytes().len() <= BLOCK_BYTES_MAX));
    let fresh = Reader::new(Arc::clone(&volume.blocks) as _, 1 << 20);
    let lost = content.root.as_ref().unwrap().block();
    volume.blocks.remove(&lost).unwrap();
    match fresh.read_at(&content, 0, 100) {
        Err(ReadError::Missing { id }) => assert_eq!(id, lost),
        other => panic!("{other:?}"),
    }
}

/// Pieces that no writer makes, as a stranger's tree may have them.
fn branch(volume: &Volume, children: &[(u8, &BlockRef)]) -> BlockRef {
    let packer = Packer::new(
        Arc::clone(&volume.blocks) as _,
        Purpose::Own,
        volume.secret.convergence_secret(),
    );
    let children = children.iter().map(|(slot, piece)| Child {
        slot: *slot,
        count: 1,
        piece: (*piece).clone(),
    });
    let shard = Shard::<Entry>::Branch(children.collect());
    packer.alone(Kind::Directory, &shard.encode()).unwrap()
}

#[test]
fn endless_directories_are_refused() {
    let volume = Volume::new();
    let leaf = volume.change(&Content::default(), vec![(b"name".to_vec(), Some(entry(2)))]);
    let leaf = leaf.root.unwrap();
    let corrupt = |root: BlockRef| {
        let content = Content { size: 1, height: 0, root: Some(root) };
        let node = Node::Directory(content.clone());
        let listed = volume.reader.list(&content);
        let blocks = volume.reader.blocks_of(&Entry { node, ..entry(2) });
        matches!(listed, Err(ReadError::Corrupt { .. }))
            && matches!(blocks, Err(ReadError::Corrupt { .. }))
    };
    // 16 levels of 16 names for the same node below: more than can ever be listed.
    let wide = (0..16).fold(leaf.clone(), |below, _| {
        branch(&volume, &std::array::from_fn::<_, 16, _>(|slot| (slot as u8, &below)))
    });
    assert!(corrupt(wide));
    // Deeper than the stack of any thread.
    let deep = (0..20_000).fold(leaf.clone(), |below, _| branch(&volume, &[(0, &below)]));
    assert!(corrupt(deep));
    assert!(corrupt(branch(&volume, &[])));
}
