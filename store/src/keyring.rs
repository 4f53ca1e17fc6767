//! The keyring: which volumes a home knows, by petname, what opens them, and what it pins.
//!
//! One small file beside the store, mode 0600, replaced atomically. It holds the seeds of the
//! home's own volumes, so it is the one thing to back up. Petnames mean something here only.
//! Pins are links, and a link is a capability, so they stand here and not in the store.
//!
//! A passphrase may seal the file: then all but the way to check the passphrase is encrypted.
//! Invariant: a keyring that was opened from a sealed file is only ever saved sealed again, until
//! the passphrase is taken off it by name. Keys are wiped when the keyring is dropped.
//!
//! `codec` has the bytes, `passphrase` the way from a passphrase to a key.

mod codec;
mod passphrase;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::crash;
use crate::keyring::passphrase::PassphraseKey;
use crate::tree::head::VolumeId;
use crate::tree::link::TreeLink;
use crate::tree::volume::{ReadKey, VolumeSecret};

pub use crate::keyring::codec::SealedKeyring;
pub use crate::keyring::passphrase::Passphrase;

/// Longest petname in bytes.
const PETNAME_BYTES_MAX: usize = 64;

/// Names that no volume can have: links are opened under the first in a mount, and the second
/// starts every link, so `xorfs:/` could not be told from one.
const RESERVED_NAMES: [&str; 2] = ["link", "xorfs"];

/// What a home may do with a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    Owner(VolumeSecret),
    /// Read.
    Reader(VolumeId, ReadKey),
}

/// A volume of the keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    access: Access,
    /// Whether its blocks are never evicted.
    pinned: bool,
}

/// Volumes by petname, and pinned trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    volumes: BTreeMap<String, Entry>,
    /// In the order in which they were pinned.
    pins: Vec<TreeLink>,
    /// What the file is sealed under, if it is.
    sealed_under: Option<PassphraseKey>,
}

/// What a file holds.
#[derive(Debug)]
pub enum StoredKeyring {
    /// A keyring that file permissions alone keep.
    Open(Keyring),
    /// One that needs its passphrase.
    Sealed(SealedKeyring),
}

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
    /// The passphrase is not the one that it was sealed with.
    #[error("this is not the passphrase of the keyring")]
    WrongPassphrase,
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

impl StoredKeyring {
    /// Reads a keyring; a missing file is an empty one.
    pub fn open(file: &Path) -> Result<Self, KeyringError> {
        match fs::read(file) {
            Ok(bytes) => codec::decode(&Zeroizing::new(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Open(Keyring::default())),
            Err(error) => Err(error.into()),
        }
    }
}

impl Keyring {
    /// Writes it, mode 0600, atomically and synced; sealed where it has a passphrase.
    pub fn save(&self, file: &Path) -> Result<(), KeyringError> {
        let fresh = file.with_extension("new");
        // What a crash left there may be anybody's and have any mode.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        out.write_all(&codec::encode(self))?;
        out.sync_all()?;
        crash::point("keyring-before-rename");
        fs::rename(&fresh, file)?;
        crash::point("keyring-after-rename");
        if let Some(folder) = file.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Seals the file under a passphrase from the next `save` on, instead of an earlier one.
    /// Slow on purpose.
    pub fn set_passphrase(&mut self, passphrase: &Passphrase) {
        self.sealed_under = Some(PassphraseKey::generate(passphrase));
    }

    /// Leaves the file to its permissions from the next `save` on.
    pub fn remove_passphrase(&mut self) {
        self.sealed_under = None;
    }

    /// Seals the file as another keyring is sealed, or not sealed, from the next `save` on.
    pub fn seal_as(&mut self, other: &Self) {
        self.sealed_under = other.sealed_under.clone();
    }

    /// Whether the file is sealed under a passphrase.
    pub fn has_passphrase(&self) -> bool {
        self.sealed_under.is_some()
    }

    /// Whether this is the passphrase that the file is sealed under. Slow on purpose.
    pub fn is_passphrase(&self, passphrase: &Passphrase) -> bool {
        self.sealed_under.as_ref().is_some_and(|key| key.is_of(passphrase))
    }

    /// What a node has left of the keyring when it forgets the keys: the file's own bytes, which
    /// the passphrase opens again. `None` where there is no passphrase.
    pub fn lock(&self) -> Result<Option<SealedKeyring>, KeyringError> {
        if !self.has_passphrase() {
            return Ok(None);
        }
        match codec::decode(&codec::encode(self))? {
            StoredKeyring::Sealed(sealed) => Ok(Some(sealed)),
            StoredKeyring::Open(_) => Ok(None),
        }
    }

    /// Adds a volume under a fresh name. One that is written here starts pinned.
    pub fn add(&mut self, name: &str, access: Access) -> Result<(), KeyringError> {
        if !is_petname(name) {
            return Err(KeyringError::Name(name.to_owned()));
        }
        if self.volumes.contains_key(name) {
            return Err(KeyringError::Exists(name.to_owned()));
        }
        let pinned = access.is_owner();
        self.volumes.insert(name.to_owned(), Entry { access, pinned });
        Ok(())
    }

    /// Forgets a volume; false where there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        self.volumes.remove(name).is_some()
    }

    /// What opens a volume.
    pub fn access(&self, name: &str) -> Option<&Access> {
        self.volumes.get(name).map(|entry| &entry.access)
    }

    /// Names and what opens them, by name.
    pub fn volumes(&self) -> impl Iterator<Item = (&str, &Access)> {
        self.volumes.iter().map(|(name, entry)| (name.as_str(), &entry.access))
    }

    /// Whether a volume's blocks are never evicted; false where there is no such volume.
    pub fn is_pinned(&self, name: &str) -> bool {
        self.volumes.get(name).is_some_and(|entry| entry.pinned)
    }

    /// Pins or unpins a volume; false where nothing changed.
    pub fn set_pinned(&mut self, name: &str, pinned: bool) -> bool {
        match self.volumes.get_mut(name) {
            Some(entry) => std::mem::replace(&mut entry.pinned, pinned) != pinned,
            None => false,
        }
    }

    /// The pinned trees, in the order in which they were pinned.
    pub fn pins(&self) -> &[TreeLink] {
        &self.pins
    }

    /// Pins a tree; false where it was pinned already, by whatever name.
    pub fn pin(&mut self, tree: TreeLink) -> bool {
        let fresh = !self.pins.iter().any(|pin| pin.node == tree.node);
        if fresh {
            self.pins.push(tree);
        }
        fresh
    }

    /// Unpins a tree; false where it was not pinned.
    pub fn unpin(&mut self, tree: &TreeLink) -> bool {
        let before = self.pins.len();
        self.pins.retain(|pin| pin.node != tree.node);
        self.pins.len() < before
    }
}

impl Access {
    /// Whether it allows to write.
    pub fn is_owner(&self) -> bool {
        matches!(self, Self::Owner(_))
    }

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
