//! Following a volume: moving a read-only one to a newer head.
//!
//! What was seen stays usable: inodes keep their numbers, those that the new tree still has are
//! brought up to date, and those that it has not stay as they were until the last reference goes.
//! Only directories that differ are read. Where the network fails on the way, the rest of what was
//! seen is let go of instead, and read anew when somebody asks for it.

use xorfs_store::{Batch, Content, Entry, Head, Table, stored_head};

use crate::error::FsError;
use crate::view::inode::ROOT;
use crate::view::types::InodeNo;
use crate::view::volume::{Capability, Volume};

impl Volume {
    /// Moves to `head` if it is newer. Returns the inodes that changed; empty where it is not.
    pub(super) fn follow(&self, head: &Head) -> Result<Vec<InodeNo>, FsError> {
        let Capability::Read { id, key } = &self.capability else { return Ok(Vec::new()) };
        let _one_at_a_time = self.sealing.lock().expect("no holder panics");
        let is_newer = self.lock().head.as_ref().is_none_or(|old| head.supersedes(old));
        if head.volume() != *id || !is_newer {
            return Ok(Vec::new());
        }
        let root = self.around.reader.root(head, key)?;
        // First, because what fails after the head was set is not tried again.
        self.remember(head)?;
        {
            let mut state = self.lock();
            state.head = Some(head.clone());
            state.index = root.names;
        }
        let mut reads = true;
        let mut changed = vec![InodeNo::new(self.slot, ROOT)];
        let mut waiting = vec![(ROOT, root.directory)];
        while let Some((ino, entry)) = waiting.pop() {
            let Some(known) = self.lock().refresh(ino, &entry) else { continue };
            changed.push(InodeNo::new(self.slot, ino));
            let Some(base) = self.base_of(ino) else { continue };
            for (name, child) in known {
                let new = if reads { self.find_again(ino, &base, &name, child) } else { Ok(None) };
                let new = new.unwrap_or_else(|error| {
                    tracing::warn!(volume = %head.volume(), %error, "a new head is read in part");
                    reads = false;
                    None
                });
                match new {
                    Some(new) => waiting.push((child, new)),
                    None => {
                        changed.push(InodeNo::new(self.slot, child));
                        self.lock().release(child);
                    }
                }
            }
        }
        Ok(changed)
    }

    /// Looks a known name up in a directory's new base; `None` where it names another inode now.
    fn find_again(
        &self,
        directory: u64,
        base: &Content,
        name: &[u8],
        child: u64,
    ) -> Result<Option<Entry>, FsError> {
        let new = match base.root {
            Some(_) => self.around.reader.lookup(base, name)?,
            None => None,
        };
        let new = new.filter(|entry| entry.attr.ino == child);
        if new.is_some() {
            // Brought up to date by the caller, which has to see the difference first.
            self.lock().attach(directory, name, child);
        }
        Ok(new)
    }

    fn base_of(&self, ino: u64) -> Option<Content> {
        self.lock().directory(ino).ok().map(|directory| directory.base.clone())
    }

    /// Keeps the head, so that the volume opens without the network next time.
    fn remember(&self, head: &Head) -> Result<(), FsError> {
        let ledger = &*self.around.ledger;
        let held = stored_head(ledger, head.volume()).unwrap_or_default();
        if held.is_some_and(|held| !head.supersedes(&held)) {
            // Another node stored this one here already, or a newer one.
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(Table::Heads, head.volume().as_bytes().to_vec(), head.encoded().clone());
        Ok(ledger.commit(batch)?)
    }
}
