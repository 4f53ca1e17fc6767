//! A block: sealed bytes under the id that names them.
//!
//! Invariant: a `Block` in memory always matches its id. It is made either by naming bytes that
//! were just sealed or by checking bytes that came from a disk or a peer; nothing else builds one.

use bytes::Bytes;

use crate::id::BlockId;

/// Largest block, in bytes of sealed data. Bounds what one request carries and what a reader
/// holds in memory for one piece; raising it needs a new format version, because nodes refuse
/// larger blocks.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Sealed bytes, checked against their id.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    id: BlockId,
    bytes: Bytes,
}

/// Bytes that are no block of the given id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes hash to something else.
    #[error("bytes do not match block {expected}")]
    Mismatch {
        /// The id that was asked for.
        expected: BlockId,
    },
    /// Longer than `BLOCK_BYTES_MAX`, or empty.
    #[error("a block of {length} bytes is outside 1..={BLOCK_BYTES_MAX}")]
    Length {
        /// Bytes that were offered.
        length: usize,
    },
}

impl Block {
    /// Names freshly sealed bytes. Fails only on a length outside `1..=BLOCK_BYTES_MAX`.
    pub fn new(bytes: Bytes) -> Result<Self, BlockError> {
        check_length(&bytes)?;
        Ok(Self { id: BlockId::of(&bytes), bytes })
    }

    /// Accepts bytes from a disk or a peer if they are what `id` names.
    pub fn verified(id: BlockId, bytes: Bytes) -> Result<Self, BlockError> {
        check_length(&bytes)?;
        if BlockId::of(&bytes) != id {
            return Err(BlockError::Mismatch { expected: id });
        }
        Ok(Self { id, bytes })
    }

    /// The name of this block.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// The sealed bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({:?}, {} B)", self.id, self.bytes.len())
    }
}

fn check_length(bytes: &Bytes) -> Result<(), BlockError> {
    match bytes.len() {
        1..=BLOCK_BYTES_MAX => Ok(()),
        length => Err(BlockError::Length { length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matching_bytes_become_a_block() {
        let block = Block::new(Bytes::from_static(b"sealed")).unwrap();
        assert_eq!(Block::verified(block.id(), block.bytes().clone()), Ok(block.clone()));
        let other = Bytes::from_static(b"sealeD");
        assert_eq!(
            Block::verified(block.id(), other),
            Err(BlockError::Mismatch { expected: block.id() })
        );
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(Block::new(Bytes::new()).is_err());
        assert!(Block::new(vec![0; BLOCK_BYTES_MAX].into()).is_ok());
        assert!(Block::new(vec![0; BLOCK_BYTES_MAX + 1].into()).is_err());
    }
}
