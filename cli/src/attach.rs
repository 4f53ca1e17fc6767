//! How a command gets a node to talk to: the daemon's, or one of its own for as long as it takes.
//!
//! A command's own node is the same as a daemon's but for its socket's name and its lock's text.
//! Two commands on a home without a daemon take turns: the second waits for the first.
//! Whatever happens to the command, its own node is stopped in order, also on Ctrl-C.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use xorfs_store::Passphrase;

use crate::api::client::Client;
use crate::daemon::Daemon;
use crate::daemon::lock::{Holder, Lock, Role};
use crate::exit::Failure;
use crate::home::Home;
use crate::passphrase;
use crate::settings::Settings;

/// How long a command waits for another one that runs a node on the same home. Beyond this the
/// other is rather a long job, and its process id tells more than waiting.
const TURN_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a daemon that starts waits for a short command to end.
const DAEMON_WAIT_MAX: Duration = Duration::from_secs(5);

/// Time between two attempts.
const TURN_PAUSE: Duration = Duration::from_millis(50);

/// Runs `work` with a client of the home's node. A node of our own opens the keyring, asking for
/// its passphrase where it has to.
pub(crate) async fn with_node<T>(
    home: &Home,
    work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with(home, passphrase::for_own_node, work).await
}

/// The same for what needs no key: a node of our own leaves the keyring as it is.
pub(crate) async fn with_locked_node<T>(
    home: &Home,
    work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with(home, |_| Ok(None), work).await
}

/// Runs `work` with a client of the running daemon, and says so where none runs.
pub(crate) async fn with_daemon<T>(
    home: &Home,
    work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    match Client::connect(home.socket()?).await? {
        Some(client) => interruptible(work(&client)).await,
        None => Err(Failure::not_found("no daemon runs; start one with `xorfs daemon`").into()),
    }
}

async fn with<T>(
    home: &Home,
    passphrase: impl Fn(&Home) -> anyhow::Result<Option<Passphrase>>,
    work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + TURN_WAIT_MAX;
    loop {
        if let Some(client) = Client::connect(home.socket()?).await? {
            return interruptible(work(&client)).await;
        }
        match Lock::acquire(&home.lock(), Role::Command)? {
            Ok(lock) => return with_own_node(home, lock, passphrase(home)?, work).await,
            Err(holder) if Instant::now() >= end => return Err(in_use(home, &holder).into()),
            // A daemon that starts or stops has the lock and no socket; a command ends soon.
            Err(_) => tokio::time::sleep(TURN_PAUSE).await,
        }
    }
}

/// Takes the home's lock for a daemon.
pub(crate) async fn lock_for_daemon(home: &Home) -> anyhow::Result<Lock> {
    let end = Instant::now() + DAEMON_WAIT_MAX;
    loop {
        match Lock::acquire(&home.lock(), Role::Daemon)? {
            Ok(lock) => return Ok(lock),
            Err(holder) if holder.role == Role::Daemon || Instant::now() >= end => {
                return Err(in_use(home, &holder).into());
            }
            Err(_) => tokio::time::sleep(TURN_PAUSE).await,
        }
    }
}

async fn with_own_node<T>(
    home: &Home,
    lock: Lock,
    passphrase: Option<Passphrase>,
    work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let settings = Settings::of_command()?;
    let daemon = Daemon::start(home, &settings, Role::Command, lock, passphrase).await?;
    let done = match Client::connect(home.command_socket()?).await {
        Ok(Some(client)) => interruptible(work(&client)).await,
        Ok(None) => Err(Failure::failed("this command's own node does not answer").into()),
        Err(error) => Err(error),
    };
    let stopped = Arc::clone(&daemon).stop().await;
    let done = done?;
    stopped?;
    Ok(done)
}

/// Ends early on SIGINT or SIGTERM, so that what was begun is cleaned up.
async fn interruptible<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        () = stop_signal() => Err(Failure::failed("interrupted").into()),
    }
}

/// Ends when the process is asked to leave.
pub(crate) async fn stop_signal() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn in_use(home: &Home, holder: &Holder) -> Failure {
    let who = match holder.role {
        Role::Daemon => "a daemon",
        Role::Command => "a command",
    };
    let pid = holder.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    Failure::refused(format!("the home {} is in use by {who}{pid}", home.dir().display()))
}
