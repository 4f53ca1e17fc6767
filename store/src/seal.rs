//! Sealing: plaintext pieces to bytes that only the holder of the piece's key can open.
//!
//! A piece's key is the keyed BLAKE3 of its plaintext under the volume's convergence secret, so
//! equal content in one volume seals to equal bytes and nobody without the secret can confirm a
//! guess. The piece is sealed with AES-256-GCM-SIV in segments of 16 KiB, each with its number in
//! the nonce and the last one marked, so that a random read opens one segment and that none can
//! be cut off, repeated or moved. Associated data binds the kind of piece, the encoding and the
//! format version: a map can never be read as data. Before sealing, a piece is compressed where
//! that pays (see `compress`); its key is that of the plaintext all the same.
//!
//! Keys are wiped when dropped, and no `Debug` shows one.

use std::fmt;
use std::ops::Range;

use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::block::BLOCK_BYTES_MAX;
use crate::compress::{self, DecompressError};
use crate::format::{Decoder, Encoder, FORMAT_VERSION, FormatError};
use crate::id::BlockId;
use crate::plaintext::Plaintext;
use crate::tree::volume::ConvergenceSecret;

/// Plaintext bytes in a segment. Measured: 4 KiB random reads fall from 20,000/s to 2,000/s as
/// the sealed unit grows from 64 KiB to 1 MiB, and below 16 KiB the cipher itself slows down.
pub(crate) const SEGMENT_BYTES: usize = 16 << 10;

/// Bytes that sealing adds to each segment: the authentication tag.
pub(crate) const TAG_BYTES: usize = 16;

const SEALED_SEGMENT_BYTES: usize = SEGMENT_BYTES + TAG_BYTES;

/// Longest plaintext piece: what still fits a block once every segment has its tag.
pub(crate) const PIECE_BYTES_MAX: usize = BLOCK_BYTES_MAX / SEALED_SEGMENT_BYTES * SEGMENT_BYTES;

const _: () = assert!(sealed_length(PIECE_BYTES_MAX) <= BLOCK_BYTES_MAX);

/// What a piece holds. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A run of a file.
    Data = 1,
    /// A node of a file map.
    Map = 2,
    /// A node of a directory.
    Directory = 3,
    /// The root of a volume.
    VolumeRoot = 4,
    /// A node of the hard-link index.
    Names = 5,
    /// The extended attributes of one file.
    Xattrs = 6,
    /// A journal record (see `staging`); never in a block.
    Journal = 7,
    /// The root ref inside a head; never in a block.
    HeadRoot = 8,
    /// What a file was put from (see `sources`); never in a block.
    Source = 9,
}

const ENCODING_PLAIN: u8 = 0;
const ENCODING_ZSTD: u8 = 1;

/// What the sealed bytes of a piece are once opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// The plaintext as it is.
    Plain,
    /// The plaintext compressed, of so many bytes.
    Zstd { plain_length: u32 },
}

impl Encoding {
    fn tag(self) -> u8 {
        match self {
            Self::Plain => ENCODING_PLAIN,
            Self::Zstd { .. } => ENCODING_ZSTD,
        }
    }

    pub(crate) fn encode(self, encoder: &mut Encoder) {
        encoder.u8(self.tag());
        if let Self::Zstd { plain_length } = self {
            encoder.varint(plain_length.into());
        }
    }

    /// Decodes the encoding of a piece of `sealed` bytes. What is compressed is shorter than its
    /// plaintext, which is as short as any piece.
    pub(crate) fn decode(decoder: &mut Decoder<'_>, sealed: u64) -> Result<Self, FormatError> {
        match decoder.u8()? {
            ENCODING_PLAIN => Ok(Self::Plain),
            ENCODING_ZSTD => Self::zstd(decoder.varint()?, sealed),
            _ => Err(FormatError::Invalid("an encoding of pieces that this version knows not")),
        }
    }

