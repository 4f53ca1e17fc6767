//! Entries: what a directory says of each name, enough to answer `stat` without reading the child.
//!
//! An entry is self-contained: attributes, small extended attributes and the ref of the content.
//! Encodings are canonical: the same entry is always the same bytes.

use std::collections::BTreeMap;

use crate::format::{Decoder, Encoder, FormatError};
use crate::seal::BlockRef;

/// Longest name in bytes, as on every Linux filesystem.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest symlink target in bytes (`PATH_MAX` less its terminator).
pub const SYMLINK_BYTES_MAX: usize = 4095;

/// Extended attributes up to this many encoded bytes stand in the entry; larger ones get a piece
/// of their own, so that a leaf of 128 entries stays well below a block.
pub const XATTR_INLINE_BYTES_MAX: usize = 1024;

/// Encoded bytes of all extended attributes of one file. One piece holds them.
pub const XATTR_BYTES_MAX: usize = 512 << 10;

/// A moment: seconds since 1970, which may be negative, and nanoseconds after them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// `0..1_000_000_000`.
    pub nanos: u32,
}

/// What `stat` tells besides kind and size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr {
    /// Inode number inside the volume; 1 is the volume's root. Never reused.
    pub ino: u64,
    /// Permission bits with set-id and sticky bits: `0..=0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of this inode; 1 for directories.
    pub nlink: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Last access, as set by hand; reading does not move it.
    pub atime: Timestamp,
    /// Creation.
    pub crtime: Timestamp,
}

/// Where the content of a file or a directory is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Bytes of a file; entries of a directory.
    pub size: u64,
    /// Levels of maps above the data of a file: at 0 the root ref is the only piece itself.
    /// Always 0 for directories.
    pub height: u8,
    /// None where there is nothing: an empty file or directory, or a file that is one hole.
    pub root: Option<BlockRef>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory(Content),
    /// A symbolic link and its target, `1..=SYMLINK_BYTES_MAX` bytes.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A character device by number.
    CharDevice(u64),
    /// A block device by number.
    BlockDevice(u64),
}

/// Extended attributes by name.
pub type XattrMap = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where a file's extended attributes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xattrs {
    /// In the entry: at most `XATTR_INLINE_BYTES_MAX` encoded.
    Inline(XattrMap),
    /// In a piece of their own.
    Sealed(BlockRef),
}

impl Default for Xattrs {
    fn default() -> Self {
        Self::Inline(XattrMap::new())
    }
}

/// All that a directory says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Attributes.
    pub attr: Attr,
    /// Kind and content.
    pub node: Node,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// The root of a volume: what its head names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRoot {
    /// The volume's top directory.
    pub directory: Entry,
    /// The hard-link index: inode number → every name of it, for inodes with more than one name
    /// and for the directories above those, so that a change made through one name finds the
    /// others. A `Content` like a directory's.
    pub names: Content,
    /// The next inode number to give out.
    pub next_ino: u64,
}

/// One name of an inode: the directory's inode number and the name in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameOf {
    /// Inode number of the directory.
    pub parent: u64,
    /// The name.
    pub name: Vec<u8>,
}

const TAG_FILE: u8 = 1;
const TAG_DIRECTORY: u8 = 2;
const TAG_SYMLINK: u8 = 3;
const TAG_FIFO: u8 = 4;
const TAG_SOCKET: u8 = 5;
const TAG_CHAR_DEVICE: u8 = 6;
const TAG_BLOCK_DEVICE: u8 = 7;

const XATTRS_INLINE: u8 = 0;
const XATTRS_SEALED: u8 = 1;

impl Timestamp {
    pub(crate) fn encode(self, encoder: &mut Encoder) {
        encoder.i64(self.seconds).u32(self.nanos);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let (seconds, nanos) = (decoder.i64()?, decoder.u32()?);
        if nanos >= 1_000_000_000 {
            return Err(FormatError::Invalid("a second's nanoseconds"));
        }
        Ok(Self { seconds, nanos })
    }
}

impl Attr {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.varint(self.ino).varint(self.mode.into()).varint(self.uid.into());
        encoder.varint(self.gid.into()).varint(self.nlink.into());
        for time in [self.mtime, self.ctime, self.atime, self.crtime] {
            time.encode(encoder);
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let ino = decoder.varint()?;
        let mode = narrow(decoder.varint()?)?;
        if mode > 0o7777 {
            return Err(FormatError::Invalid("a mode over 0o7777"));
        }
        let (uid, gid) = (narrow(decoder.varint()?)?, narrow(decoder.varint()?)?);
        let nlink = narrow(decoder.varint()?)?;
        let mtime = Timestamp::decode(decoder)?;
        let ctime = Timestamp::decode(decoder)?;
        let atime = Timestamp::decode(decoder)?;
        let crtime = Timestamp::decode(decoder)?;
        Ok(Self { ino, mode, uid, gid, nlink, mtime, ctime, atime, crtime })
    }
}

