//! The table of open files and directories.
//!
//! A handle keeps its inode alive (the view counts it there); an open directory also holds the
//! listing it hands out, so that cookies stay valid while names come and go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::FsError;
use crate::view::types::{DirEntry, FileHandle, InodeNo};

/// Open handles of one view. Bounds what a process that never closes can hold.
const HANDLES_MAX: usize = 1 << 20;

/// What a handle stands for.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) ino: InodeNo,
    /// The listing of an open directory, once it was read.
    pub(crate) listing: Option<Arc<[DirEntry]>>,
}

/// Handles by number; numbers are never reused.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    table: Mutex<(u64, HashMap<FileHandle, Handle>)>,
}

impl Handles {
    pub(crate) fn open(&self, ino: InodeNo) -> Result<FileHandle, FsError> {
        let mut table = self.lock();
        let (last, handles) = &mut *table;
        if handles.len() >= HANDLES_MAX {
            return Err(FsError::NoSpace);
        }
        *last += 1;
        handles.insert(FileHandle(*last), Handle { ino, listing: None });
        Ok(FileHandle(*last))
    }

    pub(crate) fn find(&self, handle: FileHandle) -> Result<Handle, FsError> {
        self.lock().1.get(&handle).cloned().ok_or(FsError::BadHandle)
    }

    pub(crate) fn set_listing(&self, handle: FileHandle, listing: Arc<[DirEntry]>) {
        if let Some(handle) = self.lock().1.get_mut(&handle) {
            handle.listing = Some(listing);
        }
    }

    pub(crate) fn close(&self, handle: FileHandle) -> Option<Handle> {
        self.lock().1.remove(&handle)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<FileHandle, Handle>)> {
        self.table.lock().expect("no holder panics")
    }
}
