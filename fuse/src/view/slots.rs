//! Which volume has which slot. Slot 0 is the mount's own; no slot is given out twice, so that an
//! inode number never comes to mean something else.

use std::collections::BTreeMap;
use std::sync::Arc;

use xorfs_store::VolumeId;

use crate::error::FsError;
use crate::view::links::Links;
use crate::view::volume::Volume;

/// Volumes and opened links by slot.
pub(super) struct Slots {
    /// Slot → volume; `None` for the mount itself and for what was closed.
    volumes: Vec<Option<Arc<Volume>>>,
    names: BTreeMap<String, u16>,
    links: Links,
}

impl Slots {
    pub(super) fn new(links_max: usize) -> Self {
        Self { volumes: vec![None], names: BTreeMap::new(), links: Links::new(links_max) }
    }

    pub(super) fn volume(&self, slot: u16) -> Option<&Arc<Volume>> {
        self.volumes.get(usize::from(slot))?.as_ref()
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Volume>> {
        self.volume(*self.names.get(name)?).cloned()
    }

    /// Volumes by name, without links.
    pub(super) fn named(&self) -> Vec<Arc<Volume>> {
        self.names.values().filter_map(|slot| self.volume(*slot).cloned()).collect()
    }

    /// Volumes and open links.
    pub(super) fn all(&self) -> Vec<Arc<Volume>> {
        self.volumes.iter().flatten().cloned().collect()
    }

    /// Volumes that are written here.
    pub(super) fn writable(&self) -> Vec<Arc<Volume>> {
        self.volumes.iter().flatten().filter(|volume| volume.is_writable()).cloned().collect()
    }

    /// The volume of this id under every name and link that it is open as.
    pub(super) fn of(&self, id: VolumeId) -> Vec<Arc<Volume>> {
        self.volumes.iter().flatten().filter(|volume| volume.id() == Some(id)).cloned().collect()
    }

    pub(super) fn add_volume(&mut self, volume: Volume) -> Result<(), FsError> {
        if self.names.contains_key(&volume.name) {
            return Err(FsError::Exists);
        }
        let name = volume.name.clone();
        let volume = self.enter(volume)?;
        self.names.insert(name, volume.slot);
        Ok(())
    }

    pub(super) fn remove_volume(&mut self, name: &str) {
        if let Some(slot) = self.names.remove(name) {
            self.volumes[usize::from(slot)] = None;
        }
    }

    /// Takes every volume and link out; their slots stay used up.
    pub(super) fn close_all(&mut self) {
        self.volumes.iter_mut().for_each(|volume| *volume = None);
        self.names.clear();
        self.links.clear();
    }

    pub(super) fn find_link(&mut self, text: &str) -> Option<Arc<Volume>> {
        let slot = self.links.find(text)?;
        self.volume(slot).cloned()
    }

    /// Enters an opened link, or returns the one that somebody else opened meanwhile.
    pub(super) fn add_link(&mut self, volume: Volume) -> Result<Arc<Volume>, FsError> {
        if let Some(open) = self.find_link(&volume.name) {
            return Ok(open);
        }
        let volumes = &self.volumes;
        let is_idle = |slot: u16| {
            // The caller of a link's lookup holds its volume until it has counted.
            volumes[usize::from(slot)]
                .as_ref()
                .is_none_or(|volume| Arc::strong_count(volume) == 1 && volume.is_idle())
        };
        if let Some(slot) = self.links.make_room(is_idle)? {
            self.volumes[usize::from(slot)] = None;
        }
        let volume = self.enter(volume)?;
        self.links.insert(volume.name.clone(), volume.slot);
        Ok(volume)
    }

    fn enter(&mut self, mut volume: Volume) -> Result<Arc<Volume>, FsError> {
        volume.slot = u16::try_from(self.volumes.len()).map_err(|_| FsError::NoSpace)?;
        let volume = Arc::new(volume);
        self.volumes.push(Some(Arc::clone(&volume)));
        Ok(volume)
    }
}
