//! Garbage collection: which blocks are reachable, and from how strong a root.
//!
//! A collection goes like this, and in this order:
//!
//! 1. `Inventory::horizon`, before anything else, so that work in flight stays out of reach.
//! 2. The roots: first the volumes' heads, then what is open. A file may go from a head to being
//!    open only, when its last name goes; never the other way, so none is missed in between.
//! 3. [`mark`], which reads metadata and never data. What cannot be read ends the collection:
//!    nobody knows what lies below it. What others wrote may not be here whole, and must not end
//!    every collection: [`mark_held`] marks what there is of it.
//! 4. `Inventory::sweep`, which changes and removes only blocks older than the horizon.
//!
//! A mark is the first 62 bits of an id and the strength, 8 bytes in all: two blocks that share
//! them only keep one another. Nodes that were walked are remembered by 16 bytes and their
//! offset, because taking one for another would lose what lies below it.

use std::collections::HashMap;

use crate::error::ReadError;
use crate::id::BlockId;
use crate::seal::BlockRef;
use crate::standing::Standing;
use crate::tree::entry::{Content, Entry, NameOf, Node, Xattrs};
use crate::tree::head::Head;
use crate::tree::reader::Reader;
use crate::tree::shard::{DEPTH_MAX, Record, Shard};
use crate::tree::volume::ReadKey;

/// Marks that are gathered before the list is sorted for the first time.
const UNSORTED_MIN: usize = 4096;

/// Low bits of a mark, which hold the strength.
const STRENGTH_BITS: u32 = 2;

/// What being reachable does to a block. The strongest of several counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Strength {
    /// Reachable from a volume that is not pinned: evictable once it is replicated.
    Kept = 1,
    /// Open: stays as it is for as long as it is open.
    Held = 2,
    /// Reachable from what is pinned: never evicted.
    Pinned = 3,
}

/// Where marking starts.
#[derive(Debug, Clone)]
pub enum Root {
    /// A volume at one of its heads.
    Volume {
        /// The head.
        head: Box<Head>,
        /// What opens it.
        key: ReadKey,
        /// `Pinned` or `Kept`.
        strength: Strength,
    },
    /// A tree, as a link names it or as it is open: a file or a directory and all below.
    Tree {
        /// What it is.
        node: Node,
        /// `Pinned` for a pin, `Held` for what is open.
        strength: Strength,
    },
}

/// The blocks that were found reachable: 8 bytes each, twice that at the most while marking.
#[derive(Debug, Default)]
pub struct Marked {
    /// Sorted and each once up to `sorted`; as they came behind it.
    marks: Vec<u64>,
    sorted: usize,
    visited: HashMap<Visit, Strength>,
    spares_pinned: bool,
}

/// What a sweep did, or would have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blocks that went.
    pub removed_blocks: u64,
    /// Their sealed bytes.
    pub removed_bytes: u64,
    /// Blocks that became pinned.
    pub pinned_blocks: u64,
    /// Blocks that were pinned or owed, and now may be evicted or are held for others only.
    pub released_blocks: u64,
}

/// Half of a block id, and the offset of a piece in it.
type Visit = ([u8; 16], u32);

impl Marked {
    /// How strongly a block is reachable; `None` where it is not.
    pub fn strength(&self, id: &BlockId) -> Option<Strength> {
        let wanted = short(id);
        let at = self.marks.partition_point(|mark| mark >> STRENGTH_BITS < wanted);
        let mark = self.marks.get(at).filter(|mark| *mark >> STRENGTH_BITS == wanted)?;
        Some(match mark & 3 {
            1 => Strength::Kept,
            2 => Strength::Held,
            _ => Strength::Pinned,
        })
    }

    /// Leaves every block pinned that is, marked or not: for where something that is pinned
    /// cannot be read, so that nobody knows what it needs.
    pub fn spare_pinned(&mut self) {
        self.spares_pinned = true;
    }

    /// Whether nothing that is pinned goes.
    pub(crate) fn spares_pinned(&self) -> bool {
        self.spares_pinned
    }

