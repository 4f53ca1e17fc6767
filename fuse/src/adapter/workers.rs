//! Who runs a request: the event-loop thread that read it, or a worker.
//!
//! Waking another thread costs about 50 µs, more than most requests take, so a request is
//! answered on the thread that read it as long as at least one other event-loop thread is free
//! of requests that may wait for a disk or a network. The last free thread never takes such a
//! request itself: it hands it to a worker and stays ready for what is answered from memory. So
//! a slow network delays its own readers and nobody else.
//!
//! Bounds: [`WORKERS_MAX`] threads, started as they are needed and ended after [`IDLE_MAX`]
//! without work, and [`QUEUE_MAX`] waiting jobs. A job that does not fit is dropped, which its
//! reply turns into EIO: every wait below has a deadline, so a queue this long means that
//! thousands of callers already wait. A panic in a job is logged and, through the reply dropped
//! while unwinding, also becomes EIO; the mount goes on.
//!
//! Not here: what a request does, and cancelling it. Dropping the pool runs what is queued and
//! does not wait for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads that wait for disk and network at most. More only helps where a network is so slow
/// that more requests than this wait at once; each costs a stack.
const WORKERS_MAX: usize = 64;

/// Requests waiting for a worker at most.
const QUEUE_MAX: usize = 4096;

/// How long a worker without work stays.
const IDLE_MAX: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The pool, and the count of event-loop threads that may be waiting.
pub(super) struct Workers {
    shared: Arc<Shared>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// Leave to wait on an event-loop thread; given back when dropped.
pub(super) struct Slot<'a> {
    waiting: &'a AtomicUsize,
}

impl Workers {
    /// A pool for `event_threads` event-loop threads. Starts no thread yet.
    pub(super) fn new(event_threads: usize) -> Self {
        Self {
            shared: Arc::new(Shared { state: Mutex::default(), work: Condvar::new() }),
            waiting: AtomicUsize::new(0),
            waiting_max: event_threads.saturating_sub(1),
        }
    }

    /// Runs a job that may wait, here if another event-loop thread stays free, else on a worker.
    pub(super) fn run(&self, operation: &'static str, job: impl FnOnce() + Send + 'static) {
        match self.slot() {
            Some(_slot) => guarded(operation, job),
            None => self.submit(operation, job),
        }
    }

    /// Leave to wait on this thread, for callers that would have to copy a request to hand it on.
    pub(super) fn slot(&self) -> Option<Slot<'_>> {
        let taken = self.waiting.fetch_add(1, Ordering::AcqRel);
        let slot = Slot { waiting: &self.waiting };
        (taken < self.waiting_max).then_some(slot)
    }

    /// Hands a job to a worker.
    pub(super) fn submit(&self, operation: &'static str, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        if state.queue.len() >= QUEUE_MAX {
            drop(state);
            tracing::error!(operation, queue = QUEUE_MAX, "too many requests wait; refusing one");
            return;
        }
        state.queue.push_back(Box::new(move || guarded(operation, job)));
        if state.queue.len() > state.idle && state.threads < WORKERS_MAX {
            state.threads += 1;
            drop(state);
            self.start_thread();
        } else {
            drop(state);
        }
        self.shared.work.notify_one();
    }

    fn start_thread(&self) {
        let shared = Arc::clone(&self.shared);
        let started =
            std::thread::Builder::new().name("xorfs-worker".into()).spawn(move || shared.work());
        if let Err(error) = started {
            let mut state = self.shared.lock();
            state.threads -= 1;
            // Without any thread the job would lie there for ever: do it here.
            let job = if state.threads == 0 { state.queue.pop_front() } else { None };
            drop(state);
            tracing::warn!(%error, "could not start a worker thread");
            if let Some(job) = job {
                job();
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    /// Jobs never run under the lock, so a poisoned one still guards sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, waited) =
                self.work.wait_timeout(state, IDLE_MAX).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

/// Runs a job and keeps its panic from ending the thread.
pub(super) fn guarded(operation: &'static str, job: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
        let reason = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown".to_owned());
        tracing::error!(operation, reason, "a request panicked; its caller gets EIO");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::thread;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[test]
    fn a_job_runs_on_the_caller_while_another_thread_is_free() {
        let workers = Workers::new(2);
        let (done, finished) = channel();
        workers.run("test", move || done.send(thread::current().id()).expect("the test waits"));
        assert_eq!(finished.recv_timeout(DEADLINE), Ok(thread::current().id()));
    }

    #[test]
    fn the_last_free_thread_hands_over() {
        let workers = Workers::new(2);
        let _waiting = workers.slot().expect("the first of two may wait");
        assert!(workers.slot().is_none());
        let (done, finished) = channel();
        workers.run("test", move || done.send(thread::current().id()).expect("the test waits"));
        let ran_on = finished.recv_timeout(DEADLINE).expect("a worker runs it");
        assert_ne!(ran_on, thread::current().id());
    }

    #[test]
    fn a_slot_comes_back_after_a_panic() {
        let workers = Workers::new(2);
        workers.run("test", || panic!("on purpose"));
        assert!(workers.slot().is_some());
    }

    #[test]
    fn a_panic_ends_no_worker() {
        let workers = Workers::new(1);
        workers.run("test", || panic!("on purpose"));
        let (done, finished) = channel();
        workers.run("test", move || done.send(()).expect("the test waits"));
        assert_eq!(finished.recv_timeout(DEADLINE), Ok(()));
    }

    #[test]
    fn waiting_jobs_do_not_hold_up_others() {
        let workers = Workers::new(1);
        let (release, blocked) = channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        for _ in 0..WORKERS_MAX - 1 {
            let blocked = Arc::clone(&blocked);
            workers.run("blocked", move || drop(blocked.lock().map(|blocked| blocked.recv())));
        }
        let (done, finished) = channel();
        workers.run("free", move || done.send(()).expect("the test waits"));
        assert_eq!(finished.recv_timeout(DEADLINE), Ok(()));
        drop(release);
    }

    #[test]
    fn a_full_queue_drops_the_job() {
        let workers = Workers::new(1);
        let (release, blocked) = channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let (done, finished) = channel::<()>();
        let ran = Arc::new(AtomicUsize::new(0));
        for _ in 0..=WORKERS_MAX + QUEUE_MAX {
            let (blocked, done, ran) = (Arc::clone(&blocked), done.clone(), Arc::clone(&ran));
            workers.run("blocked", move || {
                drop(blocked.lock().map(|blocked| blocked.recv()));
                ran.fetch_add(1, Ordering::AcqRel);
                drop(done);
            });
        }
        drop((done, release));
        assert_eq!(finished.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
        assert!(ran.load(Ordering::Acquire) <= WORKERS_MAX + QUEUE_MAX);
    }
}
