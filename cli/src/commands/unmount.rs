//! `xorfs unmount`: through the daemon that mounted, else without it.

use crate::api::client::Client;
use crate::api::types::Name;
use crate::args::UnmountArgs;
use crate::commands::mount::mount_point;
use crate::home::Home;

pub(crate) async fn run(home: &Home, args: &UnmountArgs) -> anyhow::Result<()> {
    let dir = mount_point(&args.dir)?;
    let name = Name::from(dir.as_path());
    if let Some(client) = Client::connect(home.socket()?).await?
        && client.status().await?.mounts.contains(&name)
    {
        return client.unmount(name).await;
    }
    // A mount of a node that was killed, or of another home.
    Ok(tokio::task::spawn_blocking(move || xorfs_fuse::unmount(&dir)).await??)
}
