//! Writing trees: from edits to sealed blocks and a signed head.
//!
//! The order of calls is the order in which a crash may cut: data, maps, directories (deepest
//! first), root, head. Nothing that a call seals is named before `flush` completed its block,
//! and the caller flushes the store before it commits the head (`Journal::commit_head`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::chunk::{Cutter, PIECE_BYTES_MIN};
use crate::contract::{BlockStore, Purpose};
use crate::error::{ReadError, TreeError, WriteError};
use crate::format::Encoder;
use crate::horizon::WriteGuard;
use crate::seal::{BlockRef, Kind, PIECE_BYTES_MAX, seal};
use crate::tree::edit::FileEdit;
use crate::tree::entry::{
    Content, Entry, NameOf, VolumeRoot, XATTR_INLINE_BYTES_MAX, XattrMap, Xattrs, encode_xattrs,
};
use crate::tree::head::Head;
use crate::tree::map::{self, Extent};
use crate::tree::pack::{Packer, Plain, Slot};
use crate::tree::reader::{Reader, head_key};
use crate::tree::update::{Root, update};
use crate::tree::volume::{ConvergenceSecret, VolumeSecret};

/// Plaintext bytes read and cut at a time. What is left over when no longer piece is sure to fit
/// is read again with the next, so much shorter runs would read a good part twice.
const CUT_BYTES: usize = 8 << 20;

/// Seals files and directories of one volume into blocks.
///
/// While it lives, garbage collection takes nothing that it wrote: keep it until what it wrote
/// is reachable, that is, until the head is committed.
pub struct Writer {
    reader: Arc<Reader>,
    packer: Packer,
    cutter: Cutter,
    /// Large files whose pieces may still be on their way, since the last `flush`.
    unmapped: Vec<(u64, Vec<DraftExtent>)>,
    /// What `flush` made of them, all of this writer's in order.
    mapped: Vec<Content>,
    _guard: WriteGuard,
}

/// Content that may still be on its way to blocks: `Writer::flush`, then `Writer::settle`.
#[derive(Debug)]
pub struct Draft {
    size: u64,
    height: u8,
    root: DraftRoot,
}

#[derive(Debug)]
enum DraftRoot {
    Known(Option<BlockRef>),
    Waiting(Slot),
    /// The number of a large file.
    Unmapped(usize),
}

/// A run of a large file.
#[derive(Debug)]
enum DraftExtent {
    Known(Extent),
    Waiting { length: u64, slot: Slot },
}

impl Writer {
    /// A writer of one volume's blocks. `reader` reads what is there already; `purpose` is
    /// `Own` for a volume that is pinned and `Publish` for one that is not.
    pub fn new(
        blocks: Arc<dyn BlockStore>,
        reader: Arc<Reader>,
        secret: ConvergenceSecret,
        purpose: Purpose,
    ) -> Self {
        let cutter = Cutter::new(&secret);
        let guard = blocks.guard();
        let packer = Packer::new(blocks, purpose, secret);
        Self { reader, packer, cutter, unmapped: Vec::new(), mapped: Vec::new(), _guard: guard }
    }

    /// Seals a file as edited: only what changed, and what lies around it, is cut anew.
    pub fn file(&mut self, edit: &FileEdit) -> Result<Draft, TreeError> {
        if edit.is_clean() {
            return Ok(Draft::known(edit.base().clone()));
        }
        if edit.size() <= PIECE_BYTES_MIN as u64 {
            return self.small_file(edit);
        }
        let extents = self.extents(edit)?;
        let number = self.mapped.len() + self.unmapped.len();
        self.unmapped.push((edit.size(), extents));
        Ok(Draft { size: edit.size(), height: 0, root: DraftRoot::Unmapped(number) })
    }

    /// Seals a directory as changed: `None` removes a name.
    pub fn directory(
        &mut self,
        base: &Content,
        changes: Vec<(Vec<u8>, Option<Entry>)>,
    ) -> Result<Draft, TreeError> {
        let root = update(&self.reader, &mut self.packer, counted(base), changes)?;
        Ok(Draft::of_map(root))
    }

    /// Seals the hard-link index as changed: an empty list removes an inode.
    pub fn names(
        &mut self,
        base: &Content,
        changes: Vec<(u64, Vec<NameOf>)>,
    ) -> Result<Draft, TreeError> {
        let changes = changes
            .into_iter()
            .map(|(ino, mut names)| {
                names.sort();
                (ino.to_be_bytes().to_vec(), Some(names).filter(|names| !names.is_empty()))
            })
            .collect();
        let root = update(&self.reader, &mut self.packer, counted(base), changes)?;
        Ok(Draft::of_map(root))
    }

