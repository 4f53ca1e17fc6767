//! The node's key on disk: `HOME/identity`, 32 bytes, mode 0600.
//!
//! Made on first use. It is written to a temporary file, synced and renamed, so a crash leaves
//! either no identity or a whole one. A file of another length is refused, never replaced: the
//! node's name in the network hangs on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use xorfs_net::Identity;
use xorfs_store::crash;

use crate::exit::{Exit, Failure};

/// Reads the identity, or makes one.
pub(crate) fn open(path: &Path) -> anyhow::Result<Identity> {
    match fs::read(path) {
        Ok(bytes) => {
            let seed = bytes.try_into().map_err(|bytes: Vec<u8>| {
                let (path, length) = (path.display(), bytes.len());
                let text = format!("the identity {path} has {length} bytes, not 32");
                Failure::new(Exit::Corrupt, text)
            })?;
            Ok(Identity::from_seed(seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let identity = Identity::generate();
            save(path, identity.seed())
                .with_context(|| format!("could not write the identity {}", path.display()))?;
            Ok(identity)
        }
        Err(error) => {
            Err(error).with_context(|| format!("could not read the identity {}", path.display()))
        }
    }
}

fn save(path: &Path, seed: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(seed)?;
    file.sync_all()?;
    crash::point("identity-before-rename");
    fs::rename(&temporary, path)?;
    crash::point("identity-after-rename");
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_stays_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        let first = open(&path).unwrap().node_id();
        assert_eq!(open(&path).unwrap().node_id(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        assert!(open(&path).is_err());
    }
}
