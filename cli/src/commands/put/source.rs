//! What is put: paths of the caller, their names in the volume, and their attributes.
//!
//! A symbolic link on the command line is followed, as `cp` does; one below a directory is copied
//! as a link.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use walkdir::WalkDir;
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
    bytes: u64,
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
        let name = match path.file_name() {
            Some(name) => name.to_owned(),
            // `.`, `..` and the like have the name of the folder that they stand for.
            None => {
                let full = fs::canonicalize(path).with_context(shown)?;
                let nameless = || Failure::usage(format!("{} has no name", path.display()));
                full.file_name().ok_or_else(nameless)?.to_owned()
            }
        };
        let bytes = if metadata.is_dir() { bytes_below(path) } else { metadata.len() };
        Ok(Self { path: path.to_owned(), name, metadata, bytes })
    }

    /// Bytes of all files, as far as they could be counted.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What a file or directory is stored with: its mode and time; its owner where root puts it,
/// else whoever puts it.
pub(crate) fn attributes_of(metadata: &Metadata) -> Attributes {
    let own = own_attributes();
    let (uid, gid) =
        if own.uid == 0 { (metadata.uid(), metadata.gid()) } else { (own.uid, own.gid) };
    let mtime = Timestamp { seconds: metadata.mtime(), nanos: nanos(metadata) };
    Attributes { mode: metadata.mode() & 0o7777, uid, gid, mtime }
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

fn nanos(metadata: &Metadata) -> u32 {
    u32::try_from(metadata.mtime_nsec()).unwrap_or(0)
}

fn bytes_below(path: &Path) -> u64 {
    let entries = WalkDir::new(path).into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
