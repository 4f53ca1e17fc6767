//! `xorfs mount`: through the running daemon, else with a node of its own in the background.
//!
//! The node in the background is a plain `xorfs daemon` in a session of its own that leaves with
//! its mount and writes to `HOME/daemon.log`. If it fails to start, its last line is ours.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::api::client::Client;
use crate::api::types::{MountRequest, Name};
use crate::args::MountArgs;
use crate::attach::stop_signal;
use crate::exit::{Exit, Failure};
use crate::home::Home;

/// How long a node in the background may take until its mount is usable: a large journal is
/// replayed first.
const START_MAX: Duration = Duration::from_secs(120);

/// A log of earlier nodes beyond this many bytes is started anew.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// Time between two looks at it.
const START_POLL: Duration = Duration::from_millis(20);

/// Time between two looks at a mount in the foreground.
const WATCH_POLL: Duration = Duration::from_millis(250);

pub(crate) async fn run(home: &Home, args: &MountArgs) -> anyhow::Result<()> {
    let dir = mount_point(&args.dir)?;
    if let Some(client) = Client::connect(home.socket()?).await? {
        mount_through(&client, &dir, args).await?;
        if args.foreground {
            stay(&client, &dir).await?;
        }
        return Ok(());
    }
    if args.foreground {
        return Err(become_daemon(home, &dir, args).into());
    }
    start_in_background(home, &dir, args).await
}

/// A mount point as the daemon takes it: absolute. A dead mount answers nothing, so only the
/// folder above is looked at then.
pub(crate) fn mount_point(dir: &Path) -> anyhow::Result<PathBuf> {
    let shown = || format!("the mount point {}", dir.display());
    if let Ok(found) = fs::canonicalize(dir) {
        return Ok(found);
    }
    let absolute = std::path::absolute(dir).with_context(shown)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent).with_context(shown)?.join(name)),
        _ => Ok(absolute),
    }
}

async fn mount_through(client: &Client, dir: &Path, args: &MountArgs) -> anyhow::Result<()> {
    let request = MountRequest {
        dir: Name::from(dir),
        read_only: args.read_only,
        allow_other: args.allow_other,
    };
    client.mount(&request).await
}

/// Waits until the daemon's mount is gone; takes it away when told to leave.
async fn stay(client: &Client, dir: &Path) -> anyhow::Result<()> {
    let stop = stop_signal();
    tokio::pin!(stop);
    let dir = Name::from(dir);
    loop {
        tokio::select! {
            () = &mut stop => return client.unmount(dir).await,
            () = tokio::time::sleep(WATCH_POLL) => {}
        }
        if !client.status().await?.mounts.contains(&dir) {
            return Ok(());
        }
    }
}

fn daemon_command(home: &Home, dir: &Path, args: &MountArgs) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(file) = home.passphrase_file() {
        command.arg("--passphrase-file").arg(std::path::absolute(file)?);
    }
    command.arg("--home").arg(home.dir()).arg("daemon").arg("--exit-with-mount");
    command.arg("--mount").arg(dir);
    if args.read_only {
        command.arg("--read-only");
    }
    if args.allow_other {
        command.arg("--allow-other");
    }
    Ok(command)
}

/// Turns this process into the daemon; returns only where that fails.
fn become_daemon(home: &Home, dir: &Path, args: &MountArgs) -> io::Error {
    match daemon_command(home, dir, args) {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    }
}

async fn start_in_background(home: &Home, dir: &Path, args: &MountArgs) -> anyhow::Result<()> {
    let path = home.log();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("could not open the log {}", path.display()))?;
    let mut before = log.metadata()?.len();
    if before > LOG_BYTES_MAX {
        log.set_len(0)?;
        before = 0;
    }
    let mut command = daemon_command(home, dir, args)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
    // SAFETY: setsid is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    let mut child = command.spawn().context("could not start a node")?;
    match await_mount(home, dir, &mut child).await {
        Ok(Some(code)) => Err(why(&path, before, code).into()),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the mount is usable; tells the exit code where the node ends before that.
async fn await_mount(home: &Home, dir: &Path, child: &mut Child) -> anyhow::Result<Option<i32>> {
    let (end, dir) = (Instant::now() + START_MAX, Name::from(dir));
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code().unwrap_or(Exit::Failed as i32)));
        }
        if let Some(client) = Client::connect(home.socket()?).await?
            && client.status().await.is_ok_and(|status| status.mounts.contains(&dir))
        {
            return Ok(None);
        }
        if Instant::now() >= end {
            let seconds = START_MAX.as_secs();
            let text = format!("the mount is not usable after {seconds} s; see the daemon's log");
            return Err(Failure::failed(text).into());
        }
        tokio::time::sleep(START_POLL).await;
    }
}

/// The last error that a node which ended has logged.
fn why(log: &Path, from: u64, code: i32) -> Failure {
    let exit = match code {
        2 => Exit::Usage,
        3 => Exit::NotFound,
        4 => Exit::Refused,
        5 => Exit::Corrupt,
        _ => Exit::Failed,
    };
    let said = said_since(log, from).unwrap_or_default();
    let line = said.lines().rev().find_map(|line| line.strip_prefix("xorfs: "));
    match line {
        Some(line) => Failure::new(exit, line),
        None => Failure::new(exit, format!("the node ended at once; see {}", log.display())),
    }
}

fn said_since(log: &Path, from: u64) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    file.seek(SeekFrom::Start(from))?;
    let mut said = Vec::new();
    file.take(1 << 20).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}
