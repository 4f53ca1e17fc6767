//! The keyring: which volumes a home knows, by petname, and what opens them.
//!
//! One small file beside the store, mode 0600, replaced atomically. It holds the seeds of the
//! home's own volumes, so it is the one thing to back up. Petnames mean something here only.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::crash;
use crate::format::{Decoder, Encoder, FormatError};
use crate::tree::head::VolumeId;
use crate::tree::volume::{Convergence, ReadKey, VolumeSecret};

/// First bytes of the file; the format version and the volumes follow.
const MAGIC: &[u8] = b"xorfs keyring\n";

/// Longest petname in bytes.
const PETNAME_BYTES_MAX: usize = 64;

/// Names that no volume can have: links are opened under the first in a mount, and the second
/// starts every link, so `xorfs:/` could not be told from one.
const RESERVED_NAMES: [&str; 2] = ["link", "xorfs"];

const CHECKSUM_BYTES: usize = 32;

const TAG_OWNER: u8 = 1;
const TAG_READER: u8 = 2;
const TAG_OWNER_NETWORK: u8 = 3;

/// What a home may do with a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    Owner(VolumeSecret),
    /// Read.
    Reader(VolumeId, ReadKey),
}

/// Volumes by petname.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring(BTreeMap<String, Access>);

/// A keyring could not be read or written, or refuses a change.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The name is taken.
    #[error("there is a volume named {0:?} already")]
    Exists(String),
    /// Not a usable petname.
    #[error(
        "{0:?} cannot name a volume: use up to 64 letters, digits, '-', '_' and '.', no '.' first, not \"link\" and not \"xorfs\""
    )]
    Name(String),
    /// The file holds something else.
    #[error("the keyring is damaged: {0}")]
    Damaged(String),
    /// Written by a newer version.
    #[error("the keyring has format {0}, newer than this version of xorfs reads; upgrade xorfs")]
    Newer(u8),
    /// The disk failed.
    #[error("could not read or write the keyring")]
    Io(#[from] std::io::Error),
}

impl Keyring {
    /// Reads a keyring; a missing file is an empty one.
    pub fn open(file: &Path) -> Result<Self, KeyringError> {
        match fs::read(file) {
            Ok(bytes) => decode(&Zeroizing::new(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it, mode 0600, atomically and synced.
    pub fn save(&self, file: &Path) -> Result<(), KeyringError> {
        let fresh = file.with_extension("new");
        let mut out =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        out.write_all(&self.encode())?;
        out.sync_all()?;
        crash::point("keyring-before-rename");
        fs::rename(&fresh, file)?;
        crash::point("keyring-after-rename");
        if let Some(folder) = file.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Adds a volume under a fresh name.
    pub fn add(&mut self, name: &str, access: Access) -> Result<(), KeyringError> {
        if !is_petname(name) {
            return Err(KeyringError::Name(name.to_owned()));
        }
        if self.0.contains_key(name) {
            return Err(KeyringError::Exists(name.to_owned()));
        }
        self.0.insert(name.to_owned(), access);
        Ok(())
    }

    /// Forgets a volume; false where there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// What opens a volume.
    pub fn access(&self, name: &str) -> Option<&Access> {
        self.0.get(name)
    }

    /// Names and what opens them, by name.
    pub fn volumes(&self) -> impl Iterator<Item = (&str, &Access)> {
        self.0.iter().map(|(name, access)| (name.as_str(), access))
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut encoder = Encoder::versioned();
        encoder.varint(self.0.len() as u64);
        for (name, access) in &self.0 {
            encoder.bytes(name.as_bytes());
            match access {
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
        }
        let body = Zeroizing::new(encoder.finish());
        let checksum = blake3::hash(&body);
        Zeroizing::new([MAGIC, &body, checksum.as_bytes()].concat())
    }
}

impl Access {
    /// The volume.
    pub fn volume(&self) -> VolumeId {
        match self {
            Self::Owner(secret) => secret.id(),
            Self::Reader(volume, _) => *volume,
        }
    }

    /// What opens its roots.
    pub fn read_key(&self) -> ReadKey {
        match self {
            Self::Owner(secret) => secret.read_key(),
            Self::Reader(_, key) => key.clone(),
        }
    }
}

fn is_petname(name: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=PETNAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && !RESERVED_NAMES.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
        && name.chars().all(allowed)
}

fn decode(bytes: &[u8]) -> Result<Keyring, KeyringError> {
    let damaged = |detail: &str| KeyringError::Damaged(detail.to_owned());
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it does not start as one"))?;
    let (body, checksum) =
        body.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged("it ends early"))?;
    if blake3::hash(body).as_bytes() != checksum {
        return Err(damaged("its checksum does not fit"));
    }
    decode_volumes(body).map_err(|error| match error {
        FormatError::Newer(found) => KeyringError::Newer(found),
        error => KeyringError::Damaged(error.to_string()),
    })
}

fn decode_volumes(body: &[u8]) -> Result<Keyring, FormatError> {
    let mut decoder = Decoder::versioned(body)?;
    let mut keyring = Keyring::default();
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
    }
    decoder.finish()?;
    Ok(keyring)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_keyring_survives_and_notices_damage() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keyring");
        let mut keyring = Keyring::open(&file).unwrap();
        let secret = VolumeSecret::from_bytes([1; 32]);
        keyring.add("films", Access::Reader(secret.id(), secret.read_key())).unwrap();
        keyring.add("main", Access::Owner(secret)).unwrap();
        let shared = VolumeSecret::with_convergence([2; 32], Convergence::Network);
        keyring.add("shared", Access::Owner(shared)).unwrap();
        keyring.save(&file).unwrap();
        assert_eq!(Keyring::open(&file).unwrap(), keyring);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut bytes = fs::read(&file).unwrap();
        bytes[30] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(matches!(Keyring::open(&file), Err(KeyringError::Damaged(_))));
    }

    #[test]
    fn petnames_are_plain_and_unique() {
        let mut keyring = Keyring::default();
        let access = || Access::Owner(VolumeSecret::from_bytes([1; 32]));
        for name in ["", "link", "Xorfs", "../x", "a/b", ".hidden", &"x".repeat(65)] {
            assert!(matches!(keyring.add(name, access()), Err(KeyringError::Name(_))), "{name}");
        }
        keyring.add("Ärger-1.0", access()).unwrap();
        assert!(matches!(keyring.add("Ärger-1.0", access()), Err(KeyringError::Exists(_))));
    }
}
