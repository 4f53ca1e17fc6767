//! Importing: whole files, links and special files from outside, complete with their attributes.
//!
//! A file appears with its content, attributes and extended attributes in one step, under one
//! lock, in place of whatever had its name but a directory; a reader, the journal and a seal see
//! the old one or the new one. A file too large for that is written under a temporary name first
//! and adopted in one step. What it was put from is remembered, see `sources`.
//!
//! Extended attributes of every namespace are kept here, those the mount does not show included.

use std::ops::Range;

use bytes::Bytes;
use xorfs_store::{
    Attr, Content, Entry, NameOf, Node, SYMLINK_BYTES_MAX, SourceStamp, Timestamp, XATTR_BYTES_MAX,
    XattrMap, Xattrs,
};

use crate::error::FsError;
use crate::view::View;
use crate::view::apply::Action;
use crate::view::inode::HeldXattrs;
use crate::view::operations::{FILE_BYTES_MAX, check_file, check_name};
use crate::view::overlay::{State, Stop};
use crate::view::types::{Import, ImportBody, InodeNo, Stat};
use crate::view::volume::Volume;
use crate::view::xattr;

/// Kinds of attributes that are kept: the user's, and those that only some may set.
const PREFIXES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];

/// Files from outside.
impl View {
    /// Makes `name` what `import` says, in one step and in place of whatever is there but a
    /// directory; a file from a source of this stamp is remembered for `unchanged`. Counts as a
    /// lookup of nothing: `Stat` is all that the caller gets.
    pub fn import(
        &self,
        parent: InodeNo,
        name: &[u8],
        import: &Import,
        stamp: Option<&SourceStamp>,
    ) -> Result<Stat, FsError> {
        let (volume, parent) = self.changing(parent)?;
        volume.import(parent, name, import, stamp)
    }

    /// Makes a file that was written as `temporary` what `name` stands for, with the size and the
    /// attributes of `import`, as `import` would.
    pub fn adopt(
        &self,
        temporary: (InodeNo, &[u8]),
        to: (InodeNo, &[u8]),
        import: &Import,
        stamp: Option<&SourceStamp>,
    ) -> Result<Stat, FsError> {
        let (volume, above) = self.changing(temporary.0)?;
        if to.0.slot() != volume.slot {
            return Err(FsError::CrossVolume);
        }
        volume.adopt((above, temporary.1), (to.0.ino(), to.1), import, stamp)
    }

    /// Gives what is there the attributes of `import`, whose body is not looked at. Changes
    /// nothing where it has them.
    pub fn dress(&self, ino: InodeNo, import: &Import) -> Result<Stat, FsError> {
        let (volume, ino) = self.changing(ino)?;
        volume.dress(ino, import)
    }

    /// Gives a file the further name `name`, in place of whatever is there but a directory.
    /// Returns the file's ctime before and after.
    pub fn import_link(
        &self,
        file: InodeNo,
        parent: InodeNo,
        name: &[u8],
    ) -> Result<(Timestamp, Timestamp), FsError> {
        let (volume, file) = self.changing(file)?;
        if parent.slot() != volume.slot {
            return Err(FsError::CrossVolume);
        }
        volume.import_link(file, parent.ino(), name)
    }

    /// Remembers every name of a file for `unchanged`: each further name changes the file.
    /// `ctime` is what the last link left; where anything has changed the file since, its
    /// content may not be the source's any more, and nothing is remembered.
    pub fn remember_links(
        &self,
        file: InodeNo,
        stamp: &SourceStamp,
        ctime: Timestamp,
    ) -> Result<(), FsError> {
        let (volume, file) = self.changing(file)?;
        volume.remember_links(file, stamp, ctime)
    }

