//! Logging: what the daemon and `--verbose` commands say on standard error.
//!
//! Standard output belongs to results and is never logged to. Keys and plaintext never reach a
//! log; that is the rule of every crate, not something that could be filtered here.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts logging. `XORFS_LOG` (the syntax of `RUST_LOG`) wins over `verbose`; without either a
/// daemon logs warnings and what it does, a command only errors.
pub(crate) fn start(daemon: bool, verbose: u8) {
    let level = match (daemon, verbose) {
        (false, 0) => "error",
        (true, 0) => "warn,xorfs=info",
        (_, 1) => "info",
        (_, 2) => "info,xorfs=debug,xorfs_net=debug,xorfs_fuse=debug,xorfs_store=debug",
        _ => "debug,xorfs=trace,xorfs_net=trace,xorfs_fuse=trace,xorfs_store=trace",
    };
    let filter = EnvFilter::try_from_env("XORFS_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    debug_assert!(started.is_ok(), "logging starts once");
}
