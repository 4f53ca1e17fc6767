//! The overlay of one volume: the inodes in memory, and what is known of them.
//!
//! Invariants:
//! - every ancestor of an inode in the table is in the table;
//! - an inode is dropped only when nothing refers to it and it says nothing that the sealed
//!   base does not say;
//! - a changed inode knows all of its names, so that sealing finds every directory that
//!   describes it.
//!
//! How it changes is in `apply`. Nothing here does I/O: what memory does not tell is a `Miss`,
//! which `Volume::run` fetches before it tries again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use xorfs_store::{Attr, BlockRef, Change, Content, Entry, Head, NAME_BYTES_MAX, NameOf, TreePath};

use crate::error::FsError;
use crate::view::inode::{Body, Directory, HeldXattrs, Inode, ROOT};
use crate::view::types::InodeNo;

/// Something that has to be read before an operation can go on.
#[derive(Debug)]
pub(super) enum Miss {
    /// A name of a directory's base.
    Name { directory: u64, base: Content, name: Vec<u8> },
    /// All names of an inode with several.
    Names { ino: u64, index: Content },
    /// Extended attributes.
    Xattrs { ino: u64, sealed: BlockRef },
}

/// Why an operation did not complete.
#[derive(Debug)]
pub(super) enum Stop {
    /// Boxed, because it is rare and far larger than what operations return.
    Miss(Box<Miss>),
    Fail(FsError),
}

impl Stop {
    fn miss(miss: Miss) -> Self {
        Self::Miss(Box::new(miss))
    }
}

impl From<FsError> for Stop {
    fn from(error: FsError) -> Self {
        Self::Fail(error)
    }
}

/// The state of one volume, behind its lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) read_only: bool,
    pub(super) inodes: HashMap<u64, Inode>,
    /// Named inodes with unsealed changes.
    pub(super) dirty: BTreeSet<u64>,
    /// Inodes that lost their last name and are still referred to.
    pub(super) orphans: BTreeSet<u64>,
    /// Inodes that may have to leave the hard-link index, and when they were changed.
    pub(super) unindexed: BTreeMap<u64, u64>,
    /// The sealed hard-link index.
    pub(super) index: Content,
    pub(super) next_ino: u64,
    pub(super) head: Option<Head>,
    /// Number of the last change.
    pub(super) sequence: u64,
    /// Changes up to here are in the journal or sealed.
    pub(super) durable: u64,
    /// Changes up to here are sealed.
    pub(super) sealed: u64,
    /// Changes after `durable`, for the journal.
    pub(super) pending: VecDeque<(u64, Change)>,
    /// Data bytes in `pending`.
    pub(super) pending_bytes: u64,
    /// Bytes written since the last seal, with `CHANGE_BYTES` a change.
    pub(super) dirty_bytes: u64,
    /// Lookups and opens of all inodes.
    pub(super) references: u64,
    pub(super) first_change: Option<Instant>,
    pub(super) last_change: Option<Instant>,
}

impl State {
    /// The state of a volume whose base is `root`.
    pub(super) fn new(
        mut root: Inode,
        index: Content,
        next_ino: u64,
        head: Option<Head>,
        read_only: bool,
    ) -> Self {
        root.attr.ino = ROOT;
        Self {
            read_only,
            inodes: HashMap::from([(ROOT, root)]),
            dirty: BTreeSet::new(),
            orphans: BTreeSet::new(),
            unindexed: BTreeMap::new(),
            index,
            next_ino,
            head,
            sequence: 0,
            durable: 0,
            sealed: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            dirty_bytes: 0,
            references: 0,
            first_change: None,
            last_change: None,
        }
    }

    pub(super) fn inode(&self, ino: u64) -> Result<&Inode, FsError> {
        self.inodes.get(&ino).ok_or(FsError::Stale)
    }

    pub(super) fn inode_mut(&mut self, ino: u64) -> Result<&mut Inode, FsError> {
        self.inodes.get_mut(&ino).ok_or(FsError::Stale)
    }

    pub(super) fn directory(&self, ino: u64) -> Result<&Directory, FsError> {
        match &self.inode(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(FsError::NotDirectory),
        }
    }

