//! The filesystem that a mount shows: volumes and links as directories of one tree.
//!
//! The view owns the top of the tree (the root and `link/`, slot 0) and hands everything below to
//! the volume whose slot the inode number carries. `volume` has the rules of one volume;
//! `overlay` its invariants. No `fuser` type appears here: the adapter and the command line call
//! the same methods, and every one of them blocks until it is done.
//!
//! Dropping a view without `shutdown` is what a crash does: what was not made durable is lost.

mod apply;
mod directory;
mod file;
mod follow;
mod import;
mod inode;
mod links;
mod mounted;
mod operations;
mod overlay;
mod read_ahead;
mod replay;
mod roots;
mod seal;
mod sealed;
mod slots;
mod sources;
#[cfg(test)]
mod tests;
pub(crate) mod types;
mod volume;
mod xattr;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, Weak};
use std::time::Instant;

use xorfs_store::{
    Access, BlockId, BlockStore, Head, Inventory, Ledger, Link, NAME_BYTES_MAX, Plaintext, Reader,
    Timestamp,
};

pub use crate::view::roots::ViewRoots;

use crate::config::ViewConfig;
use crate::error::FsError;
use crate::handle::Handles;
use crate::view::mounted::{LINKS, Place};
use crate::view::slots::Slots;
use crate::view::types::{
    DirEntry, FileHandle, FsStats, InodeNo, Kind, Owner, RenameMode, SetAttr, Stat, VolumeStatus,
    XattrMode,
};
use crate::view::volume::{Surroundings, Volume};
use crate::writeback::{Budget, Pacer};

/// Told which inodes changed other than through this view.
pub type ChangeHook = dyn Fn(&[InodeNo]) + Send + Sync;

/// The filesystem. See the module for what it promises.
pub struct View {
    around: Arc<Surroundings>,
    slots: RwLock<Slots>,
    handles: Handles,
    hooks: RwLock<Vec<Weak<ChangeHook>>>,
    /// Times of the mount's own directories.
    born: Timestamp,
    ended: AtomicBool,
    /// Set while everything is being closed.
    closing: AtomicBool,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("config", &self.around.config).finish_non_exhaustive()
    }
}

/// Set-up, volumes and sealing.
impl View {
    /// A view without volumes. `announce` is told each new head of a volume that is written
    /// here, under no lock; it must not block.
    pub fn new(
        config: ViewConfig,
        blocks: Arc<dyn BlockStore>,
        inventory: Arc<dyn Inventory>,
        ledger: Arc<dyn Ledger>,
        announce: Arc<dyn Fn(Head) + Send + Sync>,
    ) -> Arc<Self> {
        let reader = Arc::new(Reader::new(Arc::clone(&blocks), config.cache_bytes));
        let view = Arc::new(Self {
            slots: RwLock::new(Slots::new(config.links_max)),
            born: (config.clock)(),
            around: Arc::new(Surroundings {
                budget: Budget::new(config.dirty_bytes_max),
                pacer: Pacer::default(),
                config,
                blocks,
                inventory,
                ledger,
                reader,
                announce,
            }),
            handles: Handles::default(),
            hooks: RwLock::default(),
            ended: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&view);
        view.around.pacer.start(move || Self::seal_due(&weak));
        view
    }

    /// Adds a volume as a directory of the root. One that is ours continues where it was left:
    /// the newest head of the ledger with the journal replayed over it. One that is followed
    /// shows the head of the ledger, and nothing until there is one.
    pub fn add_volume(&self, name: &str, access: &Access) -> Result<(), FsError> {
        operations::check_name(name.as_bytes())?;
        if name.as_bytes() == LINKS {
            return Err(FsError::Invalid("\"link\" is no volume's name"));
        }
        if self.named(name).is_some() {
            return Err(FsError::Exists);
        }
        let volume = Volume::open(Arc::clone(&self.around), name, access)?;
        self.slots_mut().add_volume(volume)
    }

    /// Seals a volume and takes it out of the mount. Its inodes are stale from then on.
    pub fn remove_volume(&self, name: &str) -> Result<(), FsError> {
        let volume = self.named(name).ok_or(FsError::NotFound)?;
        volume.seal()?;
        self.slots_mut().remove_volume(name);
        Ok(())
    }

    /// Closes every volume and every open link and forgets what was read of them, so that no key
    /// stays. What cannot be sealed is put into the journal. Open files fail from then on.
    pub fn close_all(&self) -> Result<(), FsError> {
        self.closing.store(true, Ordering::Release);
        let volumes = self.slots().writable();
        let settled = settle(&volumes);
        self.slots_mut().close_all();
        // A change that was on its way when they were closed.
        let late = settle(&volumes);
        drop(volumes);
        self.around.reader.forget();
        self.closing.store(false, Ordering::Release);
        settled.and(late)
    }

    /// Moves every followed volume that the head is of, also those opened as a live link, to it.
    /// True where it changed something.
    pub fn set_head(&self, head: &Head) -> Result<bool, FsError> {
        let volumes = self.slots().of(head.volume());
        let mut changed = false;
        for volume in &volumes {
            changed |= self.follow(volume, head)?;
        }
        Ok(changed)
    }

    /// Adds somebody who is told of inodes that changed other than through this view, for as
    /// long as the caller keeps `hook`. Called under no lock.
    pub fn on_change(&self, hook: &Arc<ChangeHook>) {
        let mut hooks = self.hooks.write().expect("no holder panics");
        hooks.retain(|hook| hook.strong_count() > 0);
        hooks.push(Arc::downgrade(hook));
    }

    /// Seals every volume and waits for it. Tries all, and reports the first failure.
    pub fn seal(&self) -> Result<(), FsError> {
        let mut outcome = Ok(());
        for volume in self.slots().writable() {
            let sealed = volume.seal();
            outcome = outcome.and_then(|()| sealed.map(drop));
        }
        outcome
    }

    /// Seals a volume and returns its newest head; `None` for a followed one that has none yet.
    pub fn seal_volume(&self, name: &str) -> Result<Option<Head>, FsError> {
        let volume = self.named(name).ok_or(FsError::NotFound)?;
        Ok(volume.seal()?.head)
    }

    /// The volumes of the mount, by name.
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        let volumes = self.slots().named();
        volumes.iter().filter_map(|volume| volume.status()).collect()
    }

