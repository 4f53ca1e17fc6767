//! The requests that take more than one call of the view.
//!
//! Runs on whatever thread `workers` chose, so it holds everything by `Arc`.

use std::sync::Arc;

use fuser::{OpenAccMode, OpenFlags, ReplyWrite, WriteFlags};

use crate::adapter::answer::Question;
use crate::adapter::opened::Opened;
use crate::{FileHandle, FsError, InodeNo, Kind, Owner, SetAttr, Stat, View};

/// Bits that make a program run as somebody else.
const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;

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

    pub(super) fn open(&self, ino: InodeNo, flags: OpenFlags) -> Result<FileHandle, FsError> {
        let writable = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let handle = self.view.open(ino, writable, truncate)?;
        self.opened.add(ino);
        Ok(handle)
    }

    /// With HANDLE_KILLPRIV_V2 it is for us to take set-id bits away when the kernel says so.
    fn write(
        &self,
        ino: InodeNo,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, FsError> {
        if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            let mode = self.view.stat(ino)?.mode;
            if mode & SET_ID_BITS != 0 {
                let change = SetAttr { mode: Some(mode & !SET_ID_BITS), ..SetAttr::default() };
                self.view.set_attr(ino, &change)?;
            }
        }
        self.view.write(ino, offset, bytes)?;
        Ok(u32::try_from(bytes.len()).expect("the kernel writes at most 16 MiB at once"))
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
