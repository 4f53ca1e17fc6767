//! The one owner of everything that runs: spawning, bounding and stopping.
//!
//! Every task of a node is spawned here and ends when the token is cancelled; `stop` waits for
//! all of them, blocking store calls included. Dropping a `Tasks` stops nothing: only `stop`
//! guarantees that no task is left.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::STORE_CALLS_MAX;

/// The node is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    token: CancellationToken,
    tracker: TaskTracker,
    store_calls: Arc<Semaphore>,
}

impl Tasks {
    /// Spawns on the runtime that this is called on.
    pub(super) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            store_calls: Arc::new(Semaphore::new(STORE_CALLS_MAX)),
        }
    }

    /// Runs a task until it ends, is aborted, or the node stops. Callable from any thread.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let token = self.token.clone();
        let bounded = async move {
            token.run_until_cancelled(task).await;
        };
        self.tracker.spawn_on(bounded, &self.runtime).abort_handle()
    }

    /// Runs a blocking call into the store; at most `STORE_CALLS_MAX` run at a time.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let permit = Arc::clone(&self.store_calls).acquire_owned().await.map_err(|_| Stopped)?;
        if self.token.is_cancelled() {
            return Err(Stopped);
        }
        let bounded = move || {
            let _permit = permit;
            call()
        };
        self.tracker.spawn_blocking_on(bounded, &self.runtime).await.map_err(|_| Stopped)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Cancels everything and waits for its end.
    pub(super) async fn stop(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
