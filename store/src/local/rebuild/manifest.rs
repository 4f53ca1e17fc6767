//! The few entries of RocksDB's manifest that a rebuild has to write or find.
//!
//! A manifest is a sequence of edits, each a sequence of tagged fields (varints, and byte strings
//! behind their varint length). A rebuild takes the edits that RocksDB's own repair wrote of the
//! tables, and adds what that does not do: families without a table, and the blob files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::records;
use crate::crash;
use crate::format::Encoder;
use crate::local::columns::Column;

const COMPARATOR: u64 = 1;
const LOG_NUMBER: u64 = 2;
const NEXT_FILE_NUMBER: u64 = 3;
const FAMILY: u64 = 200;
const FAMILY_ADDED: u64 = 201;
const BLOB_FILE_ADDED: u64 = 400;
const KEEPS_TIMESTAMPS: u64 = (1 << 13) + 9;

/// A blob file as the manifest counts it.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlobCount {
    pub(super) number: u64,
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// The edits of the manifest that `CURRENT` of a database names, up to the first damage; none
/// where there is no such file.
pub(super) fn read(db: &Path) -> Vec<Vec<u8>> {
    let named = fs::read_to_string(db.join("CURRENT")).unwrap_or_default();
    fs::read(db.join(named.trim_end())).map_or_else(|_| Vec::new(), |bytes| records::decode(&bytes))
}

/// The numbers of the families that these edits add.
pub(super) fn families(edits: &[Vec<u8>]) -> BTreeMap<&'static str, u32> {
    let mut found = BTreeMap::new();
    for edit in edits {
        for column in Column::ALL {
            let mut added = Encoder::default();
            added.varint(FAMILY_ADDED).bytes(column.name().as_bytes());
            let added = added.finish();
            let Some(at) = edit.windows(added.len()).position(|bytes| bytes == added) else {
                continue;
            };
            // The number stands right before: two bytes of tag and, below 128, one of its own.
            if let [.., 0xc8, 0x01, number @ 1..=127] = edit[..at] {
                found.insert(column.name(), u32::from(number));
            }
        }
    }
    found
}

/// An edit that adds a family without tables.
pub(super) fn add_family(column: Column, number: u32) -> Vec<u8> {
    let mut edit = Encoder::default();
    edit.varint(COMPARATOR).bytes(b"leveldb.BytewiseComparator");
    edit.varint(LOG_NUMBER).varint(0);
    edit.varint(FAMILY).varint(number.into());
    edit.varint(FAMILY_ADDED).bytes(column.name().as_bytes());
    edit.varint(KEEPS_TIMESTAMPS).bytes(&[1]);
    edit.finish()
}

/// An edit that adds blob files to a family. It has to come before the family's tables.
pub(super) fn add_blob_files(number: u32, files: &[BlobCount]) -> Vec<u8> {
    let mut edit = Encoder::default();
    for file in files {
        edit.varint(BLOB_FILE_ADDED).varint(file.number).varint(file.blobs).varint(file.bytes);
        // No checksum of the whole, and no further field.
        edit.bytes(b"").bytes(b"").varint(0);
    }
    edit.varint(FAMILY).varint(number.into());
    edit.finish()
}

/// An edit that keeps RocksDB from giving the number of an existing file to a new one.
pub(super) fn next_file(number: u64) -> Vec<u8> {
    let mut edit = Encoder::default();
    edit.varint(NEXT_FILE_NUMBER).varint(number);
    edit.finish()
}

/// Makes a manifest of these edits and lets `CURRENT` name it; until then nothing has changed.
pub(super) fn install(db: &Path, number: u64, edits: &[Vec<u8>]) -> io::Result<()> {
    let name = format!("MANIFEST-{number:06}");
    write_synced(&db.join(&name), &records::encode(edits))?;
    name_current(db, &name)
}

/// Lets `CURRENT` name a manifest.
pub(super) fn name_current(db: &Path, name: &str) -> io::Result<()> {
    let new = db.join("CURRENT.new");
    write_synced(&new, format!("{name}\n").as_bytes())?;
    crash::point("rebuild-before-current");
    fs::rename(new, db.join("CURRENT"))?;
    File::open(db)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
