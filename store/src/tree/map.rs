//! File maps: which pieces a file is made of, in order.
//!
//! A node lists extents: a length and the piece (or nothing, for a hole) that covers it. In the
//! lowest maps pieces are data; above, they are maps. Nodes end by content, after an extent whose
//! key has seven zero bits, so that an insertion moves the ends around it only and equal content
//! gives equal maps. This file owns the nodes and where they end; `reader` and `writer` use them.

use crate::format::{Decoder, Encoder, FormatError};
use crate::seal::BlockRef;
use crate::tree::entry::HEIGHT_MAX;

/// Fewest extents of a node but the last of its level; keeps the tree low.
const EXTENTS_MIN: usize = 16;

/// Most extents of a node: at about 80 bytes each, 40 KiB.
const EXTENTS_MAX: usize = 512;

const TAG_HOLE: u8 = 0;
const TAG_PIECE: u8 = 1;

/// A run of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of the file; never 0.
    pub(crate) length: u64,
    /// What holds them; nothing where they read as zeros.
    pub(crate) piece: Option<BlockRef>,
}

/// Whether a node ends after its `count`th extent.
pub(crate) fn ends_node(extent: &Extent, count: usize) -> bool {
    let by_content = extent.piece.as_ref().is_some_and(|piece| piece.key.as_bytes()[0] & 0x7f == 0);
    count >= EXTENTS_MAX || count >= EXTENTS_MIN && by_content
}

/// Encodes the node `height` levels above the data (1 is the lowest).
pub(crate) fn encode(height: u8, extents: &[Extent]) -> Vec<u8> {
    assert!((1..=HEIGHT_MAX).contains(&height), "a map lies above data");
    let mut encoder = Encoder::versioned();
    encoder.u8(height).varint(extents.len() as u64);
    for extent in extents {
        encoder.varint(extent.length);
        match &extent.piece {
            None => {
                encoder.u8(TAG_HOLE);
            }
            Some(piece) => piece.encode(encoder.u8(TAG_PIECE)),
        }
    }
    encoder.finish()
}

/// Decodes a node that must be of the given height and cover `covers` bytes.
pub(crate) fn decode(bytes: &[u8], height: u8, covers: u64) -> Result<Vec<Extent>, FormatError> {
    let mut decoder = Decoder::versioned(bytes)?;
    if decoder.u8()? != height {
        return Err(FormatError::Invalid("a map's height"));
    }
    let count = decoder.count(2)?;
    let mut extents = Vec::with_capacity(count);
    let mut covered = 0_u64;
    for _ in 0..count {
        let length = decoder.varint()?;
        covered = covered
            .checked_add(length)
            .filter(|_| length > 0)
            .ok_or(FormatError::Invalid("an extent's length"))?;
        let piece = match decoder.u8()? {
            TAG_HOLE => None,
            TAG_PIECE => Some(BlockRef::decode(&mut decoder)?),
            _ => return Err(FormatError::Invalid("a kind of extent")),
        };
        if height == 1 && piece.as_ref().is_some_and(|piece| piece.plain_length() != length) {
            return Err(FormatError::Invalid("an extent that is not as long as its piece"));
        }
        extents.push(Extent { length, piece });
    }
    decoder.finish()?;
    if covered != covers {
        return Err(FormatError::Invalid("the length that a map covers"));
    }
    Ok(extents)
}
