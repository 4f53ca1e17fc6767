//! Compression of pieces, in frames that open one by one.
//!
//! A piece is compressed with zstd in frames of 32 KiB of plaintext, each on its own, with a
//! table of their lengths in front, so that a random read opens and decompresses a frame and not
//! the piece. A frame that does not shrink is stored as it is. Whether a piece is compressed at
//! all depends on its bytes alone, never on what was sealed before, so that equal content seals
//! equally.
//!
//! Bytes to decompress come from whoever wrote the volume: every length is checked against what
//! the ref allows before anything is allocated, and zstd writes into a buffer of the frame's
//! plaintext length and no further.
//!
//! Deliberately absent: wiping zstd's own buffers. They belong to a thread, hold at most the last
//! frame that it worked on and are freed with the thread.

use std::cell::RefCell;
use std::ops::Range;

use zstd::bulk::{Compressor, Decompressor};

use crate::plaintext::Plaintext;

/// Plaintext bytes in a frame. Smaller ones compress worse, larger ones make a read of 4 KiB
/// decompress more. Measured on source code: 16 KiB shrink to 22.4 %, 32 KiB to 21.5 %, 64 KiB to
/// 20.3 %, and decompressing takes about a microsecond a KiB, where opening a segment takes nine
/// in all. Part of the format.
pub(crate) const FRAME_BYTES: usize = 32 << 10;

/// Width of a frame's length in the table. It holds the length less one, which fits.
const LENGTH_BYTES: usize = 2;

const _: () = assert!(FRAME_BYTES - 1 <= u16::MAX as usize);

/// zstd's level. On two cores that also seal, hash and serve, the disk should be what an import
/// waits for, and higher levels gain little on frames this short.
const LEVEL: i32 = 1;

/// Shorter pieces stay as they are: zstd's own header takes what there is to gain.
const PIECE_BYTES_MIN: usize = 64;

/// Pieces up to this length are compressed without a probe, which would look at most of them.
const UNPROBED_BYTES_MAX: usize = 8 << 10;

/// What the probe looks at: so many samples of so many bytes, spread over the piece.
const SAMPLES: usize = 4;
const SAMPLE_BYTES: usize = 1 << 10;

/// Share of its length that a piece, or a frame in it, has to lose. For less than a sixteenth it
/// is not worth decompressing at every read.
const GAIN_SHARE: usize = 16;

/// The same for the samples together. They are too short to show all that a frame would gain, so
/// they need to show only half as much; media and sealed data show nothing at all.
const PROBE_GAIN_SHARE: usize = 32;

/// What was compressed does not decompress to the length it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a compressed piece does not decompress")]
pub(crate) struct DecompressError;

thread_local! {
    /// A context is some 100 KiB that take longer to set up than a small piece to compress.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The compressed form of a piece, or nothing where compressing does not pay.
pub(crate) fn compress(plaintext: &[u8]) -> Option<Plaintext> {
    if plaintext.len() < PIECE_BYTES_MIN || !shows_gain(plaintext) {
        return None;
    }
    let allowed = plaintext.len() - plaintext.len() / GAIN_SHARE;
    let table = table_bytes(plaintext.len());
    let mut packed = Plaintext::from(vec![0; plaintext.len() + table]);
    let mut end = table;
    for (number, frame) in plaintext.chunks(FRAME_BYTES).enumerate() {
        let room = frame.len() - frame.len() / GAIN_SHARE;
        let length = match compress_frame(frame, &mut packed[end..end + room]) {
            Some(length) => length,
            None => {
                packed[end..end + frame.len()].copy_from_slice(frame);
                frame.len()
            }
        };
        end += length;
        if end > allowed {
            return None;
        }
        if table > 0 {
            let at = number * LENGTH_BYTES;
            packed[at..at + LENGTH_BYTES].copy_from_slice(&((length - 1) as u16).to_le_bytes());
        }
    }
    packed.truncate(end);
    Some(packed)
}

/// Whether a look at a few samples says that compressing pays. Costs some microseconds where
/// compressing the whole piece in vain would cost hundreds.
pub(crate) fn shows_gain(plaintext: &[u8]) -> bool {
    if plaintext.len() <= UNPROBED_BYTES_MAX {
        return true;
    }
    let mut samples = Plaintext::from(vec![0; SAMPLES * SAMPLE_BYTES]);
    let step = (plaintext.len() - SAMPLE_BYTES) / (SAMPLES - 1);
    for (number, sample) in samples.chunks_exact_mut(SAMPLE_BYTES).enumerate() {
        let from = number * step;
        sample.copy_from_slice(&plaintext[from..from + SAMPLE_BYTES]);
    }
    let mut out = Plaintext::from(vec![0; SAMPLES * SAMPLE_BYTES]);
    let room = samples.len() - samples.len() / PROBE_GAIN_SHARE;
    compress_frame(&samples[..], &mut out[..room]).is_some()
}

/// Bytes of the table of frame lengths; a single frame needs none.
pub(crate) fn table_bytes(plain_length: usize) -> usize {
    match plain_length.div_ceil(FRAME_BYTES) {
        0 | 1 => 0,
        frames => frames * LENGTH_BYTES,
    }
}

/// Where the frames that cover `range` of the plaintext lie in the compressed piece, one after
/// the other, by the table in front of it.
pub(crate) fn frames(
    table: &[u8],
    plain_length: usize,
    packed_length: usize,
    range: &Range<usize>,
) -> Result<Vec<Range<usize>>, DecompressError> {
    let count = plain_length.div_ceil(FRAME_BYTES);
    let wanted = range.start / FRAME_BYTES..range.end.div_ceil(FRAME_BYTES).min(count);
    if count <= 1 {
        return Ok(wanted.map(|_| 0..packed_length).collect());
    }
    let mut frames = Vec::with_capacity(wanted.len());
    let mut from = table.len();
    for (number, length) in table.chunks_exact(LENGTH_BYTES).enumerate() {
        let length = usize::from(u16::from_le_bytes([length[0], length[1]])) + 1;
        if length > frame_length(number, plain_length) {
            return Err(DecompressError);
        }
        if wanted.contains(&number) {
            frames.push(from..from + length);
        }
        from += length;
    }
    match from == packed_length && frames.len() == wanted.len() {
        true => Ok(frames),
        false => Err(DecompressError),
    }
}

/// Plaintext bytes of a frame of a piece.
fn frame_length(number: usize, plain_length: usize) -> usize {
    plain_length.saturating_sub(number * FRAME_BYTES).min(FRAME_BYTES)
}

/// Appends the plaintext of frame `number` of a piece to `out`.
pub(crate) fn decompress_frame(
    packed: &[u8],
    number: usize,
    plain_length: usize,
    out: &mut Vec<u8>,
) -> Result<(), DecompressError> {
    let length = frame_length(number, plain_length);
    if packed.len() == length {
        out.extend_from_slice(packed);
        return Ok(());
    }
    let start = out.len();
    out.resize(start + length, 0);
    let written = DECOMPRESSOR.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(Decompressor::new().map_err(|_| DecompressError)?),
        };
        context.decompress_to_buffer(packed, &mut out[start..]).map_err(|_| DecompressError)
    })?;
    match written == length {
        true => Ok(()),
        false => Err(DecompressError),
    }
}

