//! Volumes: the secret that owns one, the key that reads one, and what both derive.
//!
//! Everything a volume needs follows from one 32-byte seed: the signing key of its heads, the
//! read key that opens their roots, the convergence secret that names its pieces and the staging
//! key of its journal. A read link carries the public key and the read key only.

use std::fmt;

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::tree::head::VolumeId;

/// The seed of a volume: whoever holds it reads and writes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct VolumeSecret([u8; 32]);

/// Opens the roots in a volume's heads.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ReadKey([u8; 32]);

/// Keys the hash that a piece's key is derived with; see `seal`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ConvergenceSecret([u8; 32]);

/// Seals a volume's journal on this disk.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct StagingKey([u8; 32]);

impl VolumeSecret {
    /// Draws a new volume from the system's generator.
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the system's random generator works");
        Self(seed)
    }

    /// Takes a seed as found in a keyring or a read-write link.
    pub const fn from_bytes(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// The seed, for a keyring or a read-write link.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The volume's public name.
    pub fn id(&self) -> VolumeId {
        VolumeId::from_bytes(self.signing_key().verifying_key().to_bytes())
    }

    /// What a read link shares.
    pub fn read_key(&self) -> ReadKey {
        ReadKey(self.derive("xorfs 2026-11 v1 volume read key"))
    }

    /// What the volume's piece keys are derived with.
    pub fn convergence_secret(&self) -> ConvergenceSecret {
        ConvergenceSecret(self.derive("xorfs 2026-11 v1 volume convergence secret"))
    }

    /// What the volume's journal is sealed under.
    pub fn staging_key(&self) -> StagingKey {
        StagingKey(self.derive("xorfs 2026-11 v1 volume staging key"))
    }

    pub(crate) fn signing_key(&self) -> SigningKey {
        let mut seed = self.derive("xorfs 2026-11 v1 volume signing key");
        let key = SigningKey::from_bytes(&seed);
        seed.zeroize();
        key
    }

    fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, &self.0)
    }
}

impl ReadKey {
    /// Takes a key as found in a keyring or a read link.
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The key, for a keyring or a read link.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ConvergenceSecret {
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl StagingKey {
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Secrets print as their type, so that no log ever holds one.
macro_rules! opaque_debug {
    ($($secret:ident),+) => {$(
        impl fmt::Debug for $secret {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($secret), "(..)"))
            }
        }
    )+};
}
opaque_debug!(VolumeSecret, ReadKey, ConvergenceSecret, StagingKey);
