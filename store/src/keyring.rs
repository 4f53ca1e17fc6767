//! The keyring: which volumes this home knows, by petname, and what opens them.
use std::collections::BTreeMap;
use std::path::Path;

use crate::tree::head::VolumeId;
use crate::tree::volume::{ReadKey, VolumeSecret};

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
        "{0:?} cannot be a volume's name: use 1 to 64 letters, digits, '-', '_' or '.', not a leading '.', and not \"link\""
    )]
    Name(String),
    /// The file holds something else.
    #[error("the keyring is damaged: {0}")]
    Damaged(String),
    /// Written by a newer version.
    #[error("the keyring has format {0}, newer than this version of xorfs reads")]
    Newer(u8),
    /// The disk failed.
    #[error("could not read or write the keyring")]
    Io(#[from] std::io::Error),
}

impl Keyring {
    /// Reads a keyring; a missing file is an empty one.
    pub fn open(_file: &Path) -> Result<Self, KeyringError> {
        todo!()
    }
    /// Writes it, mode 0600, atomically and synced.
    pub fn save(&self, _file: &Path) -> Result<(), KeyringError> {
        todo!()
    }
    /// Adds a volume under a fresh name.
    pub fn add(&mut self, _name: &str, _access: Access) -> Result<(), KeyringError> {
        todo!()
    }
    /// Forgets a volume; false where there was none.
    pub fn remove(&mut self, _name: &str) -> bool {
        todo!()
    }
    /// What opens a volume.
    pub fn access(&self, _name: &str) -> Option<&Access> {
        todo!()
    }
    /// Names and what opens them, by name.
    pub fn volumes(&self) -> impl Iterator<Item = (&str, &Access)> {
        self.0.iter().map(|(name, access)| (name.as_str(), access))
    }
}

impl Access {
    /// The volume.
    pub fn volume(&self) -> VolumeId {
        todo!()
    }
    /// What opens its roots.
    pub fn read_key(&self) -> ReadKey {
        todo!()
    }
}