/// Compresses into `out`; nothing where it is too short. A failure of zstd itself is no gain
/// either: the frame is then kept as it is.
fn compress_frame(frame: &[u8], out: &mut [u8]) -> Option<usize> {
    COMPRESSOR.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(Compressor::new(LEVEL).ok()?),
        };
        context.compress_to_buffer(frame, out).ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn text(length: usize) -> Vec<u8> {
        (0_u32..).flat_map(|n| format!("line {n} of a text\n").into_bytes()).take(length).collect()
    }

    fn open(packed: &[u8], length: usize, range: Range<usize>) -> Result<Vec<u8>, DecompressError> {
        let table = packed.get(..table_bytes(length)).ok_or(DecompressError)?;
        let frames = frames(table, length, packed.len(), &range)?;
        let first = range.start / FRAME_BYTES;
        let mut plain = Vec::new();
        for (number, frame) in frames.into_iter().enumerate() {
            decompress_frame(&packed[frame], first + number, length, &mut plain)?;
        }
        let skip = range.start - first * FRAME_BYTES;
        Ok(plain[skip..skip + range.len()].to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Frames of every kind, side by side: what shrinks and what does not.
        #[test]
        fn any_range_opens(
            runs in proptest::collection::vec((any::<bool>(), 1_usize..90_000), 1..6),
            from: usize,
            to: usize,
        ) {
            let plain: Vec<u8> =
                runs.iter().flat_map(|(dull, n)| if *dull { text(*n) } else { noise(*n) }).collect();
            let (from, to) = (from % plain.len(), to % (plain.len() + 1));
            let range = from.min(to)..from.max(to);
            if let Some(packed) = compress(&plain) {
                prop_assert!(packed.len() <= plain.len() - plain.len() / GAIN_SHARE);
                let opened = open(&packed, plain.len(), range.clone()).unwrap();
                prop_assert!(opened == plain[range]);
            }
        }

        /// Whatever was written for a piece, it opens to the right length or not at all.
        #[test]
        fn nonsense_is_refused(
            length in 1_usize..300_000,
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            at: usize,
        ) {
            prop_assert!(open(&bytes, length, 0..length).is_err() || bytes.len() == length);
            if let Some(mut packed) = compress(&text(length)) {
                let at = at % packed.len();
                packed[at] ^= 1 << (at % 8);
                let opened = open(&packed, length, 0..length);
                prop_assert!(opened.is_err() || opened.unwrap().len() == length);
                let shorter = &packed[..packed.len() - 1];
                prop_assert!(open(shorter, length, 0..length).is_err());
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        for length in [10, 100, 5_000, 70_000, 1_000_000] {
            assert!(compress(&noise(length)).is_none(), "{length}");
        }
        assert!(compress(&text(100_000)).unwrap().len() < 30_000);
        assert!(compress(&vec![0; 1_000_000]).unwrap().len() < 1_000);
    }

    #[test]
    fn a_piece_compresses_equally_whatever_came_before() {
        let piece = text(200_000);
        let first = compress(&piece).unwrap();
        for before in [noise(300_000), text(1_000), vec![0; 90_000]] {
            compress(&before);
            assert!(compress(&piece).unwrap() == first);
        }
        let elsewhere = std::thread::spawn(move || compress(&piece).unwrap());
        assert!(elsewhere.join().unwrap() == first);
    }
}
