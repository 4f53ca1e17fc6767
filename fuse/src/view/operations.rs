//! Operations on names and attributes: what POSIX asks is checked here, then one action is
//! committed. Nothing is changed before everything was checked.

use xorfs_store::{Attr, Content, Entry, NAME_BYTES_MAX, NameOf, Node, SYMLINK_BYTES_MAX, Xattrs};

use crate::error::FsError;
use crate::view::apply::Action;
use crate::view::inode::{Body, ROOT};
use crate::view::overlay::{State, Stop};
use crate::view::types::{InodeNo, Kind, Owner, RenameMode, SetAttr, Stat};
use crate::view::volume::Volume;

/// Hard links of one file. All names of an inode stand in one record of the index, which has to
/// fit a piece with names of any length.
const LINKS_MAX: u32 = 1000;

/// Largest file in bytes: what `off_t` holds.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

const SET_GID: u32 = 0o2000;
const SET_IDS: u32 = 0o6000;

impl Volume {
    pub(super) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Stat, FsError> {
        self.run(|state| {
            let ino = match name {
                b"." => parent,
                b".." => state.inode(parent)?.names.first().map_or(ROOT, |name| name.parent),
                _ => state.child(parent, name)?.ok_or(FsError::NotFound)?,
            };
            Ok(self.refer(state, ino)?)
        })
    }

    pub(super) fn forget(&self, ino: u64, count: u64) {
        let mut state = self.lock();
        let Ok(inode) = state.inode_mut(ino) else { return };
        let count = count.min(inode.lookups);
        inode.lookups -= count;
        state.references -= count;
        state.release(ino);
    }

    pub(super) fn stat(&self, ino: u64) -> Result<Stat, FsError> {
        Ok(self.lock().inode(ino)?.stat(self.slot))
    }

    pub(super) fn parent(&self, ino: u64) -> Result<u64, FsError> {
        let state = self.lock();
        let inode = state.inode(ino)?;
        if inode.is_orphan() {
            return Err(FsError::NotFound);
        }
        Ok(inode.names.first().map_or(ROOT, |name| name.parent))
    }

