//! Checking a store now: every block, every row, and what the trees need of them.
//!
//! A check reads each held block and compares it with its id, which sets aside what does not
//! match; it compares the rows with all that repeats them; and it walks trees to say which files
//! need a block that is bad or missing. With [`Check::repair`] it mends rows and counters, and
//! fetches bad and missing blocks from another store, in practice the network.
//!
//! It runs beside everything else and takes no lock for long. Deliberately absent: deciding what
//! a file is still worth, and any word about volumes that this home cannot open.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::contract::{BadBlock, BlockStore, Inventory, Purpose};
use crate::error::{ReadError, WriteError};
use crate::gc::{Root, Strength};
use crate::id::BlockId;
use crate::tree::entry::{Attr, Content, Entry, Node, Xattrs};
use crate::tree::reader::Reader;

/// Ids that are asked for at once.
const IDS_AT_ONCE: usize = 256;

/// Sealed blocks and opened directories that a walk keeps in memory.
const WALK_CACHE_BYTES: usize = 8 << 20;

/// A tree whose files are told by their paths.
#[derive(Debug, Clone)]
pub struct NamedRoot {
    /// How paths in it begin: the volume's name, or what a pin is called.
    pub name: String,
    /// Where it starts. Of a `Pinned` one every block should be here; of others, what is not
    /// here may have been evicted, and only what is bad is told.
    pub root: Root,
}

/// What is to be checked, and how.
pub struct Check<'a> {
    /// Where the blocks are held.
    pub store: &'a dyn Inventory,
    /// What trees are read through: `store` itself, or what also asks the network.
    pub source: Arc<dyn BlockStore>,
    /// The trees that this home can open.
    pub roots: &'a [NamedRoot],
    /// Mend what can be mended, fetching from `source`.
    pub repair: bool,
}

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Blocks and sealed bytes that were compared with their ids.
    Blocks {
        /// Blocks so far.
        done: u64,
        /// Blocks in all, roughly.
        total: u64,
        /// Sealed bytes so far.
        bytes: u64,
    },
    /// Files and directories that were walked.
    Entries {
        /// How many so far.
        done: u64,
    },
}

/// A file or directory and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needing {
    /// Its path, from the name of its root.
    pub path: String,
    /// Blocks of it that are bad or missing.
    pub blocks: Vec<BlockId>,
    /// Whether it could not be read, so that nothing is known of what lies below.
    pub unreadable: bool,
}

/// What a check found, and what it did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Blocks that are as they should be.
    pub good_blocks: u64,
    /// Their sealed bytes.
    pub good_bytes: u64,
    /// Blocks that are bad, those found earlier included, after any repair.
    pub bad: Vec<BadBlock>,
    /// Blocks that pinned trees need and that are not here, after any repair.
    pub missing: Vec<BlockId>,
    /// Files and directories that need one of these, or that could not be read.
    pub needing: Vec<Needing>,
    /// Entries that disagreed with the rows of blocks; mended if that was asked for.
    pub wrong_entries: u64,
    /// Blocks that were fetched again.
    pub restored_blocks: u64,
}

impl Report {
    /// Whether nothing is left to be mended.
    pub fn is_clean(&self) -> bool {
        self.bad.is_empty() && self.missing.is_empty() && self.needing.is_empty()
    }
}

