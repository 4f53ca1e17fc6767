//! `xorfs`: the mount, the command line and the replication daemon in one binary.
//!
//! Here a command is parsed and run, and how it ended becomes the exit code. An error is one
//! line on standard error; see `exit` for what the codes mean.

mod api;
mod args;
mod attach;
mod commands;
mod daemon;
mod exit;
mod home;
mod logging;
mod output;
mod passphrase;
mod progress;
mod settings;
mod target;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{Exit, classify};

/// Arenas of the allocator. glibc gives nearly every thread one, and each keeps what was freed in
/// it: a daemon that took 6 GiB peaked at 326 MiB, and with two arenas at 185 MiB in about the
/// same time (one run each). Mapping each buffer by itself kept less, and copying in took 1.4 to
/// 1.7 times as long.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

fn main() -> ExitCode {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
    }
    // clap prints help and usage errors itself; its codes, 0 and 2, are ours.
    let cli = Cli::parse();
    logging::start(matches!(cli.command, Command::Daemon(_)), cli.verbose);
    let exit = match commands::run(cli) {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Done,
        Err(error) => {
            eprintln!("xorfs: {error:#}");
            classify(&error)
        }
    };
    ExitCode::from(exit as u8)
}

/// Whether whoever read our output has gone, which is no failure of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
