//! `xorfs daemon`: a node in the foreground.

use std::sync::Arc;

use crate::args::DaemonArgs;
use crate::attach::{lock_for_daemon, stop_signal};
use crate::commands::mount::mount_point;
use crate::daemon::Daemon;
use crate::daemon::lock::Role;
use crate::home::Home;
use crate::output::Output;
use crate::passphrase;
use crate::settings::Settings;

pub(crate) async fn run(home: &Home, args: &DaemonArgs, out: Output) -> anyhow::Result<()> {
    let settings = Settings::of_daemon(args)?;
    // A daemon asks nobody: it may have been started by a machine.
    let passphrase = passphrase::from_file_of(home)?;
    let lock = lock_for_daemon(home).await?;
    // Asked for before anything is there to be cleaned up.
    let stop = stop_signal();
    tokio::pin!(stop);
    let daemon = Daemon::start(home, &settings, Role::Daemon, lock, passphrase).await?;
    if daemon.is_locked() {
        tracing::warn!("the keyring is locked: no volume is shown until `xorfs unlock`");
    }
    let served = tokio::select! {
        served = serve(&daemon, args, out) => served,
        () = &mut stop => Ok(()),
    };
    tracing::info!("leaving");
    let stopped = daemon.stop().await;
    served.and(stopped)
}

/// Runs until the last mount is gone, where that is asked for, else for ever.
async fn serve(daemon: &Arc<Daemon>, args: &DaemonArgs, out: Output) -> anyhow::Result<()> {
    out.line(&daemon.greeting())?;
    if let Some(dir) = &args.mount {
        let (daemon, dir) = (Arc::clone(daemon), mount_point(dir)?);
        let (read_only, allow_other) = (args.read_only, args.allow_other);
        tokio::task::spawn_blocking(move || daemon.mount(&dir, read_only, allow_other)).await??;
    }
    if args.exit_with_mount {
        daemon.mounts_gone().await;
        return Ok(());
    }
    std::future::pending().await
}
