//! Turns results of the filesystem into replies.
//!
//! Failures are logged here, once, at a level that follows their class: what a program provoked
//! (no such file, exists, not empty) is noise, what a disk or a network did is not.

use std::time::Duration;

use fuser::{Errno, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyXattr};

use crate::adapter::convert;
use crate::{FsError, InodeNo, Stat};

/// How long the kernel may believe attributes and names without asking. Changes through this
/// mount are seen at once whatever it says; changes that come from elsewhere are announced, and
/// this bounds how long a name can be stale. 0 makes listing a tree fifty times slower.
pub(super) const LIFETIME: Duration = Duration::from_secs(1);

/// Inode numbers are never reused, so they need no generation.
pub(super) const GENERATION: Generation = Generation(0);

/// What was asked, for the log.
#[derive(Clone, Copy)]
pub(super) struct Question {
    pub(super) operation: &'static str,
    pub(super) ino: InodeNo,
}

impl Question {
    pub(super) fn new(operation: &'static str, ino: fuser::INodeNo) -> Self {
        Self { operation, ino: convert::inode(ino) }
    }

    /// The number for the caller, after logging what it cannot say.
    pub(super) fn failed(self, error: &FsError) -> Errno {
        let Self { operation, ino: InodeNo(ino) } = self;
        let number = error.errno();
        let cause = std::error::Error::source(error).map(ToString::to_string);
        if number == libc::EIO || number == libc::ENOSPC {
            tracing::warn!(operation, ino, %error, cause, "a request failed");
        } else {
            tracing::trace!(operation, ino, %error, "a request was refused");
        }
        Errno::from_i32(number)
    }

    pub(super) fn empty(self, reply: ReplyEmpty, result: Result<(), FsError>) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.failed(&error)),
        }
    }

    pub(super) fn attributes(self, reply: ReplyAttr, result: Result<Stat, FsError>) {
        match result {
            Ok(stat) => reply.attr(&LIFETIME, &convert::attributes(&stat)),
            Err(error) => reply.error(self.failed(&error)),
        }
    }

    pub(super) fn entry(self, reply: ReplyEntry, result: Result<Stat, FsError>) {
        match result {
            Ok(stat) => reply.entry(&LIFETIME, &convert::attributes(&stat), GENERATION),
            Err(error) => reply.error(self.failed(&error)),
        }
    }

    pub(super) fn bytes(self, reply: ReplyData, result: Result<impl AsRef<[u8]>, FsError>) {
        match result {
            Ok(bytes) => reply.data(bytes.as_ref()),
            Err(error) => reply.error(self.failed(&error)),
        }
    }

    /// `room` is the caller's buffer; 0 asks for the size.
    pub(super) fn xattr(self, reply: ReplyXattr, room: u32, result: Result<Vec<u8>, FsError>) {
        let value = match result {
            Ok(value) => value,
            Err(error) => return reply.error(self.failed(&error)),
        };
        match u32::try_from(value.len()) {
            Ok(size) if room == 0 => reply.size(size),
            Ok(size) if size <= room => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        }
    }
}
