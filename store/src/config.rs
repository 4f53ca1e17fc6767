//! Settings of the local store, with the reason for every default.
//!
//! A plain struct, settled when the store opens: what is out of range is brought into range, but
//! for a quota that is too small to keep, which is refused.

use crate::id::ID_BYTES;

/// Smallest quota in bytes. Write buffers, logs and the room to reclaim garbage in take some 12
/// MiB however small they are made; less than this leaves nothing for blocks.
pub const QUOTA_BYTES_MIN: u64 = 32 << 20;

/// Settings of [`Local`](crate::Local).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalConfig {
    /// Hard cap on what the store occupies on disk: blocks, garbage that is not given back yet,
    /// tables and logs, and what is in memory on its way there. Between an eighth and a quarter
    /// of it, at most 1 GiB, stays free of blocks as room to reclaim garbage in. `None` leaves
    /// the disk as the only limit. At least `QUOTA_BYTES_MIN`.
    pub quota_bytes: Option<u64>,
    /// Memory of the database in bytes: tables, their indices and filters, and the write buffers,
    /// which may take up to three quarters of it and are given back when nothing is written for
    /// a while. Smaller buffers mean more and smaller files on disk. Brought into 16 MiB to 4
    /// GiB.
    pub memory_bytes: usize,
    /// Bytes of the disk that blocks never take, so that the ledger, compaction and everybody
    /// else on the disk still find room. Blocks not flushed yet are not seen by the free space
    /// that the system tells, so it should be no smaller than `memory_bytes`.
    pub disk_reserve_bytes: u64,
    /// Sealed bytes that the background scrub reads a second; 0 for no scrub. A block that went
    /// bad is noticed within a round, and its last copy elsewhere should outlive that.
    pub scrub_bytes_per_second: u64,
    /// The node's own point in XOR space, from which the distance of a block decides when it is
    /// evicted. Without one no block held for the network is.
    pub point: Option<[u8; ID_BYTES]>,
}

impl Default for LocalConfig {
    /// No quota; 128 MiB of memory, which leaves a process with a mount and a network well under
    /// 512 MiB; 256 MiB of reserve; a scrub of 4 MiB/s, which is a hundredth of a disk and reads
    /// 100 GB in seven hours; no point.
    fn default() -> Self {
        Self {
            quota_bytes: None,
            memory_bytes: 128 << 20,
            disk_reserve_bytes: 256 << 20,
            scrub_bytes_per_second: 4 << 20,
            point: None,
        }
    }
}
