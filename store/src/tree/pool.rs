//! Work on all cores, with the results in the order of submission and bounded memory.
//!
//! One owner submits jobs and takes results; threads of the pool do the jobs in between. Threads
//! start once enough work waits to be worth them, so a small sealing runs on its caller alone,
//! and end when the pool is dropped. Whoever waits for a result does waiting jobs meanwhile.
//!
//! Invariant: results come out in the order in which their jobs went in, however long each took.
//! What bounds memory is the owner: it takes results while `weight` is over its limit.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Weight of waiting jobs from which threads pay: about a millisecond of sealing.
const THREADS_WEIGHT_MIN: usize = 512 << 10;

/// Threads that do jobs, and the jobs.
pub(crate) struct Pool<J: Send + 'static, R: Send + 'static> {
    shared: Arc<Shared<J, R>>,
    threads: Vec<JoinHandle<()>>,
    submitted: u64,
    taken: u64,
    /// Weights of the jobs whose results were not taken, oldest first.
    weights: VecDeque<usize>,
    weight: usize,
}

struct Shared<J, R> {
    work: Box<dyn Fn(J) -> R + Send + Sync>,
    state: Mutex<State<J, R>>,
    /// A job came, or the end.
    waiting: Condvar,
    /// A result came.
    done: Condvar,
}

struct State<J, R> {
    jobs: VecDeque<(u64, J)>,
    results: HashMap<u64, Result<R, Box<dyn Any + Send>>>,
    stop: bool,
}

impl<J: Send + 'static, R: Send + 'static> Pool<J, R> {
    pub(crate) fn new(work: impl Fn(J) -> R + Send + Sync + 'static) -> Self {
        let state = State { jobs: VecDeque::new(), results: HashMap::new(), stop: false };
        let shared = Arc::new(Shared {
            work: Box::new(work),
            state: Mutex::new(state),
            waiting: Condvar::new(),
            done: Condvar::new(),
        });
        Self {
            shared,
            threads: Vec::new(),
            submitted: 0,
            taken: 0,
            weights: VecDeque::new(),
            weight: 0,
        }
    }

    /// Hands in a job; `weight` is what it and its result take of memory, roughly, in bytes.
    pub(crate) fn submit(&mut self, job: J, weight: usize) {
        self.weights.push_back(weight);
        self.weight += weight;
        self.shared.state().jobs.push_back((self.submitted, job));
        self.submitted += 1;
        if self.threads.is_empty() && self.weight >= THREADS_WEIGHT_MIN {
            self.start_threads();
        }
        self.shared.waiting.notify_one();
    }

    /// What was submitted and not taken, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// The oldest result, waiting for it; nothing where all were taken.
    pub(crate) fn take(&mut self) -> Option<R> {
        let weight = self.weights.pop_front()?;
        self.weight -= weight;
        let number = self.taken;
        self.taken += 1;
        let mut state = self.shared.state();
        loop {
            if let Some(result) = state.results.remove(&number) {
                return Some(result.unwrap_or_else(|panic| resume_unwind(panic)));
            }
            state = match state.jobs.pop_front() {
                Some(job) => {
                    drop(state);
                    self.shared.run(job);
                    self.shared.state()
                }
                None => self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The oldest result if it is there already.
    pub(crate) fn take_done(&mut self) -> Option<R> {
        let is_done = self.shared.state().results.contains_key(&self.taken);
        if is_done { self.take() } else { None }
    }

    fn start_threads(&mut self) {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 0..cores {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("xorfs-seal".to_owned());
            match thread.spawn(move || shared.serve()) {
                Ok(thread) => self.threads.push(thread),
                // Whoever waits for a result does the jobs, if need be all of them.
                Err(error) => {
                    tracing::warn!(%error, "could not start a thread to seal on");
                    return;
                }
            }
        }
    }
}

impl<J: Send + 'static, R: Send + 'static> Drop for Pool<J, R> {
    /// Jobs that no thread has begun are dropped undone.
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.stop = true;
            state.jobs.clear();
        }
        self.shared.waiting.notify_all();
        for thread in self.threads.drain(..) {
            // Its panics were caught and are results.
            let _ = thread.join();
        }
    }
}

impl<J, R> Shared<J, R> {
    fn serve(&self) {
        loop {
            let mut state = self.state();
            let job = loop {
                if state.stop {
                    return;
                }
                match state.jobs.pop_front() {
                    Some(job) => break job,
                    None => {
                        state = self.waiting.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(state);
            self.run(job);
        }
    }

    fn run(&self, (number, job): (u64, J)) {
        // The panic goes on in whoever takes the result.
        let result = catch_unwind(AssertUnwindSafe(|| (self.work)(job)));
        self.state().results.insert(number, result);
        self.done.notify_one();
    }

    /// Every change is a single insertion or removal, so a holder that panicked left it whole.
    fn state(&self) -> MutexGuard<'_, State<J, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_all_of_them() {
        let mut pool = Pool::new(|n: u64| {
            // Some take longer than those behind them.
            (0..(n % 7) * 2_000).fold(n, |sum, _| std::hint::black_box(sum));
            n * 2
        });
        let mut taken = Vec::new();
        for n in 0..2_000 {
            pool.submit(n, 4 << 10);
            while pool.weight() > 1 << 20 {
                taken.extend(pool.take());
            }
        }
        assert!(!pool.threads.is_empty());
        while let Some(result) = pool.take() {
            taken.push(result);
        }
        assert_eq!(taken, (0..2_000).map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!((pool.weight(), pool.take_done()), (0, None));
    }

    #[test]
    fn little_work_starts_no_thread() {
        let mut pool = Pool::new(|n: u64| (n, thread::current().id()));
        pool.submit(7, 100);
        assert_eq!(pool.take(), Some((7, thread::current().id())));
        assert!(pool.threads.is_empty());
    }

    #[test]
    #[should_panic(expected = "a job that fails")]
    fn a_panic_reaches_whoever_waits() {
        let mut pool = Pool::new(|fails: bool| assert!(!fails, "a job that fails"));
        pool.submit(false, THREADS_WEIGHT_MIN);
        pool.submit(true, 1);
        while pool.take().is_some() {}
    }
}
