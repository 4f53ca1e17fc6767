//! Checks over `Memory`: what is told of damage, and what a repair brings back.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::Memory;
use crate::block::Block;
use crate::tree::edit::FileEdit;
use crate::tree::volume::VolumeSecret;
use crate::tree::writer::Writer;

struct Sample {
    store: Arc<Memory>,
    file: Content,
    roots: Vec<NamedRoot>,
}

/// A directory with a large file below another directory.
fn sample() -> Sample {
    let store: Arc<Memory> = Arc::default();
    let reader = Arc::new(Reader::new(Arc::clone(&store) as _, 0));
    let secret = VolumeSecret::from_bytes([3; 32]).convergence_secret();
    let mut writer = Writer::new(Arc::clone(&store) as _, reader, secret, Purpose::Own);
    let mut bytes = vec![0; 3 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let mut edit = FileEdit::new(Content::default());
    edit.write(0, Bytes::from(bytes));
    let draft = writer.file(&edit).unwrap();
    writer.flush().unwrap();
    let file = writer.settle(draft);
    let mut directory = |name: &str, node: Node| {
        let entry = Entry { attr: Attr::default(), node, xattrs: Xattrs::default() };
        let changes = [(name.as_bytes().to_vec(), Some(entry))];
        let content = writer.directory(&Content::default(), changes.into_iter().collect()).unwrap();
        writer.flush().unwrap();
        Node::Directory(writer.settle(content))
    };
    let inner = directory("film.bin", Node::File(file.clone()));
    let node = directory("films", inner);
    let root = Root::Tree { node, strength: Strength::Pinned };
    Sample { store, file, roots: vec![NamedRoot { name: "main".to_owned(), root }] }
}

impl Sample {
    fn check(&self, source: &Arc<Memory>, repair: bool) -> Report {
        let source: Arc<dyn BlockStore> = Arc::clone(source) as _;
        let wanted = Check { store: &*self.store, source, roots: &self.roots, repair };
        check(&wanted, &mut |_| {}).unwrap()
    }

    /// A store that has every block.
    fn network(&self) -> Arc<Memory> {
        let network: Arc<Memory> = Arc::default();
        for id in self.store.ids(None, usize::MAX).unwrap() {
            network.put(&self.store.get(&id).unwrap(), Purpose::Hold).unwrap();
        }
        network
    }

    /// A block of the file's data.
    fn data(&self) -> BlockId {
        let entry = Entry {
            attr: Attr::default(),
            node: Node::File(self.file.clone()),
            xattrs: Xattrs::default(),
        };
        let reader = Reader::new(Arc::clone(&self.store) as _, 0);
        let maps: Vec<BlockId> = self.file.root.iter().map(|root| root.block()).collect();
        let ids = reader.blocks_of(&entry).unwrap();
        *ids.iter().find(|id| !maps.contains(id)).unwrap()
    }
}

#[test]
fn a_whole_store_is_clean() {
    let sample = sample();
    let report = sample.check(&sample.store, false);
    assert!(report.is_clean(), "{report:?}");
    let usage = sample.store.usage();
    assert_eq!((report.good_blocks, report.good_bytes), (usage.blocks, usage.used_bytes()));
}

#[test]
fn a_bad_block_is_told_with_the_file_that_needs_it_and_comes_back() {
    let sample = sample();
    let network = sample.network();
    let (id, owed) = (sample.data(), sample.store.owed_totals());
    assert!(sample.store.corrupt(&id));
    for _ in 0..2 {
        let report = sample.check(&sample.store, false);
        assert_eq!(report.bad.iter().map(|bad| bad.id).collect::<Vec<_>>(), [id]);
        let path = "main/films/film.bin".to_owned();
        assert_eq!(report.needing, [Needing { path, blocks: vec![id], unreadable: false }]);
        assert_eq!(report.restored_blocks, 0);
    }
    let report = sample.check(&network, true);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.restored_blocks, sample.store.owed_totals()), (1, owed));
}

#[test]
fn a_bad_directory_hides_what_lies_below() {
    let sample = sample();
    let Root::Tree { node: Node::Directory(root), .. } = &sample.roots[0].root else { panic!() };
    let id = root.root.as_ref().unwrap().block();
    let network = sample.network();
    sample.store.corrupt(&id);
    let report = sample.check(&sample.store, false);
    assert_eq!(report.needing.len(), 1, "{report:?}");
    assert!(report.needing[0].unreadable && report.needing[0].path == "main");
    assert!(sample.check(&network, true).is_clean());
}

#[test]
fn a_missing_block_of_a_pinned_tree_is_told_and_fetched() {
    let sample = sample();
    let (network, id) = (sample.network(), sample.data());
    sample.store.remove(&id).unwrap();
    let report = sample.check(&sample.store, false);
    assert_eq!((report.missing.as_slice(), report.needing.len()), ([id].as_slice(), 1));
    assert!(sample.check(&network, true).is_clean());
    assert!(sample.store.contains(&id).unwrap());
}

#[test]
fn a_full_store_is_checked_to_its_end() {
    let store = Arc::new(Memory::with_quota(3000));
    let network = Arc::new(Memory::new());
    let [lost, other] = [1, 2].map(|byte| Block::new(Bytes::from(vec![byte; 2000])).unwrap());
    network.put(&lost, Purpose::Own).unwrap();
    store.put(&lost, Purpose::Own).unwrap();
    assert!(store.corrupt(&lost.id()) && store.get(&lost.id()).is_err());
    store.put(&other, Purpose::Own).unwrap();
    let asked = Check { store: &*store, source: network, roots: &[], repair: true };
    let report = check(&asked, &mut |_| {}).unwrap();
    assert_eq!((report.bad.len(), report.restored_blocks, report.good_blocks), (1, 0, 1));
}