    pub(super) fn read_link(&self, ino: u64) -> Result<Vec<u8>, FsError> {
        match &self.lock().inode(ino)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(FsError::Invalid("not a symbolic link")),
        }
    }

    pub(super) fn make_node(
        &self,
        parent: u64,
        name: &[u8],
        kind: Kind,
        mode: u32,
        owner: Owner,
    ) -> Result<Stat, FsError> {
        let node = match kind {
            Kind::File => Node::File(Content::default()),
            Kind::Directory => Node::Directory(Content::default()),
            Kind::Fifo => Node::Fifo,
            Kind::Socket => Node::Socket,
            Kind::CharDevice(number) => Node::CharDevice(number),
            Kind::BlockDevice(number) => Node::BlockDevice(number),
            Kind::Symlink => return Err(FsError::Invalid("a symbolic link without a target")),
        };
        self.create(parent, name, node, mode & 0o7777, owner)
    }

    pub(super) fn make_symlink(
        &self,
        parent: u64,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> Result<Stat, FsError> {
        match target.len() {
            0 => Err(FsError::NotFound),
            1..=SYMLINK_BYTES_MAX => {
                self.create(parent, name, Node::Symlink(target.to_vec()), 0o777, owner)
            }
            _ => Err(FsError::NameTooLong),
        }
    }

    pub(super) fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Stat, FsError> {
        self.check_writable()?;
        check_name(name)?;
        let time = self.now();
        self.run(|state| {
            state.require_linkable(ino)?;
            state.require_free(parent, name)?;
            state.commit(Action::Link { ino, parent, name: name.to_vec(), time });
            Ok(self.refer(state, ino)?)
        })
    }

    pub(super) fn unlink(&self, parent: u64, name: &[u8]) -> Result<(), FsError> {
        self.remove(parent, name, false)
    }

    pub(super) fn rmdir(&self, parent: u64, name: &[u8]) -> Result<(), FsError> {
        match name {
            b"." => Err(FsError::Invalid("\".\" cannot be removed")),
            b".." => Err(FsError::NotEmpty),
            _ => self.remove(parent, name, true),
        }
    }

    pub(super) fn rename(
        &self,
        parent: u64,
        name: &[u8],
        to: u64,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.check_writable()?;
        check_name(name)?;
        check_name(to_name)?;
        let time = self.now();
        self.run(|state| {
            state.require_live(parent)?;
            state.require_live(to)?;
            let ino = state.child(parent, name)?.ok_or(FsError::NotFound)?;
            let target = state.child(to, to_name)?;
            if target == Some(ino) && mode == RenameMode::Replace {
                return Ok(());
            }
            check_rename(state, (parent, ino), (to, target), mode)?;
            state.require_names(ino)?;
            if let Some(target) = target {
                state.require_names(target)?;
            }
            if target == Some(ino) {
                return Ok(());
            }
            state.commit(Action::Rename {
                from: NameOf { parent, name: name.to_vec() },
                ino,
                to: NameOf { parent: to, name: to_name.to_vec() },
                target,
                exchange: mode == RenameMode::Exchange,
                time,
            });
            Ok(())
        })
    }

    pub(super) fn set_attr(&self, ino: u64, change: &SetAttr) -> Result<Stat, FsError> {
        self.check_writable()?;
        if let Some(size) = change.size {
            self.wait_for_room(0)?;
            if size > FILE_BYTES_MAX {
                return Err(FsError::TooLarge);
            }
        }
        let now = self.now();
        self.run(|state| {
            state.require_names(ino)?;
            let inode = state.inode(ino)?;
            if change.size.is_some() {
                check_file(&inode.body)?;
            }
            let old = inode.attr;
            if let Some(size) = change.size {
                state.commit(Action::Resize { ino, size, time: now });
            }
            let attr = changed_attr(&state.inode(ino)?.attr, change, now);
            let other = Attr { mtime: old.mtime, ctime: old.ctime, ..attr };
            if change.size.is_none() || other != old || change.mtime.is_some() {
                state.commit(Action::SetAttr { ino, attr });
            }
            Ok(state.inode(ino)?.stat(self.slot))
        })
    }

    /// Counts a lookup of an inode and describes it.
    pub(super) fn refer(&self, state: &mut State, ino: u64) -> Result<Stat, FsError> {
        let inode = state.inode_mut(ino)?;
        inode.lookups += 1;
        let stat = inode.stat(self.slot);
        state.references += 1;
        Ok(stat)
    }

    fn create(
        &self,
        parent: u64,
        name: &[u8],
        node: Node,
        mode: u32,
        owner: Owner,
    ) -> Result<Stat, FsError> {
        self.check_writable()?;
        check_name(name)?;
        self.wait_for_room(0)?;
        let time = self.now();
        let mut node = Some(node);
        self.run(|state| {
            state.require_free(parent, name)?;
            let ino = state.next_ino;
            if ino >> InodeNo::BITS != 0 {
                return Err(FsError::NoSpace.into());
            }
            let above = state.inode(parent)?.attr;
            let node = node.take().expect("an operation succeeds once");
            let inherits = above.mode & SET_GID != 0;
            let set_gid = if inherits && matches!(node, Node::Directory(_)) { SET_GID } else { 0 };
            let attr = Attr {
                ino,
                mode: mode | set_gid,
                uid: owner.uid,
                gid: if inherits { above.gid } else { owner.gid },
                nlink: 1,
                mtime: time,
                ctime: time,
                atime: time,
                crtime: time,
            };
            let entry = Box::new(Entry { attr, node, xattrs: Xattrs::default() });
            state.commit(Action::Create { parent, name: name.to_vec(), entry });
            Ok(self.refer(state, ino)?)
        })
    }

    fn remove(&self, parent: u64, name: &[u8], directory: bool) -> Result<(), FsError> {
        self.check_writable()?;
        check_name(name)?;
        let time = self.now();
        self.run(|state| {
            state.require_live(parent)?;
            let ino = state.child(parent, name)?.ok_or(FsError::NotFound)?;
            match (&state.inode(ino)?.body, directory) {
                (Body::Directory(_), false) => return Err(FsError::IsDirectory.into()),
                (Body::Directory(dir), true) if dir.count > 0 => {
                    return Err(FsError::NotEmpty.into());
                }
                (Body::Directory(_), true) | (_, false) => {}
                (_, true) => return Err(FsError::NotDirectory.into()),
            }
            state.require_names(ino)?;
            state.commit(Action::Remove { parent, name: name.to_vec(), ino, time });
            Ok(())
        })
    }
}

