//! Directory listings, as many entries a request as fit.
//!
//! The cookie of an entry is its place in the handle's snapshot, so it stays valid while names
//! come and go; reading from the start takes a new snapshot. `.` and `..` are made up here, at
//! the first two places.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{FileType, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use crate::adapter::answer::{GENERATION, LIFETIME, Question};
use crate::adapter::convert;
use crate::{DirEntry, FileHandle, FsError, InodeNo, View};

/// Places taken by `.` and `..`.
const DOTS: u64 = 2;

/// Answers with names, kinds and inode numbers.
pub(super) fn names(
    view: &View,
    asked: Question,
    handle: FileHandle,
    offset: u64,
    mut reply: ReplyDirectory,
) {
    let listing = match Listing::read(view, asked.ino, handle, offset) {
        Ok(listing) => listing,
        Err(error) => return reply.error(asked.failed(&error)),
    };
    for (cookie, name, InodeNo(ino)) in listing.dots(offset) {
        if reply.add(INodeNo(ino), cookie, FileType::Directory, OsStr::from_bytes(name)) {
            return reply.ok();
        }
    }
    for (cookie, entry) in listing.entries(offset) {
        let (ino, kind) = (INodeNo(entry.stat.ino.0), convert::file_type(entry.stat.kind));
        if reply.add(ino, cookie, kind, OsStr::from_bytes(&entry.name)) {
            break;
        }
    }
    reply.ok();
}

/// Answers with whole entries, each of which counts as a lookup once the kernel has it. Names
/// that have gone since the snapshot are left out.
pub(super) fn entries(
    view: &View,
    asked: Question,
    handle: FileHandle,
    offset: u64,
    mut reply: ReplyDirectoryPlus,
) {
    let (listing, own) =
        match (Listing::read(view, asked.ino, handle, offset), view.stat(asked.ino)) {
            (Ok(listing), Ok(own)) => (listing, convert::attributes(&own)),
            (Err(error), _) | (_, Err(error)) => return reply.error(asked.failed(&error)),
        };
    for (cookie, name, InodeNo(ino)) in listing.dots(offset) {
        // The kernel reads the number and the kind of these two, nothing more.
        let attributes = fuser::FileAttr { ino: INodeNo(ino), ..own };
        let name = OsStr::from_bytes(name);
        if reply.add(INodeNo(ino), cookie, name, &LIFETIME, &attributes, GENERATION) {
            return reply.ok();
        }
    }
    for (cookie, entry) in listing.entries(offset) {
        let stat = match view.lookup(asked.ino, &entry.name) {
            Ok(stat) => stat,
            Err(FsError::NotFound) => continue,
            // Listed so far is listed; the error comes back when its name is looked up.
            Err(error) => {
                asked.failed(&error);
                continue;
            }
        };
        let (ino, name) = (INodeNo(stat.ino.0), OsStr::from_bytes(&entry.name));
        let attributes = convert::attributes(&stat);
        if reply.add(ino, cookie, name, &LIFETIME, &attributes, GENERATION) {
            view.forget(stat.ino, 1);
            break;
        }
    }
    reply.ok();
}

struct Listing {
    own: InodeNo,
    parent: InodeNo,
    entries: Arc<[DirEntry]>,
}

impl Listing {
    fn read(view: &View, ino: InodeNo, handle: FileHandle, offset: u64) -> Result<Self, FsError> {
        let entries = view.read_dir(handle, offset == 0)?;
        // A directory removed while it is open has no parent any more.
        let parent = if offset < DOTS { view.parent(ino).unwrap_or(ino) } else { ino };
        Ok(Self { own: ino, parent, entries })
    }

    /// Cookie of what follows, name and inode of the dots not yet listed.
    fn dots(&self, offset: u64) -> impl Iterator<Item = (u64, &'static [u8], InodeNo)> {
        let dots: [(u64, &[u8], InodeNo); 2] = [(1, b".", self.own), (DOTS, b"..", self.parent)];
        dots.into_iter().filter(move |(cookie, ..)| *cookie > offset)
    }

    /// Cookie of what follows, and entry, of those not yet listed.
    fn entries(&self, offset: u64) -> impl Iterator<Item = (u64, &DirEntry)> {
        let start = usize::try_from(offset.saturating_sub(DOTS)).unwrap_or(usize::MAX);
        self.entries
            .iter()
            .enumerate()
            .skip(start)
            .map(|(place, entry)| (place as u64 + 1 + DOTS, entry))
    }
}