    /// The encoding of a compressed piece of `sealed` bytes.
    pub(crate) fn zstd(plain_length: u64, sealed: u64) -> Result<Self, FormatError> {
        let shrinks = plain_length > unsealed_length(sealed);
        if !shrinks || plain_length > PIECE_BYTES_MAX as u64 {
            return Err(FormatError::Invalid("the length of a compressed piece"));
        }
        Ok(Self::Zstd { plain_length: plain_length as u32 })
    }
}

/// The key of one piece.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct PieceKey([u8; 32]);

impl PieceKey {
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Derives the key of `plaintext` in the volume that `secret` belongs to.
    pub(crate) fn derive(secret: &ConvergenceSecret, plaintext: &[u8]) -> Self {
        Self(*blake3::keyed_hash(secret.as_bytes(), plaintext).as_bytes())
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Where a piece is and what opens it: a capability. Whoever has the ref reads the piece, and
/// through a map or a directory all that is below it.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockRef {
    pub(crate) id: BlockId,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) encoding: Encoding,
    pub(crate) key: PieceKey,
}

impl BlockRef {
    /// The block that holds the piece.
    pub fn block(&self) -> BlockId {
        self.id
    }

    /// Plaintext bytes of the piece.
    pub(crate) fn plain_length(&self) -> u64 {
        match self.encoding {
            Encoding::Plain => unsealed_length(self.length.into()),
            Encoding::Zstd { plain_length } => plain_length.into(),
        }
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.raw(self.id.as_bytes()).varint(self.offset.into()).varint(self.length.into());
        self.encoding.encode(encoder);
        encoder.raw(self.key.as_bytes());
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let id = BlockId::from_bytes(decoder.array()?);
        let (offset, length) = (decoder.varint()?, decoder.varint()?);
        check_range(offset, length)?;
        let encoding = Encoding::decode(decoder, length)?;
        let key = PieceKey(decoder.array()?);
        Ok(Self { id, offset: offset as u32, length: length as u32, encoding, key })
    }
}

impl fmt::Debug for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockRef({:?} {}+{})", self.id, self.offset, self.length)
    }
}

/// Whether a sealed piece can lie there in a block.
pub(crate) fn check_range(offset: u64, length: u64) -> Result<(), FormatError> {
    let end = offset.checked_add(length);
    let fits = end.is_some_and(|end| end <= BLOCK_BYTES_MAX as u64);
    let last_segment = length % SEALED_SEGMENT_BYTES as u64;
    if !fits || length == 0 || (1..=TAG_BYTES as u64).contains(&last_segment) {
        return Err(FormatError::Invalid("a piece's range in its block"));
    }
    Ok(())
}

/// Sealed bytes did not open: the key is another's, or they are not what was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnsealError {
    /// The cipher refuses them.
    #[error("a sealed piece does not open with its key")]
    Cipher,
    /// The cipher opens them, and what is compressed in them is nonsense: so it was written.
    #[error(transparent)]
    Compression(#[from] DecompressError),
}

/// Sealed bytes of a plaintext of this length.
pub(crate) const fn sealed_length(plain: usize) -> usize {
    plain + plain.div_ceil(SEGMENT_BYTES) * TAG_BYTES
}

/// Bytes in a sealed piece of this length, before they are decompressed.
fn unsealed_length(sealed: u64) -> u64 {
    sealed.saturating_sub(sealed.div_ceil(SEALED_SEGMENT_BYTES as u64) * TAG_BYTES as u64)
}

/// Appends the sealed form of `plaintext`, which is not empty, to `out`, compressed where that
/// pays. What it returns goes into the ref.
pub(crate) fn seal_piece(
    kind: Kind,
    key: &PieceKey,
    plaintext: &[u8],
    out: &mut Vec<u8>,
) -> Encoding {
    match compress::compress(plaintext) {
        Some(packed) => {
            let plain_length = u32::try_from(plaintext.len()).expect("a piece fits a block");
            let encoding = Encoding::Zstd { plain_length };
            seal_encoded(kind, encoding, key, &packed, out);
            encoding
        }
        None => {
            seal(kind, key, plaintext, out);
            Encoding::Plain
        }
    }
}

