//! Applying changes: the only place where a tree changes.
//!
//! `apply` cannot fail: live operations check first, and replaying the journal resolves its
//! records to the same actions. It expects the inodes of an action in the table, with all their
//! names and, for attributes, their attributes opened.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use xorfs_store::{Attr, Change, Entry, FileEdit, NameOf, Timestamp, Xattrs};

use crate::view::inode::{Body, Directory, HeldXattrs, Inode};
use crate::view::overlay::State;

/// What one change is counted as besides its data, in bytes of memory: an inode, its names and
/// its record.
const CHANGE_BYTES: u64 = 512;

/// A change by inode number, complete: times and numbers are chosen.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Create {
        parent: u64,
        name: Vec<u8>,
        entry: Box<Entry>,
    },
    Link {
        ino: u64,
        parent: u64,
        name: Vec<u8>,
        time: Timestamp,
    },
    Remove {
        parent: u64,
        name: Vec<u8>,
        ino: u64,
        time: Timestamp,
    },
    Rename {
        from: NameOf,
        ino: u64,
        to: NameOf,
        target: Option<u64>,
        exchange: bool,
        time: Timestamp,
    },
    Write {
        ino: u64,
        offset: u64,
        bytes: Bytes,
        time: Timestamp,
    },
    Resize {
        ino: u64,
        size: u64,
        time: Timestamp,
    },
    /// Mode, owner and times of `attr`; the rest of it is not looked at.
    SetAttr {
        ino: u64,
        attr: Attr,
    },
    SetXattr {
        ino: u64,
        name: Vec<u8>,
        value: Option<Vec<u8>>,
        time: Timestamp,
    },
}

impl State {
    /// Records a change for the journal and applies it.
    pub(super) fn commit(&mut self, action: Action) {
        // What has no name any more dies with its last reference and needs no record.
        if let Some(change) = self.record(&action) {
            self.sequence += 1;
            if let Change::Write { bytes, .. } = &change {
                self.pending_bytes += bytes.len() as u64;
            }
            self.pending.push_back((self.sequence, change));
        }
        self.apply(self.sequence, action);
    }

    /// Applies a change, the one way that a tree ever changes.
    pub(super) fn apply(&mut self, seq: u64, action: Action) {
        self.note_change(&action);
        match action {
            Action::Create { parent, name, entry } => self.apply_create(seq, parent, name, *entry),
            Action::Link { ino, parent, name, time } => {
                self.add_name(seq, ino, NameOf { parent, name }, time);
                let inode = self.inodes.get_mut(&ino).expect("operations check that it exists");
                inode.attr.nlink += 1;
            }
            Action::Remove { parent, name, ino, time } => {
                self.clear_name(seq, &NameOf { parent, name: name.clone() }, time);
                self.drop_name(seq, ino, &NameOf { parent, name }, time);
            }
            Action::Rename { from, ino, to, target, exchange, time } => {
                self.apply_rename(seq, (from, ino), (to, target), exchange, time);
            }
            Action::Write { ino, offset, bytes, time } => {
                self.edit(seq, ino, time, |edit| edit.write(offset, bytes));
            }
            Action::Resize { ino, size, time } => {
                self.edit(seq, ino, time, |edit| edit.resize(size));
            }
            Action::SetAttr { ino, attr } => {
                let Attr { mode, uid, gid, mtime, atime, ctime, .. } = attr;
                self.change(seq, ino, |inode| {
                    inode.attr = Attr { mode, uid, gid, mtime, atime, ctime, ..inode.attr };
                });
            }
            Action::SetXattr { ino, name, value, time } => self.change(seq, ino, |inode| {
                inode.attr.ctime = time;
                if let HeldXattrs::Open { map, sealed } = &mut inode.xattrs {
                    *sealed = None;
                    match value {
                        Some(value) => map.insert(name, value),
                        None => map.remove(&name),
                    };
                }
            }),
        }
    }

