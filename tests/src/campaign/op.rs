//! The operations of a campaign, drawn from a seed.

use std::sync::Arc;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xorfs_store::Block;

use crate::files::pattern;

/// One change of the volume. Paths come from a small set, so that operations meet.
#[derive(Debug, Clone)]
pub enum Op {
    /// An empty file or folder.
    Make {
        /// Where.
        path: String,
        /// A folder, and not a file.
        folder: bool,
    },
    /// Bytes written into a file, which may leave a hole before them.
    Write {
        /// The file.
        path: String,
        /// Where in it.
        offset: usize,
        /// What.
        bytes: Arc<Vec<u8>>,
    },
    /// A file cut or extended.
    Resize {
        /// The file.
        path: String,
        /// Its new size in bytes.
        size: usize,
    },
    /// Permissions.
    Mode {
        /// Whose.
        path: String,
        /// The permission bits.
        mode: u32,
    },
    /// An extended attribute, sometimes one too large for its entry.
    Note {
        /// Whose.
        path: String,
        /// Its value.
        note: Vec<u8>,
    },
    /// A name goes.
    Remove {
        /// Which.
        path: String,
        /// By `rmdir` and not by `unlink`.
        folder: bool,
    },
    /// A name moves, over what is there.
    Rename {
        /// From here.
        from: String,
        /// To here.
        to: String,
    },
}

/// What is done beside the changes.
#[derive(Debug, Clone)]
pub enum Upkeep {
    /// Makes everything so far crash-safe.
    Sync,
    /// Seals everything so far.
    Seal,
    /// Blocks fetched for readers, which push out older ones.
    Cache(Vec<Block>),
    /// A block held for the network, which stays.
    Hold(Block),
    /// A block that comes and goes again.
    Forget(Block),
    /// Garbage goes, while the next steps are done.
    Collect,
}

impl Op {
    /// The change of a step.
    pub fn of(seed: u64, step: u64) -> Self {
        let mut random = source(seed, step, 1);
        let random = &mut random;
        match random.random_range(0..20) {
            0..3 => Self::Make { path: file(random), folder: false },
            3 => Self::Make { path: folder(random), folder: true },
            4..12 => {
                let length = match random.random_range(0..12) {
                    0 => random.random_range(1..1_500_000),
                    1..4 => random.random_range(1..150_000),
                    _ => random.random_range(1..6_000),
                };
                let offset = if random.random() { 0 } else { random.random_range(0..300_000) };
                let bytes = Arc::new(pattern(random.random(), length));
                Self::Write { path: file(random), offset, bytes }
            }
            12 => Self::Resize { path: file(random), size: random.random_range(0..200_000) },
            13 => Self::Mode { path: file(random), mode: random.random_range(0..0o1000) },
            14 => {
                let length = if random.random() { 20 } else { 2_000 };
                let path = if random.random() { file(random) } else { folder(random) };
                Self::Note { path, note: pattern(random.random(), length) }
            }
            15 => Self::Remove { path: file(random), folder: false },
            16 => Self::Remove { path: folder(random), folder: true },
            17 => Self::Rename { from: folder(random), to: folder(random) },
            _ => Self::Rename { from: file(random), to: file(random) },
        }
    }
}

impl Upkeep {
    /// What follows a step, if anything does.
    pub fn of(seed: u64, step: u64) -> Option<Self> {
        let mut random = source(seed, step, 2);
        match random.random_range(0..40) {
            0..10 => Some(Self::Sync),
            10..13 => Some(Self::Seal),
            13..18 => {
                let count = random.random_range(1..8);
                Some(Self::Cache((0..count).map(|_| block(&mut random, 1 << 20)).collect()))
            }
            18..20 => Some(Self::Hold(block(&mut random, 30_000))),
            20..23 => Some(Self::Collect),
            23..25 => Some(Self::Forget(block(&mut random, 300_000))),
            _ => None,
        }
    }
}

fn source(seed: u64, step: u64, purpose: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(step << 2 | purpose);
    random
}

fn block(random: &mut ChaCha8Rng, length_max: usize) -> Block {
    let mut bytes = vec![0; random.random_range(1..length_max)];
    random.fill_bytes(&mut bytes);
    Block::new(bytes.into()).expect("it is short enough")
}

fn folder(random: &mut ChaCha8Rng) -> String {
    ["a", "b", "a/x", "b/y"][random.random_range(0..4)].to_owned()
}

fn file(random: &mut ChaCha8Rng) -> String {
    let name = random.random_range(0..5);
    match random.random_range(0..5) {
        0 => format!("file-{name}"),
        _ => format!("{}/file-{name}", folder(random)),
    }
}
