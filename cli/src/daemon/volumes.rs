//! The volumes of this home: opening, making, following, sharing and forgetting them, and
//! closing all of them while the keyring is locked.
//!
//! Invariant: the keyring on disk changes first, then the view, so that a crash never leaves a
//! volume that was written to without the secret that opens it. One volume stands under one name.
//! A volume that does not open is told in the status and keeps nothing from working but garbage
//! collection, which has to know what everything of the keyring needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::runtime::Handle;
use xorfs_fuse::{View, ViewRoots};
use xorfs_net::Network;
use xorfs_store::gc::{Root, Strength};
use xorfs_store::{
    Access, Batch, Convergence, Head, Ledger, Link, Local, Passphrase, Table, TreeLink, VolumeId,
    VolumeSecret, stored_head,
};

use crate::daemon::keys::Keys;
use crate::exit::Failure;
use crate::home::Home;

/// A volume of the keyring that does not open.
#[derive(Debug, Clone)]
pub(crate) struct Unopened {
    pub(crate) id: VolumeId,
    pub(crate) writable: bool,
    /// Why not.
    pub(crate) error: String,
}

/// What a garbage collection has to keep.
pub(crate) struct Needed {
    /// The view's roots, and the pinned trees.
    pub(crate) roots: ViewRoots,
    /// Pinned volumes of others that do not open, so that nobody knows what they need.
    pub(crate) unknown_pins: u64,
}

/// The volumes.
pub(crate) struct Volumes {
    keys: Keys,
    /// Held while keyring and view change together; taken before either.
    changing: Mutex<()>,
    unopened: Mutex<BTreeMap<String, Unopened>>,
}

impl Volumes {
    /// Reads the keyring; without the passphrase that it may have it stays locked.
    pub(crate) fn open(home: &Home, passphrase: Option<&Passphrase>) -> anyhow::Result<Self> {
        let keys = Keys::open(&home.keyring(), passphrase)
            .with_context(|| format!("in the home {}", home.dir().display()))?;
        Ok(Self { keys, changing: Mutex::default(), unopened: Mutex::default() })
    }

    /// Whether the keys are out of reach, and with them all volumes.
    pub(crate) fn is_locked(&self) -> bool {
        self.keys.is_locked()
    }

    /// Whether the keyring has a passphrase.
    pub(crate) fn has_passphrase(&self) -> bool {
        self.keys.has_passphrase()
    }

    /// Shows every volume in the view; none while the keyring is locked.
    pub(crate) fn show_all(&self, view: &View) {
        let _changing = locked(&self.changing);
        self.show_known(view);
    }

    fn show_known(&self, view: &View) {
        let mut unopened = BTreeMap::new();
        for (name, access, pinned) in self.known().unwrap_or_default() {
            if let Err(error) = view.add_volume(&name, &access) {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::error!(
                    volume = %name, %error, "a volume does not open; try `xorfs check --repair`"
                );
                let (id, writable) = (access.volume(), access.is_owner());
                unopened.insert(name, Unopened { id, writable, error });
            } else {
                view.set_pinned(&name, pinned);
            }
        }
        *locked(&self.unopened) = unopened;
    }

    /// Tries again to open the volumes that did not.
    pub(crate) fn reopen(&self, view: &View) {
        let _changing = locked(&self.changing);
        let mut unopened = self.unopened();
        unopened.retain(|name, _| {
            let Ok(access) = self.access(name) else { return false };
            match view.add_volume(name, &access) {
                Ok(()) => {
                    let pinned = self.keys.read(|keyring| keyring.is_pinned(name));
                    view.set_pinned(name, pinned.unwrap_or_default());
                    tracing::info!(volume = %name, "a volume opens again");
                    false
                }
                Err(_) => true,
            }
        });
        *locked(&self.unopened) = unopened;
    }

    /// Every volume of the keyring, what opens it, and whether it is pinned.
    pub(crate) fn known(&self) -> Result<Vec<(String, Access, bool)>, Failure> {
        self.keys.read(|keyring| {
            let row = |(name, access): (&str, &Access)| {
                (name.to_owned(), access.clone(), keyring.is_pinned(name))
            };
            keyring.volumes().map(row).collect()
        })
    }

    /// The volumes that do not open, by name.
    pub(crate) fn unopened(&self) -> BTreeMap<String, Unopened> {
        locked(&self.unopened).clone()
    }

    /// Opens a locked keyring and shows the volumes. Slow on purpose.
    pub(crate) fn unlock(&self, view: &View, passphrase: &Passphrase) -> anyhow::Result<()> {
        let _changing = locked(&self.changing);
        if self.keys.unlock(passphrase)? {
            self.show_known(view);
        }
        Ok(())
    }

