//! Where a get goes: the destination and the partial beside it.
//!
//! The partial carries what it is a part of in an extended attribute; where that differs, or the
//! disk keeps no attributes, the partial is started anew. Invariant: the destination is never
//! touched before everything has arrived, and without `--force` never replaced, however late it
//! appears; with it a file replaces no directory, and a directory no file.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{CWD, RenameFlags, XattrFlags};
use rustix::io::Errno;
use xorfs_store::BlockId;

use crate::api::types::{EntryKind, EntryRow};
use crate::exit::Failure;

/// Says what a partial is a part of: a hash, so that it gives no link away.
const SOURCE_XATTR: &str = "user.xorfs-source";

/// A destination.
#[derive(Debug)]
pub(crate) struct Place {
    dest: PathBuf,
    partial: PathBuf,
    force: bool,
}

impl Place {
    /// Takes a destination, if it may be written.
    pub(crate) fn new(dest: &Path, force: bool) -> anyhow::Result<Self> {
        let usage = || Failure::usage(format!("{} cannot be a destination", dest.display()));
        let name = dest.file_name().ok_or_else(usage)?;
        if !force && fs::symlink_metadata(dest).is_ok() {
            return Err(exists(dest).into());
        }
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(".xorfs-partial");
        let partial = dest.with_file_name(partial);
        Ok(Self { dest: dest.to_owned(), partial, force })
    }

    /// Where to write until everything has arrived.
    pub(crate) fn partial(&self) -> &Path {
        &self.partial
    }

    /// Makes the partial ready for `entry`: keeps one of the same source, removes any other.
    pub(crate) fn prepare(&self, path: &[u8], entry: &EntryRow) -> anyhow::Result<()> {
        let shown = || self.partial.display().to_string();
        if let Ok(found) = fs::symlink_metadata(&self.dest)
            && found.is_dir() != (entry.kind == EntryKind::Directory)
        {
            return Err(other_kind(&self.dest, &found).into());
        }
        let source = source_of(path, entry);
        match fs::symlink_metadata(&self.partial) {
            Ok(found) => {
                let same_kind = match entry.kind {
                    EntryKind::File => found.is_file(),
                    EntryKind::Directory => found.is_dir(),
                    _ => false,
                };
                if same_kind && self.is_part_of(&source) {
                    return Ok(());
                }
                remove(&self.partial).with_context(shown)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(shown),
        }
        match entry.kind {
            EntryKind::File => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                options.open(&self.partial).map(drop).with_context(shown)?;
            }
            EntryKind::Directory => fs::create_dir(&self.partial).with_context(shown)?,
            _ => return Ok(()),
        }
        // A disk without extended attributes only costs a resumption.
        let (name, value) = (SOURCE_XATTR, source.as_bytes());
        let _ = rustix::fs::lsetxattr(&self.partial, name, value, XattrFlags::empty());
        Ok(())
    }

    /// Makes the partial the destination.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        let shown = || self.dest.display().to_string();
        let _ = rustix::fs::lremovexattr(&self.partial, SOURCE_XATTR);
        let rename = |flags| rustix::fs::renameat_with(CWD, &self.partial, CWD, &self.dest, flags);
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) if self.force => {
                rename(RenameFlags::EXCHANGE).map_err(io::Error::from).with_context(shown)?;
                // What was replaced now has the partial's name.
                remove(&self.partial).with_context(shown)
            }
            Err(Errno::EXIST) => Err(exists(&self.dest).into()),
            // A disk that cannot promise not to replace.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                if fs::symlink_metadata(&self.dest).is_ok() {
                    if !self.force {
                        return Err(exists(&self.dest).into());
                    }
                    remove(&self.dest).with_context(shown)?;
                }
                fs::rename(&self.partial, &self.dest).with_context(shown)
            }
            Err(error) => Err(io::Error::from(error)).with_context(shown),
        }
    }

    /// After a failure: keeps what has arrived for the next attempt, and an empty partial not.
    pub(crate) fn leave(&self) {
        let empty = fs::symlink_metadata(&self.partial)
            .is_ok_and(|found| found.is_file() && found.len() == 0);
        // Removing a folder fails where something is in it, as it should.
        let removed =
            if empty { fs::remove_file(&self.partial) } else { fs::remove_dir(&self.partial) };
        if removed.is_err() && fs::symlink_metadata(&self.partial).is_ok() {
            tracing::info!(partial = %self.partial.display(), "kept what was fetched so far");
        }
    }

    fn is_part_of(&self, source: &str) -> bool {
        let mut found = [0; 64];
        match rustix::fs::lgetxattr(&self.partial, SOURCE_XATTR, &mut found) {
            Ok(length) => found[..length] == *source.as_bytes(),
            Err(_) => false,
        }
    }
}

