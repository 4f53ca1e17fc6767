//! Work that takes long: its answer is a stream of JSON lines, progress first, the outcome last.
//!
//! A line is `{"progress": …}`, and the last one `{"done": …}` or `{"failed": {kind, message}}`; a
//! stream that ends without one was cut short. A caller that goes away ends the work at its next
//! report, so nothing runs on for nobody.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::types::{ErrorBody, JobProgress};
use crate::exit::{Failure, classify};

/// Shortest time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Lines that wait for a slow caller; then the work waits.
const QUEUE_LINES: usize = 16;

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line<T> {
    Progress(JobProgress),
    Done(T),
    Failed(ErrorBody),
}

/// Where work reports to.
pub(crate) struct Reporter {
    lines: mpsc::Sender<Bytes>,
    leaving: CancellationToken,
    next: Instant,
}

impl Reporter {
    /// Tells how far the work is. An error means that nobody waits for it any more.
    pub(crate) fn report(&mut self, progress: JobProgress) -> Result<(), Failure> {
        let interrupted = || Failure::failed("interrupted");
        if self.leaving.is_cancelled() || self.lines.is_closed() {
            return Err(interrupted());
        }
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + PROGRESS_INTERVAL;
        let line = encode(&Line::<()>::Progress(progress));
        self.lines.blocking_send(line).map_err(|_| interrupted())
    }
}

/// Runs work that blocks, and answers with its lines.
pub(crate) fn run<T: Serialize>(
    leaving: CancellationToken,
    work: impl FnOnce(&mut Reporter) -> anyhow::Result<T> + Send + 'static,
) -> Response {
    let (lines, receiver) = mpsc::channel(QUEUE_LINES);
    tokio::task::spawn_blocking(move || {
        let mut reporter = Reporter { lines: lines.clone(), leaving, next: Instant::now() };
        let last = match work(&mut reporter) {
            Ok(done) => encode(&Line::Done(done)),
            Err(error) => encode(&Line::<()>::Failed(ErrorBody {
                kind: classify(&error),
                message: format!("{error:#}"),
            })),
        };
        // A caller that has gone needs no answer.
        drop(lines.blocking_send(last));
    });
    let lines = stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, io::Error>(line), receiver))
    });
    Body::from_stream(lines).into_response()
}

/// Reads lines until the last one.
pub(crate) async fn follow<T: serde::de::DeserializeOwned>(
    mut response: reqwest::Response,
    mut on_progress: impl FnMut(JobProgress),
) -> anyhow::Result<T> {
    let mut buffer = Vec::new();
    while let Some(bytes) = response.chunk().await.context("the node broke off")? {
        buffer.extend_from_slice(&bytes);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = serde_json::from_slice(&line).context("the node's answer makes no sense")?;
            match line {
                Line::Progress(progress) => on_progress(progress),
                Line::Done(done) => return Ok(done),
                Line::Failed(error) => return Err(Failure::new(error.kind, error.message).into()),
            }
        }
    }
    Err(Failure::failed("the node left before it was done").into())
}

fn encode<T: Serialize>(line: &Line<T>) -> Bytes {
    let mut text = serde_json::to_vec(line).expect("what the API answers can be written as JSON");
    text.push(b'\n');
    text.into()
}
