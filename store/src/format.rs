//! The primitives that every xorfs format is written with, and the format versions.
//!
//! Integers are little-endian and of fixed width; lengths and counts are LEB128 varints; a byte
//! string is its length and its bytes. The formats themselves stand beside the types they
//! describe and, byte by byte, in `docs/format.md`. Decoding never panics, never allocates more
//! than the input could hold, and accepts exactly one encoding of each value.

/// Version of every format inside a volume: pieces, maps, directories, heads, journal records.
/// Bound into the associated data of every sealed piece.
pub const FORMAT_VERSION: u8 = 1;

/// Why bytes do not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The input ends before the value does.
    #[error("the data ends early")]
    Truncated,
    /// The input goes on after the value.
    #[error("{0} bytes follow where the data should end")]
    Trailing(usize),
    /// A field holds what no version writes there.
    #[error("{0} is not valid here")]
    Invalid(&'static str),
    /// Written by a newer version.
    #[error("format {0} is newer than this version of xorfs reads")]
    Newer(u8),
}

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    /// Starts a record with the format version.
    pub(crate) fn versioned() -> Self {
        Self(vec![FORMAT_VERSION])
    }

    /// An empty buffer that does not grow before `bytes` are in it.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn varint(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    /// Bytes whose length the reader knows.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A length and the bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.varint(bytes.len() as u64);
        self.raw(bytes)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes values off a slice.
#[derive(Debug)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// Reads a record that starts with its format version.
    pub(crate) fn versioned(input: &'a [u8]) -> Result<Self, FormatError> {
        let mut decoder = Self(input);
        match decoder.u8()? {
            FORMAT_VERSION => Ok(decoder),
            0 => Err(FormatError::Invalid("format version 0")),
            newer => Err(FormatError::Newer(newer)),
        }
    }

    pub(crate) fn plain(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.raw(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, FormatError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(FormatError::Invalid("a varint over 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(FormatError::Invalid("a varint with a redundant byte"));
                }
                return Ok(value);
            }
        }
        Err(FormatError::Invalid("a varint over 64 bits"))
    }

    /// A count of items that take at least `item_bytes_min` each, so a lie about it cannot make
    /// us allocate more than the input's own size.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize, FormatError> {
        let count = self.varint()?;
        let most = self.0.len() / item_bytes_min.max(1);
        usize::try_from(count).ok().filter(|count| *count <= most).ok_or(FormatError::Truncated)
    }

    pub(crate) fn raw(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(FormatError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(FormatError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], FormatError> {
        let length = self.count(1)?;
        self.raw(length)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn finish(self) -> Result<(), FormatError> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(FormatError::Trailing(more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut encoder = Encoder::default();
            encoder.varint(value);
            let bytes = encoder.finish();
            let mut decoder = Decoder::plain(&bytes);
            prop_assert_eq!(decoder.varint(), Ok(value));
            prop_assert_eq!(decoder.finish(), Ok(()));
        }

        #[test]
        fn a_varint_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut decoder = Decoder::plain(&bytes);
            if let Ok(value) = decoder.varint() {
                let mut encoder = Encoder::default();
                encoder.varint(value);
                let used = bytes.len() - decoder.0.len();
                prop_assert_eq!(encoder.finish(), &bytes[..used]);
            }
        }
    }

    #[test]
    fn counts_are_bounded_by_the_input() {
        assert_eq!(Decoder::plain(&[0xff, 0x7f, 1, 2]).count(1), Err(FormatError::Truncated));
        assert_eq!(Decoder::plain(&[2, 1, 2]).count(1), Ok(2));
    }
}
