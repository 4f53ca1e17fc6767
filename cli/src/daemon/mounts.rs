//! The mounts of this node: made and taken away by request, and noticed when they end.
//!
//! Paths are absolute and canonical: callers resolve theirs. Every call blocks and runs on a
//! blocking thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use xorfs_fuse::{Mount, MountOptions, View};

use crate::api::tree::below;
use crate::exit::Failure;

/// What is mounted where.
#[derive(Default)]
pub(crate) struct Mounts {
    at: Mutex<BTreeMap<PathBuf, Mount>>,
    /// Cancelled when the last mount is gone, where the node lives for its mount only.
    last_gone: CancellationToken,
}

impl Mounts {
    /// Mounts the view at `dir`, usable on return.
    pub(crate) fn mount(
        &self,
        view: &Arc<View>,
        dir: &Path,
        options: MountOptions,
    ) -> anyhow::Result<()> {
        if self.lock().contains_key(dir) {
            let text = format!("{} is mounted already", dir.display());
            return Err(Failure::refused(text).into());
        }
        let mount = Mount::start(Arc::clone(view), dir, options)?;
        tracing::info!(dir = %dir.display(), "mounted");
        self.lock().insert(dir.to_owned(), mount);
        Ok(())
    }

    /// Takes a mount away; whatever is open in it fails from now on.
    pub(crate) fn unmount(&self, dir: &Path) -> anyhow::Result<()> {
        let Some(mount) = self.lock().remove(dir) else {
            let text = format!("{} is no mount of this node", dir.display());
            return Err(Failure::not_found(text).into());
        };
        if let Err(error) = mount.unmount() {
            // It goes on, and stays ours to take away.
            self.lock().insert(dir.to_owned(), mount);
            return Err(error.into());
        }
        tracing::info!(dir = %dir.display(), "unmounted");
        self.note_gone();
        Ok(())
    }

    /// Takes every mount away; failures are logged, because the node is leaving.
    pub(crate) fn unmount_all(&self) {
        for (dir, mount) in std::mem::take(&mut *self.lock()) {
            if let Err(error) = mount.unmount() {
                tracing::warn!(dir = %dir.display(), %error, "could not unmount");
            }
        }
    }

    /// Forgets mounts that somebody else took away.
    pub(crate) fn drop_ended(&self) {
        let mut mounts = self.lock();
        let before = mounts.len();
        mounts.retain(|dir, mount| {
            let ended = mount.wait_ended(Some(Duration::ZERO));
            if ended {
                tracing::info!(dir = %dir.display(), "unmounted from outside");
            }
            !ended
        });
        drop(mounts);
        if before > 0 {
            self.note_gone();
        }
    }

    /// Where mounts are.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        self.lock().keys().cloned().collect()
    }

    /// Ends when there was a mount and the last one is gone.
    pub(crate) async fn all_gone(&self) {
        self.last_gone.cancelled().await;
    }

    /// The view's path of an absolute path below one of the mounts.
    pub(crate) fn path_in(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        self.lock().keys().find_map(|dir| below(dir, path)).ok_or_else(|| {
            Failure::not_found(format!("{} is in no mount of this node", path.display()))
        })
    }

    fn note_gone(&self) {
        if self.lock().is_empty() {
            self.last_gone.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Mount>> {
        // The map is whole after every statement, so a panic elsewhere leaves nothing behind.
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
