//! From a passphrase to a key: argon2id (RFC 9106), with its parameters and salt kept in the file.
//!
//! The key seals the keyring's body under AES-256-GCM-SIV with a fresh nonce each time. A node
//! keeps the key and not the passphrase, so that it can save changes. Deliberately absent: rules
//! about what a good passphrase is.

use std::fmt;

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::format::{Decoder, Encoder, FormatError};

/// Memory that one guess takes, in KiB: RFC 9106 recommends 64 MiB where memory is scarce. About
/// 0.15 s on one core of 2024; more would be felt on a small machine at each unlock.
const MEMORY_KIB: u32 = 64 << 10;

/// Passes over the memory: RFC 9106 recommends 3 with that much.
const PASSES: u32 = 3;

/// Lanes that may be filled in parallel; we fill one after the other.
const LANES: u32 = 1;

/// Most that a file may ask for, so that a forged one cannot take a machine's memory or hours.
const MEMORY_KIB_MAX: u64 = 1 << 20;
const PASSES_MAX: u64 = 64;
const LANES_MAX: u64 = 16;

const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

/// What somebody typed; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(String);

impl Passphrase {
    /// Takes a passphrase as it was typed; `None` where it is empty.
    pub fn new(text: String) -> Option<Self> {
        let passphrase = Self(text);
        (!passphrase.0.is_empty()).then_some(passphrase)
    }

    /// The text, to be handed on to a node.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// How a key follows from a passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Derivation {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; SALT_BYTES],
}

impl Derivation {
    /// Derives the key. Slow on purpose.
    pub(super) fn key(&self, passphrase: &Passphrase) -> PassphraseKey {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, None)
            .expect("the parameters are checked where they are read");
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.0.as_bytes(), &self.salt, &mut *key)
            .expect("salt and key have lengths that argon2 takes");
        PassphraseKey { derivation: self.clone(), key }
    }

    pub(super) fn encode(&self, encoder: &mut Encoder) {
        encoder.varint(self.memory_kib.into()).varint(self.passes.into());
        encoder.varint(self.lanes.into()).raw(&self.salt);
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let mut bounded = |most| {
            let value = decoder.varint()?;
            let fits = (1..=most).contains(&value);
            let value = u32::try_from(value).ok().filter(|_| fits);
            value.ok_or(FormatError::Invalid("a cost of deriving the key"))
        };
        let memory_kib = bounded(MEMORY_KIB_MAX)?;
        let (passes, lanes) = (bounded(PASSES_MAX)?, bounded(LANES_MAX)?);
        Params::new(memory_kib, passes, lanes, None)
            .map_err(|_| FormatError::Invalid("a cost of deriving the key"))?;
        Ok(Self { memory_kib, passes, lanes, salt: decoder.array()? })
    }
}

/// The key of one passphrase, and how it was derived.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PassphraseKey {
    derivation: Derivation,
    key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for PassphraseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassphraseKey(..)")
    }
}

impl PassphraseKey {
    /// A key under a fresh salt.
    pub(super) fn generate(passphrase: &Passphrase) -> Self {
        let salt = random();
        Derivation { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt }.key(passphrase)
    }

    pub(super) fn derivation(&self) -> &Derivation {
        &self.derivation
    }

    /// Whether it follows from this passphrase.
    pub(super) fn is_of(&self, passphrase: &Passphrase) -> bool {
        self.derivation.key(passphrase).key == self.key
    }

    /// The nonce and the sealed body, bound to what stands before them.
    pub(super) fn seal(&self, before: &[u8], body: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random();
        let payload = Payload { msg: body, aad: before };
        let sealed = self.cipher().encrypt(&Nonce::from(nonce), payload);
        [&nonce[..], &sealed.expect("a keyring is far below the cipher's limit")].concat()
    }

    /// Opens what `seal` made; `None` where the key is another one.
    pub(super) fn open(&self, before: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload { msg: sealed, aad: before };
        self.cipher().decrypt(&Nonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }

    fn cipher(&self) -> Aes256GcmSiv {
        Aes256GcmSiv::new(&(*self.key).into())
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system's random generator works");
    bytes
}
