//! Block ids: the names of blocks, which are also points in XOR space.
//!
//! A block id is the BLAKE3-256 hash of the sealed bytes, so whoever holds a block can check it
//! without any key. This module owns the id, its text form and its parsing; distance and routing
//! belong to `xorfs-net`.

use std::fmt;
use std::str::FromStr;

/// Bytes in a block id, and in every other 256-bit name of xorfs.
pub const ID_BYTES: usize = 32;

/// BLAKE3-256 of a block's sealed bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId([u8; ID_BYTES]);

impl BlockId {
    /// Names `sealed`, the bytes of a block as they are stored and sent.
    pub fn of(sealed: &[u8]) -> Self {
        Self(*blake3::hash(sealed).as_bytes())
    }

    /// Takes an id as found on disk or on the wire.
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, most significant first.
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockId({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a block id is 64 hexadecimal digits, not {0:?}")]
pub struct ParseIdError(String);

impl FromStr for BlockId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| ParseIdError(text.to_owned()))?;
        let bytes = bytes.try_into().map_err(|_| ParseIdError(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let id = BlockId::of(b"a block");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("abc".parse::<BlockId>().is_err());
        assert!("z".repeat(64).parse::<BlockId>().is_err());
    }
}
