//! `xorfs completions`: what a shell needs to complete our commands.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};

pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "xorfs", &mut script);
    Ok(io::stdout().lock().write_all(&script)?)
}
