//! Writing trees.
use std::sync::Arc;

use crate::contract::BlockStore;
use crate::error::TreeError;
use crate::tree::edit::FileEdit;
use crate::tree::entry::{Content, Entry, NameOf, VolumeRoot, XattrMap, Xattrs};
use crate::tree::head::Head;
use crate::tree::reader::Reader;
use crate::tree::volume::{ConvergenceSecret, VolumeSecret};

/// Seals files and directories into blocks.
pub struct Writer;

/// Content whose last piece may still be waiting for its shared block to be completed.
#[derive(Debug)]
pub struct Draft;

impl Writer {
    /// A writer of one volume's blocks. `reader` reads what is there already.
    pub fn new(
        _blocks: Arc<dyn BlockStore>,
        _reader: Arc<Reader>,
        _secret: ConvergenceSecret,
    ) -> Self {
        todo!()
    }
    /// Seals a file as edited: only what changed is cut anew.
    pub fn file(&mut self, _edit: &FileEdit) -> Result<Draft, TreeError> {
        todo!()
    }
    /// Seals a directory as changed: `None` removes a name.
    pub fn directory(
        &mut self,
        _base: &Content,
        _changes: Vec<(Vec<u8>, Option<Entry>)>,
    ) -> Result<Draft, TreeError> {
        todo!()
    }
    /// Seals the hard-link index as changed: an empty list removes an inode.
    pub fn names(
        &mut self,
        _base: &Content,
        _changes: Vec<(u64, Vec<NameOf>)>,
    ) -> Result<Draft, TreeError> {
        todo!()
    }
    /// Seals extended attributes where they are too large for the entry.
    pub fn xattrs(&mut self, _map: XattrMap) -> Result<Xattrs, TreeError> {
        todo!()
    }
    /// Completes the shared block, so that every draft made before can be settled.
    pub fn flush(&mut self) -> Result<(), TreeError> {
        todo!()
    }
    /// The content of a draft. Panics where `flush` was not called since.
    pub fn settle(&self, _draft: Draft) -> Content {
        todo!()
    }
    /// Seals the root and signs the head that names it. All blocks are flushed first.
    pub fn head(
        &mut self,
        _root: &VolumeRoot,
        _secret: &VolumeSecret,
        _previous: Option<&Head>,
        _time_ms: i64,
    ) -> Result<Head, TreeError> {
        todo!()
    }
}
