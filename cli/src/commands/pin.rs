//! `xorfs pin`: keeps volumes and trees on this node, lets them go, or lists them.

use xorfs_store::Link;

use crate::api::client::{Client, at};
use crate::api::types::{JobProgress, PinReply, PinRequest, PinRow};
use crate::args::PinArgs;
use crate::attach::with_node;
use crate::home::Home;
use crate::output::{Output, blocks, table};
use crate::progress::Progress;
use crate::target::{self, volume_path};

pub(crate) async fn run(home: &Home, args: &PinArgs, out: Output) -> anyhow::Result<()> {
    if args.what.is_empty() {
        let pins = with_node(home, async |client| client.pins().await).await?;
        return out.value(&pins, |pins| list(pins));
    }
    let each = async |client: &Client| {
        for what in &args.what {
            let request = request(client, what).await?;
            let reply = match args.remove {
                true => client.unpin(&request).await?,
                false => pin(client, &request).await?,
            };
            out.value(&reply, |reply| told(what, reply, args.remove))?;
        }
        Ok(())
    };
    with_node(home, each).await
}

/// A bare name is a volume; everything else is what its link names now.
async fn request(client: &Client, what: &str) -> anyhow::Result<PinRequest> {
    let is_name = !what.contains([':', '/']);
    if is_name || volume_path(what).is_some_and(|(_, below)| below.trim_matches('/').is_empty()) {
        let name = what.trim_end_matches(['/', ':']).to_owned();
        return Ok(PinRequest { volume: Some(name), link: None });
    }
    // An immutable link is pinned as it is, with the name that it suggests.
    if let Ok(Link::Tree(_)) = what.parse() {
        return Ok(PinRequest { volume: None, link: Some(what.to_owned()) });
    }
    let target = target::parse(what)?;
    let link = client.link(at(&target.path), false).await?;
    Ok(PinRequest { volume: None, link: Some(link) })
}

async fn pin(client: &Client, request: &PinRequest) -> anyhow::Result<PinReply> {
    let progress = Progress::new("fetching", 0);
    let mut fetched = 0;
    let on_progress = |now: JobProgress| {
        // How much is missing is not known before it was walked, so the total grows with it.
        progress.add_total(now.done_bytes.saturating_sub(fetched));
        progress.add(now.done_bytes.saturating_sub(fetched));
        fetched = now.done_bytes;
    };
    let reply = client.pin(request, on_progress).await;
    progress.finish();
    reply
}

fn told(what: &str, reply: &PinReply, removed: bool) -> String {
    if removed {
        return format!("{what} may be evicted from now on");
    }
    let fetched = blocks(reply.fetched_blocks, reply.fetched_bytes);
    format!("{what} is kept: {} blocks, fetched {fetched}", reply.blocks)
}

fn list(pins: &[PinRow]) -> String {
    let rows: Vec<_> = pins
        .iter()
        .map(|pin| {
            let kind = match (pin.volume, pin.own) {
                (true, true) => "own volume",
                (true, false) => "followed volume",
                (false, _) => "link",
            };
            let name = pin.name.clone().unwrap_or_default();
            vec![kind.to_owned(), name, pin.link.clone().unwrap_or_default()]
        })
        .collect();
    table(&rows, &[])
}
