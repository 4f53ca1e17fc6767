//! Fetching files and directories into a partial.
//!
//! Several ranges of a large file and several small files are in flight at once, so that the
//! network's round trips overlap; memory is bounded by their product. Names are checked, because
//! whoever made the link made them. Set-id bits are not restored.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use anyhow::Context;
use axum::body::Bytes;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt, TryStreamExt};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use crate::api::client::Client;
use crate::api::types::{EntryKind, EntryRow};
use crate::commands::get::checked_name;
use crate::exit::{Exit, Failure};
use crate::progress::Progress;

/// Bytes of one range: a few blocks, so that one request fetches them side by side.
const RANGE_BYTES: u64 = 2 << 20;

/// Ranges of one file in flight.
const RANGES_IN_FLIGHT: usize = 3;

/// Files in flight.
const FILES_IN_FLIGHT: usize = 6;

/// A running fetch.
#[derive(Clone, Copy)]
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) progress: &'a Progress,
    /// Whether what is fetched can never change, so that half a file may be continued.
    pub(crate) immutable: bool,
}

/// A directory of the view, where it goes, and what it will look like.
struct Folder {
    path: Vec<u8>,
    dest: PathBuf,
    row: EntryRow,
}

/// The content of a file in order. Ends in an error where the file turns out shorter.
pub(crate) fn ranges<'a>(
    client: &'a Client,
    path: &'a [u8],
    range: Range<u64>,
) -> Pin<Box<dyn Stream<Item = anyhow::Result<Bytes>> + 'a>> {
    let end = range.end;
    let read = move |offset: u64| async move {
        let length = (end - offset).min(RANGE_BYTES) as usize;
        let bytes = client.read(path, offset, length).await?;
        if bytes.len() != length {
            return Err(Failure::failed("the file became shorter while it was read").into());
        }
        Ok(bytes)
    };
    let offsets = range.step_by(RANGE_BYTES as usize);
    Box::pin(stream::iter(offsets).map(read).buffered(RANGES_IN_FLIGHT))
}

