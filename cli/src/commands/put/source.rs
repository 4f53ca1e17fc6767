//! What is put: paths of the caller, their names in the volume, and their attributes.
//!
//! A symbolic link on the command line is followed, as `cp` does; one below a directory is copied
//! as a link. A mount of the node itself is never copied into it: that would never end.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use xorfs_store::Timestamp;

use crate::api::types::Attributes;
use crate::exit::Failure;

/// One path of the command line.
#[derive(Debug)]
pub(crate) struct Source {
    /// As it was given.
    pub(crate) path: PathBuf,
    /// What it is called in the volume.
    pub(crate) name: OsString,
    pub(crate) metadata: Metadata,
    /// The path without links and dots.
    full: PathBuf,
}

/// Looks at every path; those that cannot be put come back as errors.
pub(crate) fn open_all(paths: &[PathBuf]) -> (Vec<Source>, Vec<anyhow::Error>) {
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match Source::open(path) {
            Ok(source) => sources.push(source),
            Err(error) => problems.push(error),
        }
    }
    (sources, problems)
}

impl Source {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = || path.display().to_string();
        let metadata = fs::metadata(path).with_context(shown)?;
        let full = fs::canonicalize(path).with_context(shown)?;
        let name = match path.file_name() {
            Some(name) => name.to_owned(),
            // `.`, `..` and the like have the name of the folder that they stand for.
            None => {
                let nameless = || Failure::usage(format!("{} has no name", path.display()));
                full.file_name().ok_or_else(nameless)?.to_owned()
            }
        };
        Ok(Self { path: path.to_owned(), name, metadata, full })
    }

    /// Whether `path`, below this source, is one of `mounts`.
    pub(crate) fn is_mount(&self, path: &Path, mounts: &[PathBuf]) -> bool {
        let Ok(below) = path.strip_prefix(&self.path) else { return false };
        mounts.iter().any(|mount| mount.strip_prefix(&self.full).is_ok_and(|rest| rest == below))
    }

    /// Whether `dest`, a path in the view, is this source or lies in it, as one of `mounts` shows
    /// it: such a copy would copy itself, and never end.
    pub(crate) fn holds(&self, dest: &[u8], mounts: &[PathBuf]) -> bool {
        let dest = Path::new(OsStr::from_bytes(dest));
        let shown = mounts.iter().filter_map(|mount| self.full.strip_prefix(mount).ok());
        shown.into_iter().any(|own| dest.starts_with(own))
    }
}

/// The caller, now.
pub(crate) fn own_attributes() -> Attributes {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    Attributes {
        mode: 0,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp { seconds: now.as_secs() as i64, nanos: now.subsec_nanos() },
    }
}
