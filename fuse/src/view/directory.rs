//! Listing directories: the sealed names with the overlay's changes over them.

use std::collections::BTreeMap;

use xorfs_store::{Content, Entry};

use crate::error::FsError;
use crate::view::inode::stat_of;
use crate::view::overlay::State;
use crate::view::types::DirEntry;
use crate::view::volume::Volume;

/// Times that a listing is read again because the directory was sealed meanwhile.
const ROUNDS_MAX: usize = 100;

impl Volume {
    /// All names, sorted, with what they name now. Reads no child.
    pub(super) fn list(&self, ino: u64) -> Result<Vec<DirEntry>, FsError> {
        for _ in 0..ROUNDS_MAX {
            let base = self.lock().directory(ino)?.base.clone();
            let names = match base.root {
                Some(_) => self.around.reader.list(&base)?,
                None => BTreeMap::new(),
            };
            let state = self.lock();
            if state.directory(ino)?.base == base {
                return self.merge(&state, ino, names);
            }
        }
        Err(FsError::Busy)
    }

    fn merge(
        &self,
        state: &State,
        ino: u64,
        base: BTreeMap<Vec<u8>, Entry>,
    ) -> Result<Vec<DirEntry>, FsError> {
        let directory = state.directory(ino)?;
        let mut entries = BTreeMap::new();
        for (name, entry) in base {
            let ino = entry.attr.ino;
            if directory.changes.contains_key(&name) || ino >> super::types::InodeNo::BITS != 0 {
                continue;
            }
            let stat = match state.inodes.get(&ino) {
                Some(inode) => inode.stat(self.slot),
                None => stat_of(&entry, self.slot),
            };
            entries.insert(name, stat);
        }
        for (name, change) in &directory.changes {
            if let Some(ino) = change {
                entries.insert(name.clone(), state.inode(*ino)?.stat(self.slot));
            }
        }
        Ok(entries.into_iter().map(|(name, stat)| DirEntry { name, stat }).collect())
    }

    /// The sealed content of a directory, for walking what is below it.
    pub(super) fn sealed_list(&self, base: &Content) -> Result<BTreeMap<Vec<u8>, Entry>, FsError> {
        Ok(match base.root {
            Some(_) => self.around.reader.list(base)?,
            None => BTreeMap::new(),
        })
    }
}
