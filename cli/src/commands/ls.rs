//! `xorfs ls`: a directory below a link or in a volume; without one, the volumes.

use crate::api::client::Client;
use crate::api::types::{EntryKind, EntryRow, Name};
use crate::args::LsArgs;
use crate::attach::with_node;
use crate::commands::status;
use crate::home::Home;
use crate::output::{Output, table};
use crate::target;

const DAY_SECONDS: i64 = 24 * 60 * 60;

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

/// `2026-01-31T23:59:59Z`, for any time that a file can have: before 1970 and after 9999 too.
fn time(row: &EntryRow) -> String {
    let (year, month, day) = date(row.mtime.div_euclid(DAY_SECONDS));
    let second = row.mtime.rem_euclid(DAY_SECONDS);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar.
///
/// After `civil_from_days` in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms":
/// years begin in March, so that the leap day is the last one, and repeat every 400 years.
fn date(days: i64) -> (i64, i64, i64) {
    let since_march_0 = days + 719_468;
    let (era, day) = (since_march_0.div_euclid(146_097), since_march_0.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_times_read_as_everywhere() {
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
            atime: 0,
            atime_nanos: 0,
            ino: 0,
            device: None,
            xattrs: Vec::new(),
            target: None,
        };
        assert_eq!(mode(&row), "-rwxr-x---");
        row.mode = 0o5644;
        assert_eq!(mode(&row), "-rwSr--r-T");
        for (mtime, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (-2_203_891_200, "1900-03-01T00:00:00Z"),
            (253_402_300_800, "10000-01-01T00:00:00Z"),
        ] {
            row.mtime = mtime;
            assert_eq!(time(&row), text);
        }
        for mtime in [i64::MIN, i64::MAX] {
            row.mtime = mtime;
            assert!(time(&row).ends_with('Z'));
        }
    }
}
