//! What the database takes: of the disk, and in memory on the way there.

use rocksdb::DB;

use super::columns::Column;
use super::family;

/// Bytes of the blob files in use, garbage included.
pub(super) fn blob_bytes(db: &DB) -> u64 {
    property(db, Column::Blocks, "rocksdb.live-blob-file-size")
}

/// Bytes of every table and blob file that is not deleted yet, and of the write buffers.
pub(super) fn occupied_bytes(db: &DB) -> u64 {
    let of = |column| {
        property(db, column, "rocksdb.total-sst-files-size")
            + property(db, column, "rocksdb.total-blob-file-size")
            + property(db, column, "rocksdb.cur-size-all-mem-tables")
    };
    Column::ALL.into_iter().map(of).sum()
}

fn property(db: &DB, column: Column, name: &str) -> u64 {
    match db.property_int_value_cf(family(db, column), name) {
        Ok(value) => value.unwrap_or(0),
        Err(error) => {
            tracing::warn!(%error, name, "could not tell the size of the store");
            0
        }
    }
}