fn source_of(path: &[u8], entry: &EntryRow) -> String {
    let text = format!("{} {}.{} ", entry.size, entry.mtime, entry.mtime_nanos);
    BlockId::of(&[text.as_bytes(), path].concat()).to_string()
}

fn exists(dest: &Path) -> Failure {
    let text = if dest.is_dir() {
        "is a directory that exists; say what to call it in there, or replace all of it with --force"
    } else {
        "exists; replace it with --force"
    };
    Failure::refused(format!("{} {text}", dest.display()))
}

/// A file never takes the place of a whole directory, nor the other way round.
fn other_kind(dest: &Path, found: &fs::Metadata) -> Failure {
    let text = if found.is_dir() {
        "is a directory, which a file does not replace; say what to call it in there"
    } else {
        "is no directory, and a directory does not replace it"
    };
    Failure::refused(format!("{} {text}", dest.display()))
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind) -> EntryRow {
        EntryRow {
            name: None,
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 3,
            mtime: 0,
            mtime_nanos: 0,
            atime: 0,
            atime_nanos: 0,
            ino: 0,
            device: None,
            xattrs: Vec::new(),
            target: None,
        }
    }

    #[test]
    fn a_destination_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("dest");
        let place = Place::new(&dest, false).unwrap();
        place.prepare(b"main/a", &entry(EntryKind::File)).unwrap();
        place.leave();
        assert!(!place.partial().exists(), "an empty partial is no use");
        place.prepare(b"main/a", &entry(EntryKind::File)).unwrap();
        fs::write(place.partial(), "new").unwrap();
        fs::write(&dest, "old").unwrap();
        assert!(place.finish().is_err(), "it appeared meanwhile");
        assert_eq!(fs::read(&dest).unwrap(), b"old");
        assert!(Place::new(&dest, false).is_err());
        let place = Place::new(&dest, true).unwrap();
        place.finish().unwrap();
        assert_eq!(fs::read(&dest).unwrap(), b"new");
        assert!(!place.partial().exists());
    }

    #[test]
    fn force_does_not_replace_a_directory_by_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("folder"), dir.path().join("file"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("kept"), "kept").unwrap();
        fs::write(&file, "kept").unwrap();
        let place = Place::new(&folder, true).unwrap();
        assert!(place.prepare(b"main/a", &entry(EntryKind::File)).is_err());
        assert!(!place.partial().exists());
        let place = Place::new(&file, true).unwrap();
        assert!(place.prepare(b"main/a", &entry(EntryKind::Directory)).is_err());
        assert_eq!(fs::read(folder.join("kept")).unwrap(), fs::read(&file).unwrap());
    }

    #[test]
    fn another_source_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(&dir.path().join("dest"), false).unwrap();
        place.prepare(b"main/a", &entry(EntryKind::Directory)).unwrap();
        fs::write(place.partial().join("file"), "a").unwrap();
        place.prepare(b"main/b", &entry(EntryKind::Directory)).unwrap();
        assert!(!place.partial().join("file").exists());
    }
}
