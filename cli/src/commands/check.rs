//! `xorfs check`: whether what is kept is what was written, and which files suffer where not.

use std::fmt::Write;

use crate::api::client::Client;
use crate::api::types::{CheckReply, JobProgress};
use crate::args::CheckArgs;
use crate::attach::with_node;
use crate::exit::Exit;
use crate::home::Home;
use crate::output::{Output, blocks, size};
use crate::progress::Progress;

/// Most files that are named for people; `--json` names all.
const FILES_SHOWN: usize = 50;

pub(crate) async fn run(home: &Home, args: &CheckArgs, out: Output) -> anyhow::Result<Exit> {
    let check = async |client: &Client| {
        let space = client.status().await?.space;
        let bytes = space.pinned_bytes + space.in_range_bytes + space.cached_bytes;
        let progress = Progress::new("checking", bytes);
        let mut checked = 0;
        let on_progress = |now: JobProgress| {
            progress.add(now.done_bytes.saturating_sub(checked));
            checked = now.done_bytes;
        };
        let reply = client.check(args.repair, on_progress).await;
        progress.finish();
        reply
    };
    let reply = with_node(home, check).await?;
    out.value(&reply, |reply| text(reply, args.repair))?;
    Ok(if reply.clean { Exit::Done } else { Exit::Corrupt })
}

fn text(reply: &CheckReply, repair: bool) -> String {
    let mut text = format!("{} as they should be", blocks(reply.good_blocks, reply.good_bytes));
    let mut say = |line: std::fmt::Arguments<'_>| {
        write!(text, "\n{line}").expect("a string takes any text");
    };
    if reply.restored_blocks > 0 {
        say(format_args!("{} fetched again", count(reply.restored_blocks)));
    }
    if reply.wrong_entries > 0 {
        let done = if repair { "mended" } else { "to be mended" };
        say(format_args!("{} entries of the index {done}", reply.wrong_entries));
    }
    if reply.dropped_records > 0 {
        let records = reply.dropped_records;
        say(format_args!(
            "{records} unsealed changes were damaged; they are in journal-*.damaged in the home"
        ));
    }
    for bad in &reply.bad {
        let owed = if bad.owed { ", and perhaps nobody else has it" } else { "" };
        say(format_args!("damaged: block {} ({}){owed}", bad.block, size(bad.bytes)));
    }
    for id in &reply.missing {
        say(format_args!("missing: block {id}"));
    }
    for file in reply.files.iter().take(FILES_SHOWN) {
        let below = if file.unreadable { ", and all below is unknown" } else { "" };
        say(format_args!("needs them: {}{below}", file.path));
    }
    if reply.files.len() > FILES_SHOWN {
        say(format_args!("and {} more", reply.files.len() - FILES_SHOWN));
    }
    for name in &reply.unopened {
        say(format_args!("the volume {name:?} does not open"));
    }
    if !reply.clean && !repair {
        say(format_args!("`xorfs check --repair` fetches from other nodes what it can"));
    }
    text
}

fn count(blocks: u64) -> String {
    if blocks == 1 { "1 block".to_owned() } else { format!("{blocks} blocks") }
}
