//! The volumes of this home: making, following, sharing and forgetting them.
//!
//! Invariant: the keyring on disk changes first, then the view, so that a crash never leaves a
//! volume that was written to without the secret that opens it. One volume stands under one name.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::runtime::Handle;
use xorfs_fuse::View;
use xorfs_net::Network;
use xorfs_store::{
    Access, Batch, Head, Keyring, Ledger, Link, Local, Table, VolumeId, VolumeSecret, stored_head,
};

use crate::exit::Failure;
use crate::home::Home;

/// The volume that every home has.
const FIRST_VOLUME: &str = "main";

/// The keyring, in memory and on disk.
pub(crate) struct Volumes {
    keyring: Mutex<Keyring>,
    home: Home,
}

impl Volumes {
    /// Reads the keyring; a new one starts with the volume `main`.
    pub(crate) fn open(home: &Home) -> anyhow::Result<Self> {
        let mut keyring = Keyring::open(&home.keyring())
            .with_context(|| format!("in the home {}", home.dir().display()))?;
        if !home.keyring().exists() {
            keyring.add(FIRST_VOLUME, Access::Owner(VolumeSecret::generate()))?;
            keyring.save(&home.keyring())?;
        }
        Ok(Self { keyring: Mutex::new(keyring), home: home.clone() })
    }

    /// Shows every volume in the view.
    pub(crate) fn show_all(&self, view: &View) -> anyhow::Result<()> {
        for (name, access) in self.lock().volumes() {
            view.add_volume(name, access)
                .with_context(|| format!("could not open the volume {name:?}"))?;
        }
        Ok(())
    }

    /// Volumes that somebody else writes.
    pub(crate) fn followed(&self) -> Vec<VolumeId> {
        let keyring = self.lock();
        let access = keyring.volumes().map(|(_, access)| access);
        access.filter(|access| matches!(access, Access::Reader(..))).map(Access::volume).collect()
    }

    /// The newest known head of every volume.
    pub(crate) fn heads(&self, ledger: &dyn Ledger) -> Vec<Head> {
        let ids: Vec<_> = self.lock().volumes().map(|(_, access)| access.volume()).collect();
        let head = |volume| match stored_head(ledger, volume) {
            Ok(head) => head,
            Err(error) => {
                tracing::warn!(%volume, %error, "could not read a volume's head");
                None
            }
        };
        ids.into_iter().filter_map(head).collect()
    }

    /// Makes a volume of our own.
    pub(crate) fn create(&self, view: &View, name: &str) -> anyhow::Result<()> {
        self.add(view, name, Access::Owner(VolumeSecret::generate()))
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
        let known = self
            .lock()
            .volumes()
            .find_map(|(known, access)| (access.volume() == volume).then(|| known.to_owned()));
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
        let keyring = self.lock();
        match (keyring.access(name).ok_or_else(|| unknown(name))?, write) {
            (Access::Owner(secret), true) => Ok(Link::Write(secret.clone())),
            (Access::Reader(..), true) => {
                Err(Failure::refused(format!("the volume {name:?} is not ours to write")))
            }
            (access, false) => Ok(Link::Read(access.volume(), access.read_key())),
        }
    }

    /// Forgets a volume; one of our own only with `force`.
    pub(crate) fn forget(&self, view: &View, name: &str, force: bool) -> anyhow::Result<()> {
        let mut keyring = self.lock();
        let access = keyring.access(name).ok_or_else(|| unknown(name))?;
        if matches!(access, Access::Owner(_)) && !force {
            let text = format!(
                "{name:?} is a volume of your own; without its key nobody can write it again. \
                 Keep `xorfs volume share {name} --write` and repeat with --force"
            );
            return Err(Failure::refused(text).into());
        }
        view.remove_volume(name)?;
        keyring.remove(name);
        Ok(keyring.save(&self.home.keyring())?)
    }

    fn add(&self, view: &View, name: &str, access: Access) -> anyhow::Result<()> {
        let mut keyring = self.lock();
        let mut changed = keyring.clone();
        changed.add(name, access.clone())?;
        changed.save(&self.home.keyring())?;
        if let Err(error) = view.add_volume(name, &access) {
            // Nothing was written to it. Left in the keyring it would keep the next node, which
            // opens every volume, from starting.
            keyring.save(&self.home.keyring())?;
            return Err(error.into());
        }
        *keyring = changed;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Keyring> {
        // The keyring is whole after every statement, so a panic elsewhere leaves nothing behind.
        self.keyring.lock().unwrap_or_else(PoisonError::into_inner)
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
