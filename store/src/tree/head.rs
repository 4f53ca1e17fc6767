//! Heads: the signed, sequence-numbered records that name a volume's newest root.
//!
//! A head is the only thing in xorfs that changes, so it is the only thing that is signed. Any
//! node can verify one; only holders of the volume's read key can open the root in it.
//! Invariant: a `Head` in memory carries a valid signature of its volume; `decode` refuses
//! everything else, so no caller has to remember to check.

use std::fmt;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, VerifyingKey};

use crate::format::{Decoder, Encoder, FormatError};
use crate::id::{BlockId, ID_BYTES};
use crate::tree::volume::VolumeSecret;

/// Longest encoded head in bytes: what a node accepts from a stranger for one volume.
pub const HEAD_BYTES_MAX: usize = 1024;

/// First bytes that are signed, so that a signature over a head is never one over anything else.
const SIGNING_CONTEXT: &[u8] = b"xorfs head v1\0";

const SIGNATURE_BYTES: usize = 64;

/// A volume's ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId([u8; ID_BYTES]);

impl VolumeId {
    /// Takes a public key as found on disk, on the wire or in a link.
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The public key.
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    /// The point in XOR space whose close group keeps this volume's head: BLAKE3 of the public
    /// key.
    pub fn point(&self) -> BlockId {
        BlockId::of(&self.0)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeId({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

/// Why bytes are no head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer than `HEAD_BYTES_MAX`.
    #[error("a head of {0} bytes is longer than {HEAD_BYTES_MAX}")]
    Length(usize),
    /// The bytes do not decode.
    #[error("the head does not decode")]
    Format(#[from] FormatError),
    /// The signature is not the volume's.
    #[error("the head is not signed by volume {0}")]
    Signature(VolumeId),
}

/// A verified head.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    volume: VolumeId,
    sequence: u64,
    previous: BlockId,
    time_ms: i64,
    sealed_root: Bytes,
    encoded: Bytes,
}

impl Head {
    /// Signs the head that follows `previous` (none for a volume's first one) at `time_ms`
    /// milliseconds since 1970 and names `sealed_root`.
    ///
    /// # Panics
    /// If `sealed_root` is too long for a head; its length is our own format's.
    pub fn sign(
        secret: &VolumeSecret,
        previous: Option<&Self>,
        time_ms: i64,
        sealed_root: Bytes,
    ) -> Self {
        let volume = secret.id();
        let sequence = previous.map_or(1, |head| head.sequence + 1);
        let previous = previous.map_or(BlockId::from_bytes([0; ID_BYTES]), Self::id);
        let mut encoder = Encoder::versioned();
        encoder
            .raw(volume.as_bytes())
            .u64(sequence)
            .raw(previous.as_bytes())
            .i64(time_ms)
            .bytes(&sealed_root);
        let mut encoded = encoder.finish();
        let signature = secret.signing_key().sign(&signed_bytes(&encoded));
        encoded.extend_from_slice(&signature.to_bytes());
        assert!(encoded.len() <= HEAD_BYTES_MAX, "a sealed root fits a head");
        Self { volume, sequence, previous, time_ms, sealed_root, encoded: encoded.into() }
    }

    /// Decodes and verifies a head.
    pub fn decode(encoded: Bytes) -> Result<Self, HeadError> {
        if encoded.len() > HEAD_BYTES_MAX {
            return Err(HeadError::Length(encoded.len()));
        }
        let mut decoder = Decoder::versioned(&encoded)?;
        let volume = VolumeId(decoder.array()?);
        let sequence = decoder.u64()?;
        if sequence == 0 {
            return Err(FormatError::Invalid("sequence number 0").into());
        }
        let previous = BlockId::from_bytes(decoder.array()?);
        let time_ms = decoder.i64()?;
        let sealed_root = Bytes::copy_from_slice(decoder.bytes()?);
        let signature = Signature::from_bytes(&decoder.array()?);
        decoder.finish()?;
        let signed = signed_bytes(&encoded[..encoded.len() - SIGNATURE_BYTES]);
        VerifyingKey::from_bytes(volume.as_bytes())
            .and_then(|key| key.verify_strict(&signed, &signature))
            .map_err(|_| HeadError::Signature(volume))?;
        Ok(Self { volume, sequence, previous, time_ms, sealed_root, encoded })
    }

    /// The bytes that are stored and sent.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// BLAKE3 of the encoded head; what the next head calls its previous one.
    pub fn id(&self) -> BlockId {
        BlockId::of(&self.encoded)
    }

    /// The volume that signed it.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// 1 for a volume's first head; of two heads the higher one is newer.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// `id` of the head before, all zero for the first.
    pub fn previous(&self) -> BlockId {
        self.previous
    }

    /// When it was signed, in milliseconds since 1970 by the writer's clock.
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    /// The root ref, sealed under the volume's read key.
    pub fn sealed_root(&self) -> &Bytes {
        &self.sealed_root
    }

    /// Whether this head replaces `other`: a higher sequence number wins, and between two
    /// writers' heads of one number the greater id, so that all nodes agree.
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.sequence, self.id()) > (other.sequence, other.id())
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({:?} #{})", self.volume, self.sequence)
    }
}

fn signed_bytes(unsigned: &[u8]) -> Vec<u8> {
    [SIGNING_CONTEXT, unsigned].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> VolumeSecret {
        VolumeSecret::from_bytes([7; 32])
    }

    #[test]
    fn heads_chain_and_round_trip() {
        let first = Head::sign(&secret(), None, 1_000, Bytes::from_static(b"root"));
        let second = Head::sign(&secret(), Some(&first), 2_000, Bytes::from_static(b"root 2"));
        assert_eq!(Head::decode(first.encoded().clone()), Ok(first.clone()));
        assert_eq!((second.sequence(), second.previous()), (2, first.id()));
        assert!(second.supersedes(&first) && !first.supersedes(&second));
    }

    #[test]
    fn a_changed_byte_is_refused() {
        let head = Head::sign(&secret(), None, 1_000, Bytes::from_static(b"root"));
        for at in 0..head.encoded().len() {
            let mut bytes = head.encoded().to_vec();
            bytes[at] ^= 1;
            assert!(Head::decode(bytes.into()).is_err(), "byte {at}");
        }
        assert!(Head::decode(head.encoded().slice(..head.encoded().len() - 1)).is_err());
    }
}
