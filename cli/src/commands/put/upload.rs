//! Copying sources into the view: one thread walks, several read and send.
//!
//! Each reader takes a chunk of entries, asks which of them are unchanged since they were put
//! last, and sends the others, many small files in one request and each large one in a request of
//! its own. Directories get their attributes when everything is in them, and further names of a
//! file become hard links then. Memory: for each reader one batch and the parts of one large file
//! in flight (about 16 MiB together), what `walk` holds, and what is kept until the end: the path
//! of each directory, and each file with several names.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::api::client::Client;
use crate::api::wire::{ImportReply, Stamp};
use crate::commands::put::ending::finish;
use crate::commands::put::meta::Putter;
use crate::commands::put::reader::Reader;
use crate::commands::put::source::Source;
use crate::commands::put::walk::{CHUNKS_AHEAD, Chunk, Walk};
use crate::exit::Failure;
use crate::progress::Progress;

/// Problems after which a put gives up: a tree of unreadable files would name every one.
const PROBLEMS_MAX: usize = 100;

/// Threads that read: enough to hide the disk, the socket and each other.
const READERS: usize = 3;

/// A directory or another name of a file, where it goes, and which source it belongs to.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) source: usize,
    pub(super) path: PathBuf,
    pub(super) dest: Vec<u8>,
}

/// A file with several names.
#[derive(Debug)]
pub(super) struct Linked {
    /// The name that it is sent under.
    pub(super) first: Vec<u8>,
    /// The others so far.
    pub(super) names: Vec<Place>,
    pub(super) stamp: Option<Stamp>,
    /// Whether it was left out under its first name.
    pub(super) failed: bool,
}

/// What has been done of one source.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Files that were sent, further names included.
    pub(crate) files: AtomicU64,
    /// Files that were as they were put last, and neither read nor sent.
    pub(crate) unchanged: AtomicU64,
    /// Bytes of the files that were sent.
    pub(crate) bytes: AtomicU64,
    failed: AtomicBool,
}

/// A running upload; shared by its threads.
pub(crate) struct Upload {
    pub(super) client: Client,
    pub(super) runtime: Handle,
    pub(super) sources: Vec<Source>,
    /// The directory of the view that everything goes into.
    pub(super) into: Vec<u8>,
    pub(super) progress: Arc<Progress>,
    /// Where the node itself is mounted.
    pub(super) mounts: Vec<PathBuf>,
    pub(super) putter: Putter,
    pub(super) counts: Vec<Count>,
    stopped: AtomicBool,
    problems: Mutex<Vec<anyhow::Error>>,
    folders: Mutex<Vec<Place>>,
    linked: Mutex<HashMap<(u64, u64), Linked>>,
    /// Whether somebody was told of extended attributes that were left out.
    told_xattrs: AtomicBool,
}

/// Ends the threads when whoever waits for them goes away.
struct StopOnDrop(Arc<Upload>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}

impl Upload {
    pub(crate) fn new(
        client: Client,
        sources: Vec<Source>,
        into: Vec<u8>,
        progress: Arc<Progress>,
        mounts: Vec<PathBuf>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            runtime: Handle::current(),
            counts: sources.iter().map(|_| Count::default()).collect(),
            sources,
            into,
            progress,
            mounts,
            putter: Putter::current(),
            stopped: AtomicBool::new(false),
            problems: Mutex::default(),
            folders: Mutex::default(),
            linked: Mutex::default(),
            told_xattrs: AtomicBool::new(false),
        })
    }

    /// Copies everything. Returns what went wrong; the rest was copied.
    pub(crate) async fn run(self: &Arc<Self>) -> anyhow::Result<Vec<anyhow::Error>> {
        let _stop = StopOnDrop(Arc::clone(self));
        let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = vec![self.spawn("put-walk", move |upload| {
            Walk::new(upload, sender).run();
        })?];
        for _ in 0..READERS {
            let receiver = Arc::clone(&receiver);
            threads.push(self.spawn("put-read", move |upload| read_all(upload, &receiver))?);
        }
        drop(receiver);
        for thread in threads {
            thread.await.context("a thread of the put panicked")?;
        }
        if !self.is_stopped() {
            self.spawn("put-end", finish)?.await.context("a thread of the put panicked")?;
        }
        Ok(std::mem::take(&mut *lock(&self.problems)))
    }

    /// The sources that were copied, and where they are now.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&Source, Vec<u8>, &Count)> {
        let all = self.sources.iter().zip(&self.counts);
        let done = all.filter(|(_, count)| !count.failed.load(Ordering::Acquire));
        done.map(|(source, count)| (source, self.dest(source), count))
    }

    /// Where a source goes.
    pub(super) fn dest(&self, source: &Source) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        [self.into.as_slice(), b"/", source.name.as_bytes()].concat()
    }

    /// Hands items over, from a thread that may block.
    pub(super) fn send(&self, items: impl Into<reqwest::Body>) -> anyhow::Result<ImportReply> {
        self.runtime.block_on(self.client.import(items))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Ends the upload for a reason that every further file would share.
    pub(super) fn stop(&self, error: anyhow::Error) {
        // The first reason counts; the others mostly follow from it.
        if !self.stopped.swap(true, Ordering::AcqRel) {
            lock(&self.problems).push(error);
            self.counts.iter().for_each(|count| count.failed.store(true, Ordering::Release));
        }
    }

    /// Notes that something was left out.
    pub(super) fn problem(&self, error: anyhow::Error) {
        let mut problems = lock(&self.problems);
        problems.push(error);
        let too_many = problems.len() >= PROBLEMS_MAX;
        drop(problems);
        if too_many {
            self.stop(Failure::failed("too many problems: gave up").into());
        }
    }

    /// Notes that a source was left out as a whole.
    pub(super) fn source_failed(&self, number: usize, error: anyhow::Error) {
        self.counts[number].failed.store(true, Ordering::Release);
        self.problem(error);
    }

    /// Keeps a directory until everything is in it.
    pub(super) fn note_folder(&self, folder: Place) {
        lock(&self.folders).push(folder);
    }

    pub(super) fn take_folders(&self) -> Vec<Place> {
        std::mem::take(&mut *lock(&self.folders))
    }

    pub(super) fn linked(&self) -> MutexGuard<'_, HashMap<(u64, u64), Linked>> {
        lock(&self.linked)
    }

    /// Says once that extended attributes were left out.
    pub(super) fn say_xattrs_left_out(&self) {
        if !self.told_xattrs.swap(true, Ordering::AcqRel) {
            self.progress.say("some extended attributes could not be read and were left out");
        }
    }

    fn spawn(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(&Self) + Send + 'static,
    ) -> io::Result<oneshot::Receiver<()>> {
        let (done, wait) = oneshot::channel();
        let upload = Arc::clone(self);
        // Not the runtime's: a process that is told to leave does not wait for a slow disk.
        std::thread::Builder::new().name(name.into()).spawn(move || {
            work(&upload);
            drop(upload);
            // Nobody waits where the put was interrupted.
            let _ = done.send(());
        })?;
        Ok(wait)
    }
}

fn read_all(upload: &Upload, chunks: &Mutex<Receiver<Chunk>>) {
    let mut reader = Reader::new(upload);
    while !upload.is_stopped() {
        let chunk = lock(chunks).recv();
        let Ok(chunk) = chunk else { break };
        if let Err(error) = reader.read(chunk) {
            upload.stop(error);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
