//! `xorfs gc`: frees the space of what nothing needs.

use crate::api::types::Collected;
use crate::args::GcArgs;
use crate::attach::with_node;
use crate::home::Home;
use crate::output::{Output, blocks, size};

pub(crate) async fn run(home: &Home, args: &GcArgs, out: Output) -> anyhow::Result<()> {
    let collected = with_node(home, async |client| client.collect(args.dry_run).await).await?;
    out.value(&collected, text)
}

fn text(collected: &Collected) -> String {
    let removed = blocks(collected.removed_blocks, collected.removed_bytes);
    if collected.dry_run {
        let kept = collected.kept_blocks;
        return format!("would remove {removed}; {kept} blocks are needed");
    }
    let (before, after) = (collected.disk_before_bytes, collected.disk_after_bytes);
    let disk = format!("the store takes {} of the disk", size(after));
    let spared = match collected.incomplete_pins {
        0 => "",
        _ => "; what is pinned stays until every pin is here whole, see `xorfs pin`",
    };
    match before.checked_sub(after) {
        Some(0) | None => format!("removed {removed}; {disk}{spared}"),
        Some(freed) => {
            format!("removed {removed}; {disk}, {} less than before{spared}", size(freed))
        }
    }
}
