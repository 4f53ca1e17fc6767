//! Reading trees: from refs to plaintext, through a cache limited in bytes.
//!
//! Every block is checked against its id by the store and every piece by its cipher, so what
//! comes back is what was written or an error that names the block. Sealed blocks and opened
//! metadata nodes are cached; opened file data is not, because opening it again is quicker than
//! the copy it would save.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::block::Block;
use crate::cache::ByteCache;
use crate::contract::BlockStore;
use crate::error::ReadError;
use crate::format::{Decoder, FormatError};
use crate::id::BlockId;
use crate::plaintext::Plaintext;
use crate::seal::{
    BlockRef, Kind, PieceKey, UnsealError, open_piece, open_piece_into, room_for, unseal,
};
use crate::tree::entry::{
    Content, Entry, NameOf, Node, VolumeRoot, XattrMap, Xattrs, decode_xattrs,
};
use crate::tree::head::Head;
use crate::tree::map::{self, Extent};
use crate::tree::shard::{Child, DEPTH_MAX, Item, Record, Shard, hash_of, slot_of};
use crate::tree::volume::ReadKey;

/// Memory that an opened metadata node takes beside its plaintext, at the most, as a multiple.
const OPENED_FACTOR: usize = 2;

/// Room beyond what was asked for, so that pieces are opened into place: what sticks out of a
/// part of a piece on either side. Short reads lie in one piece or two and do without.
const SLACK_BYTES: usize = 64 << 10;
const SLACK_FROM_BYTES: usize = 128 << 10;

type NodeKey = (BlockId, u32);

/// Opens what a tree names. Shared by every reader of a store, so that they share the cache.
pub struct Reader {
    blocks: Arc<dyn BlockStore>,
    sealed: Arc<ByteCache<BlockId, Block>>,
    opened: Arc<ByteCache<NodeKey, Arc<dyn Any + Send + Sync>>>,
}

impl Reader {
    /// A reader over `blocks` that keeps at most `cache_bytes` of sealed blocks and opened
    /// metadata in memory.
    pub fn new(blocks: Arc<dyn BlockStore>, cache_bytes: usize) -> Self {
        Self {
            blocks,
            sealed: Arc::new(ByteCache::new(cache_bytes / 4 * 3)),
            opened: Arc::new(ByteCache::new(cache_bytes / 4)),
        }
    }

    /// A reader that shares this one's cache and reads other blocks: those that are held here,
    /// where waiting for the network is out of the question.
    pub fn with_blocks(&self, blocks: Arc<dyn BlockStore>) -> Self {
        let (sealed, opened) = (Arc::clone(&self.sealed), Arc::clone(&self.opened));
        Self { blocks, sealed, opened }
    }

    /// Drops what is cached, and with it the keys in what was opened.
    pub fn forget(&self) {
        self.sealed.clear();
        self.opened.clear();
    }

    /// Reads up to `length` bytes of a file at `offset`; shorter only at its end.
    ///
    /// # Errors
    /// `ReadError` with the block that stopped it; nothing is returned of the rest.
    pub fn read_at(
        &self,
        file: &Content,
        offset: u64,
        length: usize,
    ) -> Result<Plaintext, ReadError> {
        let end = file.size.min(offset.saturating_add(length as u64));
        if offset >= end {
            return Ok(Plaintext::default());
        }
        let length = (end - offset) as usize;
        let slack = if length >= SLACK_FROM_BYTES { SLACK_BYTES } else { 0 };
        let mut plain = Plaintext::with_capacity(length + slack);
        self.visit_extents(file, offset..end, &mut |at, extent| {
            let from = offset.max(at);
            let to = end.min(at + extent.length);
            match &extent.piece {
                None => {
                    let length = plain.len() + (to - from) as usize;
                    plain.resize(length, 0);
                }
                Some(piece) => {
                    let range = (from - at) as usize..(to - at) as usize;
                    self.open_range(piece, Kind::Data, range, &mut plain)?;
                }
            }
            Ok(())
        })?;
        Ok(plain)
    }

    /// Asks the store to fetch what covers `range` of a file. A hint: it never fails, and it
    /// reads no map that is not at hand already.
    pub fn prefetch(&self, file: &Content, range: Range<u64>) {
        let mut ids: Vec<BlockId> = Vec::new();
        let end = file.size.min(range.end);
        // What cannot be read now will say so when it is read in earnest.
        let _ = self.visit_extents(file, range.start.min(end)..end, &mut |_, extent| {
            ids.extend(extent.piece.as_ref().map(BlockRef::block));
            Ok(())
        });
        ids.retain(|id| self.sealed.find(id).is_none());
        if !ids.is_empty() {
            self.blocks.prefetch(&ids);
        }
    }