    /// Seals extended attributes where they are too large for the entry. The caller keeps them
    /// within `XATTR_BYTES_MAX`.
    pub fn xattrs(&mut self, map: XattrMap) -> Result<Xattrs, TreeError> {
        let mut encoder = Encoder::default();
        encode_xattrs(&map, &mut encoder);
        let encoded = encoder.finish();
        if encoded.len() <= XATTR_INLINE_BYTES_MAX {
            return Ok(Xattrs::Inline(map));
        }
        Ok(Xattrs::Sealed(self.packer.alone(Kind::Xattrs, &encoded)?))
    }

    /// Waits for what is being sealed and seals the maps above it, so that every draft made
    /// before can be settled. After an error the writer is of no more use.
    pub fn flush(&mut self) -> Result<(), TreeError> {
        self.packer.flush()?;
        for (size, extents) in std::mem::take(&mut self.unmapped) {
            let extents = extents.into_iter().map(|extent| match extent {
                DraftExtent::Known(extent) => extent,
                DraftExtent::Waiting { length, slot } => {
                    Extent { length, piece: Some(self.packer.settle(slot)) }
                }
            });
            let content = self.map(size, extents.collect())?;
            self.mapped.push(content);
        }
        Ok(())
    }

    /// The content of a draft.
    ///
    /// # Panics
    /// If `flush` was not called since the draft was made.
    pub fn settle(&self, draft: Draft) -> Content {
        let root = match draft.root {
            DraftRoot::Known(root) => root,
            DraftRoot::Waiting(slot) => Some(self.packer.settle(slot)),
            DraftRoot::Unmapped(number) => return self.mapped[number].clone(),
        };
        Content { size: draft.size, height: draft.height, root }
    }

    /// Seals the root and signs the head that follows `previous` and names it. What the head
    /// names is in the store, but not flushed: commit it with `Journal::commit_head`.
    pub fn head(
        &mut self,
        root: &VolumeRoot,
        secret: &VolumeSecret,
        previous: Option<&Head>,
        time_ms: i64,
    ) -> Result<Head, TreeError> {
        self.flush()?;
        let piece = self.packer.alone(Kind::VolumeRoot, &root.encode())?;
        let mut encoder = Encoder::default();
        piece.encode(&mut encoder);
        let sequence = previous.map_or(1, |head| head.sequence() + 1);
        let key = head_key(&secret.read_key(), secret.id().as_bytes(), sequence);
        let mut sealed = Vec::new();
        seal(Kind::HeadRoot, &key, &encoder.finish(), &mut sealed);
        Ok(Head::sign(secret, previous, time_ms, Bytes::from(sealed)))
    }

    fn small_file(&mut self, edit: &FileEdit) -> Result<Draft, TreeError> {
        let plain = edit.read_at(&self.reader, 0, PIECE_BYTES_MIN)?;
        let size = plain.len() as u64;
        let root = match plain.is_empty() {
            true => DraftRoot::Known(None),
            false => DraftRoot::Waiting(self.packer.share(Kind::Data, Plain::whole(plain))?),
        };
        Ok(Draft { size, height: 0, root })
    }

    /// The extents of an edited file: pieces of the base where nothing changed, new ones
    /// elsewhere, holes where nothing was ever written.
    fn extents(&mut self, edit: &FileEdit) -> Result<Vec<DraftExtent>, TreeError> {
        let (runs, reusable) = layout(edit, &self.base_extents(edit)?);
        let mut extents: Vec<DraftExtent> = Vec::new();
        let mut at = 0;
        for run in runs {
            push_hole(&mut extents, run.start - at);
            self.cut_run(edit, &run, &reusable, &mut extents)?;
            at = run.end;
        }
        push_hole(&mut extents, edit.size() - at);
        Ok(extents)
    }

    fn base_extents(&self, edit: &FileEdit) -> Result<Vec<(u64, Extent)>, ReadError> {
        let mut extents = Vec::new();
        self.reader.visit_extents(edit.base(), 0..edit.kept(), &mut |at, extent| {
            extents.push((at, extent.clone()));
            Ok(())
        })?;
        Ok(extents)
    }

