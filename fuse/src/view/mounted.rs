//! The top of the mount: its root, the directory `link/`, and the way from an inode number to
//! the volume it belongs to.

use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Instant;

use xorfs_store::Head;

use crate::error::FsError;
use crate::view::inode::ROOT;
use crate::view::slots::Slots;
use crate::view::types::{DirEntry, InodeNo, Kind, Stat};
use crate::view::volume::{Capability, Volume, is_older};
use crate::view::{View, links};

/// The directory under which links are looked up.
pub(super) const LINKS: &[u8] = b"link";

pub(super) const LINKS_INO: InodeNo = InodeNo(2);

/// Where an inode is.
pub(super) enum Place {
    /// The mount's root.
    Root,
    /// The directory `link/`.
    Links,
    /// A volume or a link, and the inode's number there.
    In(Arc<Volume>, u64),
}

impl View {
    pub(super) fn place(&self, ino: InodeNo) -> Result<Place, FsError> {
        match ino {
            InodeNo::ROOT => Ok(Place::Root),
            LINKS_INO => Ok(Place::Links),
            _ => {
                let volume = self.slots().volume(ino.slot()).cloned().ok_or(FsError::Stale)?;
                Ok(Place::In(volume, ino.ino()))
            }
        }
    }

    /// The volume of an inode that is not one of the mount's own.
    pub(super) fn inside(&self, ino: InodeNo) -> Result<(Arc<Volume>, u64), FsError> {
        match self.place(ino)? {
            Place::Root | Place::Links => Err(FsError::Unsupported),
            Place::In(volume, ino) => Ok((volume, ino)),
        }
    }

    /// The volume of an inode that is about to be changed.
    pub(super) fn changing(&self, ino: InodeNo) -> Result<(Arc<Volume>, u64), FsError> {
        self.check_running()?;
        match self.place(ino)? {
            Place::Root | Place::Links => Err(FsError::ReadOnly),
            Place::In(volume, ino) => Ok((volume, ino)),
        }
    }

    pub(super) fn check_running(&self) -> Result<(), FsError> {
        let stops = self.ended.load(Ordering::Acquire) || self.closing.load(Ordering::Acquire);
        if stops { Err(FsError::ShutDown) } else { Ok(()) }
    }

    pub(super) fn slots(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read().expect("no holder panics")
    }

    pub(super) fn slots_mut(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().expect("no holder panics")
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<Volume>> {
        self.slots().find(name)
    }

    pub(super) fn own_stat(&self, ino: InodeNo) -> Stat {
        let (owner, born) = (self.around.config.owner, self.born);
        Stat {
            ino,
            kind: Kind::Directory,
            mode: 0o555,
            uid: owner.uid,
            gid: owner.gid,
            nlink: 1,
            size: 0,
            mtime: born,
            ctime: born,
            atime: born,
            crtime: born,
        }
    }

    pub(super) fn lookup_top(&self, name: &[u8]) -> Result<Stat, FsError> {
        match name {
            b"." | b".." => Ok(self.own_stat(InodeNo::ROOT)),
            LINKS => Ok(self.own_stat(LINKS_INO)),
            _ => {
                let name = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
                let volume = self.named(name).ok_or(FsError::NotFound)?;
                volume.lookup(ROOT, b".")
            }
        }
    }

    /// Opens what a link names, or finds it open.
    pub(super) fn lookup_link(&self, name: &[u8]) -> Result<Stat, FsError> {
        if let b"." | b".." = name {
            return Ok(self.own_stat(if name == b"." { LINKS_INO } else { InodeNo::ROOT }));
        }
        let link = links::parse(name)?;
        let text = link.to_string();
        let open = self.slots_mut().find_link(&text);
        let volume = match open {
            Some(volume) => {
                self.ask_head(&volume)?;
                volume
            }
            None => {
                let volume = Volume::open_link(Arc::clone(&self.around), text, &link)?;
                self.ask_head(&volume)?;
                self.slots_mut().add_link(volume)?
            }
        };
        volume.lookup(ROOT, b".")
    }

    pub(super) fn list_top(&self) -> Vec<DirEntry> {
        let volumes = self.slots().named();
        let mut entries: Vec<_> = volumes
            .iter()
            .filter_map(|volume| {
                let stat = volume.stat(ROOT).ok()?;
                Some(DirEntry { name: volume.name.clone().into_bytes(), stat })
            })
            .collect();
        entries.push(DirEntry { name: LINKS.to_vec(), stat: self.own_stat(LINKS_INO) });
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Moves a followed volume to a head and tells who wants to know.
    pub(super) fn follow(&self, volume: &Volume, head: &Head) -> Result<bool, FsError> {
        let changed = volume.follow(head)?;
        if volume.slot > 0 && !changed.is_empty() {
            let hooks = self.hooks.read().expect("no holder panics").clone();
            for hook in hooks.iter().filter_map(Weak::upgrade) {
                hook(&changed);
            }
        }
        Ok(!changed.is_empty())
    }

    /// Asks for the newest head of a live link, unless that was done just now. Where nobody
    /// answers, what is known stays good enough.
    fn ask_head(&self, volume: &Volume) -> Result<(), FsError> {
        let Capability::Read { id, .. } = &volume.capability else { return Ok(()) };
        {
            let mut asked = volume.asked.lock().expect("no holder panics");
            if !is_older(*asked, self.around.config.link_head_age_max) {
                return Ok(());
            }
            *asked = Some(Instant::now());
        }
        match (self.around.config.heads)(*id) {
            Ok(Some(head)) => self.follow(volume, &head).map(drop),
            _ if volume.lock().head.is_some() => Ok(()),
            Ok(None) => Err(FsError::NotFound),
            Err(error) => Err(error.into()),
        }
    }
}
