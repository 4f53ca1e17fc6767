//! The bytes of a keyring file; `docs/format.md` describes them.
//!
//! A first line, the version, how the rest is protected, the body (plain, or sealed with what is
//! needed to check a passphrase before it), and a hash of all after the first line, so that damage
//! is told from a wrong passphrase. Version 1 had no protection byte, no pins and no sealed form.

use zeroize::Zeroizing;

use crate::format::{Decoder, Encoder, FormatError};
use crate::keyring::passphrase::Derivation;
use crate::keyring::{Access, Keyring, KeyringError, Passphrase, StoredKeyring};
use crate::tree::head::VolumeId;
use crate::tree::link::{Link, TreeLink};
use crate::tree::volume::{Convergence, ReadKey, VolumeSecret};

/// First bytes of the file.
const MAGIC: &[u8] = b"xorfs keyring\n";

/// What is written; 1 is still read.
const VERSION: u8 = 2;

const CHECKSUM_BYTES: usize = 32;

const PROTECTION_NONE: u8 = 0;
const PROTECTION_PASSPHRASE: u8 = 1;

const TAG_OWNER: u8 = 1;
const TAG_READER: u8 = 2;
const TAG_OWNER_NETWORK: u8 = 3;

/// A keyring that needs its passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKeyring {
    derivation: Derivation,
    /// Everything before the sealed body, which is bound to it.
    before: Vec<u8>,
    sealed: Vec<u8>,
}

impl SealedKeyring {
    /// Opens it. Slow on purpose.
    ///
    /// # Errors
    /// `WrongPassphrase`, or `Damaged` and `Newer` where what it holds makes no sense.
    pub fn unlock(&self, passphrase: &Passphrase) -> Result<Keyring, KeyringError> {
        let key = self.derivation.key(passphrase);
        let body = key.open(&self.before, &self.sealed).ok_or(KeyringError::WrongPassphrase)?;
        let mut keyring = decode_body(&body).map_err(refused)?;
        keyring.sealed_under = Some(key);
        Ok(keyring)
    }
}

pub(super) fn encode(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
    let body = encode_body(keyring);
    let mut encoder = Encoder::default();
    encoder.u8(VERSION);
    let content = match &keyring.sealed_under {
        None => Zeroizing::new([&[VERSION, PROTECTION_NONE], &body[..]].concat()),
        Some(key) => {
            key.derivation().encode(encoder.u8(PROTECTION_PASSPHRASE));
            let before = encoder.finish();
            Zeroizing::new([&before[..], &key.seal(&before, &body)].concat())
        }
    };
    let checksum = blake3::hash(&content);
    Zeroizing::new([MAGIC, &content, checksum.as_bytes()].concat())
}

pub(super) fn decode(bytes: &[u8]) -> Result<StoredKeyring, KeyringError> {
    let damaged = |detail: &str| KeyringError::Damaged(detail.to_owned());
    let content = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it does not start as one"))?;
    let (content, checksum) =
        content.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged("it ends early"))?;
    if blake3::hash(content).as_bytes() != checksum {
        return Err(damaged("its checksum does not fit"));
    }
    decode_content(content).map_err(refused)
}

fn decode_content(content: &[u8]) -> Result<StoredKeyring, FormatError> {
    let mut decoder = Decoder::plain(content);
    match decoder.u8()? {
        0 => return Err(FormatError::Invalid("format version 0")),
        1 => {
            let mut keyring = Keyring::default();
            decode_volumes(&mut decoder, &mut keyring, |_| Ok(None))?;
            decoder.finish()?;
            return Ok(StoredKeyring::Open(keyring));
        }
        VERSION => {}
        newer => return Err(FormatError::Newer(newer)),
    }
    match decoder.u8()? {
        PROTECTION_NONE => decode_body(decoder.rest()).map(StoredKeyring::Open),
        PROTECTION_PASSPHRASE => {
            let derivation = Derivation::decode(&mut decoder)?;
            let sealed = decoder.rest();
            let before = content[..content.len() - sealed.len()].to_vec();
            Ok(StoredKeyring::Sealed(SealedKeyring { derivation, before, sealed: sealed.to_vec() }))
        }
        _ => Err(FormatError::Invalid("a kind of protection")),
    }
}

