//! The column families of the local store, their options and the bytes of their keys and rows.
//!
//! | family | key | value | log |
//! |---|---|---|---|
//! | `blocks` | block id, 32 | the sealed bytes | no |
//! | `index` | block id, 32 | [`Row`], 15 | no |
//! | `owed` | block id, 32 | empty | no |
//! | `evictable` | rank, 1; order, 8 big-endian; block id, 32 | empty | no |
//! | `evictable` | 255 | the point that ranks are measured from, 32, or empty | no |
//! | `bad` | block id, 32 | [`BadRow`], 23 | no |
//! | `notes` | a name | as the store needs | yes |
//! | `pieces` | hash of a piece, 16 | where it is, 44 (see `crate::pieces`) | no |
//! | `heads`, `bases`, `journal`, `peers`, `sources` | as the caller gives | as the caller gives | yes |
//!
//! `owed` and `evictable` repeat what `index` says, so that both can be walked without the rest.
//! Rows have no version of their own: the store's format version covers them.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Options,
    WriteBufferManager,
};

use super::budget::{Budget, WRITE_BUFFERS};
use crate::contract::Table;
use crate::format::{Decoder, Encoder, FormatError};
use crate::id::{BlockId, ID_BYTES};
use crate::standing::Standing;

/// Sealed bytes from which a block lies in a blob file. Smaller ones stay in the table files,
/// where compaction may copy them a few times, but a read needs no second file.
pub(super) const BLOB_BYTES_MIN: u64 = 4 << 10;

/// Table and blob files held open at once: half of the 1,024 descriptors that a process gets.
const OPEN_FILES_MAX: i32 = 512;

/// One flush and one compaction: two cores are shared with sealing and the network.
const BACKGROUND_JOBS: i32 = 2;

/// Run of memory that a write buffer of small rows takes at a time.
const ARENA_BLOCK_BYTES: usize = 64 << 10;

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Blocks,
    Index,
    Owed,
    Evictable,
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
        Self::Evictable,
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
        [Self::Blocks, Self::Index, Self::Owed, Self::Evictable, Self::Bad, Self::Pieces];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Index => "index",
            Self::Owed => "owed",
            Self::Evictable => "evictable",
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
    /// Bytes that the block takes of a blob file.
    pub(super) fn blob_bytes(&self) -> u64 {
        let length = u64::from(self.length);
        if length < BLOB_BYTES_MIN { 0 } else { length }
    }

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

/// The family that came before `evictable`; a store that has it is brought up to date.
pub(super) const FORMER_CACHED: &str = "cached";

/// Key in `evictable` of the point that ranks are measured from: behind all ranks.
pub(super) const POINT_KEY: [u8; 1] = [0xff];

/// Highest rank: below `POINT_KEY`. Blocks that share more bits with our point count as if they
/// shared this many.
const RANK_MAX: u8 = 0xfe;

/// A key of `evictable`.
pub(super) type Place = [u8; 1 + 8 + ID_BYTES];

/// When a block goes: lower ranks first, and of one rank the older one. 0 is cached; blocks held
/// for the network have 1 and the length of the prefix they share with our point, so that the
/// farthest come first.
pub(super) fn rank_of(point: Option<&[u8; ID_BYTES]>, row: &Row, id: &BlockId) -> Option<u8> {
    let Standing { pinned, in_range, owed, .. } = row.standing;
    if pinned || owed {
        return None;
    }
    if !in_range {
        return Some(0);
    }
    let shared = shared_bits(point?, id.as_bytes());
    Some(u8::try_from(shared + 1).unwrap_or(RANK_MAX).min(RANK_MAX))
}

/// Leading bits that two points have in common.
fn shared_bits(a: &[u8; ID_BYTES], b: &[u8; ID_BYTES]) -> u32 {
    let differs = a.iter().zip(b).position(|(a, b)| a != b);
    differs.map_or(8 * ID_BYTES as u32, |at| at as u32 * 8 + (a[at] ^ b[at]).leading_zeros())
}

/// Key of a block in the order of eviction.
pub(super) fn evictable_key(rank: u8, order: u64, id: &BlockId) -> Place {
    let mut key: Place = [rank; _];
    key[1..9].copy_from_slice(&order.to_be_bytes());
    key[9..].copy_from_slice(id.as_bytes());
    key
}

/// Rank, order and id in a key of `evictable`; `None` for anything else.
pub(super) fn parse_evictable_key(key: &[u8]) -> Option<(u8, u64, BlockId)> {
    let (rank, rest) = key.split_first()?;
    let (order, id) = rest.split_first_chunk::<8>()?;
    Some((*rank, u64::from_be_bytes(*order), parse_id(id)?))
}

/// The id in a key of `blocks`, `index` or `owed`; `None` for bytes of another length.
pub(super) fn parse_id(key: &[u8]) -> Option<BlockId> {
    Some(BlockId::from_bytes(key.try_into().ok()?))
}

