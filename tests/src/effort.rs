//! How much a run of the tests does, and on which seed: what the environment decides.
//!
//! `XORFS_TEST_LONG=1` (set by `make test-long`) makes campaigns long; `XORFS_TEST_SEED` replaces
//! the seeds that are written in the tests.

use std::env;
use std::io::Write;

/// Whether this run may take long.
pub fn is_long() -> bool {
    env::var_os("XORFS_TEST_LONG").is_some_and(|value| value == "1")
}

/// The seed of a test, printed past the capture of its output where it is not the usual one.
pub fn seed(usual: u64) -> u64 {
    match env::var("XORFS_TEST_SEED") {
        Ok(text) => {
            let seed = text.parse().unwrap_or_else(|_| panic!("XORFS_TEST_SEED={text} is no u64"));
            say(&format!("seed {seed}"));
            seed
        }
        Err(_) => usual,
    }
}

/// Says that a test did not run here, and why, where somebody sees it.
pub fn skipped(test: &str, why: &str) {
    say(&format!("SKIPPED {test}: {why}"));
}

/// Says something past the capture of test output.
pub fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
