//! File content through the local API.
//!
//! Reading is by ranges: an answer is a whole range or an error with its kind, never a stream
//! that breaks off, so a caller learns why a read failed and goes on where it stopped. Writing is
//! one stream into an `Incoming`, so nothing is ever half-written; many files in one request are
//! `import`'s.

use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use xorfs_fuse::{Import, Kind, Stat, View};

use crate::api::body::{BodyReader, receive};
use crate::api::incoming::{Incoming, Temporaries};
use crate::api::query::Query;
use crate::api::server::{ApiError, blocking};
use crate::api::tree::{Held, parent_of, shown};
use crate::api::types::{EntryRow, Runs};
use crate::api::wire::DATA_BYTES_MAX;
use crate::daemon::Daemon;
use crate::exit::Failure;

/// Longest range of one read in bytes.
pub(crate) const RANGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of a file that are looked through for holes at once: some 4,000 extents.
const RUNS_WINDOW: u64 = 1 << 30;

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

/// Answers where a file has bytes from `offset` on, as far as `RUNS_WINDOW` reaches.
pub(crate) async fn runs(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<Runs>, ApiError> {
    let find = move || {
        let (view, path) = (daemon.view(), query.required("path")?);
        let offset: u64 = query.number("offset")?.unwrap_or(0);
        let held = Held::resolve(view, path)?;
        let until = held.stat.size.min(offset.saturating_add(RUNS_WINDOW));
        let runs = view.runs(held.ino(), offset..until).with_context(|| shown(path))?;
        let runs = runs.into_iter().map(|run| (run.start, run.end - run.start)).collect();
        Ok(Runs { runs, until })
    };
    Ok(Json(blocking(find).await?))
}

/// Writes a file from a request's body.
pub(crate) async fn write_file(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
    body: Body,
) -> Result<Json<EntryRow>, ApiError> {
    let write = move |daemon: &Daemon, body: BodyReader| {
        let (view, path) = (daemon.view(), query.required("path")?);
        let import = query.attributes()?.without_content();
        let written = receive_file(view, daemon.temporaries(), path, import, body);
        Ok(Json(EntryRow::new(&written.with_context(|| shown(path))?)))
    };
    receive(daemon, body, write).await
}

fn receive_file(
    view: &View,
    temporaries: &Temporaries,
    path: &[u8],
    import: Import,
    mut body: BodyReader,
) -> anyhow::Result<Stat> {
    let (parent, name) = parent_of(view, path)?;
    let mut incoming = Incoming::new(view, temporaries, path);
    let mut size = 0;
    while !body.is_at_end()? {
        let bytes = Bytes::from_owner(body.take_up_to(DATA_BYTES_MAX)?);
        let length = bytes.len() as u64;
        incoming.write(size, bytes)?;
        size += length;
    }
    incoming.finish((parent.ino(), name), import, size, None)
}
