//! Between actions by inode and the path-based records of the journal, both ways.
//!
//! A record is made before its action is applied and resolved before it is applied again, so the
//! same paths mean the same inodes in both directions.

use xorfs_store::{Attr, Change, NameOf, TreePath};

use crate::error::FsError;
use crate::view::apply::Action;
use crate::view::inode::ROOT;
use crate::view::overlay::{State, Stop};

/// Numbers that one head has for changes; a view that made more without sealing would have run
/// out of memory long before.
const CHANGES_PER_HEAD: u64 = 1 << 32;

impl State {
    /// The record of an action that is about to be applied; `None` where it concerns only what
    /// has no name.
    pub(super) fn record(&self, action: &Action) -> Option<Change> {
        Some(match action {
            Action::Create { parent, name, entry } => {
                Change::Create { path: self.path_in(*parent, name)?, entry: entry.clone() }
            }
            Action::Link { ino, parent, name, time } => Change::Link {
                from: self.path_of(*ino)?,
                to: self.path_in(*parent, name)?,
                time: *time,
            },
            Action::Remove { parent, name, time, .. } => {
                Change::Remove { path: self.path_in(*parent, name)?, time: *time }
            }
            Action::Rename { from, to, exchange, time, .. } => Change::Rename {
                from: self.path_in(from.parent, &from.name)?,
                to: self.path_in(to.parent, &to.name)?,
                exchange: *exchange,
                time: *time,
            },
            Action::Write { ino, offset, bytes, time } => Change::Write {
                path: self.path_of(*ino)?,
                offset: *offset,
                bytes: bytes.clone(),
                time: *time,
            },
            Action::Resize { ino, size, time } => {
                Change::Resize { path: self.path_of(*ino)?, size: *size, time: *time }
            }
            Action::SetAttr { ino, attr } => Change::SetAttr {
                path: self.path_of(*ino)?,
                mode: attr.mode,
                uid: attr.uid,
                gid: attr.gid,
                mtime: attr.mtime,
                atime: attr.atime,
                ctime: attr.ctime,
            },
            Action::SetXattr { ino, name, value, time } => Change::SetXattr {
                path: self.path_of(*ino)?,
                name: name.clone(),
                value: value.clone(),
                time: *time,
            },
        })
    }

    /// Chooses where the numbers of changes go on: after the journal's last record, or where it
    /// is empty above all that any head before this one sealed.
    pub(super) fn number_from(&mut self, records: &[(u64, Change)]) {
        let heads = self.head.as_ref().map_or(0, |head| head.sequence());
        let fresh = heads.saturating_mul(CHANGES_PER_HEAD);
        self.sealed = records.first().map_or(fresh, |(first, _)| first.saturating_sub(1));
        self.sequence = records.last().map_or(fresh, |(last, _)| *last);
        self.durable = self.sequence;
    }

    /// Applies a record of the journal.
    ///
    /// # Errors
    /// `NotFound` and its like where the record does not fit the tree.
    pub(super) fn replay(&mut self, seq: u64, change: &Change) -> Result<(), Stop> {
        let action = self.resolve(change)?;
        self.apply(seq, action);
        Ok(())
    }

    fn resolve(&self, change: &Change) -> Result<Action, Stop> {
        Ok(match change {
            Change::Create { path, entry } => {
                let NameOf { parent, name } = self.free_name(path)?;
                Action::Create { parent, name, entry: entry.clone() }
            }
            Change::Link { from, to, time } => {
                let ino = self.changing(from)?;
                let NameOf { parent, name } = self.free_name(to)?;
                Action::Link { ino, parent, name, time: *time }
            }
            Change::Remove { path, time } => {
                let NameOf { parent, name } = self.parent_of(path)?;
                Action::Remove { parent, name, ino: self.changing(path)?, time: *time }
            }
            Change::Rename { from, to, exchange, time } => {
                let ino = self.changing(from)?;
                let target = match self.walk(ROOT, to)? {
                    Some(_) => Some(self.changing(to)?),
                    None => None,
                };
                Action::Rename {
                    from: self.parent_of(from)?,
                    ino,
                    to: self.parent_of(to)?,
                    target,
                    exchange: *exchange && target.is_some(),
                    time: *time,
                }
            }
            Change::Write { path, offset, bytes, time } => Action::Write {
                ino: self.changing_file(path)?,
                offset: *offset,
                bytes: bytes.clone(),
                time: *time,
            },
            Change::Resize { path, size, time } => {
                Action::Resize { ino: self.changing_file(path)?, size: *size, time: *time }
            }
            Change::SetAttr { path, mode, uid, gid, mtime, atime, ctime } => Action::SetAttr {
                ino: self.changing(path)?,
                attr: Attr {
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    mtime: *mtime,
                    atime: *atime,
                    ctime: *ctime,
                    ..Attr::default()
                },
            },
            Change::SetXattr { path, name, value, time } => {
                let ino = self.changing(path)?;
                self.require_xattrs(ino)?;
                Action::SetXattr { ino, name: name.clone(), value: value.clone(), time: *time }
            }
        })
    }

    /// The path of a name in a directory.
    pub(super) fn path_in(&self, parent: u64, name: &[u8]) -> Option<TreePath> {
        let mut path = self.path_of(parent)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path)
    }

    /// The directory of a path's last name.
    fn parent_of(&self, path: &[u8]) -> Result<NameOf, Stop> {
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        if name.is_empty() {
            return Err(FsError::Damaged("a record without a name").into());
        }
        let parent = self.walk(ROOT, above)?.ok_or(FsError::NotFound)?;
        self.directory(parent)?;
        Ok(NameOf { parent, name: name.to_vec() })
    }

    fn free_name(&self, path: &[u8]) -> Result<NameOf, Stop> {
        let name = self.parent_of(path)?;
        match self.child(name.parent, &name.name)? {
            Some(_) => Err(FsError::Exists.into()),
            None => Ok(name),
        }
    }

    /// The inode of a path that is about to be changed.
    fn changing(&self, path: &[u8]) -> Result<u64, Stop> {
        let ino = self.walk(ROOT, path)?.ok_or(FsError::NotFound)?;
        self.require_names(ino)?;
        Ok(ino)
    }

    fn changing_file(&self, path: &[u8]) -> Result<u64, Stop> {
        let ino = self.changing(path)?;
        match &self.inode(ino)?.body {
            crate::view::inode::Body::File(_) => Ok(ino),
            _ => Err(FsError::Damaged("a record of data for what is no file").into()),
        }
    }
}
