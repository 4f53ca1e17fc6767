//! Extended attributes: the stored ones, and the virtual ones that tell what xorfs knows.
//!
//! Virtual ones are read by name and not listed, so that copying a file's attributes does not
//! freeze what is only true of the original. Nor are attributes outside `user.`, which `import`
//! keeps for `get`: nobody would obey them here.

use xorfs_store::{XATTR_BYTES_MAX, XattrMap};

use crate::error::FsError;
use crate::view::apply::Action;
use crate::view::inode::HeldXattrs;
use crate::view::overlay::State;
use crate::view::types::XattrMode;
use crate::view::volume::Volume;

/// Largest value in bytes, as on Linux (`XATTR_SIZE_MAX`).
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Longest name in bytes, as on Linux (`XATTR_NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;

/// What is stored; access control lists and security labels would be kept but not obeyed.
const STORED_PREFIX: &[u8] = b"user.";

/// What the view answers itself.
pub(super) const VIRTUAL_PREFIX: &[u8] = b"user.xorfs.";

/// Bytes that encoding adds to a name and a value, at most.
pub(super) const ENTRY_OVERHEAD: usize = 8;

impl Volume {
    /// A stored attribute.
    pub(super) fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if !name.starts_with(STORED_PREFIX) {
            state_exists(&self.lock(), ino)?;
            return Err(FsError::NoXattr);
        }
        self.run(|state| {
            state.require_xattrs(ino)?;
            Ok(open_map(state, ino)?.get(name).cloned().ok_or(FsError::NoXattr)?)
        })
    }

    pub(super) fn xattr_names(&self, ino: u64) -> Result<Vec<Vec<u8>>, FsError> {
        self.run(|state| {
            state.require_xattrs(ino)?;
            let names = open_map(state, ino)?.keys();
            Ok(names.filter(|name| name.starts_with(STORED_PREFIX)).cloned().collect())
        })
    }

    pub(super) fn set_xattr(
        &self,
        ino: u64,
        name: &[u8],
        value: Option<&[u8]>,
        mode: XattrMode,
    ) -> Result<(), FsError> {
        self.check_writable()?;
        check(name, value)?;
        let time = self.now();
        self.run(|state| {
            state.require_xattrs(ino)?;
            let map = open_map(state, ino)?;
            let exists = map.contains_key(name);
            match (value, mode) {
                (None, _) | (Some(_), XattrMode::Replace) if !exists => {
                    return Err(FsError::NoXattr.into());
                }
                (Some(_), XattrMode::Create) if exists => return Err(FsError::Exists.into()),
                _ => {}
            }
            if let Some(value) = value {
                let others: usize = map
                    .iter()
                    .filter(|(other, _)| other.as_slice() != name)
                    .map(|(name, value)| name.len() + value.len() + ENTRY_OVERHEAD)
                    .sum();
                if others + name.len() + value.len() + 2 * ENTRY_OVERHEAD > XATTR_BYTES_MAX {
                    return Err(FsError::NoSpace.into());
                }
            }
            state.require_names(ino)?;
            let (name, value) = (name.to_vec(), value.map(<[u8]>::to_vec));
            state.commit(Action::SetXattr { ino, name, value, time });
            Ok(())
        })
    }
}

fn check(name: &[u8], value: Option<&[u8]>) -> Result<(), FsError> {
    if name.starts_with(VIRTUAL_PREFIX) {
        return Err(FsError::NotPermitted);
    }
    if !name.starts_with(STORED_PREFIX) {
        return Err(FsError::Unsupported);
    }
    if name.len() == STORED_PREFIX.len() {
        return Err(FsError::Invalid("an attribute without a name"));
    }
    check_lengths(name, value)
}

pub(super) fn check_lengths(name: &[u8], value: Option<&[u8]>) -> Result<(), FsError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    if value.is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
        return Err(FsError::XattrTooLarge);
    }
    Ok(())
}

fn state_exists(state: &State, ino: u64) -> Result<(), FsError> {
    state.inode(ino).map(drop)
}

fn open_map(state: &State, ino: u64) -> Result<&XattrMap, FsError> {
    match &state.inode(ino)?.xattrs {
        HeldXattrs::Open { map, .. } => Ok(map),
        HeldXattrs::Sealed(_) => unreachable!("callers require them first"),
    }
}
