//! Settings of the local store, with the reason for every default.
//!
//! A plain struct: what is out of range is brought into range where it is used, so no setting
//! makes a store that cannot be opened.

/// Settings of [`Local`](crate::Local).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalConfig {
    /// Hard cap on the sealed bytes of all blocks. `None` leaves the disk as the only limit.
    pub quota_bytes: Option<u64>,
    /// Most memory for write buffers and the table cache together, in bytes. Three quarters go
    /// to the write buffers; smaller ones mean more and smaller files on disk. Brought into
    /// 16 MiB to 4 GiB.
    pub memory_bytes: usize,
    /// Bytes of the disk that blocks never take, so that the ledger, compaction and everybody
    /// else on the disk still find room. Blocks not flushed yet are not seen by the free space
    /// that the system tells, so it should be no smaller than `memory_bytes`.
    pub disk_reserve_bytes: u64,
    /// Sealed bytes that the background scrub reads a second; 0 for no scrub. A block that went
    /// bad is noticed within a round, and its last copy elsewhere should outlive that.
    pub scrub_bytes_per_second: u64,
}

impl Default for LocalConfig {
    /// No quota; 128 MiB of memory (three write buffers of 32 MiB and 32 MiB of cache), which
    /// leaves a process with a mount and a network well under 512 MiB; 256 MiB of reserve; a
    /// scrub of 4 MiB/s, which is a hundredth of a disk and reads 100 GB in seven hours.
    fn default() -> Self {
        Self {
            quota_bytes: None,
            memory_bytes: 128 << 20,
            disk_reserve_bytes: 256 << 20,
            scrub_bytes_per_second: 4 << 20,
        }
    }
}
