//! Copying one source into the view.
//!
//! Directories are made before what is in them and get their mode and time after it. Several
//! files are in flight, each as one stream; a large one is read on a thread of its own, so that
//! reading, sending and writing overlap. Further names of a file that was already sent become
//! hard links. A file counts only if it was the same before and after it was read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use axum::body::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use tokio::sync::mpsc;
use walkdir::WalkDir;

use crate::api::client::Client;
use crate::api::types::Attributes;
use crate::commands::put::source::{Source, attributes_of};
use crate::exit::Failure;
use crate::progress::Progress;

/// Bytes read from a file at once.
const PART_BYTES: usize = 1 << 20;

/// Parts that wait to be sent.
const QUEUE_PARTS: usize = 4;

/// Files up to this many bytes are read whole and sent as one.
const SMALL_FILE_BYTES: u64 = 512 << 10;

/// Files in flight: hides the round trip of a request over the socket.
const FILES_IN_FLIGHT: usize = 6;

/// Problems after which a put gives up: a full store would name every file of a large tree.
const PROBLEMS_MAX: usize = 100;

/// The upload of one source.
pub(crate) struct Upload<'a> {
    client: &'a Client,
    progress: &'a Arc<Progress>,
    /// Where the node itself is mounted.
    mounts: &'a [PathBuf],
    problems: RefCell<Vec<anyhow::Error>>,
}

/// The walk of a directory: what must wait for its end.
#[derive(Default)]
struct Walk {
    /// Directories in the order they were made, with what they will look like.
    folders: Vec<(Vec<u8>, Attributes)>,
    /// The first name of every file that has several.
    first_names: HashMap<(u64, u64), Vec<u8>>,
    /// First and further name.
    hard_links: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Upload<'a> {
    /// An upload through `client`, whose node is mounted at `mounts`.
    pub(crate) fn new(
        client: &'a Client,
        progress: &'a Arc<Progress>,
        mounts: &'a [PathBuf],
    ) -> Self {
        Self { client, progress, mounts, problems: RefCell::default() }
    }

    /// Copies a source to `dest`.
    ///
    /// # Errors
    /// When the source itself could not be copied; what is left out below it is a problem.
    pub(crate) async fn source(&self, source: &Source, dest: &[u8]) -> anyhow::Result<()> {
        if source.holds(dest, self.mounts) {
            let text = format!("{} cannot be put into itself", source.path.display());
            return Err(Failure::refused(text).into());
        }
        if source.metadata.is_dir() {
            return self.tree(source, dest).await;
        }
        if !source.metadata.is_file() {
            return Err(unsupported(&source.path).into());
        }
        self.file(&source.path, dest).await
    }

    /// What was left out.
    pub(crate) fn into_problems(self) -> Vec<anyhow::Error> {
        self.problems.into_inner()
    }

    async fn tree(&self, source: &Source, dest: &[u8]) -> anyhow::Result<()> {
        let mut files = FuturesUnordered::new();
        let mut walk = Walk::default();
        self.folder(&source.metadata, dest, &mut walk)
            .await
            .with_context(|| source.path.display().to_string())?;
        let mut entries = WalkDir::new(&source.path).min_depth(1).sort_by_file_name().into_iter();
        while let Some(entry) = entries.next() {
            if self.problems.borrow().len() >= PROBLEMS_MAX {
                return Err(Failure::failed("too many problems: gave up").into());
            }
            let (entry, metadata) = match entry.and_then(|entry| Ok((entry.metadata()?, entry))) {
                Ok((metadata, entry)) => (entry, metadata),
                Err(error) => {
                    self.problem(walk_problem(error, &source.path));
                    continue;
                }
            };
            let path = entry.path();
            let below = path.strip_prefix(&source.path).context("a walk stays below its start")?;
            let dest = [dest, b"/", below.as_os_str().as_bytes()].concat();
            if metadata.is_dir() && source.is_mount(path, self.mounts) {
                let text = format!("{} is a mount of this node and was left out", path.display());
                self.problem(Failure::refused(text).into());
                entries.skip_current_dir();
            } else if metadata.is_dir() {
                if let Err(error) = self.folder(&metadata, &dest, &mut walk).await {
                    self.problem(error.context(path.display().to_string()));
                    entries.skip_current_dir();
                }
            } else if metadata.is_symlink() {
                if let Err(error) = self.symlink(path, &dest, &metadata).await {
                    self.problem(error);
                }
            } else if !metadata.is_file() {
                self.problem(unsupported(path).into());
            } else if let Some(dest) = walk.first_name(&metadata, dest) {
                let path = path.to_owned();
                files.push(async move { self.file(&path, &dest).await });
            }
            while files.len() >= FILES_IN_FLIGHT {
                self.note(files.next().await);
            }
        }
        while let Some(done) = files.next().await {
            self.note(Some(done));
        }
        self.finish(walk).await
    }

    /// What can only be done when everything is there.
    async fn finish(&self, walk: Walk) -> anyhow::Result<()> {
        for (first, further) in walk.hard_links {
            if let Err(error) = self.client.make_hard_link(&first, &further).await {
                self.problem(error);
            }
        }
        for (dest, attributes) in walk.folders.iter().rev() {
            self.client.set_attributes(dest, attributes).await?;
        }
        Ok(())
    }

