//! Which files the kernel has open, so that an invalidation knows how far it may go.
//!
//! Throwing away the cached pages of an open file can wait for requests on that very file. An
//! open file is therefore only told that its attributes are stale; the kernel then asks for
//! them, sees another modification time and drops the pages itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::InodeNo;

/// Open handles by inode. Entries leave with their last handle, so the kernel's own limit on
/// open files bounds the table.
#[derive(Default)]
pub(crate) struct Opened(Mutex<HashMap<u64, u32>>);

impl Opened {
    pub(super) fn add(&self, ino: InodeNo) {
        *self.lock().entry(ino.0).or_default() += 1;
    }

    pub(super) fn remove(&self, ino: InodeNo) {
        let mut handles = self.lock();
        if let Some(count) = handles.get_mut(&ino.0) {
            *count -= 1;
            if *count == 0 {
                handles.remove(&ino.0);
            }
        }
    }

    pub(crate) fn contains(&self, ino: InodeNo) -> bool {
        self.lock().contains_key(&ino.0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