/// Opens the part of a piece that covers `range` of its plaintext, from the sealed bytes that its
/// ref names. The range must lie inside the piece; only the segments that it needs are opened.
pub(crate) fn open_piece(
    kind: Kind,
    piece: &BlockRef,
    sealed: &[u8],
    range: Range<usize>,
) -> Result<Plaintext, UnsealError> {
    let mut plain = Plaintext::with_capacity(room_for(piece, &range));
    open_piece_into(kind, piece, sealed, range, &mut plain)?;
    Ok(plain)
}

/// Bytes that opening `range` takes while it goes on: whole segments or frames are opened, and
/// what sticks out is cut off.
pub(crate) fn room_for(piece: &BlockRef, range: &Range<usize>) -> usize {
    let unit = match piece.encoding {
        Encoding::Plain => SEGMENT_BYTES,
        Encoding::Zstd { .. } => compress::FRAME_BYTES,
    };
    (range.end.div_ceil(unit) - range.start / unit) * unit
}

/// Appends the plaintext of a part of a piece to `plain`, as `open_piece` opens it. With
/// `room_for` the range to spare, nothing is left behind by growing.
pub(crate) fn open_piece_into(
    kind: Kind,
    piece: &BlockRef,
    sealed: &[u8],
    range: Range<usize>,
    plain: &mut Plaintext,
) -> Result<(), UnsealError> {
    let Encoding::Zstd { plain_length } = piece.encoding else {
        return unseal_into(kind, Encoding::Plain, &piece.key, sealed, range, plain);
    };
    let plain_length = plain_length as usize;
    let packed_length = unsealed_length(sealed.len() as u64) as usize;
    let table_bytes = compress::table_bytes(plain_length);
    let open = |range| unseal_encoded(kind, piece.encoding, &piece.key, sealed, range);
    // All of it in one go where it is wanted, or where it is little more than the table.
    let whole = range.len() == plain_length || packed_length <= SEGMENT_BYTES;
    let head = open(if whole { 0..packed_length } else { 0..table_bytes })?;
    let table = head.get(..table_bytes).ok_or(DecompressError)?;
    let frames = compress::frames(table, plain_length, packed_length, &range)?;
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
        return Ok(());
    };
    let (from, packed) = match whole {
        true => (0, head),
        false => (first.start, open(first.start..last.end)?),
    };
    let first_number = range.start / compress::FRAME_BYTES;
    let start = plain.len();
    for (number, frame) in (first_number..).zip(frames) {
        let frame = packed.get(frame.start - from..frame.end - from).ok_or(DecompressError)?;
        compress::decompress_frame(frame, number, plain_length, plain)?;
    }
    cut(plain, start, range.start - first_number * compress::FRAME_BYTES, range.len())
}

/// Appends the sealed form of `plaintext`, which is not empty, to `out`, as it is.
pub(crate) fn seal(kind: Kind, key: &PieceKey, plaintext: &[u8], out: &mut Vec<u8>) {
    seal_encoded(kind, Encoding::Plain, key, plaintext, out);
}

fn seal_encoded(
    kind: Kind,
    encoding: Encoding,
    key: &PieceKey,
    plaintext: &[u8],
    out: &mut Vec<u8>,
) {
    assert!(!plaintext.is_empty(), "an empty piece is written as none at all");
    let cipher = Aes256GcmSiv::new(key.as_bytes().into());
    let segments = plaintext.len().div_ceil(SEGMENT_BYTES);
    out.reserve(sealed_length(plaintext.len()));
    for (number, segment) in plaintext.chunks(SEGMENT_BYTES).enumerate() {
        let start = out.len();
        out.extend_from_slice(segment);
        let tag = cipher
            .encrypt_inout_detached(
                &nonce(number, number + 1 == segments),
                &associated(kind, encoding),
                (&mut out[start..]).into(),
            )
            .expect("a segment is far below the cipher's limit");
        out.extend_from_slice(&tag);
    }
}

