//! The piece index: which pieces are stored already, so that equal content is stored once even
//! where it lies in a block with other pieces.
//!
//! A store keeps it as opaque records. Their key is a hash of the piece's key and kind, and where
//! in its block the piece lies is masked with more of the same hash: whoever reads the disk
//! learns how many pieces of this home's volumes a block holds, and neither their lengths nor
//! what they are. Whoever has the plaintext and the volume's convergence secret finds the entry.
//!
//! An entry is a hint. Its block may be gone or damaged, so nothing is named by it before the
//! piece was opened and compared (see `tree::pack`).

use std::fmt;

use crate::format::{Decoder, Encoder, FormatError};
use crate::id::{BlockId, ID_BYTES};
use crate::seal::{BlockRef, Encoding, Kind, PieceKey, check_range};

const HASH_BYTES: usize = 16;

/// Offset, sealed length, and plaintext length where the piece is compressed, else 0.
const MASKED_BYTES: usize = 12;

const PLACE_BYTES: usize = ID_BYTES + MASKED_BYTES;

/// What a piece is found by: half a BLAKE3 hash, which suffices for a hint that is checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceHash([u8; HASH_BYTES]);

/// Where a piece is: the block, and where in it, which only the piece's key tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PiecePlace {
    block: BlockId,
    masked: [u8; MASKED_BYTES],
}

/// Hash and mask of one piece.
pub(crate) struct PieceName {
    pub(crate) hash: PieceHash,
    mask: [u8; MASKED_BYTES],
}

impl PieceName {
    pub(crate) fn of(kind: Kind, key: &PieceKey) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("xorfs 2026-11 v1 piece index");
        hasher.update(key.as_bytes()).update(&[kind as u8]);
        let mut output = hasher.finalize_xof();
        let (mut hash, mut mask) = ([0; HASH_BYTES], [0; MASKED_BYTES]);
        output.fill(&mut hash);
        output.fill(&mut mask);
        Self { hash: PieceHash(hash), mask }
    }

    /// The entry of a piece that lies where `piece` says.
    pub(crate) fn place(&self, piece: &BlockRef) -> PiecePlace {
        let plain_length = match piece.encoding {
            Encoding::Plain => 0,
            Encoding::Zstd { plain_length } => plain_length,
        };
        let mut encoder = Encoder::default();
        encoder.u32(piece.offset).u32(piece.length).u32(plain_length);
        let mut masked = self.mask;
        masked.iter_mut().zip(encoder.finish()).for_each(|(mask, byte)| *mask ^= byte);
        PiecePlace { block: piece.id, masked }
    }

    /// Where an entry says that the piece with `key` lies.
    pub(crate) fn piece(
        &self,
        place: &PiecePlace,
        key: &PieceKey,
    ) -> Result<BlockRef, FormatError> {
        let mut fields = self.mask;
        fields.iter_mut().zip(place.masked).for_each(|(mask, byte)| *mask ^= byte);
        let mut decoder = Decoder::plain(&fields);
        let (offset, length, plain_length) = (decoder.u32()?, decoder.u32()?, decoder.u32()?);
        check_range(offset.into(), length.into())?;
        let encoding = match plain_length {
            0 => Encoding::Plain,
            _ => Encoding::zstd(plain_length.into(), length.into())?,
        };
        Ok(BlockRef { id: place.block, offset, length, encoding, key: key.clone() })
    }
}

impl PieceHash {
    /// Takes a hash as found on disk.
    pub const fn from_bytes(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// The hash.
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }
}

impl PiecePlace {
    /// Takes an entry as found on disk.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut decoder = Decoder::plain(bytes);
        let block = BlockId::from_bytes(decoder.array()?);
        let masked = decoder.array()?;
        decoder.finish()?;
        Ok(Self { block, masked })
    }

    /// The entry's bytes.
    pub fn encode(&self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        bytes[..ID_BYTES].copy_from_slice(self.block.as_bytes());
        bytes[ID_BYTES..].copy_from_slice(&self.masked);
        bytes
    }

    /// The block that holds the piece.
    pub fn block(&self) -> BlockId {
        self.block
    }
}

impl fmt::Debug for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceHash({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

impl fmt::Debug for PiecePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PiecePlace({:?})", self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(encoding: Encoding) -> BlockRef {
        let key = PieceKey::from_bytes([0xbb; 32]);
        BlockRef { id: BlockId::of(b"block"), offset: 70_000, length: 20_000, encoding, key }
    }

    #[test]
    fn entries_open_with_their_key_and_kind_alone() {
        for encoding in [Encoding::Plain, Encoding::Zstd { plain_length: 90_000 }] {
            let piece = piece(encoding);
            let name = PieceName::of(Kind::Data, &piece.key);
            let entry = name.place(&piece).encode();
            let place = PiecePlace::decode(&entry).unwrap();
            assert_eq!(name.piece(&place, &piece.key), Ok(piece.clone()));
            let other = PieceName::of(Kind::Directory, &piece.key);
            assert!(other.hash != name.hash && other.piece(&place, &piece.key).is_err());
        }
    }

    #[test]
    fn the_bytes_of_an_entry_are_pinned() {
        let piece = piece(Encoding::Zstd { plain_length: 90_000 });
        let name = PieceName::of(Kind::Data, &piece.key);
        let entry = [&name.hash.as_bytes()[..], &name.place(&piece).encode()[ID_BYTES..]].concat();
        let pinned = "bee52150db4fa93e8d011e4f081ea73a7ddb21c2eb8b283d81032b3c";
        assert_eq!(data_encoding::HEXLOWER.encode(&entry), pinned);
    }
}
