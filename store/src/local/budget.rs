//! How large everything is: one budget of memory and one of disk, shared out when the store opens.
//!
//! Under a quota all that is not blocks has to fit beside them: write buffers, which are files
//! soon, the log, the output of a compaction while its input is still there, and what a pass of
//! the reclaimer copies. So these shrink with the quota, and blocks stop short of it by the
//! headroom.

use crate::config::{LocalConfig, QUOTA_BYTES_MIN};
use crate::error::OpenError;

/// Write buffers of a family: one filling, one being written, one full in between, so that a
/// burst does not wait for the disk at once.
pub(super) const WRITE_BUFFERS: usize = 4;

/// Largest write buffer of the small families of blocks: some 100,000 rows; `blocks` fills first.
const ROW_BUFFER_BYTES_MAX: usize = 8 << 20;

/// Largest write buffer of a table of the ledger. A full one makes RocksDB flush.
const LEDGER_BUFFER_BYTES_MAX: usize = 16 << 20;

/// Largest log, which bounds the time to replay it. A longer one makes RocksDB flush.
const LOG_BYTES_MAX: u64 = 32 << 20;

/// Most bytes of blocks that a flush puts into the log, see `durable`.
const LOGGED_BYTES_MAX: u64 = 4 << 20;

/// Most room that is kept free of blocks under a quota, in bytes, beside the fixed part.
const HEADROOM_BYTES_MAX: u64 = 1 << 30;

/// The part of the headroom that does not shrink: preallocated logs, the manifest, small files.
const HEADROOM_BYTES_FIXED: u64 = 8 << 20;

/// Sizes in bytes, unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Cache of tables, which the write buffers are charged to.
    pub(super) memory_bytes: usize,
    pub(super) buffers_bytes: usize,
    pub(super) block_buffer_bytes: usize,
    pub(super) row_buffer_bytes: usize,
    pub(super) ledger_buffer_bytes: usize,
    pub(super) log_bytes: u64,
    pub(super) logged_bytes: usize,
    pub(super) table_file_bytes: u64,
    pub(super) blob_file_bytes: u64,
    pub(super) compaction_bytes: u64,
    /// What blocks may occupy; `None` where only the disk limits them.
    pub(super) blocks_limit: Option<u64>,
    /// What small blocks of our own and the journal may occupy beyond `blocks_limit`, so that
    /// there is room to remove files even where the store is full of what is never evicted.
    pub(super) cushion_bytes: u64,
    /// Bytes that one pass of the reclaimer may copy before it gives anything back.
    pub(super) copied_bytes: Option<u64>,
    /// Bytes of blocks that are evicted at once, so that their blob files are mostly garbage.
    pub(super) evicted_bytes: u64,
    /// Bytes admitted after which the directory is looked at again.
    pub(super) scan_step_bytes: u64,
    /// Garbage that is left alone until somebody needs the room: a pass rewrites every key.
    pub(super) garbage_bytes: u64,
}

impl Budget {
    /// Shares out what a configuration allows.
    pub(super) fn of(config: &LocalConfig) -> Result<Self, OpenError> {
        let memory_bytes = config.memory_bytes.clamp(16 << 20, 4 << 30);
        let buffers_bytes = memory_bytes / 4 * 3;
        let quota = match config.quota_bytes {
            Some(quota) if quota < QUOTA_BYTES_MIN => {
                return Err(OpenError::Quota { quota, least: QUOTA_BYTES_MIN });
            }
            quota => quota,
        };
        // A share of the quota, within limits that hold whatever the quota is.
        let share = |of: u64, least: u64, most: u64| {
            quota.map_or(most, |quota| (quota / of).clamp(least, most))
        };
        let buffer = |most: usize| share(32, 1 << 20, most as u64) as usize;
        let headroom =
            quota.map(|quota| (quota / 8).min(HEADROOM_BYTES_MAX) + HEADROOM_BYTES_FIXED);
        Ok(Self {
            memory_bytes,
            buffers_bytes,
            block_buffer_bytes: buffer(buffers_bytes / WRITE_BUFFERS),
            row_buffer_bytes: buffer(ROW_BUFFER_BYTES_MAX.min(memory_bytes / 8)),
            ledger_buffer_bytes: buffer(LEDGER_BUFFER_BYTES_MAX.min(memory_bytes / 8)),
            log_bytes: share(16, 2 << 20, LOG_BYTES_MAX),
            logged_bytes: share(32, 1 << 20, LOGGED_BYTES_MAX) as usize,
            table_file_bytes: share(64, 1 << 20, 64 << 20),
            blob_file_bytes: share(32, 2 << 20, 256 << 20),
            compaction_bytes: share(32, 2 << 20, 256 << 20),
            blocks_limit: quota.zip(headroom).map(|(quota, headroom)| quota - headroom),
            cushion_bytes: headroom.map_or(0, |headroom| headroom / 4),
            copied_bytes: headroom.map(|headroom| headroom / 4),
            evicted_bytes: share(16, 2 << 20, 1 << 30),
            scan_step_bytes: share(256, 256 << 10, 64 << 20),
            garbage_bytes: share(16, 2 << 20, 64 << 20),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_leaves_room_for_blocks_and_one_too_small_is_refused() {
        let of = |quota_bytes| Budget::of(&LocalConfig { quota_bytes, ..LocalConfig::default() });
        for quota in [32 << 20, 64 << 20, 2 << 30, 1 << 40_u64] {
            let budget = of(Some(quota)).unwrap();
            let limit = budget.blocks_limit.unwrap();
            assert!(limit >= quota / 8 * 5 && limit < quota, "{quota}: {limit}");
            let beside = budget.log_bytes + budget.compaction_bytes + budget.copied_bytes.unwrap();
            assert!(limit + budget.cushion_bytes + beside <= quota, "{quota}: {budget:?}");
        }
        assert_eq!(of(None).unwrap().blocks_limit, None);
        let refused = of(Some(QUOTA_BYTES_MIN - 1));
        assert!(matches!(refused, Err(OpenError::Quota { least: QUOTA_BYTES_MIN, .. })));
    }
}
