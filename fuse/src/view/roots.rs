//! What a view needs of the store: the roots of a garbage collection.
//!
//! Each volume's head and what is open in it are taken under one lock, so that nothing can go
//! from the one to the other unseen. What is being sealed meanwhile is safe by the sealer's guard.

use xorfs_store::gc::{Root, Strength};
use xorfs_store::{Content, Node};

use crate::view::View;
use crate::view::inode::{Body, HeldXattrs, Inode};
use crate::view::volume::{Capability, Volume};

/// What must stay.
#[derive(Debug, Default)]
pub struct ViewRoots {
    /// Volumes that are written here, and files that are open in them. All that is below has to
    /// be readable to be kept.
    pub owned: Vec<Root>,
    /// Volumes that others write and that are pinned here. They may not be here whole.
    pub pinned: Vec<Root>,
    /// Links in use, and files that are open in what others write. What is below them need not be
    /// held here.
    pub links: Vec<Root>,
}

impl View {
    /// What must stay while the view is as it is now. Volumes that are followed without being
    /// pinned are no roots; files that are open in them are.
    pub fn roots(&self) -> ViewRoots {
        let mut roots = ViewRoots::default();
        let volumes = self.slots().all();
        for volume in &volumes {
            volume.add_roots(&mut roots);
        }
        roots
    }

    /// Pins a volume or not: whether what is sealed from now on may be evicted once it is
    /// replicated, and how strong a root it is. False where there is no such volume.
    pub fn set_pinned(&self, name: &str, pinned: bool) -> bool {
        match self.named(name) {
            Some(volume) => {
                volume.set_pinned(pinned);
                true
            }
            None => false,
        }
    }
}

impl Volume {
    fn add_roots(&self, roots: &mut ViewRoots) {
        let is_writable = self.is_writable();
        let state = self.lock();
        let key = match &self.capability {
            Capability::Write { secret, .. } => Some(secret.read_key()),
            Capability::Read { key, .. } if !self.is_link => Some(key.clone()),
            Capability::Read { .. } | Capability::Tree => None,
        };
        if let (Some(key), Some(head)) = (key, &state.head)
            && (is_writable || self.is_pinned())
        {
            let strength = if self.is_pinned() { Strength::Pinned } else { Strength::Kept };
            let list = if is_writable { &mut roots.owned } else { &mut roots.pinned };
            list.push(Root::Volume { head: Box::new(head.clone()), key, strength });
        }
        // What lost its name and is still open is below no head. The others in the table are
        // mostly below it, and cost little.
        for inode in state.inodes.values() {
            if is_writable || inode.opens > 0 {
                inode.add_roots(if is_writable { &mut roots.owned } else { &mut roots.links });
            }
        }
        if self.is_link
            && state.references > 0
            && let Some(top) = state.inodes.get(&crate::view::inode::ROOT)
            && let Node::Directory(content) = top.body.sealed_node()
        {
            roots.links.push(held(Node::Directory(content)));
        }
    }
}

impl Inode {
    fn add_roots(&self, roots: &mut Vec<Root>) {
        if let Body::File(edit) = &self.body
            && edit.base().root.is_some()
        {
            roots.push(held(Node::File(edit.base().clone())));
        }
        if let HeldXattrs::Sealed(piece) | HeldXattrs::Open { sealed: Some(piece), .. } =
            &self.xattrs
        {
            // One piece without maps above it is what a short file is.
            let content = Content { root: Some(piece.clone()), ..Content::default() };
            roots.push(held(Node::File(content)));
        }
    }
}

fn held(node: Node) -> Root {
    Root::Tree { node, strength: Strength::Held }
}
