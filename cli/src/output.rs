//! What commands print on standard output: results, and nothing else.
//!
//! One `Output` per command knows whether `--json` was given. A reader that goes away (`| head`)
//! ends the command quietly; see `main`.

use std::io::{self, Write};

use bytesize::ByteSize;
use serde::Serialize;

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Output in JSON or for people.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether `--json` was given.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints one line and flushes it, so that a script sees it at once.
    pub(crate) fn line(self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// Prints a value as JSON on one line with `--json`, else what `text` makes of it.
    pub(crate) fn value<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(value)? } else { text(value) };
        if !text.is_empty() {
            self.line(text.trim_end_matches('\n'))?;
        }
        Ok(())
    }
}

/// Bytes for people: `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A number of blocks and their bytes: `1 block (1.5 MiB)`.
pub(crate) fn blocks(count: u64, bytes: u64) -> String {
    let noun = if count == 1 { "block" } else { "blocks" };
    format!("{count} {noun} ({})", size(bytes))
}

/// What has too few copies, as a clause: `2 blocks (1.5 MiB) lack copies`.
pub(crate) fn lacking(blocks: u64, bytes: u64) -> String {
    let (noun, verb) = if blocks == 1 { ("block", "lacks") } else { ("blocks", "lack") };
    format!("{blocks} {noun} ({}) {verb} copies", size(bytes))
}

/// Volumes whose newest version no other node was told of, as a clause.
pub(crate) fn unannounced(volumes: u64) -> String {
    let (noun, verb) = if volumes == 1 { ("volume", "is") } else { ("volumes", "are") };
    format!("{volumes} {noun} {verb} not announced")
}

/// Rows as aligned columns; `right` says which columns are flush right.
pub(crate) fn table(rows: &[Vec<String>], right: &[bool]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            if right.get(column).copied().unwrap_or(false) {
                line.push_str(&format!("{cell:>width$}", width = widths[column]));
            } else {
                line.push_str(&format!("{cell:<width$}", width = widths[column]));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(lacking(1, 1024), "1 block (1.0 KiB) lacks copies");
        assert_eq!(lacking(2, 2048), "2 blocks (2.0 KiB) lack copies");
        assert_eq!(unannounced(1), "1 volume is not announced");
        assert_eq!(unannounced(0), "0 volumes are not announced");
    }

    #[test]
    fn columns_are_aligned() {
        let rows =
            vec![vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "5".to_owned()]];
        assert_eq!(table(&rows, &[false, true]), "a     10\nlong   5\n");
    }
}