fn encode_body(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
    // Room for all of it at once: a buffer that grows leaves keys behind in freed memory.
    let pins: Vec<_> = keyring
        .pins
        .iter()
        .map(|pin| Zeroizing::new(Link::Tree(pin.clone()).to_string()))
        .collect();
    let room = keyring.volumes.len() * 160 + pins.iter().map(|pin| pin.len() + 8).sum::<usize>();
    let mut encoder = Encoder::with_room(room + 16);
    encoder.varint(keyring.volumes.len() as u64);
    for (name, entry) in &keyring.volumes {
        encoder.bytes(name.as_bytes());
        match &entry.access {
            Access::Owner(secret) => {
                let tag = match secret.convergence() {
                    Convergence::Volume => TAG_OWNER,
                    Convergence::Network => TAG_OWNER_NETWORK,
                };
                encoder.u8(tag).raw(secret.as_bytes())
            }
            Access::Reader(volume, key) => {
                encoder.u8(TAG_READER).raw(volume.as_bytes()).raw(key.as_bytes())
            }
        };
        encoder.u8(u8::from(entry.pinned));
    }
    encoder.varint(pins.len() as u64);
    for pin in &pins {
        encoder.bytes(pin.as_bytes());
    }
    Zeroizing::new(encoder.finish())
}

fn decode_body(body: &[u8]) -> Result<Keyring, FormatError> {
    let mut decoder = Decoder::plain(body);
    let mut keyring = Keyring::default();
    decode_volumes(&mut decoder, &mut keyring, |decoder| match decoder.u8()? {
        0 => Ok(Some(false)),
        1 => Ok(Some(true)),
        _ => Err(FormatError::Invalid("whether a volume is pinned")),
    })?;
    for _ in 0..decoder.count(2)? {
        keyring.pins.push(decode_pin(decoder.bytes()?)?);
    }
    decoder.finish()?;
    Ok(keyring)
}

/// Reads the volumes; `pinned` reads what follows each, `None` leaving it as it starts.
fn decode_volumes(
    decoder: &mut Decoder<'_>,
    keyring: &mut Keyring,
    pinned: impl Fn(&mut Decoder<'_>) -> Result<Option<bool>, FormatError>,
) -> Result<(), FormatError> {
    for _ in 0..decoder.count(2)? {
        let name =
            std::str::from_utf8(decoder.bytes()?).map_err(|_| FormatError::Invalid("a petname"))?;
        let access = match decoder.u8()? {
            TAG_OWNER => Access::Owner(VolumeSecret::from_bytes(decoder.array()?)),
            TAG_OWNER_NETWORK => Access::Owner(VolumeSecret::with_convergence(
                decoder.array()?,
                Convergence::Network,
            )),
            TAG_READER => Access::Reader(
                VolumeId::from_bytes(decoder.array()?),
                ReadKey::from_bytes(decoder.array()?),
            ),
            _ => return Err(FormatError::Invalid("a kind of access")),
        };
        keyring.add(name, access).map_err(|_| FormatError::Invalid("a petname"))?;
        if let Some(pinned) = pinned(decoder)? {
            keyring.set_pinned(name, pinned);
        }
    }
    Ok(())
}

fn decode_pin(text: &[u8]) -> Result<TreeLink, FormatError> {
    let text = std::str::from_utf8(text).map_err(|_| FormatError::Invalid("a pin"))?;
    match text.parse() {
        Ok(Link::Tree(tree)) => Ok(tree),
        _ => Err(FormatError::Invalid("a pin")),
    }
}

fn refused(error: FormatError) -> KeyringError {
    match error {
        FormatError::Newer(found) => KeyringError::Newer(found),
        error => KeyringError::Damaged(error.to_string()),
    }
}
