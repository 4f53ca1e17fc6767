//! Volumes: the secret that owns one, the key that reads one, and what both derive.
//!
//! Everything a volume needs follows from one 32-byte seed: the signing key of its heads, the
//! read key that opens their roots, the convergence secret that names its pieces and the staging
//! key of its journal. A read link carries the public key and the read key only.
//!
//! A volume may use the network's convergence secret in place of its own. That is chosen once, is
//! part of the write capability and stands nowhere else: readers open pieces with the keys in
//! their refs and need not know.

use std::fmt;

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::tree::head::VolumeId;

/// Whose secret the piece keys of a volume are derived with: who shares blocks of equal content,
/// and who can confirm a guess of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Convergence {
    /// The volume's own: equal content is stored once in this volume, and nobody without its
    /// seed can tell what a block holds.
    #[default]
    Volume,
    /// A constant that everybody knows: equal content is stored once in the whole network, and
    /// anybody who has a file can tell whether a node holds that very file and, by its requests,
    /// who reads it. A file of which only a little is unknown can be found by trying. Content
    /// that nobody else has stays as secret as ever.
    Network,
}

/// What a volume is written with: its seed and its convergence. Whoever holds it reads and writes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct VolumeSecret {
    seed: [u8; 32],
    #[zeroize(skip)]
    convergence: Convergence,
}

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
    /// Draws a new volume with a convergence secret of its own from the system's generator.
    pub fn generate() -> Self {
        Self::generate_with(Convergence::Volume)
    }

    /// Draws a new volume from the system's generator.
    pub fn generate_with(convergence: Convergence) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the system's random generator works");
        Self { seed, convergence }
    }

    /// Takes the seed of a volume with a convergence secret of its own.
    pub const fn from_bytes(seed: [u8; 32]) -> Self {
        Self::with_convergence(seed, Convergence::Volume)
    }

    /// Takes a seed as found in a keyring or a read-write link.
    pub const fn with_convergence(seed: [u8; 32], convergence: Convergence) -> Self {
        Self { seed, convergence }
    }

    /// The seed, for a keyring or a read-write link.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Whose secret the piece keys are derived with.
    pub const fn convergence(&self) -> Convergence {
        self.convergence
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
        ConvergenceSecret(match self.convergence {
            Convergence::Volume => self.derive("xorfs 2026-11 v1 volume convergence secret"),
            Convergence::Network => {
                blake3::derive_key("xorfs 2026-11 v1 network convergence secret", &[])
            }
        })
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
        blake3::derive_key(context, &self.seed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_share_a_secret_only_by_choice() {
        let secret = |seed, convergence| VolumeSecret::with_convergence([seed; 32], convergence);
        let of = |seed, convergence| secret(seed, convergence).convergence_secret();
        assert!(of(1, Convergence::Network) == of(2, Convergence::Network));
        assert!(of(1, Convergence::Volume) != of(2, Convergence::Volume));
        assert!(of(1, Convergence::Volume) != of(1, Convergence::Network));
        let (own, shared) = (secret(1, Convergence::Volume), secret(1, Convergence::Network));
        assert!(own.id() == shared.id() && own.read_key() == shared.read_key());
    }
}