    /// What becomes of a block; `None` where it goes.
    pub(crate) fn after_sweep(&self, id: &BlockId, standing: Standing) -> Option<Standing> {
        if self.spares_pinned && standing.pinned {
            return Some(standing);
        }
        standing.after_sweep(self.strength(id))
    }

    /// Number of blocks that are marked.
    pub fn blocks(&self) -> usize {
        self.marks.len()
    }

    fn mark(&mut self, id: &BlockId, strength: Strength) {
        self.marks.push(short(id) << STRENGTH_BITS | strength as u64);
        if self.marks.len() >= UNSORTED_MIN.max(self.sorted * 2) {
            self.settle();
        }
    }

    /// Sorts the marks and leaves the strongest of each block.
    fn settle(&mut self) {
        self.marks.sort_unstable();
        self.marks.dedup_by(|later, kept| {
            let same = *later >> STRENGTH_BITS == *kept >> STRENGTH_BITS;
            if same {
                *kept = *later;
            }
            same
        });
        self.sorted = self.marks.len();
    }

    /// Marks the block of a node; whether what lies below it has to be walked.
    fn enter(&mut self, piece: &BlockRef, strength: Strength) -> bool {
        self.mark(&piece.id, strength);
        let (half, _) = piece.id.as_bytes().split_first_chunk().expect("an id has 32 bytes");
        match self.visited.insert((*half, piece.offset), strength) {
            Some(before) if before >= strength => {
                self.visited.insert((*half, piece.offset), before);
                false
            }
            _ => true,
        }
    }
}

impl FromIterator<(BlockId, Strength)> for Marked {
    fn from_iter<I: IntoIterator<Item = (BlockId, Strength)>>(marks: I) -> Self {
        let mut marked = Self::default();
        for (id, strength) in marks {
            marked.mark(&id, strength);
        }
        marked.settle();
        marked
    }
}

impl Swept {
    /// Counts what becomes of one block.
    pub(crate) fn count(&mut self, length: u64, before: Standing, after: Option<Standing>) {
        match after {
            None => {
                self.removed_blocks += 1;
                self.removed_bytes += length;
            }
            Some(after) if after.pinned && !before.pinned => self.pinned_blocks += 1,
            Some(after) if after != before => self.released_blocks += 1,
            Some(_) => {}
        }
    }
}

/// Marks everything that is reachable from `roots`. May be called again with more roots.
///
/// # Errors
/// The first metadata block that could not be read; what is marked is not to be used then.
pub fn mark(reader: &Reader, roots: &[Root], marked: &mut Marked) -> Result<(), ReadError> {
    let done = roots.iter().try_for_each(|root| mark_root(reader, root, marked, false).map(drop));
    marked.settle();
    done
}

/// Marks what is reachable from `root` through the metadata that reads, and passes over the rest;
/// whether all of it did. Comes after every [`mark`], which would take what was passed over for
/// walked.
///
/// # Errors
/// `Io`, which says nothing about whether a block is there.
pub fn mark_held(reader: &Reader, root: &Root, marked: &mut Marked) -> Result<bool, ReadError> {
    let whole = mark_root(reader, root, marked, true);
    marked.settle();
    whole
}

fn mark_root(
    reader: &Reader,
    root: &Root,
    marked: &mut Marked,
    passes_over: bool,
) -> Result<bool, ReadError> {
    let (Root::Volume { strength, .. } | Root::Tree { strength, .. }) = root;
    let strength = *strength;
    let mut walk =
        Walk { reader, marked, strength, waiting: Vec::new(), passes_over, is_whole: true };
    match root {
        Root::Volume { head, key, .. } => {
            if let Some(id) = walk.there(reader.root_block(head, key))? {
                walk.marked.mark(&id, strength);
            }
            if let Some(root) = walk.there(reader.root(head, key))? {
                walk.entry(&root.directory)?;
                walk.names(&root.names)?;
            }
        }
        Root::Tree { node, .. } => walk.node(node)?,
    }
    walk.run()?;
    Ok(walk.is_whole)
}

