//! A file on its way into the view.
//!
//! A small one is gathered and appears in one step. A larger one is written under a temporary
//! name in the top of its volume and takes its own name when it is complete; whatever ends it
//! before removes the temporary. What a node that was killed left behind has the name of this node
//! and of another run, and goes before the next file of that volume is written; the temporaries of
//! another machine that writes the volume are left alone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use xorfs_fuse::{FsError, Import, ImportBody, InodeNo, Kind, Owner, Stat, View};
use xorfs_store::SourceStamp;

use crate::api::tree::Held;
use crate::exit::Failure;

/// What every temporary name begins with.
const TEMPORARY_PREFIX: &str = ".xorfs-put-";

/// Bytes of a file that are gathered before it gets a temporary name: one change of a volume.
const GATHERED_BYTES_MAX: u64 = 1 << 20;

/// Runs of a file that are gathered before: each takes memory beside its bytes.
const GATHERED_RUNS_MAX: usize = 1024;

/// The temporary names of one run of a node.
#[derive(Debug)]
pub(crate) struct Temporaries {
    /// Tells the names of this node from those of others.
    node: String,
    /// Tells the names of this run from those of the node's others.
    run: String,
    next: AtomicU64,
    /// Volumes in which nothing of other runs is left, or somebody is removing it.
    cleaned: Mutex<HashSet<Vec<u8>>>,
}

impl Temporaries {
    /// The names of a run that begins now, of the node with this id.
    pub(crate) fn new(node: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let node = format!("{TEMPORARY_PREFIX}{node}-");
        let run = format!("{node}{now:x}-{:x}-", std::process::id());
        Self { node, run, next: AtomicU64::new(0), cleaned: Mutex::default() }
    }

    fn name(&self) -> Vec<u8> {
        format!("{}{:x}", self.run, self.next.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// Removes what earlier runs left in the top of a volume, the first time that it is asked.
    fn clean(&self, view: &View, volume: &[u8]) -> anyhow::Result<()> {
        let cleaned = || self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        if !cleaned().insert(volume.to_vec()) {
            return Ok(());
        }
        // Not under the lock: a long listing would hold up every other file.
        let removed = self.remove_left(view, volume);
        if removed.is_err() {
            cleaned().remove(volume);
        }
        removed
    }

    fn remove_left(&self, view: &View, volume: &[u8]) -> anyhow::Result<()> {
        let top = Held::resolve(view, volume)?;
        for entry in view.list(top.ino())? {
            let is_left = entry.name.starts_with(self.node.as_bytes())
                && !entry.name.starts_with(self.run.as_bytes());
            if is_left && entry.stat.kind == Kind::File {
                tracing::info!("removing what an interrupted put left");
                view.unlink(top.ino(), &entry.name)?;
            }
        }
        Ok(())
    }
}

/// A file that is not complete. Dropping it leaves nothing behind.
pub(crate) struct Incoming<'a> {
    view: &'a View,
    temporaries: &'a Temporaries,
    volume: Vec<u8>,
    gathered: Vec<(u64, Bytes)>,
    gathered_bytes: u64,
    /// End of the last run.
    end: u64,
    spilled: Option<Spilled<'a>>,
}

/// What is written under a temporary name.
struct Spilled<'a> {
    view: &'a View,
    top: Held<'a>,
    name: Vec<u8>,
    file: Held<'a>,
    adopted: bool,
}

impl<'a> Incoming<'a> {
    /// A file for the volume that `path` begins with.
    pub(crate) fn new(view: &'a View, temporaries: &'a Temporaries, path: &[u8]) -> Self {
        let volume = path.split(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        if let Err(error) = temporaries.clean(view, &volume) {
            tracing::warn!(%error, "could not look for what an interrupted put left");
        }
        let (gathered, spilled) = (Vec::new(), None);
        Self { view, temporaries, volume, gathered, gathered_bytes: 0, end: 0, spilled }
    }

    /// Takes the next run.
    pub(crate) fn write(&mut self, offset: u64, bytes: Bytes) -> anyhow::Result<()> {
        let length = bytes.len() as u64;
        if length == 0 {
            return Err(Failure::usage("an empty run of a file").into());
        }
        let end = offset.checked_add(length).filter(|_| offset >= self.end);
        self.end = end.ok_or_else(|| Failure::usage("runs of a file that overlap"))?;
        let fits = self.gathered_bytes + length <= GATHERED_BYTES_MAX
            && self.gathered.len() < GATHERED_RUNS_MAX;
        if self.spilled.is_none() && fits {
            self.gathered_bytes += length;
            self.gathered.push((offset, bytes));
            return Ok(());
        }
        if self.spilled.is_none() {
            self.spilled = Some(self.spill()?);
        }
        let file = self.spilled.as_ref().context("it was just made")?.file.ino();
        for (offset, bytes) in self.gathered.drain(..).chain([(offset, bytes)]) {
            self.view.write_owned(file, offset, bytes).map_err(told)?;
        }
        Ok(())
    }

    /// Makes the file what `name` stands for.
    pub(crate) fn finish(
        mut self,
        (parent, name): (InodeNo, &[u8]),
        mut import: Import,
        size: u64,
        stamp: Option<&SourceStamp>,
    ) -> anyhow::Result<Stat> {
        if size < self.end {
            return Err(Failure::usage("a run behind the end of its file").into());
        }
        import.body = ImportBody::File { size, parts: std::mem::take(&mut self.gathered) };
        let stat = match &mut self.spilled {
            None => self.view.import(parent, name, &import, stamp).map_err(told)?,
            Some(spilled) => {
                let from = (spilled.top.ino(), spilled.name.as_slice());
                let stat = self.view.adopt(from, (parent, name), &import, stamp).map_err(told)?;
                spilled.adopted = true;
                stat
            }
        };
        Ok(stat)
    }

    fn spill(&self) -> anyhow::Result<Spilled<'a>> {
        let (view, name) = (self.view, self.temporaries.name());
        let top = Held::resolve(view, &self.volume)?;
        let made = view.make_node(top.ino(), &name, Kind::File, 0o600, Owner::default());
        let file = Held::new(view, made.map_err(told)?);
        Ok(Spilled { view, top, name, file, adopted: false })
    }
}

