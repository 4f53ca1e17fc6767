//! The column families of the local store, their options and the bytes of their keys and rows.
//!
//! | family | key | value | log |
//! |---|---|---|---|
//! | `blocks` | block id, 32 | the sealed bytes | no |
//! | `index` | block id, 32 | [`Row`], 15 | no |
//! | `owed` | block id, 32 | empty | no |
//! | `cached` | order, 8 big-endian; block id, 32 | empty | no |
//! | `bad` | block id, 32 | [`BadRow`], 23 | no |
//! | `notes` | a name | as the store needs | yes |
//! | `pieces` | hash of a piece, 16 | where it is, 44 (see `crate::pieces`) | no |
//! | `heads`, `bases`, `journal`, `peers`, `sources` | as the caller gives | as the caller gives | yes |
//!
//! `owed` and `cached` repeat what `index` says, so that both can be walked without the rest.
//! Rows have no version of their own: the store's format version covers them.

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Options};

use crate::config::LocalConfig;
use crate::contract::Table;
use crate::format::{Decoder, Encoder, FormatError};
use crate::id::{BlockId, ID_BYTES};
use crate::standing::Standing;

/// Sealed bytes from which a block lies in a blob file. Smaller ones stay in the table files,
/// where compaction may copy them a few times, but a read needs no second file.
const BLOB_BYTES_MIN: u64 = 4 << 10;

/// Write buffers of a family: one filling, one being written, one full in between, so that a
/// burst does not wait for the disk at once.
const WRITE_BUFFERS: usize = 4;

/// Write buffer of the small families of blocks. Some 100,000 rows; `blocks` fills first.
const ROW_BUFFER_BYTES: usize = 8 << 20;

/// Write buffer of a table of the ledger. A full one makes RocksDB flush.
const LEDGER_BUFFER_BYTES: usize = 16 << 20;

/// Log that makes RocksDB flush the ledger, which bounds the log and the time to replay it.
const LOG_BYTES_MAX: u64 = 32 << 20;

/// Table and blob files held open at once: half of the 1,024 descriptors that a process gets.
const OPEN_FILES_MAX: i32 = 512;

/// One flush and one compaction: two cores are shared with sealing and the network.
const BACKGROUND_JOBS: i32 = 2;

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Blocks,
    Index,
    Owed,
    Cached,
    Heads,
    Bases,
    Journal,
    Peers,
    Sources,
    Bad,
    Notes,
    Pieces,
}

impl Column {
    /// In the order in which they were invented, which is how RocksDB numbers them: new ones go
    /// to the end.
    pub(super) const ALL: [Self; 12] = [
        Self::Blocks,
        Self::Index,
        Self::Owed,
        Self::Cached,
        Self::Heads,
        Self::Bases,
        Self::Journal,
        Self::Peers,
        Self::Sources,
        Self::Bad,
        Self::Notes,
        Self::Pieces,
    ];

    /// The families written without the log. Their rows are written in one batch and must be
    /// flushed together.
    pub(super) const UNLOGGED: [Self; 6] =
        [Self::Blocks, Self::Index, Self::Owed, Self::Cached, Self::Bad, Self::Pieces];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Index => "index",
            Self::Owed => "owed",
            Self::Cached => "cached",
            Self::Pieces => "pieces",
            Self::Heads => "heads",
            Self::Bases => "bases",
            Self::Journal => "journal",
            Self::Peers => "peers",
            Self::Sources => "sources",
            Self::Bad => "bad",
            Self::Notes => "notes",
        }
    }
}

impl From<Table> for Column {
    fn from(table: Table) -> Self {
        match table {
            Table::Heads => Self::Heads,
            Table::Bases => Self::Bases,
            Table::Journal => Self::Journal,
            Table::Peers => Self::Peers,
            Table::Sources => Self::Sources,
        }
    }
}

/// What `index` knows of a held block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) standing: Standing,
    /// Sealed bytes of the block.
    pub(super) length: u32,
    /// Grows with every put and renewal, so that the oldest block is known.
    pub(super) order: u64,
}

impl Row {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Standing { pinned, in_range, owed, copies } = self.standing;
        let class = u8::from(in_range) | u8::from(pinned) << 1;
        let mut row = Encoder::default();
        row.u8(class).u8(owed.into()).u8(copies).u32(self.length).u64(self.order);
        row.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut bytes = Decoder::plain(bytes);
        let class = bytes.u8()?;
        if class > 3 {
            return Err(FormatError::Invalid("the class of a block"));
        }
        let owed = match bytes.u8()? {
            0 => false,
            1 => true,
            _ => return Err(FormatError::Invalid("the owed mark of a block")),
        };
        let (in_range, pinned) = (class & 1 != 0, class & 2 != 0);
        let standing = Standing { pinned, in_range, owed, copies: bytes.u8()? };
        let row = Self { standing, length: bytes.u32()?, order: bytes.u64()? };
        bytes.finish()?;
        Ok(row)
    }
}

impl Row {
    /// The row of a block of which only the bytes are known: it is kept, and offered to the
    /// network, until somebody can tell.
    pub(super) fn careful(length: u32, order: u64) -> Self {
        let standing = Standing { pinned: true, in_range: true, owed: true, copies: 0 };
        Self { standing, length, order }
    }
}

