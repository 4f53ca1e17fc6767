//! `xorfs sync`: waits until what was written is safe on other nodes.

pub(crate) mod wait;

use crate::api::client::Client;
use crate::args::SyncArgs;
use crate::attach::with_node;
use crate::commands::sync::wait::{Scope, replicated};
use crate::home::Home;
use crate::output::Output;
use crate::target::in_view_or_mount;

pub(crate) async fn run(home: &Home, args: &SyncArgs, out: Output) -> anyhow::Result<()> {
    let scope = match &args.path {
        Some(path) => Scope::Path(in_view_or_mount(path)?),
        None => Scope::All,
    };
    let sync = async |client: &Client| {
        // A mistaken path is told before anything that the network may lack.
        if let Scope::Path(query) = &scope {
            client.stat_of(query).await?;
        }
        client.seal(None).await?;
        replicated(client, &scope, args.timeout).await
    };
    let reached = with_node(home, sync).await?;
    out.value(&reached, |reached| {
        if out.is_json() {
            String::new()
        } else {
            format!("replicated (at least {} copies)", reached.target)
        }
    })
}