    fn note_change(&mut self, action: &Action) {
        let bytes = match action {
            Action::Write { bytes, .. } => bytes.len() as u64,
            Action::SetXattr { value: Some(value), .. } => value.len() as u64,
            Action::Create { entry, .. } => match &entry.xattrs {
                Xattrs::Inline(map) => map.values().map(|value| value.len() as u64).sum(),
                Xattrs::Sealed(_) => 0,
            },
            _ => 0,
        };
        self.dirty_bytes += bytes + CHANGE_BYTES;
        let now = Instant::now();
        self.first_change.get_or_insert(now);
        self.last_change = Some(now);
    }

    fn apply_create(&mut self, seq: u64, parent: u64, name: Vec<u8>, entry: Entry) {
        let (ino, time) = (entry.attr.ino, entry.attr.ctime);
        self.next_ino = self.next_ino.max(ino + 1);
        self.inodes.insert(ino, Inode { names_complete: true, ..Inode::from_entry(entry) });
        self.add_name(seq, ino, NameOf { parent, name }, time);
    }

    fn apply_rename(
        &mut self,
        seq: u64,
        (from, ino): (NameOf, u64),
        (to, target): (NameOf, Option<u64>),
        exchange: bool,
        time: Timestamp,
    ) {
        self.clear_name(seq, &from, time);
        self.forget_name(ino, &from);
        if let Some(target) = target {
            self.clear_name(seq, &to, time);
            if exchange {
                self.forget_name(target, &to);
                self.add_name(seq, target, from, time);
            } else {
                self.drop_name(seq, target, &to, time);
            }
        }
        self.add_name(seq, ino, to, time);
    }

    /// Enters a name into its directory and its inode.
    fn add_name(&mut self, seq: u64, ino: u64, name: NameOf, time: Timestamp) {
        self.change_directory(seq, name.parent, time, |directory| {
            directory.set(&name.name, Some(ino));
            directory.count += 1;
        });
        self.change(seq, ino, |inode| {
            inode.names.push(name);
            inode.attr.ctime = time;
        });
    }

    /// Takes a name out of its directory.
    fn clear_name(&mut self, seq: u64, name: &NameOf, time: Timestamp) {
        self.change_directory(seq, name.parent, time, |directory| {
            directory.set(&name.name, None);
            directory.count = directory.count.saturating_sub(1);
        });
    }

    /// Takes a name out of its inode.
    fn forget_name(&mut self, ino: u64, name: &NameOf) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.names.retain(|of| of != name);
        }
    }

    /// Takes a name from an inode for good, and with its last name the inode from the tree.
    fn drop_name(&mut self, seq: u64, ino: u64, name: &NameOf, time: Timestamp) {
        self.forget_name(ino, name);
        self.change(seq, ino, |inode| inode.attr.ctime = time);
        let inode = self.inodes.get_mut(&ino).expect("operations check that it exists");
        if inode.is_directory() || inode.attr.nlink > 1 {
            self.unindexed.insert(ino, seq);
        }
        inode.attr.nlink = inode.attr.nlink.saturating_sub(1);
        if inode.names.is_empty() {
            inode.attr.nlink = 0;
            self.dirty.remove(&ino);
            self.orphans.insert(ino);
            self.release(ino);
        }
    }

    fn change_directory(
        &mut self,
        seq: u64,
        ino: u64,
        time: Timestamp,
        change: impl FnOnce(&mut Directory),
    ) {
        self.change(seq, ino, |inode| {
            (inode.attr.mtime, inode.attr.ctime) = (time, time);
            let Body::Directory(directory) = &mut inode.body else {
                unreachable!("operations check that a parent is a directory");
            };
            change(directory);
        });
    }

    fn edit(&mut self, seq: u64, ino: u64, time: Timestamp, edit: impl FnOnce(&mut FileEdit)) {
        self.change(seq, ino, |inode| {
            (inode.attr.mtime, inode.attr.ctime) = (time, time);
            let Body::File(file) = &mut inode.body else {
                unreachable!("operations check that it is a file");
            };
            edit(Arc::make_mut(file));
        });
    }

    fn change(&mut self, seq: u64, ino: u64, change: impl FnOnce(&mut Inode)) {
        let inode = self.inodes.get_mut(&ino).expect("operations check that it exists");
        change(inode);
        inode.changed_at = seq;
        if !inode.is_orphan() {
            self.dirty.insert(ino);
        }
    }
}
