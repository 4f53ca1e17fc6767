//! The body of a request, read by a thread that may block.
//!
//! Receiving and taking in overlap; `QUEUE_PARTS` parts wait at most. Plaintext that is handed
//! out is wiped when it is dropped.

use std::sync::Arc;

use anyhow::Context;
use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use xorfs_store::Plaintext;

use crate::api::server::{ApiError, blocking};
use crate::daemon::Daemon;
use crate::exit::Failure;

/// Parts of a body that wait to be taken in. The system hands over some 400 KiB at once.
const QUEUE_PARTS: usize = 8;

enum Part {
    /// The next bytes.
    Bytes(Bytes),
    /// All arrived. A channel that closes without this was cut short.
    End,
}

/// What is left of a body.
pub(crate) struct BodyReader {
    parts: mpsc::Receiver<Part>,
    current: Bytes,
    ended: bool,
}

/// Hands a body to `work` on a thread that may block. Ends early when the node leaves: the body
/// is cut short then, and what was under way cleans up behind itself.
pub(crate) async fn receive<T: Send + 'static>(
    daemon: Arc<Daemon>,
    body: Body,
    work: impl FnOnce(&Daemon, BodyReader) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let (sender, parts) = mpsc::channel(QUEUE_PARTS);
    let (leaving, upload) = (daemon.leaving(), daemon.upload());
    let working = tokio::spawn(blocking(move || {
        let body = BodyReader { parts, current: Bytes::new(), ended: false };
        let done = work(&daemon, body);
        drop(upload);
        done
    }));
    tokio::select! {
        () = forward(body, sender) => {}
        () = leaving.cancelled() => {}
    }
    working.await.context("a request was cut short")?
}

/// Passes a body on. Where its reader gave up, the rest is read and dropped, because a client
/// sees the answer only after it has sent everything.
async fn forward(body: Body, sender: mpsc::Sender<Part>) {
    let mut stream = body.into_data_stream();
    while let Some(bytes) = stream.next().await {
        let Ok(bytes) = bytes else { return };
        // A closed channel means that the reader has failed; its result says why.
        drop(sender.send(Part::Bytes(bytes)).await);
    }
    drop(sender.send(Part::End).await);
}

impl BodyReader {
    /// A body that has all arrived.
    #[cfg(test)]
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { parts: mpsc::channel(1).1, current: bytes.into(), ended: true }
    }

    /// Whether there is nothing left.
    ///
    /// # Errors
    /// Where the body was cut short.
    pub(crate) fn is_at_end(&mut self) -> Result<bool, Failure> {
        while self.current.is_empty() && !self.ended {
            match self.parts.blocking_recv() {
                Some(Part::Bytes(bytes)) => self.current = bytes,
                Some(Part::End) => self.ended = true,
                None => return Err(cut_short()),
            }
        }
        Ok(self.current.is_empty())
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// Where there are fewer.
    pub(crate) fn take(&mut self, length: usize) -> Result<Plaintext, Failure> {
        let mut taken = Plaintext::with_capacity(length);
        while taken.len() < length {
            if self.is_at_end()? {
                return Err(cut_short());
            }
            let more = self.current.len().min(length - taken.len());
            taken.extend_from_slice(&self.current.split_to(more));
        }
        Ok(taken)
    }

    /// Up to `length` bytes; fewer at the end only.
    pub(crate) fn take_up_to(&mut self, length: usize) -> Result<Plaintext, Failure> {
        if self.is_at_end()? {
            return Ok(Plaintext::default());
        }
        let mut taken = Plaintext::with_capacity(length);
        while taken.len() < length && !self.is_at_end()? {
            let more = self.current.len().min(length - taken.len());
            taken.extend_from_slice(&self.current.split_to(more));
        }
        Ok(taken)
    }
}

fn cut_short() -> Failure {
    Failure::failed("the upload was cut short")
}
