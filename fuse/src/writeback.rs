//! Write-back: how much may wait in memory, and when it is sealed.
//!
//! `Budget` bounds the bytes that wait over all volumes of a view: a writer that finds no room
//! waits for sealing, with a deadline. `Pacer` is the view's one background thread; it decides
//! nothing but when to look, what is due is asked of the volumes each time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest time between two looks at the volumes. Changes wake the thread, so this only bounds
/// how late it is where a wake-up was missed.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Pauses after a failed seal: the first, doubled each time, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Bytes waiting to be sealed.
#[derive(Debug)]
pub(crate) struct Budget {
    used: Mutex<u64>,
    freed: Condvar,
    max: u64,
}

impl Budget {
    pub(crate) fn new(max: u64) -> Self {
        Self { used: Mutex::new(0), freed: Condvar::new(), max }
    }

    /// Bytes waiting now.
    pub(crate) fn used(&self) -> u64 {
        *self.lock()
    }

    /// Counts bytes that were taken in and returns how many wait with them.
    pub(crate) fn add(&self, bytes: u64) -> u64 {
        let mut used = self.lock();
        *used += bytes;
        *used
    }

    /// Counts bytes that were sealed or given up.
    pub(crate) fn release(&self, bytes: u64) {
        let mut used = self.lock();
        *used = used.saturating_sub(bytes);
        drop(used);
        self.freed.notify_all();
    }

    /// Wakes writers that wait, so that they look whether waiting still makes sense.
    pub(crate) fn nudge(&self) {
        drop(self.lock());
        self.freed.notify_all();
    }

    /// Waits until there is room for `bytes`; false where there was none within `wait_max`, or
    /// where it is `hopeless` to wait. A write larger than the whole budget passes when nothing
    /// else waits.
    pub(crate) fn wait_for_room(
        &self,
        bytes: u64,
        wait_max: Duration,
        hopeless: impl Fn() -> bool,
    ) -> bool {
        let deadline = Instant::now() + wait_max;
        let mut used = self.lock();
        while *used > 0 && *used + bytes > self.max {
            if hopeless() {
                return false;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            (used, _) = self.freed.wait_timeout(used, left).expect("no holder panics");
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used.lock().expect("no holder panics")
    }
}

/// Pauses between attempts to seal what does not seal.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    pause: Duration,
    /// Not before.
    pub(crate) at: Option<Instant>,
    /// What failed last; `None` once it worked.
    pub(crate) reason: Option<String>,
    /// Whether it failed for want of space, which waiting does not mend.
    pub(crate) is_full: bool,
}

impl Retry {
    pub(crate) fn on_success(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn on_failure(&mut self, now: Instant, reason: String, is_full: bool) {
        self.pause = (self.pause * 2).clamp(RETRY_FIRST, RETRY_MAX);
        self.at = Some(now + self.pause);
        self.reason = Some(reason);
        self.is_full = is_full;
    }
}

#[derive(Debug, Default)]
struct Signal {
    woken: bool,
    stopped: bool,
}

/// The background thread and what wakes it.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    shared: Arc<(Mutex<Signal>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Pacer {
    /// Starts the thread. `look` seals what is due and says when something will be next, or
    /// `Err` to end the thread.
    pub(crate) fn start(
        &self,
        mut look: impl FnMut() -> Result<Option<Instant>, ()> + Send + 'static,
    ) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("xorfs-seal".into())
            .spawn(move || {
                while let Ok(next) = look() {
                    let until = Instant::now() + LOOK_INTERVAL_MAX;
                    if !sleep(&shared, next.map_or(until, |next| next.min(until))) {
                        return;
                    }
                }
            })
            .expect("a thread can be started");
        *self.thread.lock().expect("no holder panics") = Some(thread);
    }

    /// Makes the thread look now.
    pub(crate) fn wake(&self) {
        let (signal, wake) = &*self.shared;
        let mut signal = signal.lock().expect("no holder panics");
        if !signal.woken {
            signal.woken = true;
            wake.notify_all();
        }
    }

    /// Ends the thread after what it is doing, and waits for it unless it is the caller.
    pub(crate) fn stop(&self) {
        let (signal, wake) = &*self.shared;
        signal.lock().expect("no holder panics").stopped = true;
        wake.notify_all();
        let thread = self.thread.lock().expect("no holder panics").take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != current_id())
            && thread.join().is_err()
        {
            tracing::error!("the sealing thread panicked");
        }
    }
}

fn current_id() -> std::thread::ThreadId {
    std::thread::current().id()
}

/// Sleeps until `until` or a wake-up; false when it is time to end.
fn sleep(shared: &(Mutex<Signal>, Condvar), until: Instant) -> bool {
    let (signal, wake) = shared;
    let mut signal = signal.lock().expect("no holder panics");
    while !signal.woken && !signal.stopped {
        let Some(left) = until.checked_duration_since(Instant::now()) else { break };
        (signal, _) = wake.wait_timeout(signal, left).expect("no holder panics");
    }
    signal.woken = false;
    !signal.stopped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_makes_writers_wait_until_room_or_deadline() {
        let budget = Arc::new(Budget::new(100));
        assert!(
            budget.wait_for_room(1000, Duration::ZERO, || false),
            "nothing waits: a large write passes"
        );
        budget.add(80);
        assert!(!budget.wait_for_room(30, Duration::from_millis(1), || false));
        assert!(!budget.wait_for_room(30, Duration::from_secs(3600), || true), "it gives up");
        let waiting = std::thread::spawn({
            let budget = Arc::clone(&budget);
            move || budget.wait_for_room(30, Duration::from_secs(60), || false)
        });
        budget.release(50);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn failures_back_off_and_success_forgets() {
        let (mut retry, now) = (Retry::default(), Instant::now());
        retry.on_failure(now, "first".into(), false);
        assert_eq!(retry.at, Some(now + RETRY_FIRST));
        for _ in 0..20 {
            retry.on_failure(now, "again".into(), true);
        }
        assert_eq!(retry.at, Some(now + RETRY_MAX));
        retry.on_success();
        assert!(retry.at.is_none() && retry.reason.is_none());
    }
}
