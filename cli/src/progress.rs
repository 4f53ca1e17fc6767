//! Progress of long work on standard error: a bar on a terminal, plain lines elsewhere.
//!
//! Nothing is printed by work that ends within the first interval. A bar shows bytes, rate and
//! time left; a line the same, every `LINE_INTERVAL`, so that a log stays readable.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output::size;

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Redraws a second of a bar.
const REDRAW_HZ: u8 = 5;

/// The progress of one piece of work, counted in bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    /// When the next plain line is due; none on a terminal.
    next_line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Starts showing `what`, of `bytes` in total.
    pub(crate) fn new(what: &'static str, bytes: u64) -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            Some(bytes),
            if terminal {
                ProgressDrawTarget::stderr_with_hz(REDRAW_HZ)
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        let style = ProgressStyle::with_template(
            "{prefix} [{bar:30}] {bytes}/{total_bytes}  {binary_bytes_per_sec}  \
             {left} left  {msg}",
        )
        .expect("the template is ours")
        .with_key("left", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let left = Duration::from_secs(state.eta().as_secs());
            // A bar that cannot be drawn is no reason to fail.
            let _ = write!(text, "{}", humantime::format_duration(left));
        })
        .progress_chars("=> ");
        bar.set_style(style);
        bar.set_prefix(what);
        let next_line = (!terminal).then(|| Mutex::new(Instant::now() + LINE_INTERVAL));
        Self { what, bar, next_line }
    }

    /// Adds to the total.
    pub(crate) fn add_total(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// Counts bytes as done.
    pub(crate) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.line_if_due();
    }

    /// Sets how many bytes are left of the most that ever were.
    pub(crate) fn set_left(&self, bytes: u64, note: String) {
        let total = self.bar.length().unwrap_or(0).max(bytes);
        self.bar.set_length(total);
        self.bar.set_position(total - bytes);
        self.bar.set_message(note);
        self.line_if_due();
    }

    /// Says something without disturbing the bar.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("xorfs: {text}"));
    }

    /// Ends the bar and leaves nothing behind.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line_if_due(&self) {
        let Some(next) = &self.next_line else { return };
        let Ok(mut next) = next.lock() else { return };
        let now = Instant::now();
        if now < *next {
            return;
        }
        *next = now + LINE_INTERVAL;
        let (position, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let message = self.bar.message();
        let note = if message.is_empty() { String::new() } else { format!(", {message}") };
        eprintln!(
            "{}: {} of {}, {}/s, {} left{note}",
            self.what,
            size(position),
            size(total),
            size(self.bar.per_sec() as u64),
            humantime::format_duration(Duration::from_secs(self.bar.eta().as_secs())),
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
