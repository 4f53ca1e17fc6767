//! Points in XOR space and the distance between them.

use std::fmt;

use serde::{Deserialize, Serialize};
use xorfs_store::{BlockId, VolumeId};

use crate::identity::NodeId;

/// A point in XOR space: a node, a block or a volume's head.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Key([u8; 32]);

/// The XOR of two keys, compared as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Distance([u8; 32]);

impl Key {
    #[cfg(test)]
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn distance(&self, other: &Self) -> Distance {
        let mut xor = self.0;
        for (byte, theirs) in xor.iter_mut().zip(other.0) {
            *byte ^= theirs;
        }
        Distance(xor)
    }

    /// This key with its first `prefix` bits kept, the next one flipped and the rest taken from
    /// `random`: a point in the bucket of that index.
    pub(crate) fn in_bucket(&self, prefix: usize, random: [u8; 32]) -> Self {
        let mut bytes = random;
        for bit in 0..=prefix.min(255) {
            let mask = 0x80 >> (bit % 8);
            let ours = self.0[bit / 8] & mask;
            let wanted = if bit == prefix { ours ^ mask } else { ours };
            bytes[bit / 8] = (bytes[bit / 8] & !mask) | wanted;
        }
        Self(bytes)
    }
}

impl Distance {
    /// Number of leading zero bits: how long a prefix both keys share; 256 for equal keys.
    pub(crate) fn prefix_bits(&self) -> usize {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        zeros * 8 + self.0.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize)
    }
}

impl From<NodeId> for Key {
    fn from(id: NodeId) -> Self {
        Self(*id.as_bytes())
    }
}

impl From<BlockId> for Key {
    fn from(id: BlockId) -> Self {
        Self(*id.as_bytes())
    }
}

impl From<VolumeId> for Key {
    fn from(volume: VolumeId) -> Self {
        Self(*volume.point().as_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(")?;
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn distance_is_a_metric(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let (a, b, c) = (Key(a), Key(b), Key(c));
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(a.distance(&a).prefix_bits(), 256);
            // One point at each distance: equal distances from `a` mean equal keys.
            prop_assert_eq!(a.distance(&b) == a.distance(&c), b == c);
        }

        #[test]
        fn a_key_in_a_bucket_shares_just_its_prefix(
            own: [u8; 32], random: [u8; 32], prefix in 0usize..256,
        ) {
            let own = Key(own);
            prop_assert_eq!(own.distance(&own.in_bucket(prefix, random)).prefix_bits(), prefix);
        }
    }
}
