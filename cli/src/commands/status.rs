//! `xorfs status`: one screen of what the node is doing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::types::{Collected, Replication, Space, Status, VolumeRow};
use crate::attach::with_locked_node;
use crate::home::Home;
use crate::output::{Output, blocks, lacking, size, table, unannounced};

pub(crate) async fn run(home: &Home, out: Output) -> anyhow::Result<()> {
    let status = with_locked_node(home, async |client| client.status().await).await?;
    out.value(&status, text)
}

fn text(status: &Status) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_s));
    let runs = if status.daemon {
        format!("{} (process {}, up {uptime})", status.address, status.pid)
    } else {
        "no daemon runs; start one with `xorfs daemon`".to_owned()
    };
    let traffic =
        format!("{} sent, {} received", size(status.bytes_sent), size(status.bytes_received));
    let mut rows = vec![
        ("node", status.node.clone()),
        ("home", status.home.to_string()),
        ("address", runs),
        ("peers", status.replication.live_peers.to_string()),
        ("traffic", traffic),
        ("space", space(&status.space)),
        ("blocks", classes(&status.space)),
        ("health", health(&status.replication)),
    ];
    if let Some(last) = &status.last_gc {
        rows.push(("last gc", collected(last)));
    }
    if status.space.staged_bytes > 0 {
        rows.push(("staged", format!("{} not sealed yet", size(status.space.staged_bytes))));
    }
    if status.space.bad_blocks > 0 {
        let bad = format!("{} blocks: see `xorfs check`", status.space.bad_blocks);
        rows.push(("damaged", bad));
    }
    for mount in &status.mounts {
        rows.push(("mount", mount.to_string()));
    }
    if status.keyring.locked {
        rows.push(("keyring", "locked: `xorfs unlock` opens the volumes".to_owned()));
    }
    let rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    format!("{}\n{}", table(&rows, &[]), volumes(&status.volumes))
}

fn space(space: &Space) -> String {
    let limit = match space.quota_bytes {
        Some(quota) => format!("of {}", size(quota)),
        None => format!("and {} free on the disk", size(space.disk_free_bytes)),
    };
    let reclaimable = match space.reclaimable_bytes {
        0 => String::new(),
        bytes => format!(", {} of it to be given back", size(bytes)),
    };
    format!("{} {limit}{reclaimable}", size(space.occupied_bytes))
}

fn classes(space: &Space) -> String {
    format!(
        "{}: {} pinned, {} for others, {} cached",
        space.blocks,
        size(space.pinned_bytes),
        size(space.in_range_bytes),
        size(space.cached_bytes),
    )
}

/// One line on the last garbage collection.
fn collected(last: &Collected) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ago = humantime::format_duration(Duration::from_secs(now.saturating_sub(last.at)));
    format!("{ago} ago, removed {}", blocks(last.removed_blocks, last.removed_bytes))
}

/// One sentence on replication.
fn health(replication: &Replication) -> String {
    if replication.live_peers == 0 {
        return format!("no other node is reachable: {}", owed(replication));
    }
    if replication.owed_blocks == 0 && replication.heads_pending == 0 {
        return format!("everything is replicated (at least {} copies)", replication.target);
    }
    format!("replicating: {}", owed(replication))
}

fn owed(replication: &Replication) -> String {
    let blocks = lacking(replication.owed_blocks, replication.owed_bytes);
    format!("{blocks}, {}", unannounced(replication.heads_pending))
}

/// The volumes as a table.
pub(crate) fn volumes(volumes: &[VolumeRow]) -> String {
    let heading = ["VOLUME", "ACCESS", "VERSION", "STATE", "ID"].map(str::to_owned);
    let mut rows = vec![heading.to_vec()];
    rows.extend(volumes.iter().map(|volume| {
        let access = if volume.writable { "yours" } else { "followed" };
        let state = match (&volume.open_error, &volume.seal_error) {
            (Some(error), _) => format!("does not open: {error}"),
            (None, Some(error)) => format!("cannot be sealed: {error}"),
            _ if volume.sealed => "sealed".to_owned(),
            _ => format!("{} not sealed", size(volume.dirty_bytes)),
        };
        let id = volume.id.chars().take(16).collect();
        vec![volume.name.clone(), access.to_owned(), volume.sequence.to_string(), state, id]
    }));
    table(&rows, &[false, false, true])
}