    /// Closes every volume and link and forgets the keys. What is not sealed is sealed first.
    pub(crate) fn lock(&self, view: &View) -> anyhow::Result<()> {
        let _changing = locked(&self.changing);
        // Sealing may fail where the store is full; then the keys stay, or the next `unlock`
        // would find less than was written.
        view.seal()?;
        if self.keys.lock()? {
            locked(&self.unopened).clear();
            view.close_all()?;
        }
        Ok(())
    }

    /// Sets another passphrase, or takes it off; a locked keyring without one is open, and its
    /// volumes are shown. Slow on purpose.
    pub(crate) fn set_passphrase(
        &self,
        view: &View,
        current: Option<&Passphrase>,
        new: Option<&Passphrase>,
    ) -> anyhow::Result<()> {
        let _changing = locked(&self.changing);
        let was_locked = self.is_locked();
        self.keys.set_passphrase(current, new)?;
        if was_locked && !self.is_locked() {
            self.show_known(view);
        }
        Ok(())
    }

    /// What a garbage collection has to keep.
    ///
    /// # Errors
    /// `Refused` where the view does not show all of our own that the keyring knows: what is not
    /// shown is no root, and everything below it would go.
    pub(crate) fn roots(&self, view: &View, ledger: &dyn Ledger) -> anyhow::Result<Needed> {
        let _changing = locked(&self.changing);
        let shown = view.volumes();
        let mut unknown_pins = 0;
        for (name, access, pinned) in self.known()? {
            if !access.is_owner() && !pinned {
                continue;
            }
            let id = access.volume();
            let row = shown.iter().find(|row| row.name == name && row.id == id);
            let is_whole = match row {
                Some(row) if row.writable => row.pinned || !pinned,
                // One that is followed opens without its head where that does not read.
                Some(row) => {
                    row.pinned && (row.head.is_some() || stored_head(ledger, id)?.is_none())
                }
                None => false,
            };
            if !is_whole && !access.is_owner() {
                unknown_pins += 1;
            } else if !is_whole {
                let text = format!(
                    "the volume {name:?} does not open, so nobody knows what it needs; see \
                     `xorfs check --repair`"
                );
                return Err(Failure::refused(text).into());
            }
        }
        let mut roots = view.roots();
        let tree = |pin: TreeLink| Root::Tree { node: pin.to_node(), strength: Strength::Pinned };
        roots.pinned.extend(self.pins()?.into_iter().map(tree));
        Ok(Needed { roots, unknown_pins })
    }

    /// Volumes that somebody else writes.
    pub(crate) fn followed(&self) -> Vec<VolumeId> {
        let followed = self.keys.read(|keyring| {
            let access = keyring.volumes().map(|(_, access)| access);
            access.filter(|access| !access.is_owner()).map(Access::volume).collect()
        });
        followed.unwrap_or_default()
    }

    /// The newest known head of every volume; of none while the keyring is locked.
    pub(crate) fn heads(&self, ledger: &dyn Ledger) -> Vec<Head> {
        let ids = self.keys.read(|keyring| {
            keyring.volumes().map(|(_, access)| access.volume()).collect::<Vec<_>>()
        });
        let head = |volume| match stored_head(ledger, volume) {
            Ok(head) => head,
            Err(error) => {
                tracing::warn!(%volume, %error, "could not read a volume's head");
                None
            }
        };
        ids.unwrap_or_default().into_iter().filter_map(head).collect()
    }

    /// Makes a volume of our own.
    pub(crate) fn create(
        &self,
        view: &View,
        name: &str,
        convergence: Convergence,
    ) -> anyhow::Result<()> {
        self.add(view, name, Access::Owner(VolumeSecret::generate_with(convergence)))
    }

    /// Takes up a volume that a live link names. One to write is fetched first, because a
    /// writer that starts from nothing would hide what is there.
    pub(crate) fn follow(
        &self,
        view: &View,
        local: &Arc<Local>,
        network: &Network,
        name: &str,
        link: &Link,
    ) -> anyhow::Result<()> {
        let access = match link {
            Link::Tree(_) => {
                let text = "this link names one state of a file or directory, which never \
                            changes; make a live one with `xorfs link --live` or `xorfs volume \
                            share`";
                return Err(Failure::usage(text).into());
            }
            Link::Read(volume, key) => Access::Reader(*volume, key.clone()),
            Link::Write(secret) => Access::Owner(secret.clone()),
        };
        let volume = access.volume();
        let known = self.keys.read(|keyring| {
            let mut volumes = keyring.volumes();
            volumes
                .find_map(|(known, access)| (access.volume() == volume).then(|| known.to_owned()))
        })?;
        if let Some(known) = known {
            let text = format!("this volume is known already, under the name {known:?}");
            return Err(Failure::refused(text).into());
        }
        let head = Handle::current().block_on(network.fetch_head(volume));
        let head = match (head, &access) {
            (Ok(head), _) => head,
            (Err(_), Access::Reader(..)) => None,
            (Err(error), Access::Owner(_)) => return Err(error.into()),
        };
        if let Some(head) = &head {
            keep_head(local, head)?;
        }
        self.add(view, name, access)
    }