/// The marking of one root. Directories wait on the heap, so that no depth of a tree is too much.
struct Walk<'a> {
    reader: &'a Reader,
    marked: &'a mut Marked,
    strength: Strength,
    waiting: Vec<BlockRef>,
    /// Whether what does not read is left out; otherwise it ends the walk.
    passes_over: bool,
    /// Whether nothing was passed over.
    is_whole: bool,
}

impl Walk<'_> {
    /// What was read; `None` where it is passed over.
    fn there<T>(&mut self, read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
        match read {
            Err(
                ReadError::Missing { .. }
                | ReadError::Corrupt { .. }
                | ReadError::Newer { .. }
                | ReadError::Unreachable { .. },
            ) if self.passes_over => {
                self.is_whole = false;
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    fn run(&mut self) -> Result<(), ReadError> {
        while let Some(directory) = self.waiting.pop() {
            self.shards::<Entry>(&directory, &mut |walk, entry| walk.entry(entry))?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), ReadError> {
        if let Xattrs::Sealed(piece) = &entry.xattrs {
            self.marked.mark(&piece.id, self.strength);
        }
        self.node(&entry.node)
    }

    fn node(&mut self, node: &Node) -> Result<(), ReadError> {
        match node {
            Node::File(content) => match &content.root {
                Some(root) => self.file(root, content.height, content.size),
                None => Ok(()),
            },
            Node::Directory(content) => {
                self.waiting.extend(content.root.clone());
                Ok(())
            }
            Node::Symlink(_)
            | Node::Fifo
            | Node::Socket
            | Node::CharDevice(_)
            | Node::BlockDevice(_) => Ok(()),
        }
    }

    fn names(&mut self, names: &Content) -> Result<(), ReadError> {
        match &names.root {
            Some(root) => self.shards::<Vec<NameOf>>(root, &mut |_, _| Ok(())),
            None => Ok(()),
        }
    }

    fn file(&mut self, piece: &BlockRef, height: u8, length: u64) -> Result<(), ReadError> {
        if height == 0 {
            self.marked.mark(&piece.id, self.strength);
            return Ok(());
        }
        if !self.marked.enter(piece, self.strength) {
            return Ok(());
        }
        let node = self.reader.map_node(piece, height, length);
        let Some(node) = self.there(node)? else { return Ok(()) };
        for extent in node.iter() {
            if let Some(below) = &extent.piece {
                self.file(below, height - 1, extent.length)?;
            }
        }
        Ok(())
    }

    /// Walks the nodes of a sorted map, each at most once.
    fn shards<R: Record + Send + Sync + 'static>(
        &mut self,
        root: &BlockRef,
        visit: &mut dyn FnMut(&mut Self, &R) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut waiting = vec![(root.clone(), 0)];
        while let Some((piece, depth)) = waiting.pop() {
            if !self.marked.enter(&piece, self.strength) {
                continue;
            }
            let shard = self.reader.shard::<R>(&piece);
            let Some(shard) = self.there(shard)? else { continue };
            match &*shard {
                Shard::Leaf(items) => {
                    items.iter().try_for_each(|item| visit(self, &item.record))?;
                }
                Shard::Branch(_) if depth >= DEPTH_MAX => {
                    let detail = "branches below the last level".to_owned();
                    self.there::<()>(Err(ReadError::Corrupt { id: piece.id, detail }))?;
                }
                Shard::Branch(children) => {
                    self.reader.prefetch_children(children);
                    waiting.extend(children.iter().map(|child| (child.piece.clone(), depth + 1)));
                }
            }
        }
        Ok(())
    }
}

fn short(id: &BlockId) -> u64 {
    let (first, _) = id.as_bytes().split_first_chunk().expect("an id has 32 bytes");
    u64::from_be_bytes(*first) >> STRENGTH_BITS
}

#[cfg(test)]
mod tests;
