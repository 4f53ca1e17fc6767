//! Reading one chunk of entries and sending what has changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

use anyhow::Context;
use futures_util::stream;
use tokio::sync::mpsc;

use crate::api::wire::{ImportReply, Item, Meta, encode};
use crate::commands::put::content::{self, vanished_or};
use crate::commands::put::meta::{plain_stamp, special, stamp, xattrs};
use crate::commands::put::upload::{Linked, Place, Upload};
use crate::commands::put::walk::{Chunk, Entry};
use crate::exit::Failure;

/// Files up to this many bytes are read whole and share a request.
const SMALL_FILE_BYTES: u64 = 512 << 10;

/// Bytes of items after which a request is sent.
const BATCH_BYTES: usize = 4 << 20;

/// Parts of a large file, each with its header, that wait to be sent.
const QUEUE_PARTS: usize = 8;

/// One thread's share of an upload.
pub(super) struct Reader<'a> {
    upload: &'a Upload,
    /// Items to be sent.
    items: Vec<u8>,
    /// What they are of, in order, and the bytes of each.
    sent: Vec<(Entry, Metadata)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(upload: &'a Upload) -> Self {
        Self { upload, items: Vec::new(), sent: Vec::new() }
    }

    /// Reads a chunk.
    ///
    /// # Errors
    /// What every further file would fail with too; what is wrong with one is a problem.
    pub(super) fn read(&mut self, chunk: Chunk) -> anyhow::Result<()> {
        let mut files = Vec::new();
        for entry in chunk {
            match self.look(&entry) {
                Ok(metadata) if metadata.is_file() => files.push((entry, metadata)),
                Ok(metadata) => self.special(entry, metadata)?,
                Err(error) => self.problem(&entry, error),
            }
        }
        let stamps: Vec<_> = files
            .iter()
            .map(|(entry, metadata)| (entry.dest.clone(), plain_stamp(metadata)))
            .collect();
        let found = match stamps.is_empty() {
            true => Vec::new(),
            false => self.upload.runtime.block_on(self.upload.client.unchanged(&stamps))?,
        };
        for ((entry, metadata), ino) in files.into_iter().zip(found) {
            if self.upload.is_stopped() {
                return Ok(());
            }
            self.upload.progress.add_total(metadata.len());
            if metadata.nlink() > 1 && self.is_further_name(&entry, &metadata) {
                self.upload.progress.add(metadata.len());
            } else if ino != 0 {
                self.upload.progress.add(metadata.len());
                self.upload.counts[entry.source].unchanged.fetch_add(1, Ordering::Relaxed);
            } else {
                self.file(entry)?;
            }
        }
        self.flush()
    }

    /// What an entry is now.
    fn look(&self, entry: &Entry) -> anyhow::Result<Metadata> {
        // What is named on the command line is followed, as `cp` does.
        let looked = match entry.is_source {
            true => entry.path.metadata(),
            false => entry.path.symlink_metadata(),
        };
        looked.map_err(|error| vanished_or(error, &entry.path))
    }

    fn special(&mut self, entry: Entry, metadata: Metadata) -> anyhow::Result<()> {
        match special(&metadata, &entry.path) {
            Ok(node) => {
                let (path, meta) = (entry.dest.clone(), self.meta(&entry, &metadata));
                encode(&Item::Special { path, meta, node }, &mut self.items);
                self.sent.push((entry, metadata));
            }
            Err(error) => self.problem(&entry, vanished_or(error, &entry.path)),
        }
        self.flush_if_large()
    }

    /// Whether a file is sent under another name; this one becomes a hard link at the end.
    fn is_further_name(&self, entry: &Entry, metadata: &Metadata) -> bool {
        let mut linked = self.upload.linked();
        let inode = (metadata.dev(), metadata.ino());
        if let Some(file) = linked.get_mut(&inode) {
            let (path, dest) = (entry.path.clone(), entry.dest.clone());
            file.names.push(Place { source: entry.source, path, dest });
            return true;
        }
        let (first, stamp) = (entry.dest.clone(), stamp(metadata));
        linked.insert(inode, Linked { first, names: Vec::new(), stamp, failed: false });
        false
    }

    fn file(&mut self, entry: Entry) -> anyhow::Result<()> {
        let (mut file, before) = match content::open(&entry.path, entry.is_source) {
            Ok(opened) => opened,
            Err(error) => {
                self.problem(&entry, error);
                return Ok(());
            }
        };
        let start = self.items.len();
        let (path, meta) = (entry.dest.clone(), self.meta(&entry, &before));
        let (size, stamp) = (before.len(), stamp(&before));
        if size > SMALL_FILE_BYTES {
            let mut header = Vec::new();
            encode(&Item::File { path, meta, size, stamp }, &mut header);
            return self.large_file(entry, file, before, header);
        }
        encode(&Item::File { path, meta, size, stamp }, &mut self.items);
        match content::read_whole(&mut file, &before, &entry.path, &mut self.items) {
            Ok(()) => self.sent.push((entry, before)),
            Err(error) => {
                self.items.truncate(start);
                self.problem(&entry, error);
            }
        }
        self.flush_if_large()
    }

    fn large_file(
        &mut self,
        entry: Entry,
        file: std::fs::File,
        before: Metadata,
        header: Vec<u8>,
    ) -> anyhow::Result<()> {
        let upload = self.upload;
        let (frames, mut receiver) = mpsc::channel(QUEUE_PARTS);
        // The first one fits, nobody reads yet.
        drop(frames.try_send(Ok(header.into())));
        let parts = stream::poll_fn(move |context| receiver.poll_recv(context));
        let client = upload.client.clone();
        let sending = upload
            .runtime
            .spawn(async move { client.import(reqwest::Body::wrap_stream(parts)).await });
        let read = content::stream(file, &before, &entry.path, &frames, &upload.progress);
        drop(frames);
        let reply = upload.runtime.block_on(sending).context("sending was cut short")??;
        match (read, reply.problems.into_iter().next()) {
            (Err(error), _) => self.problem(&entry, error),
            (Ok(()), Some(problem)) => {
                let error = anyhow::Error::from(Failure::new(problem.kind, problem.message));
                self.problem(&entry, error.context(entry.path.display().to_string()));
            }
            (Ok(()), None) => self.count(&entry, &before),
        }
        Ok(())
    }

    fn flush_if_large(&mut self) -> anyhow::Result<()> {
        if self.items.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if self.items.is_empty() {
            return Ok(());
        }
        let capacity = self.items.len();
        let items = std::mem::replace(&mut self.items, Vec::with_capacity(capacity));
        let reply: ImportReply = self.upload.send(items)?;
        let mut problems = reply.problems.into_iter().peekable();
        for (number, (entry, metadata)) in (0..).zip(std::mem::take(&mut self.sent)) {
            self.upload.progress.add(metadata.len() * u64::from(metadata.is_file()));
            match problems.next_if(|problem| problem.item == number) {
                Some(problem) => {
                    let error = anyhow::Error::from(Failure::new(problem.kind, problem.message));
                    self.problem(&entry, error.context(entry.path.display().to_string()));
                }
                None => self.count(&entry, &metadata),
            }
        }
        Ok(())
    }

    fn meta(&self, entry: &Entry, metadata: &Metadata) -> Meta {
        let (xattrs, skipped) = xattrs(&entry.path, entry.is_source);
        if skipped {
            self.upload.say_xattrs_left_out();
        }
        Meta { xattrs, ..self.upload.putter.meta(metadata) }
    }

    fn count(&self, entry: &Entry, metadata: &Metadata) {
        if metadata.is_file() {
            let count = &self.upload.counts[entry.source];
            count.files.fetch_add(1, Ordering::Relaxed);
            count.bytes.fetch_add(metadata.len(), Ordering::Relaxed);
        }
    }

    fn problem(&self, entry: &Entry, error: anyhow::Error) {
        let mut linked = self.upload.linked();
        if let Some(file) = linked.values_mut().find(|file| file.first == entry.dest) {
            file.failed = true;
        }
        drop(linked);
        match entry.is_source {
            true => self.upload.source_failed(entry.source, error),
            false => self.upload.problem(error),
        }
    }
}
