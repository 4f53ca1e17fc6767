//! Running one command to its end: with a deadline, its output and its peak memory.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks at a running command, which also samples its memory.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long the output of an ended command may stay open: somebody else may hold the pipe.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(5);

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said on the side.
    pub stderr: String,
    /// Peak resident memory in bytes, as last seen while it ran.
    pub peak_bytes: u64,
}

impl Outcome {
    /// Itself, where the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Itself, where the exit code is this one.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code of {}\nstdout: {}\nstderr: {}",
            self.command,
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }

    /// Itself, where the message on stderr holds each of these, in whatever case.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        let said = self.stderr.to_lowercase();
        for part in parts {
            assert!(
                said.contains(&part.to_lowercase()),
                "{} says nothing of {part:?}: {}",
                self.command,
                self.stderr
            );
        }
        self
    }

    /// Itself, where it ends in one error: whatever was said before on the way, one line begins
    /// with the name of the program, and nothing panicked.
    #[track_caller]
    pub fn one_error(self) -> Self {
        let errors = self.stderr.lines().filter(|line| line.starts_with("xorfs: "));
        assert_eq!(errors.count(), 1, "{} says: {}", self.command, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// What was printed, as text without the last line break.
    #[track_caller]
    pub fn text(&self) -> &str {
        let text = std::str::from_utf8(&self.stdout);
        text.unwrap_or_else(|_| panic!("{} printed no text", self.command)).trim_end()
    }
}

/// Runs a command to its end.
///
/// # Panics
/// Where it does not start, or runs longer than the deadline (it is killed then).
#[track_caller]
pub fn run(command: &mut Command, deadline: Duration) -> Outcome {
    let text = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{text}: {error}"));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let (code, peak_bytes) = wait(&mut child, &text, deadline);
    let stdout = stdout.recv_timeout(OUTPUT_DEADLINE).unwrap_or_default();
    let stderr = stderr.recv_timeout(OUTPUT_DEADLINE).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    Outcome { command: text, code, stdout, stderr, peak_bytes }
}

#[track_caller]
fn wait(child: &mut Child, text: &str, deadline: Duration) -> (Option<i32>, u64) {
    let end = Instant::now() + deadline;
    let mut peak = 0;
    loop {
        // An ended process that was not waited for has no memory: the last look counts.
        peak = peak_bytes(child.id()).unwrap_or(peak);
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return (status.code(), peak);
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{text} did not end within {} s", deadline.as_secs());
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Reads a pipe to its end on a thread of its own, so that neither pipe can fill up.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// The most resident memory that a process had so far; none where it is gone.
pub fn peak_bytes(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