    /// For each path, which starts with a volume's name, the inode of the file there if it still
    /// is exactly what was put from a source of this stamp. Counts no lookups.
    pub fn unchanged(
        &self,
        asked: &[(&[u8], SourceStamp)],
    ) -> Result<Vec<Option<InodeNo>>, FsError> {
        let find = |(path, stamp): &(&[u8], SourceStamp)| {
            let mut names = path.splitn(2, |byte| *byte == b'/');
            let name = names.next().and_then(|name| std::str::from_utf8(name).ok());
            let Some(volume) = name.and_then(|name| self.named(name)) else { return Ok(None) };
            volume.unchanged(names.next().unwrap_or_default(), stamp)
        };
        asked.iter().map(find).collect()
    }

    /// Writes bytes that the caller gives away. See `write`.
    pub fn write_owned(&self, ino: InodeNo, offset: u64, bytes: Bytes) -> Result<(), FsError> {
        let (volume, ino) = self.changing(ino)?;
        volume.write_owned(ino, offset, bytes)
    }

    /// Where a file has bytes rather than holes inside `range`, in order.
    pub fn runs(&self, ino: InodeNo, range: Range<u64>) -> Result<Vec<Range<u64>>, FsError> {
        let (volume, ino) = self.inside(ino)?;
        volume.runs(ino, range)
    }

    /// Every stored extended attribute, those that the mount does not show included.
    pub fn all_xattrs(&self, ino: InodeNo) -> Result<XattrMap, FsError> {
        let (volume, ino) = self.inside(ino)?;
        volume.all_xattrs(ino)
    }
}

impl Volume {
    /// Makes `name` what `import` says, in place of whatever is there but a directory.
    pub(super) fn import(
        &self,
        parent: u64,
        name: &[u8],
        import: &Import,
        stamp: Option<&SourceStamp>,
    ) -> Result<Stat, FsError> {
        self.check_writable()?;
        check_name(name)?;
        check_xattrs(&import.xattrs)?;
        let (node, size, parts) = parts_of(&import.body)?;
        self.wait_for_room(parts.iter().map(|(_, bytes)| bytes.len() as u64).sum())?;
        let time = self.now();
        let (stat, path) = self.run(|state| {
            let target = self.replaceable(state, parent, name)?;
            if let Some(target) = target
                && is_same(state, target, &node, import)?
            {
                return Ok((state.inode(target)?.stat(self.slot), None));
            }
            let ino = state.next_ino;
            if ino >> InodeNo::BITS != 0 {
                return Err(FsError::NoSpace.into());
            }
            if let Some(ino) = target {
                state.commit(Action::Remove { parent, name: name.to_vec(), ino, time });
            }
            let born = Attr { ino, nlink: 1, crtime: time, ..Attr::default() };
            let attr = dressed(&born, import, time);
            let xattrs = Xattrs::Inline(import.xattrs.clone());
            let entry = Box::new(Entry { attr, node: node.clone(), xattrs });
            state.commit(Action::Create { parent, name: name.to_vec(), entry });
            for (offset, bytes) in parts {
                let (offset, bytes) = (*offset, bytes.clone());
                state.commit(Action::Write { ino, offset, bytes, time });
            }
            let written = parts.last().map_or(0, |(offset, bytes)| offset + bytes.len() as u64);
            if written < size {
                state.commit(Action::Resize { ino, size, time });
            }
            if size > 0 {
                // Writing has moved the time.
                state.commit(Action::SetAttr { ino, attr });
            }
            Ok((state.inode(ino)?.stat(self.slot), state.path_of(ino)))
        })?;
        self.remember_source(path, stamp, &stat);
        Ok(stat)
    }