    /// Stops background work, refuses further changes and seals everything. What cannot be
    /// sealed is put into the journal, so that only a store that takes neither loses it.
    pub fn shutdown(&self) -> Result<(), FsError> {
        self.ended.store(true, Ordering::Release);
        self.around.pacer.stop();
        let volumes = self.slots().writable();
        settle(&volumes)
    }

    /// Seals what is due and says when to look again; `Err` once the view is gone.
    fn seal_due(view: &Weak<Self>) -> Result<Option<Instant>, ()> {
        let view = view.upgrade().ok_or(())?;
        let volumes = view.slots().writable();
        for volume in &volumes {
            if volume.seal_due().is_some_and(|due| due <= Instant::now()) {
                // Logged, and kept for `volumes`, by the volume itself.
                drop(volume.seal());
            }
        }
        Ok(volumes.iter().filter_map(|volume| volume.seal_due()).min())
    }
}

/// Names.
impl View {
    /// Finds a name and counts a reference to its inode, which `forget` gives back.
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Stat, FsError> {
        match self.place(parent)? {
            Place::Root => self.lookup_top(name),
            Place::Links => self.lookup_link(name),
            Place::In(volume, ino) => volume.lookup(ino, name),
        }
    }

    /// Gives back `count` references of an inode.
    pub fn forget(&self, ino: InodeNo, count: u64) {
        if let Ok(Place::In(volume, ino)) = self.place(ino) {
            volume.forget(ino, count);
        }
    }

    /// Makes a file, directory, pipe, socket or device. Counts as a lookup.
    pub fn make_node(
        &self,
        parent: InodeNo,
        name: &[u8],
        kind: Kind,
        mode: u32,
        owner: Owner,
    ) -> Result<Stat, FsError> {
        let (volume, parent) = self.changing(parent)?;
        volume.make_node(parent, name, kind, mode, owner)
    }

