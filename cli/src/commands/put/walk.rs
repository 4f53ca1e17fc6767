//! Walking the sources: which entries there are, in chunks for whoever reads them.
//!
//! Walking runs ahead of reading by `CHUNKS_AHEAD` chunks. Directories are made in the volume
//! before anything in them is handed on. Memory: the names of one run of a directory, sorted in
//! runs so that one of a million entries is walked as it is read, the directories that wait, and
//! what `Tally` keeps of all.

use std::fs::{self, FileType};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use crate::api::wire::{Item, Meta, encode};
use crate::commands::put::content::vanished_or;
use crate::commands::put::source::Source;
use crate::commands::put::upload::{Place, Upload};
use crate::exit::Failure;

/// Entries that are read together, and asked for in one request.
const CHUNK_ENTRIES: usize = 256;

/// Names of a directory that are sorted together.
const SORTED_NAMES: usize = 16_384;

/// Chunks that wait for a reader.
pub(super) const CHUNKS_AHEAD: usize = 4;

/// Something to be put that is no directory.
#[derive(Debug)]
pub(super) struct Entry {
    /// Which of the sources it belongs to.
    pub(super) source: usize,
    /// Whether it is that source itself.
    pub(super) is_source: bool,
    pub(super) path: PathBuf,
    pub(super) dest: Vec<u8>,
}

/// Entries that are read together.
pub(super) type Chunk = Vec<Entry>;

/// A walk over all sources.
pub(super) struct Walk<'a> {
    pub(super) upload: &'a Upload,
    pub(super) chunks: SyncSender<Chunk>,
    chunk: Chunk,
}

/// Nobody reads any more.
struct Stopped;

impl<'a> Walk<'a> {
    pub(super) fn new(upload: &'a Upload, chunks: SyncSender<Chunk>) -> Self {
        Self { upload, chunks, chunk: Chunk::new() }
    }

    /// Walks every source, and ends early where the upload stops.
    pub(super) fn run(mut self) {
        let upload = self.upload;
        for (number, source) in upload.sources.iter().enumerate() {
            if self.source(number, source).is_err() {
                return;
            }
        }
        // Whoever reads has gone where the upload stopped, and then nothing is missed.
        drop(self.hand_on());
    }

    fn source(&mut self, number: usize, source: &Source) -> Result<(), Stopped> {
        let dest = self.upload.dest(source);
        if source.holds(&dest, &self.upload.mounts) {
            let text = format!("{} cannot be put into itself", source.path.display());
            self.upload.source_failed(number, Failure::refused(text).into());
            return Ok(());
        }
        let (path, is_source) = (source.path.clone(), true);
        if !source.metadata.is_dir() {
            return self.push(Entry { source: number, is_source, path, dest });
        }
        let top = Place { source: number, path, dest };
        if let Some((_, error)) = self.make(std::slice::from_ref(&top))?.into_iter().next() {
            self.upload.source_failed(number, error);
            return Ok(());
        }
        let mut open = vec![top];
        while let Some(folder) = open.pop() {
            if let Err(error) = self.folder(&folder, source, &mut open)? {
                self.upload.problem(error);
            }
            self.upload.note_folder(folder);
        }
        Ok(())
    }

    /// Hands on what is in a directory, and opens the directories in it.
    fn folder(
        &mut self,
        folder: &Place,
        source: &Source,
        open: &mut Vec<Place>,
    ) -> Result<anyhow::Result<()>, Stopped> {
        let mut entries = match fs::read_dir(&folder.path) {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(vanished_or(error, &folder.path))),
        };
        let first = open.len();
        loop {
            let mut names = Vec::new();
            for entry in entries.by_ref().take(SORTED_NAMES) {
                match entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))) {
                    Ok(entry) => names.push(entry),
                    Err(error) => return Ok(Err(vanished_or(error, &folder.path))),
                }
            }
            if names.is_empty() {
                break;
            }
            names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            let mut below = Vec::new();
            for (name, kind) in names {
                let path = folder.path.join(&name);
                let dest = [folder.dest.as_slice(), b"/", name.as_bytes()].concat();
                self.entry(Place { source: folder.source, path, dest }, kind, source, &mut below)?;
            }
            let refused = self.make(&below)?;
            for (at, error) in refused.into_iter().rev() {
                self.upload.problem(error);
                below.remove(at);
            }
            open.append(&mut below);
        }
        // The last one is walked next.
        open[first..].reverse();
        Ok(Ok(()))
    }

    fn entry(
        &mut self,
        found: Place,
        kind: FileType,
        source: &Source,
        below: &mut Vec<Place>,
    ) -> Result<(), Stopped> {
        if !kind.is_dir() {
            let Place { source, path, dest } = found;
            return self.push(Entry { source, is_source: false, path, dest });
        }
        if source.is_mount(&found.path, &self.upload.mounts) {
            let text = format!("{} is a mount of this node and was left out", found.path.display());
            self.upload.problem(Failure::refused(text).into());
        } else {
            below.push(found);
        }
        Ok(())
    }

    /// Makes directories; returns those that were refused, by their place, and why.
    fn make(&self, folders: &[Place]) -> Result<Vec<(usize, anyhow::Error)>, Stopped> {
        if self.upload.is_stopped() {
            return Err(Stopped);
        }
        if folders.is_empty() {
            return Ok(Vec::new());
        }
        let mut items = Vec::new();
        let (uid, gid) = (self.upload.putter.uid, self.upload.putter.gid);
        for folder in folders {
            // It gets its own attributes when all is in it.
            let meta = Meta { mode: 0o700, uid, gid, ..Meta::default() };
            encode(&Item::Directory { path: folder.dest.clone(), meta }, &mut items);
        }
        match self.upload.send(items) {
            Ok(reply) => Ok(reply
                .problems
                .into_iter()
                .filter_map(|problem| {
                    let at = usize::try_from(problem.item).ok()?;
                    let path = &folders.get(at)?.path;
                    let error = anyhow::Error::from(Failure::new(problem.kind, problem.message));
                    Some((at, error.context(path.display().to_string())))
                })
                .collect()),
            Err(error) => {
                self.upload.stop(error.context("directories could not be made"));
                Err(Stopped)
            }
        }
    }

    fn push(&mut self, entry: Entry) -> Result<(), Stopped> {
        self.chunk.push(entry);
        if self.chunk.len() >= CHUNK_ENTRIES { self.hand_on() } else { Ok(()) }
    }

    fn hand_on(&mut self) -> Result<(), Stopped> {
        if self.upload.is_stopped() {
            return Err(Stopped);
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.chunks.send(chunk).map_err(|_| Stopped)
    }
}
