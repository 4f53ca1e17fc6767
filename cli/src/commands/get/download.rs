//! Fetching files and directories into a partial.
//!
//! Several ranges of a large file and several small files are in flight at once, so that the
//! network's round trips overlap; memory is bounded by their product. Holes are not fetched and
//! stay holes. Names are checked, because whoever made the link made them. A file that fails is
//! noted and the rest goes on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use anyhow::Context;
use axum::body::Bytes;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt, TryStreamExt};

use crate::api::client::Client;
use crate::api::types::{EntryKind, EntryRow};
use crate::commands::get::checked_name;
use crate::commands::get::dress::{Dresser, clear};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;

/// Bytes of one range: a few blocks, so that one request fetches them side by side.
const RANGE_BYTES: u64 = 2 << 20;

/// Ranges of one file in flight.
const RANGES_IN_FLIGHT: usize = 3;

/// Files in flight.
const FILES_IN_FLIGHT: usize = 6;

/// Files from this many bytes on are asked for their holes; in a smaller one they save nothing.
const HOLES_BYTES_MIN: u64 = 128 << 10;

/// Problems after which a get gives up: where the node has gone, every file would be one.
const PROBLEMS_MAX: usize = 100;

/// A running fetch.
pub(super) struct Download<'a> {
    client: &'a Client,
    progress: &'a Progress,
    dresser: &'a Dresser<'a>,
    /// Whether what is fetched can never change, so that half a file may be continued.
    immutable: bool,
    problems: RefCell<Vec<anyhow::Error>>,
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

impl<'a> Download<'a> {
    pub(super) fn new(
        client: &'a Client,
        progress: &'a Progress,
        dresser: &'a Dresser<'a>,
        immutable: bool,
    ) -> Self {
        Self { client, progress, dresser, immutable, problems: RefCell::default() }
    }

    /// Fetches an entry and all below it to `dest`; tells the bytes of all files. What fails does
    /// not hold up the rest.
    pub(super) async fn entry(
        &self,
        path: &[u8],
        dest: &Path,
        row: &EntryRow,
    ) -> anyhow::Result<u64> {
        match row.kind {
            EntryKind::Directory => self.tree(path, dest, row).await,
            EntryKind::File => self.file(path.to_vec(), dest.to_owned(), row.clone()).await,
            _ => {
                self.dresser.special(dest, row)?;
                Ok(0)
            }
        }
    }

    /// What could not be fetched.
    pub(super) fn into_problems(self) -> Vec<anyhow::Error> {
        self.problems.into_inner()
    }

    async fn tree(&self, path: &[u8], dest: &Path, row: &EntryRow) -> anyhow::Result<u64> {
        let (mut files, mut bytes) = (FuturesUnordered::new(), 0);
        let root = Folder { path: path.to_vec(), dest: dest.to_owned(), row: row.clone() };
        let (mut open, mut done) = (vec![root], Vec::new());
        let (mut first_names, mut links) = (HashMap::new(), Vec::new());
        while let Some(folder) = open.pop() {
            make_folder(&folder.dest)?;
            let rows = match self.client.list_whole(&folder.path).await {
                Ok(rows) => rows,
                Err(error) => {
                    self.problem(error)?;
                    continue;
                }
            };
            for row in rows {
                let name = row.name.as_ref().map(checked_name).transpose()?;
                let name = name.context("the node named no file")?;
                let path = [folder.path.as_slice(), b"/", name.as_bytes()].concat();
                let dest = folder.dest.join(name);
                match row.kind {
                    EntryKind::Directory => open.push(Folder { path, dest, row }),
                    EntryKind::File if is_further_name(&mut first_names, &row, &dest) => {
                        links.push((first_names[&row.ino].clone(), dest));
                    }
                    EntryKind::File => {
                        self.progress.add_total(row.size);
                        files.push(self.file(path, dest, row));
                    }
                    _ => self.note(self.dresser.special(&dest, &row).map(|()| 0))?,
                }
                while files.len() >= FILES_IN_FLIGHT {
                    bytes += self.count(files.next().await)?;
                }
            }
            done.push((folder.dest, folder.row));
        }
        while let Some(more) = files.next().await {
            bytes += self.count(Some(more))?;
        }
        for (first, dest) in links {
            let shown = || dest.display().to_string();
            let linked = clear(&dest).and_then(|()| fs::hard_link(&first, &dest));
            self.note(linked.with_context(shown).map(|()| 0))?;
        }
        // The innermost first: writing into a folder changes its time.
        for (dest, row) in done.iter().rev() {
            self.dresser.dress(dest, row)?;
        }
        Ok(bytes)
    }

    async fn file(&self, path: Vec<u8>, dest: PathBuf, row: EntryRow) -> anyhow::Result<u64> {
        let shown = || dest.display().to_string();
        let (mut file, from) = self.open(&dest, &row).with_context(shown)?;
        self.progress.add(from);
        if from < row.size {
            self.content(&path, &mut file, from, row.size).await.with_context(shown)?;
            if !self.immutable {
                self.check_unchanged(&path, &row).await?;
            }
        }
        drop(file);
        self.dresser.dress(&dest, &row)?;
        Ok(row.size)
    }

    /// Writes a file from `from` on. Its length is at each moment how far it is complete.
    async fn content(
        &self,
        path: &[u8],
        file: &mut File,
        from: u64,
        size: u64,
    ) -> anyhow::Result<()> {
        let mut at = from;
        while at < size {
            let (runs, until) = match size >= HOLES_BYTES_MIN {
                true => {
                    let found = self.client.runs(path, at).await?;
                    (found.runs, found.until)
                }
                false => (vec![(at, size - at)], size),
            };
            if until <= at {
                return Err(Failure::failed("the file became shorter while it was read").into());
            }
            for (offset, length) in runs {
                self.progress.add(offset.saturating_sub(at));
                file.seek(SeekFrom::Start(offset))?;
                let mut content = ranges(self.client, path, offset..offset + length);
                while let Some(bytes) = content.try_next().await? {
                    file.write_all(&bytes)?;
                    self.progress.add(bytes.len() as u64);
                }
                at = offset + length;
            }
            self.progress.add(until.saturating_sub(at));
            at = at.max(until);
            file.set_len(at)?;
        }
        Ok(())
    }

    fn count(&self, done: Option<anyhow::Result<u64>>) -> anyhow::Result<u64> {
        match done {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => self.problem(error).map(|()| 0),
            None => Ok(0),
        }
    }

    fn note(&self, done: anyhow::Result<u64>) -> anyhow::Result<()> {
        self.count(Some(done)).map(drop)
    }

    /// Keeps a problem and goes on, unless there are too many for that to make sense.
    fn problem(&self, error: anyhow::Error) -> anyhow::Result<()> {
        let mut problems = self.problems.borrow_mut();
        if problems.len() >= PROBLEMS_MAX {
            return Err(error.context("too many problems: gave up"));
        }
        problems.push(error);
        Ok(())
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
}

/// Whether a file is fetched under another name; this one becomes a hard link then.
fn is_further_name(first_names: &mut HashMap<u64, PathBuf>, row: &EntryRow, dest: &Path) -> bool {
    if row.nlink < 2 {
        return false;
    }
    match first_names.entry(row.ino) {
        Entry::Occupied(_) => true,
        Entry::Vacant(first) => {
            first.insert(dest.to_owned());
            false
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