    /// One name of a directory.
    pub fn lookup(&self, directory: &Content, name: &[u8]) -> Result<Option<Entry>, ReadError> {
        self.find(directory, name)
    }

    /// All names of a directory, sorted by name.
    pub fn list(&self, directory: &Content) -> Result<BTreeMap<Vec<u8>, Entry>, ReadError> {
        let mut entries = BTreeMap::new();
        if let Some(root) = &directory.root {
            self.collect(root, &mut |item: &Item<Entry>| {
                entries.insert(item.key.clone(), item.record.clone());
            })?;
        }
        Ok(entries)
    }

    /// Names of an inode in the hard-link index; empty where it is not indexed.
    pub fn names_of(&self, names: &Content, ino: u64) -> Result<Vec<NameOf>, ReadError> {
        Ok(self.find(names, &ino.to_be_bytes())?.unwrap_or_default())
    }

    /// All extended attributes.
    pub fn xattrs(&self, xattrs: &Xattrs) -> Result<XattrMap, ReadError> {
        match xattrs {
            Xattrs::Inline(map) => Ok(map.clone()),
            Xattrs::Sealed(piece) => {
                let plain = self.open(piece, Kind::Xattrs)?;
                decode_whole(&plain, decode_xattrs).map_err(|error| not_decoded(piece.id, &error))
            }
        }
    }

    /// The block that holds the root that a head names.
    pub(crate) fn root_block(&self, head: &Head, key: &ReadKey) -> Result<BlockId, ReadError> {
        Ok(open_head(head, key)?.id)
    }

    /// Opens the root that a head names.
    pub fn root(&self, head: &Head, key: &ReadKey) -> Result<VolumeRoot, ReadError> {
        let piece = open_head(head, key)?;
        let plain = self.open(&piece, Kind::VolumeRoot)?;
        VolumeRoot::decode(&plain).map_err(|error| not_decoded(piece.id, &error))
    }

    /// Every block of one file (maps and data), or of one directory's own nodes, and of its
    /// extended attributes; each once, in ascending order. Reads maps, never data.
    pub fn blocks_of(&self, entry: &Entry) -> Result<Vec<BlockId>, ReadError> {
        let mut ids = Vec::new();
        if let Xattrs::Sealed(piece) = &entry.xattrs {
            ids.push(piece.id);
        }
        match &entry.node {
            Node::File(content) => {
                if let Some(root) = &content.root {
                    let mut seen = HashSet::new();
                    self.file_blocks(root, content.height, content.size, &mut seen)?;
                    ids.extend(seen.into_iter().map(|(id, _)| id));
                }
            }
            Node::Directory(content) => {
                if let Some(root) = &content.root {
                    self.shard_blocks::<Entry>(root, &mut ids)?;
                }
            }
            Node::Symlink(_)
            | Node::Fifo
            | Node::Socket
            | Node::CharDevice(_)
            | Node::BlockDevice(_) => {}
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The blocks that keep a volume's root and its hard-link index alive beside its tree.
    pub fn blocks_of_root(&self, head: &Head, key: &ReadKey) -> Result<Vec<BlockId>, ReadError> {
        let mut ids = vec![open_head(head, key)?.id];
        if let Some(names) = &self.root(head, key)?.names.root {
            self.shard_blocks::<Vec<NameOf>>(names, &mut ids)?;
        }
        Ok(ids)
    }

    /// Calls `visit` with the offset and extent of each run that overlaps `range`, in order.
    pub(crate) fn visit_extents(
        &self,
        file: &Content,
        range: Range<u64>,
        visit: &mut dyn FnMut(u64, &Extent) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        if range.is_empty() {
            return Ok(());
        }
        let whole = Extent { length: file.size, piece: file.root.clone() };
        if let (0, Some(piece)) = (file.height, &file.root)
            && piece.plain_length() != file.size
        {
            return Err(corrupt(piece.id, "its length is not the file's"));
        }
        self.visit_below(&whole, file.height, 0, &range, visit)
    }

    fn visit_below(
        &self,
        extent: &Extent,
        height: u8,
        at: u64,
        range: &Range<u64>,
        visit: &mut dyn FnMut(u64, &Extent) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let (Some(piece), 1..) = (&extent.piece, height) else { return visit(at, extent) };
        let mut start = at;
        for below in self.map_node(piece, height, extent.length)?.iter() {
            if start >= range.end {
                break;
            }
            if start + below.length > range.start {
                self.visit_below(below, height - 1, start, range, visit)?;
            }
            start += below.length;
        }
        Ok(())
    }

    fn file_blocks(
        &self,
        piece: &BlockRef,
        height: u8,
        length: u64,
        seen: &mut HashSet<NodeKey>,
    ) -> Result<(), ReadError> {
        // Each once: a few maps that name one another many times stand for more than can be read.
        if seen.insert((piece.id, piece.offset)) && height > 0 {
            for extent in self.map_node(piece, height, length)?.iter() {
                if let Some(below) = &extent.piece {
                    self.file_blocks(below, height - 1, extent.length, seen)?;
                }
            }
        }
        Ok(())
    }

    fn shard_blocks<R: Record + Send + Sync + 'static>(
        &self,
        piece: &BlockRef,
        ids: &mut Vec<BlockId>,
    ) -> Result<(), ReadError> {
        self.walk::<R>(piece, 0, &mut None, &mut |node, _| ids.push(node.id))
    }

    fn find<R: Record + Send + Sync + 'static>(
        &self,
        content: &Content,
        key: &[u8],
    ) -> Result<Option<R>, ReadError> {
        let hash = hash_of(key);
        let Some(mut piece) = content.root.clone() else { return Ok(None) };
        for depth in 0.. {
            let shard = self.shard::<R>(&piece)?;
            match &*shard {
                Shard::Leaf(items) => {
                    let found = items.binary_search_by(|item| {
                        (item.hash, item.key.as_slice()).cmp(&(hash, key))
                    });
                    return Ok(found.ok().map(|at| items[at].record.clone()));
                }
                Shard::Branch(children) => {
                    let slot = slot_of(hash, depth);
                    match children.iter().find(|child| child.slot == slot) {
                        None => return Ok(None),
                        Some(child) => piece = child.piece.clone(),
                    }
                }
            }
            if depth + 1 > DEPTH_MAX {
                break;
            }
        }
        Err(corrupt(piece.id, "branches below the last level"))
    }