/// Opens the part of a piece sealed as it is that covers `range` of its plaintext. The range must
/// lie inside the piece; only the segments it touches are read and opened.
pub(crate) fn unseal_range(
    kind: Kind,
    key: &PieceKey,
    sealed: &[u8],
    range: Range<usize>,
) -> Result<Plaintext, UnsealError> {
    unseal_encoded(kind, Encoding::Plain, key, sealed, range)
}

fn unseal_encoded(
    kind: Kind,
    encoding: Encoding,
    key: &PieceKey,
    sealed: &[u8],
    range: Range<usize>,
) -> Result<Plaintext, UnsealError> {
    let segments = range.start / SEGMENT_BYTES..range.end.div_ceil(SEGMENT_BYTES);
    let mut plain = Plaintext::with_capacity(segments.len() * SEGMENT_BYTES);
    unseal_into(kind, encoding, key, sealed, range, &mut plain)?;
    Ok(plain)
}

fn unseal_into(
    kind: Kind,
    encoding: Encoding,
    key: &PieceKey,
    sealed: &[u8],
    range: Range<usize>,
    plain: &mut Plaintext,
) -> Result<(), UnsealError> {
    let cipher = Aes256GcmSiv::new(key.as_bytes().into());
    let segments = sealed.len().div_ceil(SEALED_SEGMENT_BYTES);
    let first = range.start / SEGMENT_BYTES;
    let end = range.end.div_ceil(SEGMENT_BYTES).min(segments);
    let before = plain.len();
    for number in first..end {
        let from = number * SEALED_SEGMENT_BYTES;
        let to = sealed.len().min(from + SEALED_SEGMENT_BYTES);
        let (body, tag) =
            sealed[from..to].split_last_chunk::<TAG_BYTES>().ok_or(UnsealError::Cipher)?;
        let start = plain.len();
        plain.extend_from_slice(body);
        cipher
            .decrypt_inout_detached(
                &nonce(number, number + 1 == segments),
                &associated(kind, encoding),
                (&mut plain[start..]).into(),
                &Tag::from(*tag),
            )
            .map_err(|_| UnsealError::Cipher)?;
    }
    cut(plain, before, range.start - first * SEGMENT_BYTES, range.len())
}

/// Of what was appended from `start` on, leaves `length` bytes behind the first `skip`.
fn cut(plain: &mut Vec<u8>, start: usize, skip: usize, length: usize) -> Result<(), UnsealError> {
    let from = start + skip;
    if plain.len() < from + length {
        return Err(UnsealError::Cipher);
    }
    if skip > 0 {
        plain.copy_within(from..from + length, start);
    }
    plain.truncate(start + length);
    Ok(())
}

/// Opens a whole piece sealed as it is.
pub(crate) fn unseal(kind: Kind, key: &PieceKey, sealed: &[u8]) -> Result<Plaintext, UnsealError> {
    let segments = sealed.len().div_ceil(SEALED_SEGMENT_BYTES);
    let plain = sealed.len().checked_sub(segments * TAG_BYTES).ok_or(UnsealError::Cipher)?;
    unseal_range(kind, key, sealed, 0..plain)
}

fn nonce(number: usize, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
    nonce[11] = last.into();
    nonce.into()
}