    /// Makes a symbolic link. Counts as a lookup.
    pub fn make_symlink(
        &self,
        parent: InodeNo,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> Result<Stat, FsError> {
        let (volume, parent) = self.changing(parent)?;
        volume.make_symlink(parent, name, target, owner)
    }

    /// Gives a file another name. Counts as a lookup.
    pub fn link(&self, ino: InodeNo, parent: InodeNo, name: &[u8]) -> Result<Stat, FsError> {
        let (volume, parent) = self.changing(parent)?;
        if ino.slot() != volume.slot {
            return Err(FsError::CrossVolume);
        }
        volume.link(ino.ino(), parent, name)
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: InodeNo, name: &[u8]) -> Result<(), FsError> {
        let (volume, parent) = self.changing(parent)?;
        volume.unlink(parent, name)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: InodeNo, name: &[u8]) -> Result<(), FsError> {
        let (volume, parent) = self.changing(parent)?;
        volume.rmdir(parent, name)
    }

    /// Moves a name, inside one volume.
    pub fn rename(
        &self,
        parent: InodeNo,
        name: &[u8],
        to: InodeNo,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let (volume, parent) = self.changing(parent)?;
        let (target, to) = self.changing(to)?;
        if target.slot != volume.slot {
            return Err(FsError::CrossVolume);
        }
        volume.rename(parent, name, to, to_name, mode)
    }

    /// The directory that an inode is in; the root is in itself.
    pub fn parent(&self, ino: InodeNo) -> Result<InodeNo, FsError> {
        match self.place(ino)? {
            Place::Root | Place::Links => Ok(InodeNo::ROOT),
            Place::In(volume, inode::ROOT) if volume.is_link => Ok(mounted::LINKS_INO),
            Place::In(_, inode::ROOT) => Ok(InodeNo::ROOT),
            Place::In(volume, ino) => Ok(InodeNo::new(volume.slot, volume.parent(ino)?)),
        }
    }

    /// All names of a directory, sorted, without `.` and `..`. Counts no lookups.
    pub fn list(&self, ino: InodeNo) -> Result<Vec<DirEntry>, FsError> {
        match self.place(ino)? {
            Place::Root => Ok(self.list_top()),
            Place::Links => Ok(Vec::new()),
            Place::In(volume, ino) => volume.list(ino),
        }
    }

    /// Finds a whole path from the mount's root, following no symlinks. Counts a lookup of what
    /// it ends at.
    pub fn resolve(&self, path: &[u8]) -> Result<Stat, FsError> {
        let mut stat = self.stat(InodeNo::ROOT)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let next = self.lookup(stat.ino, name);
            self.forget(stat.ino, 1);
            stat = next?;
        }
        Ok(stat)
    }
}

/// Attributes.
impl View {
    /// Describes an inode.
    pub fn stat(&self, ino: InodeNo) -> Result<Stat, FsError> {
        match self.place(ino)? {
            Place::Root => Ok(self.own_stat(InodeNo::ROOT)),
            Place::Links => Ok(self.own_stat(mounted::LINKS_INO)),
            Place::In(volume, ino) => volume.stat(ino),
        }
    }

    /// Changes attributes; a new size cuts or extends a file.
    pub fn set_attr(&self, ino: InodeNo, change: &SetAttr) -> Result<Stat, FsError> {
        let (volume, ino) = self.changing(ino)?;
        volume.set_attr(ino, change)
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, ino: InodeNo) -> Result<Vec<u8>, FsError> {
        match self.place(ino)? {
            Place::Root | Place::Links => Err(FsError::Invalid("not a symbolic link")),
            Place::In(volume, ino) => volume.read_link(ino),
        }
    }