impl Download<'_> {
    /// Fetches an entry and all below it to `dest`; tells the bytes of all files.
    pub(crate) async fn entry(
        &self,
        path: &[u8],
        dest: &Path,
        row: &EntryRow,
    ) -> anyhow::Result<u64> {
        match row.kind {
            EntryKind::Directory => self.tree(path, dest, row).await,
            EntryKind::File => self.file(path.to_vec(), dest.to_owned(), row.clone()).await,
            _ => {
                self.special(dest, row)?;
                Ok(0)
            }
        }
    }

    async fn tree(&self, path: &[u8], dest: &Path, row: &EntryRow) -> anyhow::Result<u64> {
        let (mut files, mut bytes) = (FuturesUnordered::new(), 0);
        let root = Folder { path: path.to_vec(), dest: dest.to_owned(), row: row.clone() };
        let (mut open, mut done) = (vec![root], Vec::new());
        while let Some(folder) = open.pop() {
            make_folder(&folder.dest)?;
            for row in self.client.list(&folder.path).await? {
                let name = row.name.as_ref().map(checked_name).transpose()?;
                let name = name.context("the node named no file")?;
                let path = [folder.path.as_slice(), b"/", name.as_bytes()].concat();
                let dest = folder.dest.join(name);
                match row.kind {
                    EntryKind::Directory => open.push(Folder { path, dest, row }),
                    EntryKind::File => {
                        self.progress.add_total(row.size);
                        files.push(self.file(path, dest, row));
                    }
                    _ => self.special(&dest, &row)?,
                }
                while files.len() >= FILES_IN_FLIGHT {
                    bytes += files.try_next().await?.unwrap_or(0);
                }
            }
            done.push((folder.dest, folder.row));
        }
        while let Some(more) = files.try_next().await? {
            bytes += more;
        }
        // The innermost first: writing into a folder changes its time.
        for (dest, row) in done.iter().rev() {
            finish(dest, row)?;
        }
        Ok(bytes)
    }

    async fn file(&self, path: Vec<u8>, dest: PathBuf, row: EntryRow) -> anyhow::Result<u64> {
        let shown = || dest.display().to_string();
        let (mut file, from) = self.open(&dest, &row).with_context(shown)?;
        self.progress.add(from);
        if from < row.size {
            let mut content = ranges(self.client, &path, from..row.size);
            while let Some(bytes) = content.try_next().await? {
                file.write_all(&bytes).with_context(shown)?;
                self.progress.add(bytes.len() as u64);
            }
            if !self.immutable {
                self.check_unchanged(&path, &row).await?;
            }
        }
        drop(file);
        finish(&dest, &row)?;
        Ok(row.size)
    }

    /// Opens a file of the partial, and tells how much of it is there.
    fn open(&self, dest: &Path, row: &EntryRow) -> io::Result<(File, u64)> {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        // A file that came read only is opened again to be compared, and must let us.
        if fs::symlink_metadata(dest).is_ok_and(|found| found.is_file()) {
            fs::set_permissions(dest, Permissions::from_mode(0o600))?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let mut file = options.open(dest)?;
        let found = file.metadata()?;
        let complete = found.len() == row.size
            && (found.mtime(), found.mtime_nsec()) == (row.mtime, i64::from(row.mtime_nanos));
        let keep = complete || (self.immutable && found.len() <= row.size);
        let from = if keep { found.len() } else { 0 };
        file.set_len(from)?;
        file.seek(SeekFrom::Start(from))?;
        Ok((file, from))
    }

    async fn check_unchanged(&self, path: &[u8], row: &EntryRow) -> anyhow::Result<()> {
        let now = self.client.stat(path).await?;
        if (now.size, now.modified()) != (row.size, row.modified()) {
            let text = format!("{} changed while it was fetched", String::from_utf8_lossy(path));
            return Err(Failure::failed(text).into());
        }
        Ok(())
    }

    /// Makes what has no content: symbolic links and pipes.
    fn special(&self, dest: &Path, row: &EntryRow) -> anyhow::Result<()> {
        let shown = || dest.display().to_string();
        match (row.kind, &row.target) {
            (EntryKind::Symlink, Some(target)) => {
                match fs::remove_file(dest) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).with_context(shown);
                    }
                    _ => symlink(target.as_os_str(), dest).with_context(shown)?,
                }
                set_time(dest, row).with_context(shown)
            }
            (EntryKind::Fifo, _) => {
                let mode = Mode::from_raw_mode(row.mode & 0o777);
                match rustix::fs::mknodat(CWD, dest, FileType::Fifo, mode, 0) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                    Err(error) => Err(io::Error::from(error)).with_context(shown),
                }
            }
            _ => {
                let text = format!("{} is a device or a socket and was left out", dest.display());
                self.progress.say(&text);
                Ok(())
            }
        }
    }
}

/// Makes a folder of the partial, or takes the one that is there; never one behind a link.
fn make_folder(dest: &Path) -> anyhow::Result<()> {
    match fs::create_dir(dest) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(dest)?;
            if !found.is_dir() {
                let text = format!("{} is in the way of a directory", dest.display());
                return Err(Failure::new(Exit::Refused, text).into());
            }
        }
        made => made.with_context(|| dest.display().to_string())?,
    }
    fs::set_permissions(dest, Permissions::from_mode(0o700))
        .with_context(|| dest.display().to_string())
}

/// Gives a file or folder the mode and time it had.
fn finish(dest: &Path, row: &EntryRow) -> anyhow::Result<()> {
    let shown = || dest.display().to_string();
    fs::set_permissions(dest, Permissions::from_mode(row.mode & 0o777)).with_context(shown)?;
    set_time(dest, row).with_context(shown)
}

fn set_time(dest: &Path, row: &EntryRow) -> io::Result<()> {
    let time = Timespec { tv_sec: row.mtime, tv_nsec: row.mtime_nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, dest, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