/// What `bad` keeps of a block that did not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadRow {
    /// Its row when it was held.
    pub(super) row: Row,
    /// Seconds since 1970 when it was set aside.
    pub(super) since: u64,
}

impl BadRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.row.encode().as_slice(), &self.since.to_le_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some((row, since)) = bytes.split_last_chunk::<8>() else {
            return Err(FormatError::Invalid("the length of a bad block's row"));
        };
        Ok(Self { row: Row::decode(row)?, since: u64::from_le_bytes(*since) })
    }
}

/// Key of a cached block in the order of eviction.
pub(super) fn cached_key(order: u64, id: &BlockId) -> [u8; 8 + ID_BYTES] {
    let mut key = [0; 8 + ID_BYTES];
    key[..8].copy_from_slice(&order.to_be_bytes());
    key[8..].copy_from_slice(id.as_bytes());
    key
}

/// The order and the id in a key of `cached`; `None` for bytes of another length.
pub(super) fn parse_cached_key(key: &[u8]) -> Option<(u64, BlockId)> {
    let (order, id) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*order), parse_id(id)?))
}

/// The id in a key of `blocks`, `index` or `owed`; `None` for bytes of another length.
pub(super) fn parse_id(key: &[u8]) -> Option<BlockId> {
    Some(BlockId::from_bytes(key.try_into().ok()?))
}

/// Options of the database as a whole.
///
/// A flush takes all families at once and is recorded atomically: whatever the moment of a
/// crash, a block and its rows are both there or both missing.
pub(super) fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_total_wal_size(LOG_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_manifest_file_size(16 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(rocksdb::LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// All families with their options; one cache and one memory budget for all.
pub(super) fn descriptors(config: &LocalConfig) -> Vec<ColumnFamilyDescriptor> {
    let memory_bytes = config.memory_bytes.clamp(16 << 20, 4 << 30);
    let cache = Cache::new_lru_cache(memory_bytes / 4);
    let block_buffer_bytes = memory_bytes / 4 * 3 / WRITE_BUFFERS;
    let options = |column: Column| match column {
        Column::Blocks => block_options(&cache, block_buffer_bytes),
        Column::Index | Column::Owed | Column::Cached | Column::Bad | Column::Pieces => {
            table_options(&cache, ROW_BUFFER_BYTES.min(memory_bytes / 8))
        }
        Column::Heads
        | Column::Bases
        | Column::Journal
        | Column::Peers
        | Column::Sources
        | Column::Notes => table_options(&cache, LEDGER_BUFFER_BYTES.min(memory_bytes / 8)),
    };
    // RocksDB insists on this family, which stays empty. With its own options it would count as
    // a buffer of 64 MiB, and RocksDB goes on after a full disk only when the largest one fits.
    let unused = table_options(&cache, 1 << 20);
    Column::ALL
        .into_iter()
        .map(|column| ColumnFamilyDescriptor::new(column.name(), options(column)))
        .chain([ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, unused)])
        .collect()
}

fn table_options(cache: &Cache, buffer_bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    // Sealed bytes and hashes do not compress.
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(buffer_bytes);
    // A flush takes all families, so one with fewer buffers would stop writes for the others.
    options.set_max_write_buffer_number(WRITE_BUFFERS as i32);
    options
}

/// Blob collection is off here and switched on by `reclaim` for a pass at a time: RocksDB's own
/// goes by the age of a file, not by what is garbage in it, and since ids are spread evenly
/// every compaction would copy the oldest blobs of the whole store.
fn block_options(cache: &Cache, buffer_bytes: usize) -> Options {
    let mut options = table_options(cache, buffer_bytes);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN);
    options.set_blob_compression_type(DBCompressionType::None);
    options.set_enable_blob_gc(false);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_one_encoding() {
        let row = Row {
            standing: Standing { pinned: false, in_range: true, owed: true, copies: 3 },
            length: 0x0102_0304,
            order: 0x1122_3344_5566_7788,
        };
        let bytes = row.encode();
        assert_eq!(bytes, [1, 1, 3, 4, 3, 2, 1, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(Row::decode(&bytes), Ok(row));
        let both = Row { standing: Standing { pinned: true, ..row.standing }, ..row };
        assert_eq!((both.encode()[0], Row::decode(&both.encode())), (3, Ok(both)));
        assert!(Row::decode(&[&[4], &bytes[1..]].concat()).is_err());
        assert!(Row::decode(&bytes[1..]).is_err());
        assert!(Row::decode(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn bad_rows_have_one_encoding() {
        let bad = BadRow { row: Row::careful(5, 7), since: 0x0102 };
        let bytes = bad.encode();
        assert_eq!(bytes[..15], bad.row.encode());
        assert_eq!(bytes[15..], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(BadRow::decode(&bytes), Ok(bad));
        assert!(BadRow::decode(&bytes[..22]).is_err());
    }

    #[test]
    fn cached_keys_sort_by_order() {
        let id = BlockId::of(b"a block");
        assert!(cached_key(255, &id) < cached_key(256, &id));
        assert_eq!(parse_cached_key(&cached_key(7, &id)), Some((7, id)));
        assert_eq!(parse_cached_key(b"short"), None);
    }
}