    /// What a name of a directory stands for.
    pub(super) fn child(&self, parent: u64, name: &[u8]) -> Result<Option<u64>, Stop> {
        let directory = self.directory(parent)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(FsError::NameTooLong.into());
        }
        directory.find(name).ok_or_else(|| {
            let (base, name) = (directory.base.clone(), name.to_vec());
            Stop::miss(Miss::Name { directory: parent, base, name })
        })
    }

    /// Walks a path from `ino`; `None` where a name on it does not exist.
    pub(super) fn walk(&self, mut ino: u64, path: &[u8]) -> Result<Option<u64>, Stop> {
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match self.child(ino, name)? {
                Some(child) => ino = child,
                None => return Ok(None),
            }
        }
        Ok(Some(ino))
    }

    /// Makes sure that all names of an inode are known, which every change of it needs.
    pub(super) fn require_names(&self, ino: u64) -> Result<(), Stop> {
        let inode = self.inode(ino)?;
        if inode.names_complete {
            return Ok(());
        }
        Err(Stop::miss(Miss::Names { ino, index: self.index.clone() }))
    }

    /// Makes sure that the extended attributes are in memory.
    pub(super) fn require_xattrs(&self, ino: u64) -> Result<(), Stop> {
        match &self.inode(ino)?.xattrs {
            HeldXattrs::Open { .. } => Ok(()),
            HeldXattrs::Sealed(sealed) => {
                Err(Stop::miss(Miss::Xattrs { ino, sealed: sealed.clone() }))
            }
        }
    }

    /// Takes in what the base says of a name. Returns the inode where one was added. Nothing
    /// happens where the directory changed since it was asked; the operation will ask again.
    pub(super) fn load(
        &mut self,
        parent: u64,
        base: &Content,
        name: &[u8],
        entry: Option<Entry>,
    ) -> Result<Option<u64>, FsError> {
        let read_only = self.read_only;
        let Some(Inode { body: Body::Directory(directory), .. }) = self.inodes.get_mut(&parent)
        else {
            return Ok(None);
        };
        if directory.base != *base || directory.find(name).is_some() {
            return Ok(None);
        }
        let Some(entry) = entry else {
            directory.remember_absent(name);
            return Ok(None);
        };
        let ino = entry.attr.ino;
        if ino <= ROOT || ino >> InodeNo::BITS != 0 {
            return Err(FsError::Damaged("an inode number out of range"));
        }
        let name_of = NameOf { parent, name: name.to_vec() };
        let added = !self.inodes.contains_key(&ino);
        if !added {
            self.check_second_name(ino, &entry, &name_of)?;
            if read_only {
                self.refresh(ino, &entry);
            }
        }
        self.inodes.entry(ino).or_insert_with(|| Inode::from_entry(entry));
        self.attach(parent, name, ino);
        Ok(added.then_some(ino))
    }

    /// Notes that an unchanged name of the base stands for an inode of the table.
    pub(super) fn attach(&mut self, parent: u64, name: &[u8], ino: u64) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        let name_of = NameOf { parent, name: name.to_vec() };
        if !inode.names.contains(&name_of) {
            inode.names.push(name_of);
        }
        if let Some(Inode { body: Body::Directory(directory), .. }) = self.inodes.get_mut(&parent) {
            directory.known.insert(name.to_vec(), ino);
        }
    }

    /// A tree from a stranger may say anything: a directory with two names could contain itself.
    fn check_second_name(&self, ino: u64, entry: &Entry, name: &NameOf) -> Result<(), FsError> {
        let Some(inode) = self.inodes.get(&ino) else { return Ok(()) };
        let same = std::mem::discriminant(&inode.body.sealed_node())
            == std::mem::discriminant(&entry.node);
        let moved_below_itself = inode.is_directory() && self.is_below(name.parent, ino);
        if !same || (inode.is_directory() && !inode.names.is_empty()) || moved_below_itself {
            return Err(FsError::Damaged("one inode number for two things"));
        }
        Ok(())
    }

    /// Makes a read-only inode say what a newer tree says. Returns the names of a directory that
    /// were known and have to be looked up again, or `None` where nothing differs.
    pub(super) fn refresh(&mut self, ino: u64, entry: &Entry) -> Option<Vec<(Vec<u8>, u64)>> {
        let inode = self.inodes.get_mut(&ino)?;
        let same_node = inode.body.sealed_node() == entry.node;
        let xattrs = HeldXattrs::from_entry(entry.xattrs.clone());
        let same_xattrs = match (&inode.xattrs, &xattrs) {
            (HeldXattrs::Open { sealed: Some(held), .. }, HeldXattrs::Sealed(new))
            | (HeldXattrs::Sealed(held), HeldXattrs::Sealed(new)) => held == new,
            (
                HeldXattrs::Open { map: held, sealed: None },
                HeldXattrs::Open { map: new, sealed: None },
            ) => held == new,
            _ => false,
        };
        if same_node && same_xattrs && inode.attr == entry.attr {
            return None;
        }
        inode.attr = Attr { ino, ..entry.attr };
        if !same_xattrs {
            inode.xattrs = xattrs;
        }
        if same_node {
            return Some(Vec::new());
        }
        let body = std::mem::replace(&mut inode.body, Body::from_node(entry.node.clone()));
        let Body::Directory(old) = body else { return Some(Vec::new()) };
        let known: Vec<_> = old.known.into_iter().collect();
        for (name, child) in &known {
            if let Some(child) = self.inodes.get_mut(child) {
                child.names.retain(|of| of.parent != ino || of.name != *name);
            }
        }
        Some(known)
    }

    /// Whether `ino` is `above` or somewhere below it.
    pub(super) fn is_below(&self, mut ino: u64, above: u64) -> bool {
        loop {
            if ino == above {
                return true;
            }
            match self.inodes.get(&ino).and_then(|inode| inode.names.first()) {
                Some(name) => ino = name.parent,
                None => return false,
            }
        }
    }

    /// A path of an inode, `None` where it has no name (any more).
    pub(super) fn path_of(&self, mut ino: u64) -> Option<TreePath> {
        let mut names = Vec::new();
        while ino != ROOT {
            let name = self.inodes.get(&ino)?.names.first()?;
            names.push(name.name.as_slice());
            ino = name.parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Drops an inode that nothing needs, and then its ancestors.
    pub(super) fn release(&mut self, ino: u64) {
        let mut candidates = vec![ino];
        while let Some(ino) = candidates.pop() {
            let Some(inode) = self.inodes.get(&ino) else { continue };
            let has_children = match &inode.body {
                Body::Directory(directory) => {
                    !directory.known.is_empty() || directory.changes.values().any(Option::is_some)
                }
                _ => false,
            };
            let unsealed = self.dirty.contains(&ino) && !inode.is_orphan();
            if ino == ROOT || inode.is_referenced() || unsealed || has_children {
                continue;
            }
            let inode = self.inodes.remove(&ino).expect("it was just found");
            self.dirty.remove(&ino);
            self.orphans.remove(&ino);
            for name in inode.names {
                if let Some(Inode { body: Body::Directory(directory), .. }) =
                    self.inodes.get_mut(&name.parent)
                {
                    directory.known.remove(&name.name);
                    candidates.push(name.parent);
                }
            }
        }
    }
}
