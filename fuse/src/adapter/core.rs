//! The requests that take more than one call of the view.
//!
//! Runs on whatever thread `workers` chose, so it holds everything by `Arc`.

use std::sync::Arc;

use fuser::{OpenAccMode, OpenFlags, ReplyWrite, WriteFlags};

use crate::adapter::answer::Question;
use crate::adapter::opened::Opened;
use crate::{FileHandle, FsError, InodeNo, Kind, Owner, SetAttr, Stat, View};

/// The user who may keep set-id bits on what it changes.
const ROOT: u32 = 0;

/// What a request needs when it runs on another thread.
pub(super) struct Core {
    pub(super) view: Arc<View>,
    pub(super) opened: Arc<Opened>,
}

impl Core {
    pub(super) fn create(
        &self,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        owner: Owner,
    ) -> Result<(Stat, FileHandle), FsError> {
        let stat = self.view.make_node(parent, name, Kind::File, mode & 0o7777, owner)?;
        match self.view.open(stat.ino, true, false) {
            Ok(handle) => {
                self.opened.add(stat.ino);
                Ok((stat, handle))
            }
            Err(error) => {
                self.view.forget(stat.ino, 1);
                Err(error)
            }
        }
    }

    pub(super) fn open(
        &self,
        ino: InodeNo,
        flags: OpenFlags,
        by: Owner,
    ) -> Result<FileHandle, FsError> {
        let writable = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let truncate = flags.0 & libc::O_TRUNC != 0;
        if truncate && by.uid != ROOT {
            self.take_set_ids(ino)?;
        }
        let handle = self.view.open(ino, writable, truncate)?;
        self.opened.add(ino);
        Ok(handle)
    }

    pub(super) fn set_attr(
        &self,
        ino: InodeNo,
        change: &SetAttr,
        by: Owner,
    ) -> Result<Stat, FsError> {
        if change.size.is_some() && change.mode.is_none() && by.uid != ROOT {
            self.take_set_ids(ino)?;
        }
        self.view.set_attr(ino, change)
    }

    fn write(
        &self,
        ino: InodeNo,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, FsError> {
        if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            self.take_set_ids(ino)?;
        }
        self.view.write(ino, offset, bytes)?;
        Ok(u32::try_from(bytes.len()).expect("the kernel writes at most 16 MiB at once"))
    }

    /// Keeps a changed program from running as somebody else. With HANDLE_KILLPRIV_V2 this is
    /// for us to do: the kernel says so with a write; with a truncation it says so too, but fuser
    /// does not pass it on, so there everybody but root is taken not to have CAP_FSETID.
    fn take_set_ids(&self, ino: InodeNo) -> Result<(), FsError> {
        let mode = self.view.stat(ino)?.mode;
        // Without group execution the bit means something else (mandatory locks, long ago).
        let group = if mode & libc::S_IXGRP == 0 { 0 } else { libc::S_ISGID };
        let kept = mode & !(libc::S_ISUID | group);
        if kept != mode {
            let change = SetAttr { mode: Some(kept), ..SetAttr::default() };
            self.view.set_attr(ino, &change)?;
        }
        Ok(())
    }

    /// Plain allocation only makes the file longer: what is sealed depends on content, so room
    /// cannot be reserved.
    pub(super) fn allocate(
        &self,
        ino: InodeNo,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), FsError> {
        if mode != 0 {
            return Err(FsError::Unsupported);
        }
        let end = offset.checked_add(length).ok_or(FsError::TooLarge)?;
        if end > self.view.stat(ino)?.size {
            let change = SetAttr { size: Some(end), ..SetAttr::default() };
            self.view.set_attr(ino, &change)?;
        }
        Ok(())
    }

    pub(super) fn xattr_names(&self, ino: InodeNo) -> Result<Vec<u8>, FsError> {
        let mut joined = Vec::new();
        for name in self.view.xattr_names(ino)? {
            joined.extend_from_slice(&name);
            joined.push(0);
        }
        Ok(joined)
    }

    pub(super) fn answer_write(
        &self,
        asked: Question,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
        reply: ReplyWrite,
    ) {
        match self.write(asked.ino, offset, bytes, flags) {
            Ok(size) => reply.written(size),
            Err(error) => reply.error(asked.failed(&error)),
        }
    }
}
