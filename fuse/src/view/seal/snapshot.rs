//! What is sealed: a copy of the changed inodes as they are at one moment.
//!
//! Taken under the volume's lock, so it copies references and attributes, never file data.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use xorfs_store::{Attr, Content, FileEdit, Head, NameOf, Node, XattrMap, Xattrs};

use crate::view::inode::{Body, HeldXattrs, Inode, ROOT};
use crate::view::overlay::State;

/// The changes up to `through`, and every directory above them.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) through: u64,
    pub(super) dirty_bytes: u64,
    pub(super) first_change: Option<Instant>,
    pub(super) next_ino: u64,
    pub(super) head: Option<Head>,
    pub(super) index: Content,
    /// Inodes that may have to leave the index.
    pub(super) unindexed: BTreeSet<u64>,
    /// Files whose content changed.
    pub(super) files: BTreeMap<u64, Arc<FileEdit>>,
    /// Every inode that some directory has to describe anew, the root included. Empty where
    /// only nameless files are sealed.
    pub(super) inodes: HashMap<u64, FrozenInode>,
    pub(super) directories: HashMap<u64, FrozenDirectory>,
}

#[derive(Debug)]
pub(super) struct FrozenInode {
    pub(super) attr: Attr,
    pub(super) names: Vec<NameOf>,
    /// As sealed before.
    pub(super) node: Node,
    pub(super) xattrs: FrozenXattrs,
    pub(super) xattrs_changed: bool,
    /// Whether it changed itself, rather than something below it.
    pub(super) is_dirty: bool,
}

#[derive(Debug)]
pub(super) enum FrozenXattrs {
    Sealed(Xattrs),
    Open(XattrMap),
}

#[derive(Debug, Default)]
pub(super) struct FrozenDirectory {
    pub(super) base: Content,
    /// Names that changed.
    pub(super) changes: BTreeMap<Vec<u8>, Option<u64>>,
    /// Names whose inode changed.
    pub(super) rewritten: BTreeMap<Vec<u8>, u64>,
    /// Directories between it and the root.
    pub(super) depth: usize,
}

impl State {
    /// Freezes what is not sealed; `None` where nothing is. Files without a name are included
    /// only where memory is short: mostly they are gone before.
    pub(super) fn snapshot(&mut self, with_orphans: bool) -> Option<Snapshot> {
        let mut files = BTreeMap::new();
        if with_orphans {
            for ino in self.orphans.clone() {
                self.freeze_file(ino, &mut files);
            }
        }
        // A volume's first head comes with the first seal, even where there is nothing in it yet:
        // who follows it finds an empty volume then, not a missing one.
        let has_news = self.sequence != self.sealed || self.head.is_none();
        if !has_news && files.is_empty() {
            return None;
        }
        let mut snapshot = Snapshot {
            through: self.sequence,
            dirty_bytes: self.dirty_bytes,
            first_change: self.first_change.take(),
            next_ino: self.next_ino,
            head: self.head.clone(),
            index: self.index.clone(),
            unindexed: self.unindexed.keys().copied().collect(),
            files,
            inodes: HashMap::new(),
            directories: HashMap::new(),
        };
        if !with_orphans && !self.orphans.is_empty() {
            // Their bytes stay in memory and stay counted.
            snapshot.dirty_bytes = snapshot.dirty_bytes.saturating_sub(self.orphan_bytes());
        }
        if has_news {
            self.freeze_tree(&mut snapshot);
        }
        Some(snapshot)
    }

    /// Bytes that files without a name hold in memory.
    pub(in crate::view) fn orphan_bytes(&self) -> u64 {
        let dirty = |ino: &u64| match self.inodes.get(ino) {
            Some(Inode { body: Body::File(edit), .. }) => edit.dirty_bytes(),
            _ => 0,
        };
        self.orphans.iter().map(dirty).sum()
    }

    fn freeze_tree(&mut self, snapshot: &mut Snapshot) {
        let mut waiting: Vec<u64> = self.dirty.iter().copied().chain([ROOT]).collect();
        while let Some(ino) = waiting.pop() {
            if snapshot.inodes.contains_key(&ino) {
                continue;
            }
            self.freeze_file(ino, &mut snapshot.files);
            let Some(inode) = self.inodes.get(&ino) else { continue };
            let is_dirty = self.dirty.contains(&ino);
            for name in &inode.names {
                let above = snapshot.directories.entry(name.parent).or_default();
                above.rewritten.insert(name.name.clone(), ino);
                waiting.push(name.parent);
            }
            if let Body::Directory(directory) = &inode.body {
                let frozen = snapshot.directories.entry(ino).or_default();
                frozen.base = directory.base.clone();
                frozen.changes = directory.changes.clone();
                frozen.depth = self.depth(ino);
                waiting.extend(directory.changes.values().flatten());
            }
            snapshot.inodes.insert(ino, FrozenInode::new(inode, is_dirty));
        }
    }

    fn freeze_file(&mut self, ino: u64, files: &mut BTreeMap<u64, Arc<FileEdit>>) {
        if let Some(Inode { body: Body::File(edit), .. }) = self.inodes.get_mut(&ino)
            && !edit.is_clean()
        {
            files.insert(ino, Arc::new(Arc::make_mut(edit).freeze()));
        }
    }

    fn depth(&self, mut ino: u64) -> usize {
        let mut depth = 0;
        while let Some(name) = self.inodes.get(&ino).and_then(|inode| inode.names.first()) {
            ino = name.parent;
            depth += 1;
        }
        depth
    }
}

impl FrozenInode {
    fn new(inode: &Inode, is_dirty: bool) -> Self {
        let (xattrs, xattrs_changed) = match &inode.xattrs {
            HeldXattrs::Sealed(piece) | HeldXattrs::Open { sealed: Some(piece), .. } => {
                (FrozenXattrs::Sealed(Xattrs::Sealed(piece.clone())), false)
            }
            HeldXattrs::Open { map, sealed: None } => (FrozenXattrs::Open(map.clone()), true),
        };
        Self {
            attr: inode.attr,
            names: inode.names.clone(),
            node: inode.body.sealed_node(),
            xattrs,
            xattrs_changed,
            is_dirty,
        }
    }
}