fn associated(kind: Kind, encoding: Encoding) -> [u8; 3] {
    [FORMAT_VERSION, kind as u8, encoding.tag()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> ConvergenceSecret {
        crate::VolumeSecret::from_bytes([3; 32]).convergence_secret()
    }

    fn sealed(plaintext: &[u8]) -> (PieceKey, Vec<u8>) {
        let key = PieceKey::derive(&secret(), plaintext);
        let mut out = Vec::new();
        seal(Kind::Data, &key, plaintext, &mut out);
        (key, out)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_range_opens(length in 1_usize..70_000, from: usize, to: usize) {
            let plain: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let (key, sealed) = sealed(&plain);
            prop_assert_eq!(sealed.len(), sealed_length(length));
            let (from, to) = (from % length, to % (length + 1));
            let range = from.min(to)..from.max(to);
            let opened = unseal_range(Kind::Data, &key, &sealed, range.clone());
            prop_assert_eq!(&opened.unwrap()[..], &plain[range]);
        }

        /// The same of a piece that is compressed, and of none under another's encoding.
        #[test]
        fn any_range_of_a_compressed_piece_opens(length in 2_000_usize..300_000, from: usize, to: usize) {
            let plain: Vec<u8> = (0..length).map(|i| (i / 9 % 251 * (i % 9)) as u8).collect();
            let key = PieceKey::derive(&secret(), &plain);
            let mut sealed = Vec::new();
            let encoding = seal_piece(Kind::Data, &key, &plain, &mut sealed);
            prop_assert_eq!(encoding, Encoding::Zstd { plain_length: length as u32 });
            prop_assert!(sealed.len() < sealed_length(length));
            let (id, offset) = (BlockId::from_bytes([0; 32]), 0);
            let piece = BlockRef { id, offset, length: sealed.len() as u32, encoding, key };
            let (from, to) = (from % length, to % (length + 1));
            let range = from.min(to)..from.max(to);
            let opened = open_piece(Kind::Data, &piece, &sealed, range.clone());
            prop_assert_eq!(&opened.unwrap()[..], &plain[range.clone()]);
            prop_assert!(unseal(Kind::Data, &piece.key, &sealed).is_err());
            for plain_length in [1, sealed.len() as u32, PIECE_BYTES_MAX as u32] {
                let lie = BlockRef { encoding: Encoding::Zstd { plain_length }, ..piece.clone() };
                let opened = open_piece(Kind::Data, &lie, &sealed, 0..plain_length as usize);
                prop_assert!(plain_length == length as u32 || opened.is_err());
            }
        }

        #[test]
        fn a_flipped_bit_does_not_open(length in 1_usize..40_000, at: usize, bit in 0..8) {
            let (key, mut sealed) = sealed(&vec![9; length]);
            let at = at % sealed.len();
            sealed[at] ^= 1_u8 << bit;
            prop_assert!(unseal(Kind::Data, &key, &sealed).is_err());
        }
    }

    #[test]
    fn segments_cannot_be_cut_moved_or_taken_for_another_kind() {
        let (key, sealed) = sealed(&vec![1; 3 * SEGMENT_BYTES]);
        assert!(unseal(Kind::Data, &key, &sealed).is_ok());
        assert!(unseal(Kind::Map, &key, &sealed).is_err());
        assert!(unseal(Kind::Data, &key, &sealed[..2 * SEALED_SEGMENT_BYTES]).is_err());
        let (first, rest) = sealed.split_at(SEALED_SEGMENT_BYTES);
        let swapped = [&rest[..SEALED_SEGMENT_BYTES], first, &rest[SEALED_SEGMENT_BYTES..]];
        assert!(unseal(Kind::Data, &key, &swapped.concat()).is_err());
    }

    #[test]
    fn the_longest_piece_fills_a_block() {
        let (_, sealed) = sealed(&vec![5; PIECE_BYTES_MAX]);
        assert!(sealed.len() <= BLOCK_BYTES_MAX && sealed.len() > BLOCK_BYTES_MAX - 33_000);
    }

    #[test]
    fn equal_plaintext_seals_equally_in_one_volume_only() {
        let other = crate::VolumeSecret::from_bytes([4; 32]).convergence_secret();
        assert!(sealed(b"same") == sealed(b"same"));
        assert!(PieceKey::derive(&secret(), b"same") != PieceKey::derive(&other, b"same"));
    }
}