impl State {
    /// Makes sure that a directory is there to take names.
    pub(super) fn require_live(&self, ino: u64) -> Result<(), FsError> {
        self.directory(ino)?;
        if self.inode(ino)?.is_orphan() { Err(FsError::NotFound) } else { Ok(()) }
    }

    /// Makes sure that an inode may get one name more.
    pub(super) fn require_linkable(&self, ino: u64) -> Result<(), Stop> {
        let inode = self.inode(ino)?;
        if inode.is_directory() {
            return Err(FsError::NotPermitted.into());
        }
        if inode.is_orphan() {
            return Err(FsError::NotFound.into());
        }
        if inode.attr.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks.into());
        }
        self.require_names(ino)
    }

    fn require_free(&self, parent: u64, name: &[u8]) -> Result<(), Stop> {
        self.require_live(parent)?;
        match self.child(parent, name)? {
            Some(_) => Err(FsError::Exists.into()),
            None => Ok(()),
        }
    }
}

pub(super) fn check_file(body: &Body) -> Result<(), FsError> {
    match body {
        Body::File(_) => Ok(()),
        Body::Directory(_) => Err(FsError::IsDirectory),
        _ => Err(FsError::Invalid("not a regular file")),
    }
}

pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    match name {
        b"" => Err(FsError::NotFound),
        b"." | b".." => Err(FsError::Invalid("\".\" and \"..\" are no names")),
        _ if name.len() > NAME_BYTES_MAX => Err(FsError::NameTooLong),
        _ if name.contains(&b'/') || name.contains(&0) => {
            Err(FsError::Invalid("a name with a slash or a zero byte"))
        }
        _ => Ok(()),
    }
}

fn check_rename(
    state: &State,
    (parent, ino): (u64, u64),
    (to, target): (u64, Option<u64>),
    mode: RenameMode,
) -> Result<(), FsError> {
    let is_directory = state.inode(ino)?.is_directory();
    if is_directory && state.is_below(to, ino) {
        return Err(FsError::Invalid("a directory cannot move below itself"));
    }
    let Some(target) = target else {
        return if mode == RenameMode::Exchange { Err(FsError::NotFound) } else { Ok(()) };
    };
    let target_inode = state.inode(target)?;
    match (mode, &target_inode.body) {
        (RenameMode::NoReplace, _) => Err(FsError::Exists),
        (RenameMode::Exchange, Body::Directory(_)) if state.is_below(parent, target) => {
            Err(FsError::Invalid("a directory cannot move below itself"))
        }
        (RenameMode::Exchange, _) => Ok(()),
        (RenameMode::Replace, Body::Directory(_)) if !is_directory => Err(FsError::IsDirectory),
        (RenameMode::Replace, Body::Directory(directory)) if directory.count > 0 => {
            Err(FsError::NotEmpty)
        }
        (RenameMode::Replace, Body::Directory(_)) => Ok(()),
        (RenameMode::Replace, _) if is_directory => Err(FsError::NotDirectory),
        (RenameMode::Replace, _) => Ok(()),
    }
}

/// The attributes after a change. A new owner takes the set-id bits away, as POSIX lets it.
fn changed_attr(old: &Attr, change: &SetAttr, now: xorfs_store::Timestamp) -> Attr {
    let mut mode = change.mode.map_or(old.mode, |mode| mode & 0o7777);
    if (change.uid.is_some() || change.gid.is_some()) && change.mode.is_none() && mode & 0o111 != 0
    {
        mode &= !SET_IDS;
    }
    Attr {
        mode,
        uid: change.uid.unwrap_or(old.uid),
        gid: change.gid.unwrap_or(old.gid),
        mtime: change.mtime.unwrap_or(old.mtime),
        atime: change.atime.unwrap_or(old.atime),
        ctime: now,
        ..*old
    }
}