/// Runs a check.
///
/// # Errors
/// `Io` where the disk does not answer; what is merely damaged is in the report.
pub fn check(check: &Check<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Report, CheckError> {
    let mut report = Report::default();
    read_all(check.store, &mut report, progress)?;
    report.wrong_entries = check.store.check_rows(check.repair)?;
    if check.repair {
        for bad in check.store.bad(None, usize::MAX)? {
            report.restored_blocks += u64::from(fetch(check, &bad.id, Purpose::Cache)?);
        }
    }
    let bad = check.store.bad(None, usize::MAX)?;
    let mut walk = Walk {
        check,
        reader: Reader::new(Arc::clone(&check.source), WALK_CACHE_BYTES),
        bad: bad.iter().map(|bad| bad.id).collect(),
        missing: BTreeSet::new(),
        entries: 0,
        report,
        progress,
    };
    for root in check.roots {
        walk.root(root)?;
    }
    let Walk { missing, mut report, .. } = walk;
    if check.repair {
        check.store.flush()?;
    }
    report.missing = missing.into_iter().collect();
    report.bad = check.store.bad(None, usize::MAX)?;
    Ok(report)
}

/// A check could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The local disk failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something was mended and could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn read_all(
    store: &dyn Inventory,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), CheckError> {
    let total = store.usage().blocks;
    let mut after = None;
    let mut done = 0;
    loop {
        let ids = store.ids(after.as_ref(), IDS_AT_ONCE)?;
        let Some(last) = ids.last() else { return Ok(()) };
        after = Some(*last);
        for id in &ids {
            done += 1;
            match store.get(id) {
                Ok(block) => {
                    report.good_blocks += 1;
                    report.good_bytes += block.bytes().len() as u64;
                }
                // Bad, and set aside by the read; or removed since the ids were listed.
                Err(ReadError::Corrupt { .. } | ReadError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        progress(Progress::Blocks { done, total: total.max(done), bytes: report.good_bytes });
    }
}

/// Fetches a block and keeps it; whether it could be fetched and there was room.
fn fetch(check: &Check<'_>, id: &BlockId, purpose: Purpose) -> Result<bool, CheckError> {
    let Ok(block) = check.source.get(id) else { return Ok(false) };
    match check.store.put(&block, purpose) {
        Ok(()) => Ok(true),
        // The rest is still to be looked at, and another block may fit.
        Err(WriteError::Full { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

struct Walk<'a> {
    check: &'a Check<'a>,
    reader: Reader,
    bad: BTreeSet<BlockId>,
    missing: BTreeSet<BlockId>,
    entries: u64,
    report: Report,
    progress: &'a mut dyn FnMut(Progress),
}

impl Walk<'_> {
    fn root(&mut self, named: &NamedRoot) -> Result<(), CheckError> {
        let (entry, strength) = match &named.root {
            Root::Tree { node, strength } => {
                let entry =
                    Entry { attr: Attr::default(), node: node.clone(), xattrs: Xattrs::default() };
                (entry, *strength)
            }
            Root::Volume { head, key, strength } => {
                let read = self
                    .reader
                    .root(head, key)
                    .and_then(|root| Ok((root.directory, self.reader.blocks_of_root(head, key)?)));
                match read {
                    Ok((directory, ids)) => {
                        self.need(&named.name, ids, *strength)?;
                        (directory, *strength)
                    }
                    Err(error) => return self.unreadable(&named.name, error),
                }
            }
        };
        self.entry(&named.name, &entry, strength)
    }

    fn entry(&mut self, path: &str, entry: &Entry, strength: Strength) -> Result<(), CheckError> {
        // Paths are kept apart from the stack of calls: a tree may be deep.
        let mut left = vec![(path.to_owned(), entry.clone())];
        while let Some((path, entry)) = left.pop() {
            self.entries += 1;
            if self.entries.is_multiple_of(IDS_AT_ONCE as u64) {
                (self.progress)(Progress::Entries { done: self.entries });
            }
            match self.reader.blocks_of(&entry) {
                Ok(ids) => self.need(&path, ids, strength)?,
                Err(error) => {
                    self.unreadable(&path, error)?;
                    continue;
                }
            }
            let Node::Directory(content) = &entry.node else { continue };
            match self.below(&path, content) {
                Ok(below) => left.extend(below),
                Err(error) => self.unreadable(&path, error)?,
            }
        }
        Ok(())
    }

    fn below(&self, path: &str, directory: &Content) -> Result<Vec<(String, Entry)>, ReadError> {
        let entries = self.reader.list(directory)?.into_iter();
        let named = entries
            .map(|(name, entry)| (format!("{path}/{}", String::from_utf8_lossy(&name)), entry));
        Ok(named.collect())
    }

    /// Takes note of the blocks that an entry needs.
    fn need(
        &mut self,
        path: &str,
        ids: Vec<BlockId>,
        strength: Strength,
    ) -> Result<(), CheckError> {
        let mut lacks = Vec::new();
        for id in ids {
            if self.bad.contains(&id) {
                lacks.push(id);
            } else if strength == Strength::Pinned && !self.check.store.contains(&id)? {
                if self.check.repair && fetch(self.check, &id, Purpose::Pin)? {
                    self.report.restored_blocks += 1;
                } else {
                    self.missing.insert(id);
                    lacks.push(id);
                }
            }
        }
        if !lacks.is_empty() {
            let path = path.to_owned();
            self.report.needing.push(Needing { path, blocks: lacks, unreadable: false });
        }
        Ok(())
    }

    fn unreadable(&mut self, path: &str, error: ReadError) -> Result<(), CheckError> {
        let id = match error {
            ReadError::Missing { id }
            | ReadError::Corrupt { id, .. }
            | ReadError::Newer { id, .. }
            | ReadError::Unreachable { id, .. } => id,
            ReadError::Io(_) => return Err(error.into()),
        };
        let path = path.to_owned();
        self.report.needing.push(Needing { path, blocks: vec![id], unreadable: true });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
