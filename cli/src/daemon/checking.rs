//! Checking and mending a node's store, on demand and, little by little, in the background.
//!
//! The walk and the repair are `store::check`'s; here are the trees that this home can open, and
//! where missing blocks come from: the network, and without `repair` nowhere, so that a check
//! finds what is here and changes nothing but setting bad blocks aside.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use xorfs_store::check::{Check, NamedRoot, Progress, Report, check};
use xorfs_store::gc::{Root, Strength};
use xorfs_store::{
    Access, BlockId, BlockStore, Class, Inventory, Journal, Purpose, WriteError, stored_head,
};

use crate::api::types::{BadRow, CheckReply, JobProgress, NeedingRow};
use crate::daemon::Daemon;
use crate::exit::Failure;

/// Bad blocks that are fetched again at one look of the background. Each that nobody has takes a
/// fetch up to its deadline, and collections wait behind it.
const MEND_AT_ONCE: usize = 8;

impl Daemon {
    /// Checks every block and every tree, and with `repair` mends what can be mended.
    pub(crate) fn check(
        &self,
        repair: bool,
        mut report: impl FnMut(JobProgress) -> Result<(), Failure>,
    ) -> anyhow::Result<CheckReply> {
        let roots = self.named_roots()?;
        let source: Arc<dyn BlockStore> = match repair {
            true => Arc::new(self.replicated()),
            false => Arc::clone(&self.local) as _,
        };
        let asked = Check { store: &*self.local, source, roots: &roots, repair };
        let mut gone = Ok(());
        let mut tell = |progress: Progress| {
            let now = match progress {
                Progress::Blocks { done, total, bytes } => JobProgress {
                    done_blocks: done,
                    done_bytes: bytes,
                    total_blocks: Some(total),
                    bad_blocks: self.local.usage().bad_blocks,
                },
                Progress::Entries { .. } => return,
            };
            if gone.is_ok() {
                gone = report(now);
            }
        };
        let found = check(&asked, &mut tell)?;
        gone?;
        let mut dropped_records = 0;
        if repair {
            dropped_records = self.salvage()?;
            self.volumes.reopen(&self.view);
        }
        let unopened = self.volumes.unopened().into_keys().collect();
        Ok(CheckReply { dropped_records, ..reply(&found, unopened, repair) })
    }

    /// Gets own volumes that do not open over a damaged journal: what does not read is moved to a
    /// file in the home. Returns the number of records that went.
    fn salvage(&self) -> anyhow::Result<u64> {
        let unopened = self.volumes.unopened();
        let mut dropped = 0;
        for (name, access, _) in self.volumes.known()? {
            let Access::Owner(secret) = &access else { continue };
            if !unopened.contains_key(&name) {
                continue;
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let aside = self.home.dir().join(format!("journal-{name}-{now}.damaged"));
            let key = secret.staging_key();
            let records = Journal::salvage(&*self.local, secret.id(), &key, &aside)?;
            if records > 0 {
                let aside = aside.display();
                tracing::warn!(volume = %name, records, %aside, "dropped damaged journal records");
            }
            dropped += records as u64;
        }
        Ok(dropped)
    }

    /// Fetches some of the blocks again that were set aside, those behind `after`, and moves it
    /// on; how many came.
    pub(crate) fn mend(&self, after: &mut Option<BlockId>) -> anyhow::Result<usize> {
        let source = self.replicated();
        let mut mended = 0;
        let some = self.local.bad(after.as_ref(), MEND_AT_ONCE)?;
        if some.len() < MEND_AT_ONCE {
            *after = None;
        }
        for bad in &some {
            if self.stop.is_cancelled() {
                break;
            }
            if some.len() == MEND_AT_ONCE {
                *after = Some(bad.id);
            }
            // Where nobody has it, it stays set aside until somebody does.
            let Ok(block) = source.get(&bad.id) else { continue };
            match self.local.put(&block, Purpose::Cache) {
                Ok(()) => mended += 1,
                Err(WriteError::Full { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(mended)
    }

    /// Volumes that this home can open, also those that it could not so far, and pins.
    fn named_roots(&self) -> anyhow::Result<Vec<NamedRoot>> {
        let mut roots = Vec::new();
        let shown = self.view.volumes();
        for (name, access, pinned) in self.volumes.known()? {
            // The head that this home goes on from, as for a collection: a newer one that others
            // wrote need not be here.
            let id = access.volume();
            let head = shown.iter().find(|row| row.id == id).and_then(|row| row.head.clone());
            let head = head.map_or_else(|| stored_head(&*self.local, id), |head| Ok(Some(head)))?;
            let Some(head) = head else { continue };
            let strength = if pinned { Strength::Pinned } else { Strength::Kept };
            let root = Root::Volume { head: Box::new(head), key: access.read_key(), strength };
            roots.push(NamedRoot { name: format!("{name}:"), root });
        }
        for pin in self.volumes.pins()? {
            let name = format!("pin {}", pin.name.as_deref().unwrap_or("(without a name)"));
            let root = Root::Tree { node: pin.to_node(), strength: Strength::Pinned };
            roots.push(NamedRoot { name, root });
        }
        Ok(roots)
    }
}

fn reply(found: &Report, unopened: Vec<String>, repair: bool) -> CheckReply {
    let bad = found.bad.iter().map(|bad| BadRow {
        block: bad.id.to_string(),
        pinned: bad.class == Class::Pinned,
        owed: bad.owed,
        bytes: bad.length.into(),
        since: bad.since_seconds,
    });
    let needing = found.needing.iter().map(|needing| NeedingRow {
        path: needing.path.clone(),
        blocks: needing.blocks.iter().map(ToString::to_string).collect(),
        unreadable: needing.unreadable,
    });
    CheckReply {
        clean: found.is_clean() && unopened.is_empty() && (repair || found.wrong_entries == 0),
        good_blocks: found.good_blocks,
        good_bytes: found.good_bytes,
        restored_blocks: found.restored_blocks,
        wrong_entries: found.wrong_entries,
        dropped_records: 0,
        bad: bad.collect(),
        missing: found.missing.iter().map(ToString::to_string).collect(),
        files: needing.collect(),
        unopened,
    }
}
