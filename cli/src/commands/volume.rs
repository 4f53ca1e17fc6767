//! `xorfs volume`: list, create, follow, share, forget.

use anyhow::Context;
use xorfs_store::Link;

use crate::api::types::{LinkReply, VolumeRequest};
use crate::args::{ConvergenceArg, VolumeCommand};
use crate::attach::with_node;
use crate::commands::status;
use crate::home::Home;
use crate::output::Output;

pub(crate) async fn run(home: &Home, command: VolumeCommand, out: Output) -> anyhow::Result<()> {
    match command {
        VolumeCommand::List => {
            let volumes = with_node(home, async |client| client.volumes().await).await?;
            out.value(&volumes, |volumes| status::volumes(volumes))
        }
        VolumeCommand::Create { name, convergence } => {
            let network_convergence = convergence == ConvergenceArg::Network;
            let request = VolumeRequest { name, link: None, network_convergence };
            let made = with_node(home, async |client| client.add_volume(&request).await).await?;
            out.value(&made, |made| made.id.clone())
        }
        VolumeCommand::Follow { link, name } => {
            // Checked here, so that a typing error is told without a node.
            let parsed: Link = link.parse().with_context(|| format!("{link:?} is no link"))?;
            let request =
                VolumeRequest { name, link: Some(parsed.to_string()), network_convergence: false };
            let made = with_node(home, async |client| client.add_volume(&request).await).await?;
            out.value(&made, |made| made.id.clone())
        }
        VolumeCommand::Share { name, write } => {
            let share =
                async |client: &crate::api::client::Client| client.share_volume(&name, write).await;
            let link = with_node(home, share).await?;
            out.value(&LinkReply { link }, |reply| reply.link.clone())
        }
        VolumeCommand::Forget { name, force } => {
            with_node(home, async |client| client.forget_volume(&name, force).await).await
        }
    }
}