impl Drop for Spilled<'_> {
    fn drop(&mut self) {
        if !self.adopted
            && let Err(error) = self.view.unlink(self.top.ino(), &self.name)
        {
            tracing::warn!(%error, "could not remove a temporary file");
        }
    }
}

/// What went wrong, in the words of somebody who copies a file.
pub(crate) fn told(error: FsError) -> anyhow::Error {
    match error {
        FsError::NoSpace => anyhow::Error::from(error).context("the store is full"),
        FsError::IsDirectory => {
            Failure::refused("it is a directory, and nothing else replaces one").into()
        }
        error => error.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use xorfs_fuse::ViewConfig;
    use xorfs_store::{Access, Memory, VolumeSecret};

    use super::*;
    use crate::api::types::Attributes;

    /// A view with an empty volume, `main`.
    pub(crate) fn view() -> Arc<View> {
        let store = Arc::new(Memory::new());
        let (blocks, inventory, ledger) = (Arc::clone(&store), Arc::clone(&store), store);
        let announce = Arc::new(|_| {});
        let view = View::new(ViewConfig::default(), blocks, inventory, ledger, announce);
        let secret = VolumeSecret::from_bytes([9; 32]);
        view.add_volume("main", &Access::Owner(secret)).unwrap();
        view
    }

    fn names(view: &View) -> Vec<Vec<u8>> {
        let top = Held::resolve(view, b"main").unwrap();
        view.list(top.ino()).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn a_long_file_appears_when_it_is_complete_and_leaves_nothing_before() {
        let (view, temporaries) = (view(), Temporaries::new("a"));
        let top = Held::resolve(&view, b"main").unwrap();
        let begin = || {
            let mut file = Incoming::new(&view, &temporaries, b"main/long");
            for part in 0..3 {
                file.write(part << 20, vec![part as u8; 1 << 20].into()).unwrap();
            }
            assert_eq!(names(&view).len(), 1, "under another name");
            assert_ne!(names(&view)[0], b"long");
            file
        };
        drop(begin());
        assert!(names(&view).is_empty());
        let import = Attributes { mode: 0o600, ..Attributes::default() }.without_content();
        let stat = begin().finish((top.ino(), b"long"), import, 4 << 20, None).unwrap();
        assert_eq!((names(&view), stat.size), (vec![b"long".to_vec()], 4 << 20));
        let mut file = Incoming::new(&view, &temporaries, b"main/bad");
        file.write(10, vec![1].into()).unwrap();
        assert!(file.write(5, vec![1].into()).is_err(), "runs are in order");
        assert!(file.write(20, Bytes::new()).is_err(), "a run has bytes");
        let mut file = Incoming::new(&view, &temporaries, b"main/runs");
        for run in 0..2000 {
            file.write(run * 2, vec![1].into()).unwrap();
        }
        assert!(file.gathered.len() <= GATHERED_RUNS_MAX);
    }

    #[test]
    fn what_another_run_left_goes_and_nothing_else() {
        let view = view();
        let (before, now) = (Temporaries::new("a"), Temporaries::new("a"));
        let elsewhere = Temporaries::new("another").name();
        let top = Held::resolve(&view, b"main").unwrap();
        let users = b".xorfs-put-a".to_vec();
        for name in [before.name(), now.name(), elsewhere.clone(), users.clone()] {
            let made = view.make_node(top.ino(), &name, Kind::File, 0, Owner::default());
            drop(Held::new(&view, made.unwrap()));
        }
        drop(Incoming::new(&view, &now, b"main/file"));
        let left = names(&view);
        assert!(left.len() == 3 && left.contains(&elsewhere) && left.contains(&users), "{left:?}");
    }
}