    async fn folder(
        &self,
        metadata: &Metadata,
        dest: &[u8],
        walk: &mut Walk,
    ) -> anyhow::Result<()> {
        let attributes = attributes_of(metadata);
        self.client.make_directory(dest, &attributes).await?;
        walk.folders.push((dest.to_vec(), attributes));
        Ok(())
    }

    async fn symlink(&self, path: &Path, dest: &[u8], metadata: &Metadata) -> anyhow::Result<()> {
        let target = fs::read_link(path).map_err(|error| vanished_or(error, path))?;
        let (target, attributes) = (target.as_os_str().as_bytes(), attributes_of(metadata));
        self.client
            .make_symlink(dest, target, &attributes)
            .await
            .with_context(|| path.display().to_string())?;
        Ok(())
    }

    async fn file(&self, path: &Path, dest: &[u8]) -> anyhow::Result<()> {
        let mut file = File::open(path).map_err(|error| vanished_or(error, path))?;
        let before = file.metadata().with_context(|| path.display().to_string())?;
        if before.len() > SMALL_FILE_BYTES {
            return self.large_file(file, before, path, dest).await;
        }
        let mut content = Vec::with_capacity(before.len() as usize);
        file.by_ref()
            .take(before.len())
            .read_to_end(&mut content)
            .with_context(|| path.display().to_string())?;
        check_unchanged(&file, &before, content.len() as u64, path)?;
        let sent = self.client.write(dest, &attributes_of(&before), content).await;
        sent.with_context(|| path.display().to_string())?;
        self.progress.add(before.len());
        Ok(())
    }

    async fn large_file(
        &self,
        file: File,
        before: Metadata,
        path: &Path,
        dest: &[u8],
    ) -> anyhow::Result<()> {
        let (sender, mut receiver) = mpsc::channel(QUEUE_PARTS);
        let attributes = attributes_of(&before);
        let reader = {
            let (path, progress) = (path.to_owned(), Arc::clone(self.progress));
            tokio::task::spawn_blocking(move || {
                read_parts(file, &before, &path, &sender, &progress)
            })
        };
        let parts = stream::poll_fn(move |context| receiver.poll_recv(context));
        let sent = self.client.write(dest, &attributes, reqwest::Body::wrap_stream(parts)).await;
        // Where reading failed, sending did too, and the first one knows why.
        reader.await.context("reading was cut short")??;
        sent.with_context(|| path.display().to_string())?;
        Ok(())
    }

    fn note(&self, done: Option<anyhow::Result<()>>) {
        if let Some(Err(error)) = done {
            self.problem(error);
        }
    }

    fn problem(&self, error: anyhow::Error) {
        self.problems.borrow_mut().push(error);
    }
}

impl Walk {
    /// The name to send a file under; `None` where it becomes a hard link to one sent before.
    fn first_name(&mut self, metadata: &Metadata, dest: Vec<u8>) -> Option<Vec<u8>> {
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.first_names.get(&inode) {
                self.hard_links.push((first.clone(), dest));
                return None;
            }
            self.first_names.insert(inode, dest.clone());
        }
        Some(dest)
    }
}

/// Reads a file into a channel. The last thing sent is an error where the file changed, which
/// breaks the upload off, so that the node keeps nothing of it.
fn read_parts(
    mut file: File,
    before: &Metadata,
    path: &Path,
    sender: &mpsc::Sender<io::Result<Bytes>>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut read = || {
        let mut left = before.len();
        while left > 0 {
            let mut part = Vec::with_capacity(PART_BYTES.min(left as usize));
            let length = file.by_ref().take(left.min(PART_BYTES as u64)).read_to_end(&mut part)?;
            if length == 0 {
                break;
            }
            left -= length as u64;
            if sender.blocking_send(Ok(part.into())).is_err() {
                // The node gave up, and its answer says why.
                return Ok(());
            }
            progress.add(length as u64);
        }
        check_unchanged(&file, before, before.len() - left, path)
    };
    let done: anyhow::Result<()> = read();
    if done.is_err() {
        drop(sender.blocking_send(Err(io::ErrorKind::InvalidData.into())));
    }
    done.map_err(|error| match error.downcast::<io::Error>() {
        Ok(error) => vanished_or(error, path),
        Err(error) => error,
    })
}

fn check_unchanged(file: &File, before: &Metadata, read: u64, path: &Path) -> anyhow::Result<()> {
    let after = file.metadata().with_context(|| path.display().to_string())?;
    let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
    if read != before.len() || after.len() != before.len() || time(&after) != time(before) {
        let text = format!("{} changed while it was read and was left out", path.display());
        return Err(Failure::failed(text).into());
    }
    Ok(())
}

/// A file that was there a moment ago has vanished; everything else is what it is.
fn vanished_or(error: io::Error, path: &Path) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        let text = format!("{} vanished while it was put", path.display());
        return Failure::failed(text).into();
    }
    anyhow::Error::from(error).context(path.display().to_string())
}

/// What a walk below `start` says of one entry, by the name of that entry.
fn walk_problem(error: walkdir::Error, start: &Path) -> anyhow::Error {
    let path = error.path().unwrap_or(start).to_owned();
    match error.into_io_error() {
        Some(error) => vanished_or(error, &path),
        None => Failure::failed(format!("{} cannot be walked", path.display())).into(),
    }
}

fn unsupported(path: &Path) -> Failure {
    let path = path.display();
    Failure::refused(format!("{path} is neither a file, a directory nor a symbolic link"))
}
