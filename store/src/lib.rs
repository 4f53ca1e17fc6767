//! Encrypted, content-addressed blocks, the tree over them, and the local store.
//!
//! From the bottom: a [`Block`] is sealed bytes named by their hash ([`BlockId`]). A
//! [`BlockStore`] keeps blocks, a [`Ledger`] keeps the small records that change. The tree turns
//! files and directories into blocks and back; a [`Head`] names the newest root of a volume.
//! This crate knows neither the network nor the mount.

mod block;
mod contract;
mod error;
mod format;
mod id;
mod tree;

pub use block::{BLOCK_BYTES_MAX, Block, BlockError};
pub use contract::{Batch, BlockStore, Class, Inventory, Ledger, Table, Usage};
pub use error::{OpenError, ReadError, TreeError, WriteError};
pub use format::{FORMAT_VERSION, FormatError};
pub use id::{BlockId, ID_BYTES, ParseIdError};
pub use tree::head::{HEAD_BYTES_MAX, Head, HeadError, VolumeId};
pub use tree::volume::{ConvergenceSecret, ReadKey, StagingKey, VolumeSecret};