impl Content {
    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.varint(self.size);
        match &self.root {
            None => {
                encoder.u8(0);
            }
            Some(root) => {
                encoder.u8(self.height + 1);
                root.encode(encoder);
            }
        }
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let size = decoder.varint()?;
        match decoder.u8()? {
            0 => Ok(Self { size, height: 0, root: None }),
            above if above > HEIGHT_MAX + 1 => Err(FormatError::Invalid("a map's height")),
            above => Ok(Self { size, height: above - 1, root: Some(BlockRef::decode(decoder)?) }),
        }
    }
}

/// Highest map tree: at least 16 entries a node over 64 KiB pieces covers 2^64 bytes at 12.
pub(crate) const HEIGHT_MAX: u8 = 12;

impl Node {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::File(content) => content.encode(encoder.u8(TAG_FILE)),
            Self::Directory(content) => content.encode(encoder.u8(TAG_DIRECTORY)),
            Self::Symlink(target) => {
                encoder.u8(TAG_SYMLINK).bytes(target);
            }
            Self::Fifo => {
                encoder.u8(TAG_FIFO);
            }
            Self::Socket => {
                encoder.u8(TAG_SOCKET);
            }
            Self::CharDevice(number) => {
                encoder.u8(TAG_CHAR_DEVICE).varint(*number);
            }
            Self::BlockDevice(number) => {
                encoder.u8(TAG_BLOCK_DEVICE).varint(*number);
            }
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        Ok(match decoder.u8()? {
            TAG_FILE => Self::File(Content::decode(decoder)?),
            TAG_DIRECTORY => Self::Directory(Content::decode(decoder)?),
            TAG_SYMLINK => match decoder.bytes()? {
                target if (1..=SYMLINK_BYTES_MAX).contains(&target.len()) => {
                    Self::Symlink(target.to_vec())
                }
                _ => return Err(FormatError::Invalid("a symlink's length")),
            },
            TAG_FIFO => Self::Fifo,
            TAG_SOCKET => Self::Socket,
            TAG_CHAR_DEVICE => Self::CharDevice(decoder.varint()?),
            TAG_BLOCK_DEVICE => Self::BlockDevice(decoder.varint()?),
            _ => return Err(FormatError::Invalid("a kind of entry")),
        })
    }
}

impl Xattrs {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Inline(map) => encode_xattrs(map, encoder.u8(XATTRS_INLINE)),
            Self::Sealed(piece) => piece.encode(encoder.u8(XATTRS_SEALED)),
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        match decoder.u8()? {
            XATTRS_INLINE => Ok(Self::Inline(decode_xattrs(decoder)?)),
            XATTRS_SEALED => Ok(Self::Sealed(BlockRef::decode(decoder)?)),
            _ => Err(FormatError::Invalid("a place of extended attributes")),
        }
    }
}

/// Appends attributes in name order; also the plaintext of an attribute piece.
pub(crate) fn encode_xattrs(map: &XattrMap, encoder: &mut Encoder) {
    encoder.varint(map.len() as u64);
    for (name, value) in map {
        encoder.bytes(name).bytes(value);
    }
}

pub(crate) fn decode_xattrs(decoder: &mut Decoder<'_>) -> Result<XattrMap, FormatError> {
    let count = decoder.count(2)?;
    let mut map = XattrMap::new();
    for _ in 0..count {
        let (name, value) = (decoder.bytes()?, decoder.bytes()?);
        if map.last_key_value().is_some_and(|(last, _)| last.as_slice() >= name) {
            return Err(FormatError::Invalid("the order of extended attributes"));
        }
        map.insert(name.to_vec(), value.to_vec());
    }
    Ok(map)
}

impl Entry {
    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        self.attr.encode(encoder);
        self.node.encode(encoder);
        self.xattrs.encode(encoder);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let attr = Attr::decode(decoder)?;
        let node = Node::decode(decoder)?;
        let xattrs = Xattrs::decode(decoder)?;
        Ok(Self { attr, node, xattrs })
    }

    /// Bytes of a file or a symlink's target; 0 for everything else.
    pub fn size(&self) -> u64 {
        match &self.node {
            Node::File(content) => content.size,
            Node::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }
}

impl VolumeRoot {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::versioned();
        self.directory.encode(&mut encoder);
        self.names.encode(&mut encoder);
        encoder.varint(self.next_ino);
        encoder.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut decoder = Decoder::versioned(bytes)?;
        let directory = Entry::decode(&mut decoder)?;
        let names = Content::decode(&mut decoder)?;
        let next_ino = decoder.varint()?;
        decoder.finish()?;
        if !matches!(directory.node, Node::Directory(_)) {
            return Err(FormatError::Invalid("a volume root that is no directory"));
        }
        Ok(Self { directory, names, next_ino })
    }
}

impl NameOf {
    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.varint(self.parent).bytes(&self.name);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        Ok(Self { parent: decoder.varint()?, name: decoder.bytes()?.to_vec() })
    }
}

fn narrow(value: u64) -> Result<u32, FormatError> {
    u32::try_from(value).map_err(|_| FormatError::Invalid("a number over 32 bits"))
}