    /// Calls `visit` with every item below a node, in the map's order.
    pub(crate) fn collect<R: Record + Send + Sync + 'static>(
        &self,
        piece: &BlockRef,
        visit: &mut dyn FnMut(&Item<R>),
    ) -> Result<(), ReadError> {
        self.walk(piece, 0, &mut None, &mut |_, shard| {
            if let Shard::Leaf(items) = shard {
                items.iter().for_each(&mut *visit);
            }
        })
    }

    /// Calls `visit` with every node of a map, a branch before what is below it.
    ///
    /// A tree from a stranger may be deeper than any stack, or name one node so often that it
    /// never ends. Nodes end at a level, and keys ascend from leaf to leaf, so neither is read.
    fn walk<R: Record + Send + Sync + 'static>(
        &self,
        piece: &BlockRef,
        depth: u32,
        last: &mut Option<(u64, Vec<u8>)>,
        visit: &mut dyn FnMut(&BlockRef, &Shard<R>),
    ) -> Result<(), ReadError> {
        let shard = self.shard::<R>(piece)?;
        match &*shard {
            Shard::Leaf(items) => match (items.first(), items.last()) {
                (Some(first), Some(end)) => {
                    let follows = |(hash, key): &(u64, Vec<u8>)| {
                        (*hash, key.as_slice()) < (first.hash, first.key.as_slice())
                    };
                    if !last.as_ref().is_none_or(follows) {
                        return Err(corrupt(piece.id, "a leaf out of order"));
                    }
                    *last = Some((end.hash, end.key.clone()));
                    visit(piece, &shard);
                }
                _ if depth > 0 => return Err(corrupt(piece.id, "a leaf without entries")),
                _ => visit(piece, &shard),
            },
            Shard::Branch(children) => {
                if depth >= DEPTH_MAX || children.is_empty() {
                    return Err(corrupt(piece.id, "a branch where none can be"));
                }
                visit(piece, &shard);
                self.prefetch_children(children);
                for child in children {
                    self.walk(&child.piece, depth + 1, last, visit)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn prefetch_children(&self, children: &[Child]) {
        let wanted = children.iter().map(|child| child.piece.id);
        let ids: Vec<BlockId> = wanted.filter(|id| self.sealed.find(id).is_none()).collect();
        if !ids.is_empty() {
            self.blocks.prefetch(&ids);
        }
    }

    pub(crate) fn shard<R: Record + Send + Sync + 'static>(
        &self,
        piece: &BlockRef,
    ) -> Result<Arc<Shard<R>>, ReadError> {
        self.node(piece, R::KIND, Shard::decode)
    }

    pub(crate) fn map_node(
        &self,
        piece: &BlockRef,
        height: u8,
        covers: u64,
    ) -> Result<Arc<Vec<Extent>>, ReadError> {
        self.node(piece, Kind::Map, |plain| map::decode(plain, height, covers))
    }

    /// Opens and decodes a metadata node, or takes it from the cache.
    fn node<T: Send + Sync + 'static>(
        &self,
        piece: &BlockRef,
        kind: Kind,
        decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    ) -> Result<Arc<T>, ReadError> {
        let key = (piece.id, piece.offset);
        if let Some(node) = self.opened.find(&key).and_then(|node| node.downcast::<T>().ok()) {
            return Ok(node);
        }
        let plain = self.open(piece, kind)?;
        let node = Arc::new(decode(&plain).map_err(|error| not_decoded(piece.id, &error))?);
        self.opened.keep(key, Arc::clone(&node) as _, plain.len() * OPENED_FACTOR);
        Ok(node)
    }

    fn open(&self, piece: &BlockRef, kind: Kind) -> Result<Plaintext, ReadError> {
        let block = self.block(&piece.id)?;
        let sealed = sealed_piece(&block, piece)?;
        let whole = 0..piece.plain_length() as usize;
        open_piece(kind, piece, sealed, whole).map_err(|error| not_opened(piece.id, error))
    }

    /// Appends the plaintext of a part of a piece.
    fn open_range(
        &self,
        piece: &BlockRef,
        kind: Kind,
        range: Range<usize>,
        plain: &mut Plaintext,
    ) -> Result<(), ReadError> {
        let block = self.block(&piece.id)?;
        let sealed = sealed_piece(&block, piece)?;
        let failed = |error| not_opened(piece.id, error);
        // Into place where there is room for what sticks out: growing would leave plaintext
        // behind.
        if plain.capacity() - plain.len() >= room_for(piece, &range) {
            return open_piece_into(kind, piece, sealed, range, plain).map_err(failed);
        }
        let opened = open_piece(kind, piece, sealed, range).map_err(failed)?;
        if plain.is_empty() && plain.capacity() <= opened.len() {
            *plain = opened;
        } else {
            plain.extend_from_slice(&opened);
        }
        Ok(())
    }

    fn block(&self, id: &BlockId) -> Result<Block, ReadError> {
        if let Some(block) = self.sealed.find(id) {
            return Ok(block);
        }
        let block = self.blocks.get(id)?;
        self.sealed.keep(*id, block.clone(), block.bytes().len());
        Ok(block)
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

/// The key that seals the root ref in one head: derived per sequence number, so that no two
/// heads of a volume share one.
pub(crate) fn head_key(key: &ReadKey, head_volume: &[u8; 32], sequence: u64) -> PieceKey {
    let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
    hasher.update(head_volume).update(&sequence.to_le_bytes());
    PieceKey::from_bytes(*hasher.finalize().as_bytes())
}

/// Opens the root ref in a head.
fn open_head(head: &Head, key: &ReadKey) -> Result<BlockRef, ReadError> {
    let key = head_key(key, head.volume().as_bytes(), head.sequence());
    let plain = unseal(Kind::HeadRoot, &key, head.sealed_root())
        .map_err(|error| not_opened(head.id(), error))?;
    decode_whole(&plain, BlockRef::decode).map_err(|error| not_decoded(head.id(), &error))
}

fn decode_whole<T>(
    plain: &[u8],
    decode: impl FnOnce(&mut Decoder<'_>) -> Result<T, FormatError>,
) -> Result<T, FormatError> {
    let mut decoder = Decoder::plain(plain);
    let value = decode(&mut decoder)?;
    decoder.finish()?;
    Ok(value)
}

fn sealed_piece<'a>(block: &'a Block, piece: &BlockRef) -> Result<&'a [u8], ReadError> {
    let from = piece.offset as usize;
    block
        .bytes()
        .get(from..from + piece.length as usize)
        .ok_or_else(|| corrupt(piece.id, "it is shorter than a ref to it says"))
}

fn corrupt(id: BlockId, detail: &str) -> ReadError {
    ReadError::Corrupt { id, detail: detail.to_owned() }
}

fn not_opened(id: BlockId, error: UnsealError) -> ReadError {
    corrupt(id, &error.to_string())
}

fn not_decoded(id: BlockId, error: &FormatError) -> ReadError {
    match error {
        FormatError::Newer(found) => ReadError::Newer { id, found: *found },
        _ => corrupt(id, &error.to_string()),
    }
}
