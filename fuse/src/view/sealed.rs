//! What is known of an inode's sealed form: its link, its blocks, how safe it is.

use std::collections::BTreeSet;

use xorfs_store::{Attr, BlockId, Entry, Link, Node, ReadError, TreeLink, Xattrs};

use crate::error::FsError;
use crate::view::inode::{Body, HeldXattrs, ROOT};
use crate::view::volume::{Capability, Volume};
use crate::view::xattr::VIRTUAL_PREFIX;

/// How safe a file is, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Safety {
    /// In memory.
    Unsynced,
    /// In the journal.
    Staged,
    /// In blocks that the newest head names.
    Sealed,
    /// Every block has its copies.
    Replicated,
}

impl Volume {
    /// The immutable link of a file or directory, which is sealed first where it has to be.
    pub(super) fn link_of(&self, ino: u64) -> Result<Link, FsError> {
        let (name, entry) = self.sealed_entry(ino)?;
        let petname = (ino == ROOT && !self.is_link).then_some(self.name.as_bytes());
        let link = TreeLink::new(name.as_deref().or(petname), entry.attr.mode & 0o777, &entry.node);
        link.map(Link::Tree).ok_or(FsError::Unsupported)
    }

    /// Every block of an inode, maps included, and with `recursive` of all below it.
    pub(super) fn blocks_of(&self, ino: u64, recursive: bool) -> Result<Vec<BlockId>, FsError> {
        let (_, top) = self.sealed_entry(ino)?;
        let mut blocks = BTreeSet::new();
        let mut waiting = vec![top];
        while let Some(entry) = waiting.pop() {
            blocks.extend(self.around.reader.blocks_of(&entry)?);
            if let (true, Node::Directory(content)) = (recursive, &entry.node) {
                waiting.extend(self.sealed_list(content)?.into_values());
            }
        }
        Ok(blocks.into_iter().collect())
    }

    /// An attribute that the view answers itself.
    pub(super) fn virtual_xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let text = match name.strip_prefix(VIRTUAL_PREFIX) {
            Some(b"link") => self.link_of(ino)?.to_string(),
            Some(b"id") => self.content_id(ino)?,
            Some(b"state") => self.safety(ino)?.to_string(),
            Some(b"replicas") => {
                let wanted = self.around.config.replicas;
                let lowest = match self.unsealed_change(ino)? {
                    0 => self.lowest_copies(ino)?.unwrap_or(wanted),
                    _ => 0,
                };
                format!("{lowest}/{wanted}")
            }
            _ => return Err(FsError::NoXattr),
        };
        Ok(text.into_bytes())
    }

    /// An inode as the newest root describes it, and its name.
    fn sealed_entry(&self, ino: u64) -> Result<(Option<Vec<u8>>, Entry), FsError> {
        if self.unsealed_change(ino)? > 0 {
            self.seal()?;
        }
        let state = self.lock();
        let inode = state.inode(ino)?;
        if inode.is_orphan() && self.is_writable() {
            return Err(FsError::NotFound);
        }
        let name = inode.names.first().map(|name| name.name.clone());
        let entry = Entry {
            attr: Attr { ino, ..inode.attr },
            node: inode.body.sealed_node(),
            xattrs: match &inode.xattrs {
                HeldXattrs::Sealed(piece) | HeldXattrs::Open { sealed: Some(piece), .. } => {
                    Xattrs::Sealed(piece.clone())
                }
                HeldXattrs::Open { map, .. } => Xattrs::Inline(map.clone()),
            },
        };
        Ok((name, entry))
    }

    /// The last unsealed change of an inode, or of anything below a directory; 0 where there is
    /// none.
    fn unsealed_change(&self, ino: u64) -> Result<u64, FsError> {
        let state = self.lock();
        let inode = state.inode(ino)?;
        if !inode.is_directory() {
            return Ok(inode.changed_at);
        }
        let below = state.dirty.iter().filter(|dirty| state.is_below(**dirty, ino));
        let changes = below.filter_map(|dirty| state.inodes.get(dirty));
        Ok(changes.map(|inode| inode.changed_at).max().unwrap_or(0))
    }

    fn safety(&self, ino: u64) -> Result<Safety, FsError> {
        let changed_at = self.unsealed_change(ino)?;
        if changed_at > 0 {
            let durable = self.lock().durable;
            return Ok(if changed_at <= durable { Safety::Staged } else { Safety::Unsynced });
        }
        if self.lock().head.is_none() && !matches!(self.capability, Capability::Tree) {
            return Ok(Safety::Unsynced);
        }
        let target = (self.around.config.replica_target)();
        let replicated = self.lowest_copies(ino)?.is_none_or(|lowest| lowest >= target);
        Ok(if replicated { Safety::Replicated } else { Safety::Sealed })
    }

    /// Copies of the least replicated block that the sealed form has; `None` where it has none.
    fn lowest_copies(&self, ino: u64) -> Result<Option<u8>, FsError> {
        let entry = {
            let state = self.lock();
            let inode = state.inode(ino)?;
            Entry { attr: inode.attr, node: inode.body.sealed_node(), xattrs: Xattrs::default() }
        };
        let blocks = self.around.reader.blocks_of(&entry)?;
        let copies = blocks.iter().map(|id| self.around.inventory.copies(id));
        let copies: Result<Vec<u8>, ReadError> = copies.collect();
        Ok(copies?.into_iter().min())
    }

    fn content_id(&self, ino: u64) -> Result<String, FsError> {
        let state = self.lock();
        let content = match &state.inode(ino)?.body {
            Body::File(edit) => edit.base(),
            Body::Directory(directory) => &directory.base,
            _ => return Err(FsError::NoXattr),
        };
        Ok(content.root.as_ref().map_or_else(|| "-".to_owned(), |root| root.block().to_string()))
    }
}

impl std::fmt::Display for Safety {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unsynced => "unsynced",
            Self::Staged => "staged",
            Self::Sealed => "sealed",
            Self::Replicated => "replicated",
        })
    }
}