    /// A live link to a volume, to read or also to write.
    pub(crate) fn share(&self, name: &str, write: bool) -> Result<Link, Failure> {
        let access = self.access(name)?;
        match (&access, write) {
            (Access::Owner(secret), true) => Ok(Link::Write(secret.clone())),
            (Access::Reader(..), true) => {
                Err(Failure::refused(format!("the volume {name:?} is not ours to write")))
            }
            (access, false) => Ok(Link::Read(access.volume(), access.read_key())),
        }
    }

    /// Forgets a volume; one of our own only with `force`.
    pub(crate) fn forget(&self, view: &View, name: &str, force: bool) -> anyhow::Result<()> {
        let _changing = locked(&self.changing);
        if self.access(name)?.is_owner() && !force {
            let text = format!(
                "{name:?} is a volume of your own; without its key nobody can write it again. \
                 Keep `xorfs volume share {name} --write` and repeat with --force"
            );
            return Err(Failure::refused(text).into());
        }
        let is_shown = !locked(&self.unopened).contains_key(name);
        if is_shown {
            view.seal_volume(name)?;
        }
        self.keys.change(|keyring| Ok(keyring.remove(name)))?;
        locked(&self.unopened).remove(name);
        if is_shown {
            view.remove_volume(name)?;
        }
        Ok(())
    }

    /// The pinned trees.
    pub(crate) fn pins(&self) -> Result<Vec<TreeLink>, Failure> {
        self.keys.read(|keyring| keyring.pins().to_vec())
    }

    /// The pinned volumes, by name.
    pub(crate) fn pinned_volumes(&self) -> Result<Vec<(String, Access)>, Failure> {
        self.keys.read(|keyring| {
            let pinned = keyring.volumes().filter(|(name, _)| keyring.is_pinned(name));
            pinned.map(|(name, access)| (name.to_owned(), access.clone())).collect()
        })
    }

    /// Pins a tree; false where it was pinned already.
    pub(crate) fn pin(&self, tree: &TreeLink) -> anyhow::Result<bool> {
        self.keys.change(|keyring| Ok(keyring.pin(tree.clone())))
    }

    /// Unpins a tree; false where it was not pinned.
    pub(crate) fn unpin(&self, tree: &TreeLink) -> anyhow::Result<bool> {
        self.keys.change(|keyring| Ok(keyring.unpin(tree)))
    }

    /// Pins or unpins a volume; false where nothing changed.
    pub(crate) fn set_pinned(&self, view: &View, name: &str, pinned: bool) -> anyhow::Result<bool> {
        let _changing = locked(&self.changing);
        self.access(name)?;
        let changed = self.keys.change(|keyring| Ok(keyring.set_pinned(name, pinned)))?;
        view.set_pinned(name, pinned);
        Ok(changed)
    }

    /// What opens a volume.
    pub(crate) fn access(&self, name: &str) -> Result<Access, Failure> {
        self.keys.read(|keyring| keyring.access(name).cloned())?.ok_or_else(|| unknown(name))
    }

    fn add(&self, view: &View, name: &str, access: Access) -> anyhow::Result<()> {
        let _changing = locked(&self.changing);
        self.keys.change(|keyring| keyring.add(name, access.clone()))?;
        if let Err(error) = view.add_volume(name, &access) {
            // Nothing was written to it. Left in the keyring it would only ever be unopened.
            self.keys.change(|keyring| Ok(keyring.remove(name)))?;
            return Err(error.into());
        }
        Ok(())
    }
}

