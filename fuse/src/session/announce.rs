//! Tells the kernel what changed other than through the mount.
//!
//! From a thread of its own and under no lock: the kernel may answer an invalidation only after
//! it has written out or read pages, which are requests to this very mount.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::thread;

use fuser::{INodeNo, Notifier};

use crate::adapter::Opened;
use crate::{ChangeHook, InodeNo, View};

/// Announcements waiting at most. One that does not fit is dropped: the kernel then believes the
/// old attributes until their lifetime ends, a second later.
const WAITING_MAX: usize = 1024;

/// From here on the kernel drops attributes only, not pages (`fuse_notify_inval_inode_out`).
const ATTRIBUTES_ONLY: i64 = -1;

/// Ends the announcing when dropped; does not wait for the announcement under way.
pub(super) struct Announcer {
    /// Owns the sending end, and the view holds it weakly.
    _hook: Arc<ChangeHook>,
}

impl Announcer {
    /// Starts announcing what the view says changed.
    pub(super) fn start(
        view: &View,
        opened: Arc<Opened>,
        notifier: Notifier,
    ) -> std::io::Result<Self> {
        let (sender, changes) = sync_channel(WAITING_MAX);
        thread::Builder::new()
            .name("xorfs-announce".into())
            .spawn(move || announce(&changes, &opened, &notifier))?;
        let hook: Arc<ChangeHook> = Arc::new(move |inodes: &[InodeNo]| {
            if let Err(TrySendError::Full(dropped)) = sender.try_send(inodes.to_vec()) {
                let inodes = dropped.len();
                tracing::debug!(inodes, "too many changes to announce them all");
            }
        });
        view.on_change(&hook);
        Ok(Self { _hook: hook })
    }
}

fn announce(changes: &Receiver<Vec<InodeNo>>, opened: &Opened, notifier: &Notifier) {
    for inodes in changes {
        for ino in inodes {
            let from = if opened.contains(ino) { ATTRIBUTES_ONLY } else { 0 };
            // 0 as the length means up to the end. That it is not known there is no error.
            if let Err(error) = notifier.inval_inode(INodeNo(ino.0), from, 0) {
                tracing::debug!(ino = ino.0, %error, "the kernel refused an invalidation");
            }
        }
    }
}
