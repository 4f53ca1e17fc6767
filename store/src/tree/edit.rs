//! A file that is being changed: writes and truncations over sealed content.
//!
//! `FileEdit` is the overlay of one file. It holds what was written since the base was sealed,
//! reads through to the base, and is what `Writer::file` seals. Sealing works on a frozen copy while
//! writes go on; `rebase` then moves what came later onto the new base.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::error::ReadError;
use crate::plaintext::Plaintext;
use crate::tree::entry::Content;
use crate::tree::reader::Reader;

/// Written ranges over a sealed base.
#[derive(Debug, Clone, Default)]
pub struct FileEdit {
    base: Content,
    /// Bytes of the base that are still visible; the rest was truncated away.
    kept: u64,
    size: u64,
    /// Smallest size since `freeze`: what of the frozen state is still visible.
    low_water: u64,
    /// Offset → bytes, never overlapping.
    writes: BTreeMap<u64, Bytes>,
    dirty_bytes: u64,
}

impl FileEdit {
    /// An edit that changed nothing yet.
    pub fn new(base: Content) -> Self {
        let size = base.size;
        Self { base, kept: size, size, low_water: size, writes: BTreeMap::new(), dirty_bytes: 0 }
    }

    /// The sealed content below.
    pub fn base(&self) -> &Content {
        &self.base
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes held in memory.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// Whether it reads as its base.
    pub fn is_clean(&self) -> bool {
        self.writes.is_empty() && self.size == self.base.size && self.kept == self.base.size
    }

    /// Bytes of the base that are still visible.
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// Written ranges in ascending order; neighbours may touch.
    pub(crate) fn written(&self) -> impl Iterator<Item = Range<u64>> {
        self.writes.iter().map(|(offset, bytes)| *offset..*offset + bytes.len() as u64)
    }

    /// Writes `bytes` at `offset`, growing the file where needed.
    ///
    /// # Panics
    /// If the end is past 2^64; callers limit offsets to what `off_t` holds.
    pub fn write(&mut self, offset: u64, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let end = offset.checked_add(bytes.len() as u64).expect("offsets fit an off_t");
        self.cut_out(offset..end);
        self.dirty_bytes += bytes.len() as u64;
        self.writes.insert(offset, bytes);
        self.size = self.size.max(end);
    }

    /// Cuts or extends the file to `size`; what is added reads as zeros.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.cut_out(size..u64::MAX);
            self.kept = self.kept.min(size);
            self.low_water = self.low_water.min(size);
        }
        self.size = size;
    }

    /// The state to seal now. Bytes are shared with it, not copied.
    pub fn freeze(&mut self) -> Self {
        self.low_water = self.size;
        self.clone()
    }

    /// Moves the edit onto `base`, which is what `frozen` (from the last `freeze`) was sealed to:
    /// what was written since stays, what the base now holds goes.
    pub fn rebase(&mut self, frozen: &Self, base: Content) {
        self.kept = self.low_water.min(base.size);
        self.base = base;
        let in_base = |at: &u64, bytes: &Bytes| {
            frozen.writes.get(at).is_some_and(|sealed| {
                sealed.len() == bytes.len() && sealed.as_ptr() == bytes.as_ptr()
            })
        };
        self.writes.retain(|at, bytes| !in_base(at, bytes));
        self.dirty_bytes = self.writes.values().map(|bytes| bytes.len() as u64).sum();
    }

    /// Reads up to `length` bytes at `offset`; shorter only at the end of the file.
    pub fn read_at(
        &self,
        reader: &Reader,
        offset: u64,
        length: usize,
    ) -> Result<Plaintext, ReadError> {
        let end = self.size.min(offset.saturating_add(length as u64));
        if offset >= end {
            return Ok(Plaintext::default());
        }
        if self.writes.is_empty() && end <= self.kept {
            return reader.read_at(&self.base, offset, (end - offset) as usize);
        }
        let mut plain = Plaintext::with_capacity((end - offset) as usize);
        let first = self.writes.range(..=offset).next_back().map_or(offset, |(at, _)| *at);
        for (at, bytes) in self.writes.range(first..end) {
            let to = *at + bytes.len() as u64;
            if to <= offset {
                continue;
            }
            self.fill_from_base(reader, offset, *at, &mut plain)?;
            let from = offset.max(*at) - *at;
            let until = to.min(end) - *at;
            plain.extend_from_slice(&bytes[from as usize..until as usize]);
        }
        self.fill_from_base(reader, offset, end, &mut plain)?;
        Ok(plain)
    }

    /// Where the file has bytes rather than holes inside `range`, in order; runs that touch are
    /// one.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn runs(&self, reader: &Reader, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        let within = |run: Range<u64>| run.start.max(range.start)..run.end.min(range.end);
        let mut runs: Vec<Range<u64>> = self.written().map(within).collect();
        let base = range.start..range.end.min(self.kept);
        reader.visit_extents(&self.base, base.clone(), &mut |at, extent| {
            if extent.piece.is_some() {
                runs.push(at.max(base.start)..(at + extent.length).min(base.end));
            }
            Ok(())
        })?;
        runs.retain(|run| !run.is_empty());
        runs.sort_unstable_by_key(|run| run.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(runs.len());
        for run in runs {
            match joined.last_mut() {
                Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                _ => joined.push(run),
            }
        }
        Ok(joined)
    }

    /// Extends `plain`, which starts at `offset` of the file, up to `until` with what the base
    /// has there and zeros behind it.
    fn fill_from_base(
        &self,
        reader: &Reader,
        offset: u64,
        until: u64,
        plain: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let from = offset + plain.len() as u64;
        if from >= until {
            return Ok(());
        }
        let base_end = self.kept.min(until);
        if from < base_end {
            plain.extend_from_slice(&reader.read_at(
                &self.base,
                from,
                (base_end - from) as usize,
            )?);
        }
        plain.resize((until - offset) as usize, 0);
        Ok(())
    }

    /// Removes written bytes inside `hole`, keeping what sticks out on either side.
    fn cut_out(&mut self, hole: Range<u64>) {
        let first = self.writes.range(..=hole.start).next_back().map_or(hole.start, |(at, _)| *at);
        let touched: Vec<u64> = self.writes.range(first..hole.end).map(|(at, _)| *at).collect();
        for at in touched {
            let end = at + self.writes[&at].len() as u64;
            if end <= hole.start {
                continue;
            }
            let bytes = self.writes.remove(&at).expect("the key was just listed");
            self.dirty_bytes -= bytes.len() as u64;
            if at < hole.start {
                self.put_back(at, bytes.slice(..(hole.start - at) as usize));
            }
            if end > hole.end {
                self.put_back(hole.end, bytes.slice((hole.end - at) as usize..));
            }
        }
    }

    fn put_back(&mut self, at: u64, bytes: Bytes) {
        self.dirty_bytes += bytes.len() as u64;
        self.writes.insert(at, bytes);
    }
}