    /// Gives a file that was written under a temporary name its size, attributes and name.
    pub(super) fn adopt(
        &self,
        temporary: (u64, &[u8]),
        (parent, name): (u64, &[u8]),
        import: &Import,
        stamp: Option<&SourceStamp>,
    ) -> Result<Stat, FsError> {
        self.check_writable()?;
        check_name(name)?;
        check_xattrs(&import.xattrs)?;
        let (_, size, _) = parts_of(&import.body)?;
        let time = self.now();
        let (stat, path) = self.run(|state| {
            let ino = state.child(temporary.0, temporary.1)?.ok_or(FsError::NotFound)?;
            check_file(&state.inode(ino)?.body)?;
            state.require_names(ino)?;
            state.require_xattrs(ino)?;
            let target = self.replaceable(state, parent, name)?;
            if state.inode(ino)?.stat(self.slot).size != size {
                state.commit(Action::Resize { ino, size, time });
            }
            dress(state, ino, import, time)?;
            state.commit(Action::Rename {
                from: NameOf { parent: temporary.0, name: temporary.1.to_vec() },
                ino,
                to: NameOf { parent, name: name.to_vec() },
                target,
                exchange: false,
                time,
            });
            Ok((state.inode(ino)?.stat(self.slot), state.path_of(ino)))
        })?;
        self.remember_source(path, stamp, &stat);
        Ok(stat)
    }

    /// Gives what is there attributes and extended attributes. Nothing changes where it has them
    /// already; the time of last access is not compared, because reading moves it.
    pub(super) fn dress(&self, ino: u64, import: &Import) -> Result<Stat, FsError> {
        self.check_writable()?;
        check_xattrs(&import.xattrs)?;
        let time = self.now();
        self.run(|state| {
            state.require_names(ino)?;
            state.require_xattrs(ino)?;
            let attr = state.inode(ino)?.attr;
            let wanted = dressed(&attr, import, time);
            let differs = (wanted.mode, wanted.uid, wanted.gid, wanted.mtime)
                != (attr.mode, attr.uid, attr.gid, attr.mtime);
            if differs || !lacking(state, ino, &import.xattrs)?.is_empty() {
                dress(state, ino, import, time)?;
            }
            Ok(state.inode(ino)?.stat(self.slot))
        })
    }

    pub(super) fn import_link(
        &self,
        ino: u64,
        parent: u64,
        name: &[u8],
    ) -> Result<(Timestamp, Timestamp), FsError> {
        self.check_writable()?;
        check_name(name)?;
        self.wait_for_room(0)?;
        let time = self.now();
        self.run(|state| {
            let target = self.replaceable(state, parent, name)?;
            let before = state.inode(ino)?.attr.ctime;
            if target == Some(ino) {
                return Ok((before, before));
            }
            state.require_linkable(ino)?;
            let name = name.to_vec();
            if let Some(ino) = target {
                state.commit(Action::Remove { parent, name: name.clone(), ino, time });
            }
            state.commit(Action::Link { ino, parent, name, time });
            Ok((before, state.inode(ino)?.attr.ctime))
        })
    }

    pub(super) fn remember_links(
        &self,
        ino: u64,
        stamp: &SourceStamp,
        ctime: Timestamp,
    ) -> Result<(), FsError> {
        let (stat, paths) = self.run(|state| {
            state.require_names(ino)?;
            let inode = state.inode(ino)?;
            let path = |of: &NameOf| state.path_in(of.parent, &of.name);
            Ok((inode.stat(self.slot), inode.names.iter().map(path).collect::<Vec<_>>()))
        })?;
        if stat.ctime == ctime {
            paths.into_iter().for_each(|path| self.remember_source(path, Some(stamp), &stat));
        }
        Ok(())
    }

    /// What a name stands for now, if it is something that may be replaced.
    fn replaceable(&self, state: &State, parent: u64, name: &[u8]) -> Result<Option<u64>, Stop> {
        state.require_live(parent)?;
        let Some(target) = state.child(parent, name)? else { return Ok(None) };
        if state.inode(target)?.is_directory() {
            return Err(FsError::IsDirectory.into());
        }
        state.require_names(target)?;
        Ok(Some(target))
    }
}

/// Runs of bytes by offset.
type Runs = [(u64, Bytes)];