/// Keeps a head that was fetched, unless a newer one is there.
fn keep_head(ledger: &Local, head: &Head) -> anyhow::Result<()> {
    let known = stored_head(ledger, head.volume())?;
    if known.is_some_and(|known| !head.supersedes(&known)) {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.put(Table::Heads, *head.volume().as_bytes(), head.encoded().clone());
    Ok(ledger.commit(batch)?)
}

fn unknown(name: &str) -> Failure {
    Failure::not_found(format!("there is no volume named {name:?}"))
}

/// What these locks hold is replaced as a whole, so a holder that panicked left it whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use xorfs_fuse::ViewConfig;
    use xorfs_store::{BlockStore, Inventory, Memory};

    use super::*;
    use crate::exit::{Exit, classify};

    fn volumes(dir: &tempfile::TempDir) -> Volumes {
        let keys = Keys::open(&dir.path().join("keyring"), None).unwrap();
        Volumes { keys, changing: Mutex::default(), unopened: Mutex::default() }
    }

    fn view(store: &Arc<Memory>) -> Arc<View> {
        let config = ViewConfig { replica_target: Arc::new(|| 1), ..ViewConfig::default() };
        View::new(
            config,
            Arc::clone(store) as Arc<dyn BlockStore>,
            Arc::clone(store) as Arc<dyn Inventory>,
            Arc::clone(store) as Arc<dyn Ledger>,
            Arc::new(|_: Head| {}),
        )
    }

    #[track_caller]
    fn assert_refused(volumes: &Volumes, view: &View, store: &Memory) {
        let refused = volumes.roots(view, store).map(|_| ()).unwrap_err();
        assert_eq!(classify(&refused), Exit::Refused, "{refused:#}");
    }

    /// Seals something into a volume of its own and returns what reads it.
    fn publish(store: &Arc<Memory>) -> Access {
        let secret = VolumeSecret::generate();
        let view = view(store);
        view.add_volume("theirs", &Access::Owner(secret.clone())).unwrap();
        let top = view.resolve(b"theirs").unwrap().ino;
        let owner = xorfs_fuse::Owner { uid: 0, gid: 0 };
        view.make_node(top, b"file", xorfs_fuse::Kind::File, 0o644, owner).unwrap();
        view.seal().unwrap();
        Access::Reader(secret.id(), secret.read_key())
    }

    #[test]
    fn roots_are_known_only_while_every_volume_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (volumes, store) = (volumes(&dir), Arc::new(Memory::new()));
        let view = view(&store);
        let words = Passphrase::new("words".to_owned()).unwrap();
        assert_refused(&volumes, &view, &store);
        volumes.show_all(&view);
        assert!(volumes.roots(&view, &*store).is_ok());

        volumes.set_passphrase(&view, None, Some(&words)).unwrap();
        volumes.lock(&view).unwrap();
        assert_refused(&volumes, &view, &store);
        // As in the middle of `unlock`: the keys are there, the volumes not yet.
        volumes.keys.unlock(&words).unwrap();
        assert_refused(&volumes, &view, &store);
        volumes.show_all(&view);
        assert!(volumes.roots(&view, &*store).is_ok());

        volumes.lock(&view).unwrap();
        volumes.set_passphrase(&view, Some(&words), None).unwrap();
        assert_eq!(view.volumes().len(), 1, "without a passphrase it is open, and shown");
        assert!(volumes.roots(&view, &*store).is_ok());

        // Followed, it stops nobody until it is pinned.
        let theirs = Access::Reader(VolumeSecret::generate().id(), publish(&store).read_key());
        volumes.keys.change(|keyring| keyring.add("theirs", theirs)).unwrap();
        assert!(volumes.roots(&view, &*store).is_ok());
        volumes.keys.change(|keyring| Ok(keyring.set_pinned("theirs", true))).unwrap();
        assert_eq!(volumes.roots(&view, &*store).unwrap().unknown_pins, 1);
    }

    #[test]
    fn a_pinned_volume_without_its_head_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let (volumes, store) = (volumes(&dir), Arc::new(Memory::new()));
        let theirs = publish(&store);
        volumes.keys.change(|keyring| keyring.add("theirs", theirs.clone())).unwrap();
        volumes.keys.change(|keyring| Ok(keyring.set_pinned("theirs", true))).unwrap();
        let whole = view(&store);
        volumes.show_all(&whole);
        let needed = volumes.roots(&whole, &*store).unwrap();
        assert_eq!((needed.roots.pinned.len(), needed.unknown_pins), (1, 0));

        // The head is known and its root block is gone.
        let emptied = Arc::new(Memory::new());
        let head = stored_head(&*store, theirs.volume()).unwrap().unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Heads, *head.volume().as_bytes(), head.encoded().clone());
        emptied.commit(batch).unwrap();
        let lacking = view(&emptied);
        volumes.show_all(&lacking);
        assert_eq!(volumes.roots(&lacking, &*emptied).unwrap().unknown_pins, 1);
    }
}
