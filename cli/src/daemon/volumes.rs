//! The volumes of this home: opening, making, following, sharing and forgetting them, and
//! closing all of them while the keyring is locked.
//!
//! Invariant: the keyring on disk changes first, then the view, so that a crash never leaves a
//! volume that was written to without the secret that opens it. One volume stands under one name.
//! A volume that does not open is told in the status and keeps nothing else from working.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::runtime::Handle;
use xorfs_fuse::View;
use xorfs_net::Network;
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
            self.show_all(view);
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
            view.close_all()?;
            locked(&self.unopened).clear();
        }
        Ok(())
    }

    /// Sets another passphrase, or takes it off. Slow on purpose.
    pub(crate) fn set_passphrase(
        &self,
        current: Option<&Passphrase>,
        new: Option<&Passphrase>,
    ) -> anyhow::Result<()> {
        self.keys.set_passphrase(current, new)
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
        if locked(&self.unopened).remove(name).is_none() {
            view.remove_volume(name)?;
        }
        self.keys.change(|keyring| Ok(keyring.remove(name)))?;
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
