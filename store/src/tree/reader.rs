//! Reading trees.
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::contract::BlockStore;
use crate::error::ReadError;
use crate::id::BlockId;
use crate::tree::entry::{Content, Entry, NameOf, VolumeRoot, XattrMap, Xattrs};
use crate::tree::head::Head;
use crate::tree::volume::ReadKey;

/// Opens what a tree names.
pub struct Reader;

impl Reader {
    /// A reader over `blocks` that keeps at most `cache_bytes` of sealed blocks and opened
    /// metadata in memory.
    pub fn new(_blocks: Arc<dyn BlockStore>, _cache_bytes: usize) -> Self {
        todo!()
    }
    /// Reads up to `length` bytes of a file at `offset`; shorter only at its end.
    pub fn read_at(
        &self,
        _file: &Content,
        _offset: u64,
        _length: usize,
    ) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        todo!()
    }
    /// Asks the store to fetch what covers `range` of a file. A hint; returns at once.
    pub fn prefetch(&self, _file: &Content, _range: Range<u64>) {
        todo!()
    }
    /// One name of a directory.
    pub fn lookup(&self, _directory: &Content, _name: &[u8]) -> Result<Option<Entry>, ReadError> {
        todo!()
    }
    /// All names of a directory, sorted by name.
    pub fn list(&self, _directory: &Content) -> Result<BTreeMap<Vec<u8>, Entry>, ReadError> {
        todo!()
    }
    /// Names of a multiply linked inode (or of a directory above one); empty where not indexed.
    pub fn names_of(&self, _names: &Content, _ino: u64) -> Result<Vec<NameOf>, ReadError> {
        todo!()
    }
    /// All extended attributes.
    pub fn xattrs(&self, _xattrs: &Xattrs) -> Result<XattrMap, ReadError> {
        todo!()
    }
    /// Opens the root that a head names.
    pub fn root(&self, _head: &Head, _key: &ReadKey) -> Result<VolumeRoot, ReadError> {
        todo!()
    }
    /// Every block of one file (maps and data) or of one directory's own nodes.
    pub fn blocks_of(&self, _entry: &Entry) -> Result<Vec<BlockId>, ReadError> {
        todo!()
    }
}