    /// Covers `run`, which holds data throughout, with pieces. Cutting starts anew at the first
    /// piece that changed and goes on until it meets the start of one that did not.
    fn cut_run(
        &mut self,
        edit: &FileEdit,
        run: &Range<u64>,
        reusable: &BTreeMap<u64, Extent>,
        extents: &mut Vec<DraftExtent>,
    ) -> Result<(), TreeError> {
        let mut at = run.start;
        while at < run.end {
            if let Some(extent) = reusable.get(&at) {
                at += extent.length;
                extents.push(DraftExtent::Known(extent.clone()));
                continue;
            }
            let meets = reusable.range(at..).next().map_or(u64::MAX, |(start, _)| *start);
            let until = run.end.min(meets.saturating_add(PIECE_BYTES_MAX as u64));
            let length = (until - at).min(CUT_BYTES as u64) as usize;
            let plain = Arc::new(edit.read_at(&self.reader, at, length)?);
            let to_end = at + length as u64 == run.end;
            let mut from = 0;
            while from < length && (to_end || length - from >= PIECE_BYTES_MAX) {
                let end = from + self.cutter.cut(&plain[from..]);
                let slot = self.packer.submit_alone(Kind::Data, Plain::part(&plain, from..end))?;
                extents.push(DraftExtent::Waiting { length: (end - from) as u64, slot });
                from = end;
                if reusable.contains_key(&(at + from as u64)) {
                    break;
                }
            }
            at += from as u64;
        }
        Ok(())
    }

    /// Seals the maps above `extents`, lowest first, until one node covers them all.
    fn map(&self, size: u64, mut extents: Vec<Extent>) -> Result<Content, WriteError> {
        let mut height = 0;
        while extents.len() > 1 {
            height += 1;
            let mut above = Vec::new();
            let mut start = 0;
            for end in 1..=extents.len() {
                if end == extents.len() || map::ends_node(&extents[end - 1], end - start) {
                    let node = &extents[start..end];
                    let piece = self.packer.alone(Kind::Map, &map::encode(height, node))?;
                    let length = node.iter().map(|extent| extent.length).sum();
                    above.push(Extent { length, piece: Some(piece) });
                    start = end;
                }
            }
            extents = above;
        }
        let root = extents.pop().and_then(|extent| extent.piece);
        Ok(Content { size, height, root })
    }
}

impl Draft {
    fn known(content: Content) -> Self {
        let Content { size, height, root } = content;
        Self { size, height, root: DraftRoot::Known(root) }
    }

    fn of_map(root: Root) -> Self {
        let (size, root) = match root {
            Root::Empty => (0, DraftRoot::Known(None)),
            Root::Kept(piece, count) => (count, DraftRoot::Known(Some(piece))),
            Root::Sealed(slot, count) => (count, DraftRoot::Waiting(slot)),
        };
        Self { size, height: 0, root }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

fn counted(base: &Content) -> Option<(BlockRef, u64)> {
    base.root.clone().map(|root| (root, base.size))
}

fn push_hole(extents: &mut Vec<DraftExtent>, length: u64) {
    if length > 0 {
        extents.push(DraftExtent::Known(Extent { length, piece: None }));
    }
}

/// Where an edited file holds data, and which pieces of its base can stay, by offset.
///
/// A piece stays if nothing was written over it and its end is still where cutting would put it:
/// its end was found by content, or what ended it (a hole or the end of the file) still does.
fn layout(edit: &FileEdit, base: &[(u64, Extent)]) -> (Vec<Range<u64>>, BTreeMap<u64, Extent>) {
    let end_of = |(at, extent): &(u64, Extent)| at + extent.length;
    let mut ranges: Vec<Range<u64>> = edit.written().collect();
    let written = ranges.clone();
    let data = base.iter().filter(|(_, extent)| extent.piece.is_some());
    ranges.extend(data.map(|extent| extent.0..end_of(extent).min(edit.kept())));
    ranges.sort_by_key(|range| range.start);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => runs.push(range),
        }
    }
    let mut reusable = BTreeMap::new();
    for (index, extent) in base.iter().enumerate() {
        let end = end_of(extent);
        let by_content = base.get(index + 1).is_some_and(|next| next.1.piece.is_some());
        let run = runs.partition_point(|run| run.end < end);
        let still_ends = by_content || runs.get(run).is_some_and(|run| run.end == end);
        let first_write = written.partition_point(|range| range.end <= extent.0);
        let overwritten = written.get(first_write).is_some_and(|range| range.start < end);
        if extent.1.piece.is_some() && end <= edit.kept() && still_ends && !overwritten {
            reusable.insert(extent.0, extent.1.clone());
        }
    }
    (runs, reusable)
}