/// A node without content, the size it will have, and what is written to it.
fn parts_of(body: &ImportBody) -> Result<(Node, u64, &Runs), FsError> {
    let node = match body {
        ImportBody::File { size, parts } => {
            let ends = parts.iter().map(|(offset, bytes)| offset.checked_add(bytes.len() as u64));
            let fits = |end: Option<u64>| end.is_some_and(|end| end <= *size);
            if *size > FILE_BYTES_MAX || !ends.into_iter().all(fits) {
                return Err(FsError::TooLarge);
            }
            return Ok((Node::File(Content::default()), *size, parts));
        }
        ImportBody::Directory => return Err(FsError::IsDirectory),
        ImportBody::Symlink(target) => match target.len() {
            0 => return Err(FsError::NotFound),
            1..=SYMLINK_BYTES_MAX => Node::Symlink(target.clone()),
            _ => return Err(FsError::NameTooLong),
        },
        ImportBody::Fifo => Node::Fifo,
        ImportBody::Socket => Node::Socket,
        ImportBody::CharDevice(number) => Node::CharDevice(*number),
        ImportBody::BlockDevice(number) => Node::BlockDevice(*number),
    };
    Ok((node, 0, &[]))
}

fn dressed(attr: &Attr, import: &Import, ctime: Timestamp) -> Attr {
    let Import { mode, uid, gid, mtime, atime, .. } = *import;
    Attr { mode: mode & 0o7777, uid, gid, mtime, atime, ctime, ..*attr }
}

/// Whether something without content is there already as it is to be.
fn is_same(state: &State, ino: u64, node: &Node, import: &Import) -> Result<bool, Stop> {
    let inode = state.inode(ino)?;
    let Attr { mode, uid, gid, mtime, .. } = inode.attr;
    let Import { mode: to_mode, uid: to_uid, gid: to_gid, mtime: to_mtime, .. } = *import;
    if matches!(node, Node::File(_))
        || inode.body.sealed_node() != *node
        || (mode, uid, gid, mtime) != (to_mode, to_uid, to_gid, to_mtime)
    {
        return Ok(false);
    }
    state.require_xattrs(ino)?;
    Ok(lacking(state, ino, &import.xattrs)?.is_empty())
}

/// Sets attributes and the extended attributes that are not there yet.
fn dress(state: &mut State, ino: u64, import: &Import, time: Timestamp) -> Result<(), FsError> {
    for (name, value) in lacking(state, ino, &import.xattrs)? {
        state.commit(Action::SetXattr { ino, name, value: Some(value), time });
    }
    let attr = dressed(&state.inode(ino)?.attr, import, time);
    state.commit(Action::SetAttr { ino, attr });
    Ok(())
}

fn lacking(state: &State, ino: u64, wanted: &XattrMap) -> Result<XattrMap, FsError> {
    let HeldXattrs::Open { map, .. } = &state.inode(ino)?.xattrs else {
        unreachable!("callers require them first");
    };
    let differs = |(name, value): &(&Vec<u8>, &Vec<u8>)| map.get(*name) != Some(*value);
    let lacking = wanted.iter().filter(differs);
    Ok(lacking.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn check_xattrs(xattrs: &XattrMap) -> Result<(), FsError> {
    let mut bytes = xattr::ENTRY_OVERHEAD;
    for (name, value) in xattrs {
        let kept = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !kept || name.starts_with(xattr::VIRTUAL_PREFIX) {
            return Err(FsError::NotPermitted);
        }
        xattr::check_lengths(name, Some(value))?;
        bytes += name.len() + value.len() + xattr::ENTRY_OVERHEAD;
    }
    if bytes > XATTR_BYTES_MAX { Err(FsError::XattrTooLarge) } else { Ok(()) }
}

impl Volume {
    /// Every stored extended attribute, those that the mount does not show included.
    pub(super) fn all_xattrs(&self, ino: u64) -> Result<XattrMap, FsError> {
        self.run(|state| {
            state.require_xattrs(ino)?;
            match &state.inode(ino)?.xattrs {
                HeldXattrs::Open { map, .. } => Ok(map.clone()),
                HeldXattrs::Sealed(_) => unreachable!("they were just required"),
            }
        })
    }
}
