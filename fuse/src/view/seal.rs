//! Sealing: from the overlay to blocks and a head, while writers go on.
//!
//! Three steps: a snapshot under the lock, the tree written without it, and the overlay moved
//! onto the new base under it again. Blocks are written files first, then directories from the
//! deepest up, then the hard-link index and the root; the head is committed last, in one batch
//! with the removal of the journal records it makes superfluous. A crash or an error at any
//! point leaves the old head, the journal and the overlay as they were.

mod snapshot;
mod tree;

use std::sync::Arc;
use std::time::Instant;

use xorfs_store::{Content, FileEdit, Head, Purpose, WriteError, Writer, crash};

use crate::error::FsError;
use crate::view::inode::{Body, HeldXattrs, Inode};
use crate::view::overlay::State;
use crate::view::seal::snapshot::Snapshot;
use crate::view::seal::tree::Sealed;
use crate::view::volume::{Capability, Volume};

/// What a call of `seal` did.
#[derive(Debug)]
pub(super) struct SealOutcome {
    /// The newest head, if there is one by now.
    pub(super) head: Option<Head>,
    /// Whether this call made it.
    pub(super) is_new: bool,
}

impl Volume {
    /// Seals everything that was changed before the call. The caller announces a new head, when
    /// no lock is held any more.
    pub(super) fn seal(&self) -> Result<SealOutcome, FsError> {
        let outcome = self.seal_unannounced();
        let mut retry = self.retry.lock().expect("no holder panics");
        match &outcome {
            Ok(_) => retry.on_success(),
            Err(error) => {
                tracing::warn!(volume = %self.name, %error, "could not seal; the changes are kept");
                let is_full = matches!(error, FsError::Write(WriteError::Full { .. }));
                retry.on_failure(Instant::now(), reason_of(error), is_full);
            }
        }
        drop(retry);
        if outcome.is_err() {
            self.around.budget.nudge();
        }
        if let Ok(SealOutcome { head: Some(head), is_new: true }) = &outcome {
            (self.around.announce)(head.clone());
        }
        // After the announcement, which must not wait for it.
        if outcome.is_ok() {
            self.commit_sources();
        }
        outcome
    }

    fn seal_unannounced(&self) -> Result<SealOutcome, FsError> {
        let _one_at_a_time = self.sealing.lock().expect("no holder panics");
        let Capability::Write { secret, journal } = &self.capability else {
            return Ok(SealOutcome { head: self.lock().head.clone(), is_new: false });
        };
        let snapshot = {
            let mut state = self.lock();
            let with_orphans = self.around.budget.used() >= self.around.config.seal_bytes;
            match state.snapshot(with_orphans) {
                Some(snapshot) => snapshot,
                None => {
                    self.around.budget.release(state.settle_bytes());
                    return Ok(SealOutcome { head: state.head.clone(), is_new: false });
                }
            }
        };
        let reader = &self.around.reader;
        let blocks = &self.around.blocks;
        let mut writer = Writer::new(
            Arc::clone(blocks),
            Arc::clone(reader),
            secret.convergence_secret(),
            if self.is_pinned() { Purpose::Own } else { Purpose::Publish },
        );
        let sealed = tree::write(&snapshot, &mut writer, reader)
            .and_then(|(sealed, root)| {
                let Some(root) = root else { return Ok((sealed, None)) };
                let now = self.now();
                let time_ms = now.seconds * 1000 + i64::from(now.nanos / 1_000_000);
                let head = writer.head(&root, secret, snapshot.head.as_ref(), time_ms)?;
                Ok((sealed, Some(head)))
            })
            .map_err(FsError::from);
        let committed = sealed.and_then(|(sealed, head)| {
            let journal = journal.lock().expect("no holder panics");
            if let Some(head) = &head {
                crash::point("seal-before-head");
                journal.commit_head(&**blocks, head, snapshot.through)?;
            }
            let mut state = self.lock();
            state.rebase(&snapshot, sealed, head.clone());
            Ok(SealOutcome { head: state.head.clone(), is_new: head.is_some() })
        });
        match &committed {
            Ok(_) => self.around.budget.release(snapshot.dirty_bytes),
            Err(_) => self.lock().restore(&snapshot),
        }
        committed
    }
}

impl State {
    /// Moves the overlay onto what the snapshot was sealed to.
    fn rebase(&mut self, snapshot: &Snapshot, mut sealed: Sealed, head: Option<Head>) {
        let through = snapshot.through;
        for (ino, frozen) in &snapshot.files {
            if let (Some(Inode { body: Body::File(edit), .. }), Some(content)) =
                (self.inodes.get_mut(ino), sealed.contents.remove(ino))
            {
                rebase_file(edit, frozen, content);
            }
        }
        let mut settled = Vec::new();
        if head.is_some() {
            for (ino, frozen) in &snapshot.directories {
                if let (Some(Inode { body: Body::Directory(directory), .. }), Some(base)) =
                    (self.inodes.get_mut(ino), sealed.contents.remove(ino))
                {
                    directory.base = base;
                    for (name, change) in &frozen.changes {
                        if directory.changes.get(name) == Some(change) {
                            directory.changes.remove(name);
                            if let Some(child) = change {
                                directory.known.insert(name.clone(), *child);
                            }
                        }
                    }
                }
            }
            for (ino, frozen) in &snapshot.inodes {
                let Some(inode) = self.inodes.get_mut(ino) else { continue };
                if inode.changed_at <= through {
                    inode.changed_at = 0;
                    self.dirty.remove(ino);
                    if frozen.xattrs_changed
                        && let (HeldXattrs::Open { sealed: at, .. }, Some(piece)) =
                            (&mut inode.xattrs, sealed.xattr_pieces.remove(ino))
                    {
                        *at = piece;
                    }
                }
                settled.push(*ino);
            }
            self.index = sealed.index;
            self.unindexed.retain(|_, seq| *seq > through);
            self.head = head;
            self.sealed = through;
            self.durable = self.durable.max(through);
            while self.pending.front().is_some_and(|(seq, _)| *seq <= through) {
                if let Some((_, xorfs_store::Change::Write { bytes, .. })) =
                    self.pending.pop_front()
                {
                    self.pending_bytes = self.pending_bytes.saturating_sub(bytes.len() as u64);
                }
            }
        }
        self.dirty_bytes = self.dirty_bytes.saturating_sub(snapshot.dirty_bytes);
        if self.orphan_bytes() > 0 {
            self.first_change.get_or_insert_with(Instant::now);
        }
        settled.into_iter().for_each(|ino| self.release(ino));
    }

    /// Where nothing is left to seal, stops counting what files without a name held before they
    /// went. Returns the bytes.
    fn settle_bytes(&mut self) -> u64 {
        let held = self.orphan_bytes();
        let gone = self.dirty_bytes.saturating_sub(held);
        self.dirty_bytes -= gone;
        if held == 0 {
            self.first_change = None;
        }
        gone
    }

    /// Takes note that a snapshot was not sealed: its changes are due as before.
    fn restore(&mut self, snapshot: &Snapshot) {
        self.first_change = snapshot.first_change.or(self.first_change);
        self.last_change = self.last_change.or(snapshot.first_change);
    }
}

fn rebase_file(edit: &mut Arc<FileEdit>, frozen: &FileEdit, content: Content) {
    Arc::make_mut(edit).rebase(frozen, content);
}

fn reason_of(error: &FsError) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        reason = format!("{reason}: {error}");
        source = error.source();
    }
    reason
}
