//! Pins: volumes and trees that are kept whole and never evicted.
//!
//! A pin is in the keyring first and fetched after that, so an interrupted one goes on with the
//! next look, and a collection never takes what was fetched for it. Blocks that were here before
//! are read and pinned as well, so that what is reported whole is, and is never evicted.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context;
use xorfs_net::Replicated;
use xorfs_store::gc::{Root, Strength};
use xorfs_store::{
    Access, Attr, BlockId, BlockStore, Class, Entry, Inventory, Link, Local, Node, Purpose,
    ReadError, Reader, TreeLink, Xattrs, stored_head,
};

use crate::api::types::{JobProgress, PinReply, PinRow};
use crate::daemon::Daemon;
use crate::exit::Failure;

/// Memory for the metadata that is read on the way: each node once.
const CACHE_BYTES: usize = 8 << 20;

/// Blocks that are asked for ahead of the one that is waited for.
const AHEAD: usize = 16;

/// What is pinned.
#[derive(Debug, Clone)]
pub(crate) enum Pinned {
    Volume(String),
    Tree(TreeLink),
}

impl Daemon {
    /// All pins: volumes by name, then trees in the order in which they were pinned.
    pub(crate) fn pins(&self) -> anyhow::Result<Vec<PinRow>> {
        let volumes = self.volumes.pinned_volumes()?.into_iter();
        let volumes = volumes.map(|(name, access)| PinRow {
            name: Some(name),
            volume: true,
            own: access.is_owner(),
            link: None,
        });
        let trees = self.volumes.pins()?.into_iter().map(|tree| PinRow {
            name: tree.name.clone(),
            volume: false,
            own: false,
            link: Some(Link::Tree(tree).to_string()),
        });
        Ok(volumes.chain(trees).collect())
    }

    /// Pins, and fetches what is not here.
    pub(crate) fn pin(
        &self,
        what: &Pinned,
        report: impl FnMut(JobProgress) -> Result<(), Failure>,
    ) -> anyhow::Result<PinReply> {
        let changed = match what {
            Pinned::Volume(name) => self.volumes.set_pinned(&self.view, name, true)?,
            Pinned::Tree(tree) => self.volumes.pin(tree)?,
        };
        let fetched = self.fetch_pinned(what, report).context(
            "it is pinned, but not all of it is here yet; repeat the command, or leave it to the \
             daemon",
        )?;
        self.wake_collector();
        Ok(PinReply { changed, ..fetched })
    }

    /// Unpins. What nothing else pins may be evicted from then on.
    pub(crate) fn unpin(&self, what: &Pinned) -> anyhow::Result<PinReply> {
        let root = self.released_root(what)?;
        let changed = self.collector.release(root, || match what {
            Pinned::Volume(name) => self.volumes.set_pinned(&self.view, name, false),
            Pinned::Tree(tree) => self.volumes.unpin(tree),
        })?;
        if !changed {
            return Err(Failure::not_found("it is not pinned").into());
        }
        // The pin is off whatever becomes of the collection, which a later one makes up for.
        if let Err(error) = self.collector.collect(false) {
            let error = format!("{error:#}");
            tracing::warn!(%error, "blocks that were pinned stay so until the next collection");
        }
        Ok(PinReply { changed, ..PinReply::default() })
    }

    /// What stays here as cached once it is unpinned. A volume of our own stays a root anyway.
    fn released_root(&self, what: &Pinned) -> anyhow::Result<Option<Root>> {
        let strength = Strength::Kept;
        let name = match what {
            Pinned::Tree(tree) => return Ok(Some(Root::Tree { node: tree.to_node(), strength })),
            Pinned::Volume(name) => name,
        };
        let access = self.volumes.access(name)?;
        let row = self.view.volumes().into_iter().find(|row| row.name == *name && !row.writable);
        let head = row.and_then(|row| row.head);
        Ok(head.map(|head| Root::Volume { head: Box::new(head), key: access.read_key(), strength }))
    }

