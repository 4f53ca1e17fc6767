//! Settings of the view, with documented defaults.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xorfs_store::{Head, ReadError, Timestamp, VolumeId};

use crate::view::types::Owner;

/// Asks for the newest head of a volume that a live link names; blocks, with a deadline of its
/// own.
pub type HeadSource = Arc<dyn Fn(VolumeId) -> Result<Option<Head>, ReadError> + Send + Sync>;

/// Settings of a `View`.
#[derive(Clone)]
pub struct ViewConfig {
    /// Where times come from.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Bytes that may wait in memory to be sealed, over all volumes. Writers wait above it.
    pub dirty_bytes_max: u64,
    /// Bytes that wait to be sealed before sealing starts without a quiet moment. At most half of
    /// `dirty_bytes_max`, so that writers go on meanwhile.
    pub seal_bytes: u64,
    /// How long a volume is left alone after its last change before it is sealed.
    pub seal_quiet: Duration,
    /// How long the first change waits at most.
    pub seal_age_max: Duration,
    /// How long a writer waits for room before it is told that there is none.
    pub write_wait_max: Duration,
    /// An `fsync` with more than this to record seals instead, so that large data is written once.
    pub journal_batch_bytes_max: u64,
    /// Memory for sealed blocks and opened metadata.
    pub cache_bytes: usize,
    /// Open links that are kept; the longest unused go first.
    pub links_max: usize,
    /// How long a live link's head is trusted before it is asked for again.
    pub link_head_age_max: Duration,
    /// R: how many copies of a block there should be.
    pub replicas: u8,
    /// Copies that make a block `replicated`, of the R that the holders will make.
    pub replica_target: Arc<dyn Fn() -> u8 + Send + Sync>,
    /// Who owns the mount's own directories and the root of a new volume.
    pub owner: Owner,
    /// Where heads of live links come from.
    pub heads: HeadSource,
}

impl Default for ViewConfig {
    fn default() -> Self {
        Self {
            clock: Arc::new(system_time),
            dirty_bytes_max: 64 << 20,
            seal_bytes: 32 << 20,
            seal_quiet: Duration::from_secs(2),
            seal_age_max: Duration::from_secs(30),
            write_wait_max: Duration::from_secs(30),
            journal_batch_bytes_max: 4 << 20,
            cache_bytes: 64 << 20,
            links_max: 1024,
            link_head_age_max: Duration::from_secs(2),
            replicas: 5,
            replica_target: Arc::new(|| 5),
            owner: Owner::default(),
            heads: Arc::new(|_| Ok(None)),
        }
    }
}

impl fmt::Debug for ViewConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewConfig")
            .field("dirty_bytes_max", &self.dirty_bytes_max)
            .field("seal_bytes", &self.seal_bytes)
            .field("seal_quiet", &self.seal_quiet)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

fn system_time() -> Timestamp {
    // A clock before 1970 is a clock that was never set.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
}
