//! Encrypted, content-addressed blocks, the tree over them, and the local store.
//!
//! From the bottom: a [`Block`] is sealed bytes named by their hash ([`BlockId`]). A
//! [`BlockStore`] keeps blocks, a [`Ledger`] keeps the small records that change. The tree turns
//! files and directories into blocks and back; a [`Head`] names the newest root of a volume.
//! This crate knows neither the network nor the mount.

#[doc(hidden)]
pub mod bench;
mod block;
mod cache;
pub mod check;
mod chunk;
mod compress;
mod config;
mod contract;
pub mod crash;
mod error;
mod format;
pub mod gc;
mod horizon;
mod id;
mod keyring;
mod local;
mod memory;
mod pieces;
mod plaintext;
mod seal;
mod sources;
mod staging;
mod standing;
mod tree;

pub use block::{BLOCK_BYTES_MAX, Block, BlockError};
pub use config::{LocalConfig, QUOTA_BYTES_MIN};
pub use contract::{BadBlock, Batch, BlockStore, Class, Inventory, Ledger, Purpose, Table, Usage};
pub use error::{OpenError, ReadError, TreeError, WriteError};
pub use format::{FORMAT_VERSION, FormatError};
pub use horizon::{Horizon, WriteGuard};
pub use id::{BlockId, ID_BYTES, ParseIdError};
pub use keyring::{Access, Keyring, KeyringError, Passphrase, SealedKeyring, StoredKeyring};
pub use local::{Local, ScrubStep, Scrubber};
pub use memory::Memory;
pub use pieces::{PieceHash, PiecePlace};
pub use plaintext::Plaintext;
pub use seal::BlockRef;
pub use sources::{SourceRecord, SourceStamp, Sources};
pub use staging::{Change, Journal, TreePath, stored_head, take_base};
pub use tree::edit::FileEdit;
pub use tree::entry::{
    Attr, Content, Entry, NAME_BYTES_MAX, NameOf, Node, SYMLINK_BYTES_MAX, Timestamp, VolumeRoot,
    XATTR_BYTES_MAX, XATTR_INLINE_BYTES_MAX, XattrMap, Xattrs,
};
pub use tree::head::{HEAD_BYTES_MAX, Head, HeadError, VolumeId};
pub use tree::link::{LINK_NAME_BYTES_MAX, LINK_PREFIX, Link, LinkError, LinkNode, TreeLink};
pub use tree::reader::Reader;
pub use tree::volume::{Convergence, ConvergenceSecret, ReadKey, StagingKey, VolumeSecret};
pub use tree::writer::{Draft, Writer};
