//! What travels through `POST /v1/import` and `POST /v1/unchanged`.
//!
//! An import is a sequence of items, each a frame: the length of its header (u32, little-endian)
//! and the header in postcard. `Data` is followed by as many raw bytes as it says. A file is
//! `File`, any number of `Data` with rising offsets, then `End`, or `Abort` where it changed while
//! it was read; between its runs are holes. Many items share a request, so that a small file does
//! not cost one. A worked example, a tree of one file:
//!
//! ```text
//! Directory { path: "main/a", meta }            made, where it is not there
//! File { path: "main/a/b", meta, size: 3, stamp }
//! Data { offset: 0, length: 3 } + 3 bytes
//! End
//! Dress { path: "main/a", meta }                 its time, now that nothing moves it any more
//! ```
//!
//! Both sides are of one build, so postcard's order of fields and variants is all the versioning.

use serde::{Deserialize, Serialize};
use xorfs_fuse::{Import, ImportBody};
use xorfs_store::{SourceStamp, Timestamp};

use crate::exit::{Exit, Failure};

/// Longest header in bytes: the attributes of one file may have 512 KiB, a group of hard links
/// as many names as one file can have.
pub(crate) const HEADER_BYTES_MAX: usize = 8 << 20;

/// Most bytes behind one `Data`: what one change of a volume takes.
pub(crate) const DATA_BYTES_MAX: usize = 1 << 20;

/// Paths in one request of `unchanged`.
pub(crate) const ASKED_MAX: usize = 4096;

/// A moment, as `Timestamp`.
pub(crate) type Time = (i64, u32);

/// Names and values of extended attributes.
pub(crate) type XattrPairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Attributes and extended attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) atime: Time,
    pub(crate) xattrs: XattrPairs,
}

/// What a source looked like, as `SourceStamp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
}

/// What has no content of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Special {
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharDevice(u64),
    BlockDevice(u64),
}

/// One item of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Item {
    /// A directory is made, with those above it, unless it is there.
    Directory { path: Vec<u8>, meta: Meta },
    /// A file begins.
    File { path: Vec<u8>, meta: Meta, size: u64, stamp: Option<Stamp> },
    /// A run of the file.
    Data { offset: u64, length: u32 },
    /// The file is complete.
    End,
    /// The file is not to be kept.
    Abort,
    /// A symbolic link, a pipe, a socket or a device.
    Special { path: Vec<u8>, meta: Meta, node: Special },
    /// Further names of a file, all at once.
    Links { file: Vec<u8>, names: Vec<Vec<u8>>, stamp: Option<Stamp> },
    /// What is there gets its attributes.
    Dress { path: Vec<u8>, meta: Meta },
}

/// An item that was refused; all others of its request were taken.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ItemProblem {
    /// Which, counted from 0 without `Data`, `End` and `Abort`.
    pub(crate) item: u64,
    pub(crate) kind: Exit,
    pub(crate) message: String,
}

/// What came of an import.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ImportReply {
    pub(crate) problems: Vec<ItemProblem>,
}

/// Appends an item's frame.
pub(crate) fn encode(item: &Item, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let taken = std::mem::take(out);
    *out = postcard::to_extend(item, taken).expect("an item always encodes");
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Reads an item's header.
pub(crate) fn decode(header: &[u8]) -> Result<Item, Failure> {
    match postcard::take_from_bytes(header) {
        Ok((item, [])) => Ok(item),
        _ => Err(Failure::new(Exit::Usage, "an item of an import makes no sense")),
    }
}

impl Meta {
    /// With what it describes.
    pub(crate) fn with(self, body: ImportBody) -> Result<Import, Failure> {
        let Self { mode, uid, gid, mtime, atime, xattrs } = self;
        if mode > 0o7777 || mtime.1 >= 1_000_000_000 || atime.1 >= 1_000_000_000 {
            return Err(Failure::usage("a mode or a time is out of range"));
        }
        let (mtime, atime) = (timestamp(mtime), timestamp(atime));
        Ok(Import { mode, uid, gid, mtime, atime, xattrs: xattrs.into_iter().collect(), body })
    }
}

impl From<Stamp> for SourceStamp {
    fn from(stamp: Stamp) -> Self {
        let Stamp { device, inode, size, mtime, ctime } = stamp;
        Self { device, inode, size, mtime: timestamp(mtime), ctime: timestamp(ctime) }
    }
}

impl From<Special> for ImportBody {
    fn from(node: Special) -> Self {
        match node {
            Special::Symlink(target) => Self::Symlink(target),
            Special::Fifo => Self::Fifo,
            Special::Socket => Self::Socket,
            Special::CharDevice(number) => Self::CharDevice(number),
            Special::BlockDevice(number) => Self::BlockDevice(number),
        }
    }
}

/// Whole seconds and nanoseconds; those of a stamp may be anything and are compared only.
fn timestamp((seconds, nanos): Time) -> Timestamp {
    Timestamp { seconds, nanos: nanos.min(999_999_999) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_round_trip_and_nonsense_is_refused() {
        let meta = Meta {
            mode: 0o4755,
            mtime: (-1, 999_999_999),
            xattrs: vec![(b"user.a".to_vec(), vec![0, 255])],
            ..Meta::default()
        };
        let stamp = Stamp { device: 1, inode: 2, size: 3, mtime: (4, 5), ctime: (6, 7) };
        let items = [
            Item::File { path: b"main/\xff".to_vec(), meta, size: 3, stamp: Some(stamp) },
            Item::Data { offset: u64::MAX, length: 3 },
            Item::End,
        ];
        let mut frames = Vec::new();
        items.iter().for_each(|item| encode(item, &mut frames));
        let mut rest = frames.as_slice();
        for item in &items {
            let (length, after) = rest.split_first_chunk::<4>().unwrap();
            let (header, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            assert_eq!(decode(header).unwrap(), *item);
            assert!(decode(&header[..header.len() - 1]).is_err(), "cut off");
            assert!(decode(&[header, &[0]].concat()).is_err(), "with something behind it");
            rest = after;
        }
        assert!(rest.is_empty());
        assert!(decode(&[200]).is_err(), "no such item");
    }

    #[test]
    fn attributes_are_checked() {
        let meta = Meta { mode: 0o10000, ..Meta::default() };
        assert!(meta.with(ImportBody::Directory).is_err());
        let meta = Meta { mtime: (0, 1_000_000_000), ..Meta::default() };
        assert!(meta.with(ImportBody::Directory).is_err());
    }
}
