//! One inode in memory: attributes, content over its sealed base, names and references.
//!
//! Owns no policy: what may be done with an inode is decided in `operations`, `file` and `xattr`,
//! how a change is applied in `overlay`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use xorfs_store::{Attr, BlockRef, Content, Entry, FileEdit, NameOf, Node, XattrMap, Xattrs};

use crate::view::read_ahead::ReadAhead;
use crate::view::types::{InodeNo, Kind, Stat};

/// The inode number of every volume's top directory.
pub(super) const ROOT: u64 = 1;

/// Names that are remembered as absent from a directory's base. Bounds memory where a program
/// probes for names that are not there; past it the memory starts anew.
const ABSENT_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) attr: Attr,
    /// Known names. Empty for the root and for what was unlinked while in use.
    pub(super) names: Vec<NameOf>,
    /// Whether `names` holds all of them; a changed inode always knows all.
    pub(super) names_complete: bool,
    pub(super) body: Body,
    pub(super) xattrs: HeldXattrs,
    /// Times that the kernel (or a command) was told of this inode and has not forgotten it.
    pub(super) lookups: u64,
    /// Open handles.
    pub(super) opens: u64,
    /// Sequence number of the last change that is not sealed; 0 where there is none.
    pub(super) changed_at: u64,
    pub(super) read_ahead: ReadAhead,
}

#[derive(Debug)]
pub(super) enum Body {
    /// Shared with readers, who read it outside the lock.
    File(Arc<FileEdit>),
    Directory(Box<Directory>),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharDevice(u64),
    BlockDevice(u64),
}

/// A directory: its sealed base and what changed since.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) base: Content,
    /// Names that differ from the base: what they name now, `None` where they are gone.
    pub(super) changes: BTreeMap<Vec<u8>, Option<u64>>,
    /// Unchanged names of the base whose inodes are in the table.
    pub(super) known: HashMap<Vec<u8>, u64>,
    /// Names that the base is known not to have.
    pub(super) absent: HashSet<Vec<u8>>,
    /// Names in it now.
    pub(super) count: u64,
}

/// Extended attributes, opened only when somebody asks.
#[derive(Debug, Clone)]
pub(super) enum HeldXattrs {
    /// In a piece that was not opened.
    Sealed(BlockRef),
    /// In memory; `sealed` is the piece that holds the same, if one does.
    Open { map: XattrMap, sealed: Option<BlockRef> },
}

impl Inode {
    /// An inode as a directory of the base describes it.
    pub(super) fn from_entry(entry: Entry) -> Self {
        let body = Body::from_node(entry.node);
        let names_complete = entry.attr.nlink <= 1 || matches!(body, Body::Directory(_));
        Self {
            attr: entry.attr,
            names: Vec::new(),
            names_complete,
            body,
            xattrs: HeldXattrs::from_entry(entry.xattrs),
            lookups: 0,
            opens: 0,
            changed_at: 0,
            read_ahead: ReadAhead::default(),
        }
    }

    /// A directory that nothing is known of but its attributes.
    pub(super) fn empty_directory(attr: Attr) -> Self {
        Self::from_entry(Entry {
            attr,
            node: Node::Directory(Content::default()),
            xattrs: Xattrs::default(),
        })
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    /// Whether it lost its last name; the root has none and is none of those.
    pub(super) fn is_orphan(&self) -> bool {
        self.names.is_empty() && self.attr.ino != ROOT
    }

    pub(super) fn is_referenced(&self) -> bool {
        self.lookups > 0 || self.opens > 0
    }

    pub(super) fn stat(&self, slot: u16) -> Stat {
        let attr = &self.attr;
        Stat {
            ino: InodeNo::new(slot, attr.ino),
            kind: self.body.kind(),
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: self.body.size(),
            mtime: attr.mtime,
            ctime: attr.ctime,
            atime: attr.atime,
            crtime: attr.crtime,
        }
    }
}

impl Body {
    pub(super) fn from_node(node: Node) -> Self {
        match node {
            Node::File(content) => Self::File(Arc::new(FileEdit::new(content))),
            Node::Directory(base) => Self::Directory(Box::new(Directory::new(base))),
            Node::Symlink(target) => Self::Symlink(target),
            Node::Fifo => Self::Fifo,
            Node::Socket => Self::Socket,
            Node::CharDevice(number) => Self::CharDevice(number),
            Node::BlockDevice(number) => Self::BlockDevice(number),
        }
    }

    /// The node as it was last sealed.
    pub(super) fn sealed_node(&self) -> Node {
        match self {
            Self::File(edit) => Node::File(edit.base().clone()),
            Self::Directory(directory) => Node::Directory(directory.base.clone()),
            Self::Symlink(target) => Node::Symlink(target.clone()),
            Self::Fifo => Node::Fifo,
            Self::Socket => Node::Socket,
            Self::CharDevice(number) => Node::CharDevice(*number),
            Self::BlockDevice(number) => Node::BlockDevice(*number),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::File,
            Self::Directory(_) => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::Fifo => Kind::Fifo,
            Self::Socket => Kind::Socket,
            Self::CharDevice(number) => Kind::CharDevice(*number),
            Self::BlockDevice(number) => Kind::BlockDevice(*number),
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::File(edit) => edit.size(),
            Self::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }
}

impl Directory {
    pub(super) fn new(base: Content) -> Self {
        Self { count: base.size, base, ..Self::default() }
    }

    /// What a name stands for, as far as memory tells: `None` where the base has to be asked.
    pub(super) fn find(&self, name: &[u8]) -> Option<Option<u64>> {
        if let Some(change) = self.changes.get(name) {
            return Some(*change);
        }
        if let Some(ino) = self.known.get(name) {
            return Some(Some(*ino));
        }
        let absent = self.base.root.is_none() || self.absent.contains(name);
        absent.then_some(None)
    }

    pub(super) fn set(&mut self, name: &[u8], ino: Option<u64>) {
        self.known.remove(name);
        self.absent.remove(name);
        self.changes.insert(name.to_vec(), ino);
    }

    pub(super) fn remember_absent(&mut self, name: &[u8]) {
        if self.absent.len() >= ABSENT_MAX {
            self.absent.clear();
        }
        self.absent.insert(name.to_vec());
    }
}

impl HeldXattrs {
    pub(super) fn from_entry(xattrs: Xattrs) -> Self {
        match xattrs {
            Xattrs::Inline(map) => Self::Open { map, sealed: None },
            Xattrs::Sealed(piece) => Self::Sealed(piece),
        }
    }
}

/// The attributes and the kind that `stat` tells of an entry that is not in the table.
pub(super) fn stat_of(entry: &Entry, slot: u16) -> Stat {
    let attr = &entry.attr;
    Stat {
        ino: InodeNo::new(slot, attr.ino),
        kind: match &entry.node {
            Node::File(_) => Kind::File,
            Node::Directory(_) => Kind::Directory,
            Node::Symlink(_) => Kind::Symlink,
            Node::Fifo => Kind::Fifo,
            Node::Socket => Kind::Socket,
            Node::CharDevice(number) => Kind::CharDevice(*number),
            Node::BlockDevice(number) => Kind::BlockDevice(*number),
        },
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: entry.size(),
        mtime: attr.mtime,
        ctime: attr.ctime,
        atime: attr.atime,
        crtime: attr.crtime,
    }
}