    /// An extended attribute, or one of the virtual `user.xorfs.` ones. Asking for the link of
    /// something that is not sealed seals it.
    pub fn xattr(&self, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>, FsError> {
        match self.place(ino)? {
            Place::Root | Place::Links => Err(FsError::NoXattr),
            Place::In(volume, ino) if name.starts_with(xattr::VIRTUAL_PREFIX) => {
                volume.virtual_xattr(ino, name)
            }
            Place::In(volume, ino) => volume.xattr(ino, name),
        }
    }

    /// Names of the stored extended attributes, sorted.
    pub fn xattr_names(&self, ino: InodeNo) -> Result<Vec<Vec<u8>>, FsError> {
        match self.place(ino)? {
            Place::Root | Place::Links => Ok(Vec::new()),
            Place::In(volume, ino) => volume.xattr_names(ino),
        }
    }

    /// Sets an extended attribute, or removes it with `None`, where the mode is not looked at.
    pub fn set_xattr(
        &self,
        ino: InodeNo,
        name: &[u8],
        value: Option<&[u8]>,
        mode: XattrMode,
    ) -> Result<(), FsError> {
        let (volume, ino) = self.changing(ino)?;
        volume.set_xattr(ino, name, value, mode)
    }

    /// Room in the local store.
    pub fn stats(&self) -> FsStats {
        let usage = self.around.inventory.usage();
        let used_bytes = usage.used_bytes();
        let free_bytes = usage.quota_bytes.saturating_sub(used_bytes).min(usage.disk_free_bytes);
        FsStats {
            total_bytes: used_bytes.saturating_add(free_bytes),
            free_bytes,
            used_bytes,
            files: 0,
            name_bytes_max: NAME_BYTES_MAX as u32,
        }
    }

    /// Whether an inode's volume can be written through this view.
    pub fn is_writable(&self, ino: InodeNo) -> bool {
        matches!(self.place(ino), Ok(Place::In(volume, _)) if volume.is_writable())
    }

    /// The immutable link of a file or directory as it is now; seals it where it has to.
    pub fn link_of(&self, ino: InodeNo) -> Result<Link, FsError> {
        self.inside(ino).and_then(|(volume, ino)| volume.link_of(ino))
    }

    /// Every block of a file, or of a directory's own names, and with `recursive` of all below;
    /// seals it where it has to.
    pub fn blocks_of(&self, ino: InodeNo, recursive: bool) -> Result<Vec<BlockId>, FsError> {
        self.inside(ino).and_then(|(volume, ino)| volume.blocks_of(ino, recursive))
    }
}

/// Open files and directories.
impl View {
    /// Opens a file. It stays readable until `close`, whatever happens to its names.
    pub fn open(
        &self,
        ino: InodeNo,
        writable: bool,
        truncate: bool,
    ) -> Result<FileHandle, FsError> {
        let (volume, inner) = match self.place(ino)? {
            Place::Root | Place::Links => return Err(FsError::IsDirectory),
            Place::In(volume, inner) => (volume, inner),
        };
        if writable || truncate {
            self.check_running()?;
        }
        volume.open_file(inner, writable, truncate)?;
        self.handles.open(ino).inspect_err(|_| volume.close(inner))
    }

    /// Opens a directory.
    pub fn open_dir(&self, ino: InodeNo) -> Result<FileHandle, FsError> {
        let place = self.place(ino)?;
        if let Place::In(volume, inner) = &place {
            volume.open_directory(*inner)?;
        }
        self.handles.open(ino).inspect_err(|_| {
            if let Place::In(volume, inner) = &place {
                volume.close(*inner);
            }
        })
    }

    /// The listing that an open directory hands out: taken at the first call and, with `rewind`,
    /// taken anew. Cookies are the caller's indices into it.
    pub fn read_dir(&self, handle: FileHandle, rewind: bool) -> Result<Arc<[DirEntry]>, FsError> {
        let open = self.handles.find(handle)?;
        if let (Some(listing), false) = (&open.listing, rewind) {
            return Ok(Arc::clone(listing));
        }
        let listing: Arc<[DirEntry]> = self.list(open.ino)?.into();
        self.handles.set_listing(handle, Arc::clone(&listing));
        Ok(listing)
    }

    /// Closes a file or a directory.
    pub fn close(&self, handle: FileHandle) {
        let Some(open) = self.handles.close(handle) else { return };
        if let Ok(Place::In(volume, ino)) = self.place(open.ino) {
            volume.close(ino);
        }
    }

    /// Reads up to `length` bytes; shorter only at the end of the file.
    pub fn read(&self, ino: InodeNo, offset: u64, length: usize) -> Result<Plaintext, FsError> {
        match self.place(ino)? {
            Place::Root | Place::Links => Err(FsError::IsDirectory),
            Place::In(volume, ino) => volume.read(ino, offset, length),
        }
    }

    /// Writes all of `bytes`. Waits while too much waits to be sealed, with a deadline.
    pub fn write(&self, ino: InodeNo, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        let (volume, ino) = self.changing(ino)?;
        volume.write(ino, offset, bytes)
    }

    /// Makes every change so far of the inode's volume crash-safe: one synced batch, or a seal
    /// where much is waiting.
    pub fn fsync(&self, ino: InodeNo) -> Result<(), FsError> {
        match self.place(ino)? {
            Place::Root | Place::Links => Ok(()),
            Place::In(volume, _) => volume.fsync(),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.around.pacer.stop();
    }
}

/// Seals volumes, and stages what cannot be sealed. Tries all, and reports the first failure.
fn settle(volumes: &[Arc<Volume>]) -> Result<(), FsError> {
    let mut outcome = Ok(());
    for volume in volumes {
        if let Err(error) = volume.seal() {
            let staged = volume.stage();
            outcome = outcome.and_then(|()| Err(staged.err().unwrap_or(error)));
        }
    }
    outcome
}
