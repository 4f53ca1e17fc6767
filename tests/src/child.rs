//! A child process for tests in which a process has to die: this test binary again, running one
//! `child_` test, which does nothing unless the variables below are set.
//!
//! What the child was promised it prints as lines of a word and a number, which survive it.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdout, Command, Stdio};

const DIR: &str = "XORFS_TEST_CHILD_DIR";
const SEED: &str = "XORFS_TEST_CHILD_SEED";

/// Stands before every line of ours, among those of the test runner.
const MARK: &str = "child: ";

/// What a child test was started with.
#[derive(Debug)]
pub struct Child {
    /// Where it works.
    pub dir: PathBuf,
    /// What decides what it does.
    pub seed: u64,
}

impl Child {
    /// `None` in an ordinary run of the tests.
    pub fn wanted() -> Option<Self> {
        let dir = env::var_os(DIR)?.into();
        let seed = env::var(SEED).ok()?.parse().expect("a seed is a number");
        Some(Self { dir, seed })
    }

    /// The command that runs a child test, by its full name.
    pub fn command(test: &str, dir: &Path, seed: u64) -> Command {
        let mut command = Command::new(env::current_exe().expect("a process knows its file"));
        command
            .args(["--exact", test, "--nocapture", "--include-ignored", "--test-threads=1"])
            .env(DIR, dir)
            .env(SEED, seed.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }
}

/// Says something to the parent; it is with the parent when this returns.
pub fn tell(word: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    // The test runner leaves its own line unfinished.
    let told = write!(out, "\n{MARK}{word} {number}\n").and_then(|()| out.flush());
    told.expect("the parent reads until the end");
}

/// What a child tells, in order, until it ends.
pub fn told(process: &mut Process) -> impl Iterator<Item = (String, u64)> + use<> {
    let lines = BufReader::<ChildStdout>::new(process.stdout.take().expect("stdout is piped"));
    lines.lines().map_while(Result::ok).filter_map(|line| parse(&line))
}

/// A line of ours.
pub fn parse(line: &str) -> Option<(String, u64)> {
    let (word, number) = line.strip_prefix(MARK)?.split_once(' ')?;
    Some((word.to_owned(), number.parse().ok()?))
}
