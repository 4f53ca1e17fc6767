//! `xorfs ls`: a directory below a link or in a volume; without one, the volumes.

use std::time::{Duration, UNIX_EPOCH};

use crate::api::client::Client;
use crate::api::types::{EntryKind, EntryRow, Name};
use crate::args::LsArgs;
use crate::attach::with_node;
use crate::commands::status;
use crate::home::Home;
use crate::output::{Output, table};
use crate::target;

pub(crate) async fn run(home: &Home, args: &LsArgs, out: Output) -> anyhow::Result<()> {
    let Some(source) = &args.source else {
        let volumes = with_node(home, async |client| client.volumes().await).await?;
        return out.value(&volumes, |volumes| {
            if args.long {
                return status::volumes(volumes);
            }
            volumes.iter().map(|volume| format!("{}\n", volume.name)).collect()
        });
    };
    let target = target::parse(source)?;
    let rows = async |client: &Client| {
        let mut row = client.stat(&target.path).await?;
        if row.kind == EntryKind::Directory {
            return client.list(&target.path).await;
        }
        row.name = target.name.clone().map(|name| Name(name.into_bytes()));
        Ok(vec![row])
    };
    let rows = with_node(home, rows).await?;
    out.value(&rows, |rows| if args.long { long(rows) } else { short(rows) })
}

fn short(rows: &[EntryRow]) -> String {
    rows.iter().map(|row| format!("{}\n", name(row))).collect()
}

fn long(rows: &[EntryRow]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let target = row.target.as_ref().map(|to| format!(" -> {to}")).unwrap_or_default();
            vec![
                mode(row),
                row.nlink.to_string(),
                row.uid.to_string(),
                row.gid.to_string(),
                row.size.to_string(),
                time(row),
                format!("{}{target}", name(row)),
            ]
        })
        .collect();
    table(&rows, &[false, true, true, true, true])
}

fn name(row: &EntryRow) -> String {
    row.name.as_ref().map(Name::to_string).unwrap_or_default()
}

/// `-rwxr-x---`, as everywhere.
fn mode(row: &EntryRow) -> String {
    let mut text = String::with_capacity(10);
    text.push(match row.kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
    });
    // Per class: the shift of its bits, its special bit, and the letters for it.
    let classes = [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')];
    for (shift, special, with_x, without_x) in classes {
        let bits = row.mode >> shift & 0o7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, row.mode & special != 0) {
            (true, true) => with_x,
            (false, true) => without_x,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn time(row: &EntryRow) -> String {
    match u64::try_from(row.mtime)
        .ok()
        .and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at)))
    {
        Some(at) => humantime::format_rfc3339_seconds(at).to_string(),
        None => format!("{} s", row.mtime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_everywhere() {
        let mut row = EntryRow {
            name: None,
            kind: EntryKind::File,
            mode: 0o750,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            mtime: 0,
            mtime_nanos: 0,
            target: None,
        };
        assert_eq!(mode(&row), "-rwxr-x---");
        row.mode = 0o5644;
        assert_eq!(mode(&row), "-rwSr--r-T");
        assert_eq!(time(&row), "1970-01-01T00:00:00Z");
    }
}
