//! File content through the local API.
//!
//! Reading is by ranges: an answer is a whole range or an error with its kind, never a stream
//! that breaks off, so a caller learns why a read failed and goes on where it stopped. Writing is
//! one stream: the bytes go to a temporary name in the same directory, which is renamed when
//! all arrived and removed when not, so nothing is ever half-written.
//! Memory: a write holds at most `QUEUE_PARTS + 2` parts, a read one range.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use xorfs_fuse::{FsError, InodeNo, Kind, RenameMode, View};

use crate::api::query::Query;
use crate::api::server::{ApiError, blocking};
use crate::api::tree::{Held, apply, owner, parent_of, shown};
use crate::api::types::{Attributes, EntryRow};
use crate::daemon::Daemon;
use crate::exit::Failure;

/// Bytes that are written to the view at once: large enough that a call costs nothing beside
/// the copying, small enough to bound memory.
const PART_BYTES: usize = 1 << 20;

/// Parts that wait for the view, so that receiving and writing overlap.
const QUEUE_PARTS: usize = 4;

/// Longest range of one read in bytes.
pub(crate) const RANGE_BYTES_MAX: usize = 4 << 20;

/// What a writing thread is told.
enum Part {
    /// The next bytes.
    Bytes(Bytes),
    /// All arrived. A channel that closes without this was cut short.
    End,
}

/// Answers `length` bytes of a file at `offset`, fewer at its end.
pub(crate) async fn read_file(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Response, ApiError> {
    let read = move || {
        let (view, path) = (daemon.view(), query.required("path")?);
        let offset = query.number("offset")?.unwrap_or(0);
        let length = query.number("length")?.unwrap_or(RANGE_BYTES_MAX).min(RANGE_BYTES_MAX);
        let held = Held::resolve(view, path)?;
        if held.stat.kind != Kind::File {
            return Err(Failure::refused(format!("{} is no file", shown(path))).into());
        }
        let bytes = view.read(held.ino(), offset, length).with_context(|| shown(path))?;
        Ok(Bytes::from_owner(bytes))
    };
    Ok(blocking(read).await?.into_response())
}

/// Writes a file from a request's body.
pub(crate) async fn write_file(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
    body: Body,
) -> Result<Json<EntryRow>, ApiError> {
    let (sender, receiver) = mpsc::channel(QUEUE_PARTS);
    let leaving = daemon.leaving();
    let upload = daemon.upload();
    let writing = tokio::spawn(blocking(move || {
        let path = query.required("path")?;
        let written = receive(daemon.view(), path, &query.attributes()?, receiver);
        drop(upload);
        written.with_context(|| shown(path))
    }));
    tokio::select! {
        () = forward(body, sender) => {}
        // The sender goes, so the upload is cut short and cleans up behind itself.
        () = leaving.cancelled() => {}
    }
    Ok(Json(writing.await.context("a request was cut short")??))
}

/// Gathers a body into parts. Where the writer gave up, the rest is read and dropped, because
/// a client sees the answer only after it has sent everything.
async fn forward(body: Body, sender: mpsc::Sender<Part>) {
    let mut stream = body.into_data_stream();
    let mut gathered = BytesMut::new();
    while let Some(bytes) = stream.next().await {
        let Ok(bytes) = bytes else { return };
        if sender.is_closed() {
            continue;
        }
        if gathered.is_empty() && bytes.len() >= PART_BYTES {
            drop(sender.send(Part::Bytes(bytes)).await);
            continue;
        }
        gathered.extend_from_slice(&bytes);
        if gathered.len() >= PART_BYTES {
            drop(sender.send(Part::Bytes(gathered.split().freeze())).await);
        }
    }
    if !gathered.is_empty() {
        drop(sender.send(Part::Bytes(gathered.freeze())).await);
    }
    // A closed channel means that the writer has failed; its result says why.
    drop(sender.send(Part::End).await);
}

fn receive(
    view: &View,
    path: &[u8],
    attributes: &Attributes,
    parts: mpsc::Receiver<Part>,
) -> anyhow::Result<EntryRow> {
    let (parent, name) = parent_of(view, path)?;
    refuse_directory(view, parent.ino(), name)?;
    let temporary = temporary_name();
    let mode = attributes.mode & 0o777;
    let made = view.make_node(parent.ino(), &temporary, Kind::File, mode, owner(attributes))?;
    let file = Held::new(view, made);
    let written = write_parts(view, file.ino(), parts)
        .and_then(|()| Ok(apply(view, file.ino(), attributes)?))
        .and_then(|stat| {
            view.rename(parent.ino(), &temporary, parent.ino(), name, RenameMode::Replace)?;
            Ok(EntryRow::new(&stat))
        });
    if written.is_err()
        && let Err(error) = view.unlink(parent.ino(), &temporary)
    {
        tracing::warn!(%error, "could not remove a temporary file");
    }
    written
}

fn write_parts(view: &View, file: InodeNo, mut parts: mpsc::Receiver<Part>) -> anyhow::Result<()> {
    let mut offset = 0;
    loop {
        match parts.blocking_recv() {
            Some(Part::Bytes(bytes)) => {
                match view.write(file, offset, &bytes) {
                    Err(FsError::NoSpace) => {
                        return Err(FsError::NoSpace).context("the store is full");
                    }
                    written => written?,
                }
                offset += bytes.len() as u64;
            }
            Some(Part::End) => return Ok(()),
            None => return Err(Failure::failed("the upload was cut short").into()),
        }
    }
}

fn refuse_directory(view: &View, parent: InodeNo, name: &[u8]) -> anyhow::Result<()> {
    match view.lookup(parent, name) {
        Ok(stat) => match Held::new(view, stat).stat.kind {
            Kind::Directory => {
                Err(Failure::refused("it is a directory, and a file does not replace one").into())
            }
            _ => Ok(()),
        },
        Err(FsError::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A name that no other upload uses: a counter that starts at the time of the first one, so
/// that what a crash left behind is not met again.
fn temporary_name() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(".xorfs-put-{now:x}-{count:x}").into_bytes()
}
