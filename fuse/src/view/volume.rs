//! One volume, or one opened link, of the mount: its overlay behind a lock, and the loop that
//! feeds it from the sealed tree.
//!
//! `run` is how every operation works: it runs under the lock, in memory only; where it misses
//! something it stops, the miss is read without the lock, and it runs again. So a slow network
//! holds up nobody but the operation that needs it.
//!
//! Lock order: `sealing`, then `journal`, then `state`, then the budget. Each may be taken alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use xorfs_store::{
    Access, Attr, BlockStore, Change, Content, Head, Inventory, Journal, Ledger, Link, LinkNode,
    NameOf, ReadKey, Reader, Sources, Timestamp, TreeLink, VolumeId, VolumeSecret, stored_head,
    take_base,
};

use crate::config::ViewConfig;
use crate::error::FsError;
use crate::view::inode::{HeldXattrs, Inode, ROOT};
use crate::view::overlay::{Miss, State, Stop};
use crate::view::sources::SourceLog;
use crate::view::types::VolumeStatus;
use crate::writeback::{Budget, Pacer, Retry};

/// Times that an operation is run again after a miss. A path is a few dozen; more means that
/// others change the same directories all the time.
const ROUNDS_MAX: usize = 10_000;

/// Directories above a name. A deeper tree than any path reaches is a damaged one.
pub(super) const DEPTH_MAX: usize = 4096;

/// What is told each new head.
pub(super) type Announce = Arc<dyn Fn(Head) + Send + Sync>;

/// Where the volumes of a view get what they need.
pub(super) struct Surroundings {
    pub(super) config: ViewConfig,
    pub(super) blocks: Arc<dyn BlockStore>,
    pub(super) inventory: Arc<dyn Inventory>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) reader: Arc<Reader>,
    pub(super) budget: Budget,
    pub(super) pacer: Pacer,
    /// Told each new head, under no lock.
    pub(super) announce: Announce,
}

/// What may be done with a volume.
#[derive(Debug)]
pub(super) enum Capability {
    /// Write it; the journal is the lock that orders what is made crash-safe.
    Write { secret: VolumeSecret, journal: Mutex<Journal> },
    /// Follow it.
    Read { id: VolumeId, key: ReadKey },
    /// Read one tree as it was.
    Tree,
}

pub(super) struct Volume {
    /// Chosen when the volume enters the mount.
    pub(super) slot: u16,
    /// The petname, or the text of the link.
    pub(super) name: String,
    /// Whether it was opened under `link/`.
    pub(super) is_link: bool,
    pub(super) capability: Capability,
    pub(super) around: Arc<Surroundings>,
    pub(super) state: Mutex<State>,
    /// Held while the volume is sealed or moved to a newer head.
    pub(super) sealing: Mutex<()>,
    pub(super) retry: Mutex<Retry>,
    /// Whether what is sealed here is never evicted.
    pinned: AtomicBool,
    /// When a live link's head was last asked for.
    pub(super) asked: Mutex<Option<Instant>>,
    /// What its files were put from, where it is ours.
    pub(super) sources: Option<SourceLog>,
}

impl Volume {
    /// Opens a volume: its newest head from the ledger and, where it is ours, the journal.
    pub(super) fn open(
        around: Arc<Surroundings>,
        name: &str,
        access: &Access,
    ) -> Result<Self, FsError> {
        let key = access.read_key();
        let (state, capability, records) = match access {
            Access::Owner(secret) => {
                let ledger = Arc::clone(&around.ledger);
                let (journal, records) = Journal::open(ledger, secret.id(), &secret.staging_key())?;
                let head = take_base(&*around.ledger, secret.id(), !records.is_empty())?;
                let state = base_state(&around, head, &key, false)?;
                let journal = Mutex::new(journal);
                (state, Capability::Write { secret: secret.clone(), journal }, records)
            }
            Access::Reader(id, _) => {
                let head = stored_head(&*around.ledger, *id)?;
                let state = base_state(&around, head, &key, true).or_else(|error| {
                    // Others write it, and may be away or write nonsense. That must not keep our
                    // own volumes shut; the next look at its head opens it.
                    tracing::warn!(volume = %id, %error, "a followed volume does not open yet");
                    base_state(&around, None, &key, true)
                })?;
                (state, Capability::Read { id: *id, key }, Vec::new())
            }
        };
        let volume = Self::new(around, name.to_owned(), capability, state);
        volume.replay(&records)?;
        Ok(volume)
    }