/// Options of the database as a whole.
///
/// A flush takes all families at once and is recorded atomically: whatever the moment of a
/// crash, a block and its rows are both there or both missing.
pub(super) fn database_options(budget: &Budget, memory: &Memory) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_total_wal_size(budget.log_bytes);
    options.set_write_buffer_manager(&memory.buffers);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_bytes_per_sync(1 << 20);
    options.set_manifest_preallocation_size(64 << 10);
    options.set_max_manifest_file_size(4 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(rocksdb::LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// What all families share: one cache, to which the write buffers are charged as well, so that
/// both together keep to one size.
pub(super) struct Memory {
    cache: Cache,
    buffers: WriteBufferManager,
}

impl Memory {
    pub(super) fn new(budget: &Budget) -> Self {
        let cache = Cache::new_lru_cache(budget.memory_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            budget.buffers_bytes,
            false,
            cache.clone(),
        );
        Self { cache, buffers }
    }
}

/// All families with their options. `former` is one of an earlier version, opened to be dropped.
pub(super) fn descriptors(
    budget: &Budget,
    memory: &Memory,
    former: Option<&'static str>,
) -> Vec<ColumnFamilyDescriptor> {
    let options = |column: Column| match column {
        Column::Blocks => block_options(budget, memory),
        Column::Index | Column::Owed | Column::Evictable | Column::Bad | Column::Pieces => {
            table_options(budget, memory, budget.row_buffer_bytes)
        }
        Column::Heads
        | Column::Bases
        | Column::Journal
        | Column::Peers
        | Column::Sources
        | Column::Notes => table_options(budget, memory, budget.ledger_buffer_bytes),
    };
    // RocksDB insists on the default family, which stays empty. With its own options it would
    // count as a buffer of 64 MiB, and RocksDB goes on after a full disk only when the largest
    // one fits.
    let unused = || table_options(budget, memory, 1 << 20);
    Column::ALL
        .into_iter()
        .map(|column| ColumnFamilyDescriptor::new(column.name(), options(column)))
        .chain([ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, unused())])
        .chain(former.map(|former| ColumnFamilyDescriptor::new(former, unused())))
        .collect()
}

fn table_options(budget: &Budget, memory: &Memory, buffer_bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&memory.cache);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    // Sealed bytes and hashes do not compress.
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(buffer_bytes);
    // A buffer takes memory in runs of this size; most families never fill one.
    options.set_arena_block_size(ARENA_BLOCK_BYTES);
    // A flush takes all families, so one with fewer buffers would stop writes for the others.
    options.set_max_write_buffer_number(WRITE_BUFFERS as i32);
    options.set_target_file_size_base(budget.table_file_bytes);
    options.set_max_bytes_for_level_base(budget.table_file_bytes * 4);
    options.set_max_compaction_bytes(budget.compaction_bytes);
    options
}

/// Blob collection is off here and switched on by `reclaim` for a pass at a time: RocksDB's own
/// goes by the age of a file, not by what is garbage in it, and since ids are spread evenly
/// every compaction would copy the oldest blobs of the whole store.
fn block_options(budget: &Budget, memory: &Memory) -> Options {
    let mut options = table_options(budget, memory, budget.block_buffer_bytes);
    options.set_arena_block_size(budget.block_buffer_bytes / 8);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN);
    options.set_blob_file_size(budget.blob_file_bytes);
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
    fn what_goes_first_sorts_first() {
        let row = |pinned, in_range, owed| Row {
            standing: Standing { pinned, in_range, owed, copies: 0 },
            length: 1,
            order: 7,
        };
        let id = |first: u8| BlockId::from_bytes([first; ID_BYTES]);
        let point = [0b1010_0000; ID_BYTES];
        let rank = |row: &Row, first| rank_of(Some(&point), row, &id(first));
        let (cached, held) = (row(false, false, false), row(false, true, false));
        assert_eq!(rank(&cached, 0b1010_0000), Some(0));
        assert_eq!(rank(&held, 0b0000_0000), Some(1));
        assert_eq!(rank(&held, 0b1000_0000), Some(3));
        assert_eq!(rank(&held, 0b1010_0000), Some(RANK_MAX), "the nearest, and within a byte");
        for kept in [row(true, false, false), row(true, true, false), row(false, true, true)] {
            assert_eq!(rank(&kept, 0), None);
        }
        assert_eq!(rank_of(None, &held, &id(1)), None, "without a point nothing is out of range");
        let key = evictable_key(3, 255, &id(9));
        assert!(key < evictable_key(3, 256, &id(1)) && key < evictable_key(4, 1, &id(1)));
        assert!(evictable_key(RANK_MAX, u64::MAX, &id(255)).as_slice() < POINT_KEY.as_slice());
        assert_eq!(parse_evictable_key(&key), Some((3, 255, id(9))));
        assert_eq!(parse_evictable_key(&POINT_KEY), None);
    }
}
