//! Shards: the nodes of a sorted map whose shape depends on its keys alone.
//!
//! Directories and the hard-link index are such maps. Keys are ordered by the first 64 bits of
//! their BLAKE3 hash, then by themselves. A node with up to `LEAF_ENTRIES_MAX` entries below it
//! is a leaf; a larger one branches into 16 by the next four bits of the hash. So the same
//! entries give the same nodes whatever the order of operations, one change rewrites one leaf
//! and the branches above it, and two maps are compared by walking only what differs.
//!
//! This file owns the nodes and their bytes; `reader` walks them and `update` changes them.

use crate::format::{Decoder, Encoder, FormatError};
use crate::seal::{BlockRef, Kind};
use crate::tree::entry::{Entry, NAME_BYTES_MAX, NameOf};

/// Most entries of a leaf. Small enough that a change rewrites about 10 KiB, large enough that
/// most directories are one node.
pub(crate) const LEAF_ENTRIES_MAX: u64 = 128;

/// Hash bits that each level of branches uses.
const BRANCH_BITS: u32 = 4;

/// Levels after which the 64 bits are used up; a leaf there may be longer.
pub(crate) const DEPTH_MAX: u32 = u64::BITS / BRANCH_BITS;

const TAG_LEAF: u8 = 0;
const TAG_BRANCH: u8 = 1;

/// What a map holds for each key.
pub(crate) trait Record: Clone {
    /// The kind of piece its nodes are sealed as.
    const KIND: Kind;
    /// Longest key in bytes.
    const KEY_BYTES_MAX: usize;
    fn encode(&self, encoder: &mut Encoder);
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError>;
}

impl Record for Entry {
    const KIND: Kind = Kind::Directory;
    const KEY_BYTES_MAX: usize = NAME_BYTES_MAX;

    fn encode(&self, encoder: &mut Encoder) {
        self.encode(encoder);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        Self::decode(decoder)
    }
}

/// The names of one inode in the hard-link index, whose keys are big-endian inode numbers.
impl Record for Vec<NameOf> {
    const KIND: Kind = Kind::Names;
    const KEY_BYTES_MAX: usize = 8;

    fn encode(&self, encoder: &mut Encoder) {
        encoder.varint(self.len() as u64);
        for name in self {
            name.encode(encoder);
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let count = decoder.count(2)?;
        (0..count).map(|_| NameOf::decode(decoder)).collect()
    }
}

/// One key of a leaf with its hash.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item<R> {
    pub(crate) hash: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) record: R,
}

/// One child of a branch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Child {
    /// `0..16`, the bits that lead here.
    pub(crate) slot: u8,
    /// Entries below.
    pub(crate) count: u64,
    pub(crate) piece: BlockRef,
}

/// A node as it is sealed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shard<R> {
    /// Items in ascending order.
    Leaf(Vec<Item<R>>),
    /// Children in ascending order of slots.
    Branch(Vec<Child>),
}

/// Where a key stands in the order.
pub(crate) fn hash_of(key: &[u8]) -> u64 {
    let hash = blake3::hash(key);
    let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("32 bytes hold 8");
    u64::from_be_bytes(*first)
}

/// The child that `hash` belongs to in a branch `depth` levels below the root.
pub(crate) fn slot_of(hash: u64, depth: u32) -> u8 {
    (hash >> (u64::BITS - BRANCH_BITS * (depth + 1)) & 0xf) as u8
}

/// Whether `count` entries at this depth are a leaf.
pub(crate) fn is_leaf(count: u64, depth: u32) -> bool {
    count <= LEAF_ENTRIES_MAX || depth == DEPTH_MAX
}

impl<R: Record> Shard<R> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::versioned();
        match self {
            Self::Leaf(items) => {
                encoder.u8(TAG_LEAF).varint(items.len() as u64);
                for item in items {
                    encoder.bytes(&item.key);
                    item.record.encode(&mut encoder);
                }
            }
            Self::Branch(children) => {
                let slots = children.iter().fold(0_u16, |slots, child| slots | 1 << child.slot);
                encoder.u8(TAG_BRANCH).raw(&slots.to_le_bytes());
                for child in children {
                    encoder.varint(child.count);
                    child.piece.encode(&mut encoder);
                }
            }
        }
        encoder.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut decoder = Decoder::versioned(bytes)?;
        let shard = match decoder.u8()? {
            TAG_LEAF => Self::Leaf(decode_leaf(&mut decoder)?),
            TAG_BRANCH => Self::Branch(decode_branch(&mut decoder)?),
            _ => return Err(FormatError::Invalid("a kind of shard")),
        };
        decoder.finish()?;
        Ok(shard)
    }
}

fn decode_leaf<R: Record>(decoder: &mut Decoder<'_>) -> Result<Vec<Item<R>>, FormatError> {
    let count = decoder.count(2)?;
    let mut items: Vec<Item<R>> = Vec::with_capacity(count);
    for _ in 0..count {
        let key = decoder.bytes()?;
        if key.is_empty() || key.len() > R::KEY_BYTES_MAX {
            return Err(FormatError::Invalid("a key's length"));
        }
        let hash = hash_of(key);
        if items.last().is_some_and(|last| (last.hash, last.key.as_slice()) >= (hash, key)) {
            return Err(FormatError::Invalid("the order of keys"));
        }
        let record = R::decode(decoder)?;
        items.push(Item { hash, key: key.to_vec(), record });
    }
    Ok(items)
}

fn decode_branch(decoder: &mut Decoder<'_>) -> Result<Vec<Child>, FormatError> {
    let slots = u16::from_le_bytes(decoder.array()?);
    let present = (0..16).filter(|slot| slots >> slot & 1 == 1);
    present
        .map(|slot| {
            let count = decoder.varint()?;
            Ok(Child { slot, count, piece: BlockRef::decode(decoder)? })
        })
        .collect()
}
