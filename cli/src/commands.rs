//! The subcommands, one file each: what they ask of a node and what they print.

mod cat;
mod check;
mod completions;
mod daemon;
mod gc;
mod get;
mod keyring;
mod link;
mod ls;
mod mount;
mod peers;
mod pin;
mod put;
mod status;
mod sync;
mod unmount;
mod volume;

use anyhow::Context;

use crate::args::{Cli, Command};
use crate::exit::Exit;
use crate::home::Home;
use crate::output::Output;

/// Runs one command to its end.
pub(crate) fn run(cli: Cli) -> anyhow::Result<Exit> {
    let out = Output::new(cli.json);
    if let Command::Completions(args) = &cli.command {
        completions::run(args)?;
        return Ok(Exit::Done);
    }
    let home = Home::open(cli.home.as_deref(), cli.passphrase_file.as_deref())?;
    let runtime = tokio::runtime::Runtime::new().context("could not start")?;
    let done = runtime.block_on(dispatch(cli.command, &home, out));
    // A read that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    done
}

async fn dispatch(command: Command, home: &Home, out: Output) -> anyhow::Result<Exit> {
    match command {
        Command::Daemon(args) => daemon::run(home, &args, out).await?,
        Command::Mount(args) => mount::run(home, &args).await?,
        Command::Unmount(args) => unmount::run(home, &args).await?,
        Command::Put(args) => return put::run(home, args, out).await,
        Command::Get(args) => return get::run(home, &args, out).await,
        Command::Cat(args) => cat::run(home, &args).await?,
        Command::Ls(args) => ls::run(home, &args, out).await?,
        Command::Link(args) => link::run(home, &args, out).await?,
        Command::Sync(args) => sync::run(home, &args, out).await?,
        Command::Volume(command) => volume::run(home, command, out).await?,
        Command::Pin(args) => pin::run(home, &args, out).await?,
        Command::Gc(args) => gc::run(home, &args, out).await?,
        Command::Check(args) => return check::run(home, &args, out).await,
        Command::Passphrase(args) => keyring::passphrase(home, &args).await?,
        Command::Unlock => keyring::unlock(home).await?,
        Command::Lock => keyring::lock(home).await?,
        Command::Status => status::run(home, out).await?,
        Command::Peers => peers::run(home, out).await?,
        Command::Completions(args) => completions::run(&args)?,
    }
    Ok(Exit::Done)
}