    /// Fetches what is pinned and not here; cheap where all is.
    pub(crate) fn fetch_pinned(
        &self,
        what: &Pinned,
        report: impl FnMut(JobProgress) -> Result<(), Failure>,
    ) -> anyhow::Result<PinReply> {
        let fetch = Fetch {
            local: &self.local,
            blocks: self.replicated(),
            reader: Reader::new(Arc::new(self.replicated()), CACHE_BYTES),
            seen: HashSet::new(),
            reply: PinReply::default(),
            report,
        };
        match what {
            Pinned::Tree(tree) => fetch.tree(tree.to_node()),
            Pinned::Volume(name) => fetch.volume(name, &self.volumes.access(name)?),
        }
    }
}

/// One walk over a pinned tree.
struct Fetch<'a, R> {
    local: &'a Local,
    blocks: Replicated,
    reader: Reader,
    seen: HashSet<BlockId>,
    reply: PinReply,
    report: R,
}

impl<R: FnMut(JobProgress) -> Result<(), Failure>> Fetch<'_, R> {
    fn tree(mut self, node: Node) -> anyhow::Result<PinReply> {
        self.below(Entry { attr: Attr::default(), node, xattrs: Xattrs::default() })?;
        self.done()
    }

    fn volume(mut self, name: &str, access: &Access) -> anyhow::Result<PinReply> {
        let Some(head) = stored_head(self.local, access.volume())? else {
            let text = format!("no version of the volume {name:?} was found yet");
            return Err(Failure::not_found(text).into());
        };
        let key = access.read_key();
        let ids = self.reader.blocks_of_root(&head, &key)?;
        self.keep(&ids)?;
        self.below(self.reader.root(&head, &key)?.directory)?;
        self.done()
    }

    fn below(&mut self, top: Entry) -> anyhow::Result<()> {
        let mut waiting = vec![top];
        while let Some(entry) = waiting.pop() {
            let ids = self.reader.blocks_of(&entry)?;
            self.keep(&ids)?;
            if let Node::Directory(content) = &entry.node {
                waiting.extend(self.reader.list(content)?.into_values());
            }
        }
        Ok(())
    }

    /// Fetches what is not here, and pins what is. A guard for each few blocks is enough, because
    /// what was put is pinned below a root; one for the whole walk would keep all garbage from
    /// being collected for as long as that takes.
    fn keep(&mut self, ids: &[BlockId]) -> anyhow::Result<()> {
        let _guard = self.local.guard();
        let fresh: Vec<_> = ids.iter().filter(|id| self.seen.insert(**id)).copied().collect();
        let (mut cached, mut absent) = (Vec::new(), Vec::new());
        for id in &fresh {
            self.reply.blocks += 1;
            match self.local.class(id)? {
                Some(Class::Pinned) if self.local.renew(id)? => {}
                Some(_) => cached.push(*id),
                None => absent.push(*id),
            }
        }
        for id in cached {
            match self.local.get(&id) {
                Ok(block) => self.local.put(&block, Purpose::Pin)?,
                // It is set aside now, or was evicted just before.
                Err(ReadError::Missing { .. } | ReadError::Corrupt { .. }) => absent.push(id),
                Err(error) => return Err(error.into()),
            }
            self.tell()?;
        }
        for (at, id) in absent.iter().enumerate() {
            if at % AHEAD == 0 {
                let end = absent.len().min(at + AHEAD);
                self.blocks.prefetch(&absent[at..end]);
            }
            let block = self.blocks.get(id)?;
            self.local.put(&block, Purpose::Pin)?;
            self.reply.fetched_blocks += 1;
            self.reply.fetched_bytes += block.bytes().len() as u64;
            self.tell()?;
        }
        self.tell()
    }

    fn tell(&mut self) -> anyhow::Result<()> {
        let progress = JobProgress {
            done_blocks: self.reply.blocks,
            done_bytes: self.reply.fetched_bytes,
            total_blocks: None,
            bad_blocks: 0,
        };
        Ok((self.report)(progress)?)
    }

    fn done(self) -> anyhow::Result<PinReply> {
        self.local.flush()?;
        Ok(self.reply)
    }
}