    /// Opens what a link names, read only. A live link is empty until it has a head.
    pub(super) fn open_link(
        around: Arc<Surroundings>,
        name: String,
        link: &Link,
    ) -> Result<Self, FsError> {
        let (id, key) = match link {
            Link::Tree(tree) => {
                let state = State::new(tree_root(&around, tree), Content::default(), 2, None, true);
                let volume = Self::new(around, name, Capability::Tree, state);
                return Ok(volume.into_link());
            }
            Link::Read(id, key) => (*id, key.clone()),
            Link::Write(secret) => (secret.id(), secret.read_key()),
        };
        let head = stored_head(&*around.ledger, id)?;
        let state = base_state(&around, head, &key, true)?;
        Ok(Self::new(around, name, Capability::Read { id, key }, state).into_link())
    }

    fn new(around: Arc<Surroundings>, name: String, capability: Capability, state: State) -> Self {
        let sources = match &capability {
            Capability::Write { secret, .. } => {
                let (ledger, key) = (Arc::clone(&around.ledger), secret.staging_key());
                Some(SourceLog::new(Sources::new(ledger, secret.id(), &key)))
            }
            Capability::Read { .. } | Capability::Tree => None,
        };
        // What is written here is kept unless somebody says otherwise.
        let pinned = AtomicBool::new(matches!(capability, Capability::Write { .. }));
        Self {
            sources,
            slot: 0,
            name,
            is_link: false,
            capability,
            around,
            state: Mutex::new(state),
            sealing: Mutex::new(()),
            retry: Mutex::default(),
            pinned,
            asked: Mutex::new(None),
        }
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Acquire)
    }

    pub(super) fn set_pinned(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Release);
    }

    fn into_link(mut self) -> Self {
        self.is_link = true;
        self
    }

    /// Whether nobody refers to anything in it.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().references == 0
    }

    pub(super) fn id(&self) -> Option<VolumeId> {
        match &self.capability {
            Capability::Write { secret, .. } => Some(secret.id()),
            Capability::Read { id, .. } => Some(*id),
            Capability::Tree => None,
        }
    }

    pub(super) fn is_writable(&self) -> bool {
        matches!(self.capability, Capability::Write { .. })
    }

    pub(super) fn check_writable(&self) -> Result<(), FsError> {
        if self.is_writable() { Ok(()) } else { Err(FsError::ReadOnly) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no operation panics")
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.around.config.clock)()
    }

    /// Runs an operation under the lock, again after each miss.
    pub(super) fn run<T>(
        &self,
        operation: impl FnMut(&mut State) -> Result<T, Stop>,
    ) -> Result<T, FsError> {
        self.run_through(&self.around.reader, operation)
    }

    /// As `run`, where names and extended attributes that are missed are read through `reader`.
    pub(super) fn run_through<T>(
        &self,
        reader: &Reader,
        mut operation: impl FnMut(&mut State) -> Result<T, Stop>,
    ) -> Result<T, FsError> {
        let mut loaded = Vec::new();
        let mut outcome = Err(FsError::Busy);
        for _ in 0..ROUNDS_MAX {
            let mut state = self.lock();
            let (before, was_clean) = (state.dirty_bytes, state.first_change.is_none());
            let result = operation(&mut state);
            let grown = state.dirty_bytes - before;
            drop(state);
            if grown > 0 {
                self.count_dirty(grown, was_clean);
            }
            let fetched = match result {
                Ok(value) => {
                    outcome = Ok(value);
                    break;
                }
                Err(Stop::Fail(error)) => {
                    outcome = Err(error);
                    break;
                }
                Err(Stop::Miss(miss)) => self.fetch(reader, *miss),
            };
            match fetched {
                Ok(inodes) => loaded.extend(inodes),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if !loaded.is_empty() {
            let mut state = self.lock();
            loaded.into_iter().for_each(|ino| state.release(ino));
        }
        outcome
    }

    pub(super) fn status(&self) -> Option<VolumeStatus> {
        let id = self.id()?;
        let seal_error = self.retry.lock().expect("no holder panics").reason.clone();
        let state = self.lock();
        Some(VolumeStatus {
            name: self.name.clone(),
            id,
            writable: self.is_writable(),
            pinned: self.is_pinned(),
            head: state.head.clone(),
            sealed: state.sequence == state.sealed,
            dirty_bytes: state.dirty_bytes,
            unsynced_changes: state.sequence - state.durable,
            unsealed_changes: state.sequence - state.sealed,
            seal_error,
        })
    }

    /// When the volume wants to be sealed; `None` where there is nothing to seal.
    pub(super) fn seal_due(&self) -> Option<Instant> {
        let config = &self.around.config;
        let retry_at = self.retry.lock().expect("no holder panics").at;
        let state = self.lock();
        let first = state.first_change?;
        let mut due = first + config.seal_age_max;
        if self.around.budget.used() >= config.seal_bytes {
            due = first;
        } else if state.sequence == state.sealed {
            // Only files without a name changed: they are sealed for want of memory alone.
            return None;
        }
        if let Some(last) = state.last_change {
            due = due.min(last + config.seal_quiet);
        }
        Some(retry_at.map_or(due, |at| at.max(due)))
    }

    fn count_dirty(&self, grown: u64, was_clean: bool) {
        let used = self.around.budget.add(grown);
        let crossed = |limit| used >= limit && used - grown < limit;
        if was_clean || crossed(self.around.config.seal_bytes) {
            self.around.pacer.wake();
        }
    }

    /// Reads what an operation missed. Returns the inodes that were added for it.
    fn fetch(&self, reader: &Reader, miss: Miss) -> Result<Vec<u64>, FsError> {
        match miss {
            Miss::Name { directory, base, name } => {
                let entry = reader.lookup(&base, &name)?;
                let added = self.lock().load(directory, &base, &name, entry)?;
                Ok(added.into_iter().collect())
            }
            Miss::Xattrs { ino, sealed } => {
                let map = reader.xattrs(&xorfs_store::Xattrs::Sealed(sealed.clone()))?;
                if let Ok(inode) = self.lock().inode_mut(ino)
                    && matches!(&inode.xattrs, HeldXattrs::Sealed(held) if *held == sealed)
                {
                    inode.xattrs = HeldXattrs::Open { map, sealed: Some(sealed) };
                }
                Ok(Vec::new())
            }
            Miss::Names { ino, index } => self.fetch_names(ino, &index),
        }
    }

    /// Brings every name of a hard-linked inode, and the directories above them, into the table.
    fn fetch_names(&self, ino: u64, index: &Content) -> Result<Vec<u64>, FsError> {
        // Held meanwhile: were it dropped between two names, it would come back with the second
        // alone and look complete.
        match self.lock().inode_mut(ino) {
            Ok(inode) => inode.opens += 1,
            Err(_) => return Ok(Vec::new()),
        }
        let found = self.walk_names(ino, index);
        let mut state = self.lock();
        let is_current = state.index == *index;
        if let Ok(inode) = state.inode_mut(ino) {
            inode.opens = inode.opens.saturating_sub(1);
            inode.names_complete |= matches!(found, Ok(true)) && is_current;
        }
        found.map(|_| vec![ino])
    }

    /// Looks every indexed name up; false where the table changed on the way.
    fn walk_names(&self, ino: u64, index: &Content) -> Result<bool, FsError> {
        for name in self.around.reader.names_of(index, ino)? {
            let (start, path) = self.chain_to(index, name)?;
            // What was removed or moved since the index was sealed is not found this way, and
            // what took its place is another inode: both say that this is no name of it now.
            // Directories on the way stay in the table as long as something below them does.
            match self.run(|state| state.walk(start, &path)) {
                Ok(_) | Err(FsError::NotDirectory) => {}
                // The directory it starts from was dropped just now, as any that is sealed and
                // unused; the name may still be there.
                Err(FsError::Stale) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The path of an indexed name, from the nearest directory above it that is in the table.
    fn chain_to(&self, index: &Content, name: NameOf) -> Result<(u64, Vec<u8>), FsError> {
        let mut names = vec![name.name];
        let mut above = name.parent;
        while !self.lock().inodes.contains_key(&above) {
            let next = self.around.reader.names_of(index, above)?.into_iter().next();
            let Some(next) = next.filter(|_| names.len() < DEPTH_MAX) else {
                return Err(FsError::Damaged("the hard-link index lacks a directory"));
            };
            names.push(next.name);
            above = next.parent;
        }
        names.reverse();
        Ok((above, names.join(&b'/')))
    }

    fn replay(&self, records: &[(u64, Change)]) -> Result<(), FsError> {
        self.lock().number_from(records);
        for (seq, change) in records {
            match self.run(|state| state.replay(*seq, change)) {
                Ok(()) => {}
                Err(error @ (FsError::Read(_) | FsError::Busy)) => return Err(error),
                // A record that does not fit is a defect of ours. The rest is still worth more
                // replayed than refused.
                Err(error) => {
                    tracing::error!(volume = %self.name, seq, %error, "a journal record does not fit");
                }
            }
        }
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let left = self.state.get_mut().map_or(0, |state| state.dirty_bytes);
        if left > 0 {
            self.around.budget.release(left);
        }
    }
}

/// How long ago `then` was, for ages that are compared with a limit.
pub(super) fn is_older(then: Option<Instant>, age: Duration) -> bool {
    then.is_none_or(|then| then.elapsed() >= age)
}

/// The state that a head names, or the one before a volume's first head.
fn base_state(
    around: &Surroundings,
    head: Option<Head>,
    key: &ReadKey,
    read_only: bool,
) -> Result<State, FsError> {
    if let Some(head) = head {
        let root = around.reader.root(&head, key)?;
        if root.next_ino >> crate::view::types::InodeNo::BITS != 0 {
            return Err(FsError::Damaged("an inode number out of range"));
        }
        let (index, next_ino) = (root.names, root.next_ino.max(ROOT + 1));
        let inode = Inode::from_entry(root.directory);
        return Ok(State::new(inode, index, next_ino, Some(head), read_only));
    }
    let mode = if read_only { 0o555 } else { 0o755 };
    let root = Inode::empty_directory(fresh_attr(around, ROOT, mode));
    Ok(State::new(root, Content::default(), ROOT + 1, None, read_only))
}

fn fresh_attr(around: &Surroundings, ino: u64, mode: u32) -> Attr {
    let (now, owner) = ((around.config.clock)(), around.config.owner);
    Attr {
        ino,
        mode,
        uid: owner.uid,
        gid: owner.gid,
        nlink: 1,
        mtime: now,
        ctime: now,
        atime: now,
        crtime: now,
    }
}

/// What an immutable link names, as the top of a volume of its own.
fn tree_root(around: &Surroundings, link: &TreeLink) -> Inode {
    let node = match &link.node {
        LinkNode::File(content) => xorfs_store::Node::File(content.clone()),
        LinkNode::Directory(content) => xorfs_store::Node::Directory(content.clone()),
    };
    let attr = fresh_attr(around, ROOT, link.mode);
    Inode::from_entry(xorfs_store::Entry { attr, node, xattrs: Default::default() })
}
