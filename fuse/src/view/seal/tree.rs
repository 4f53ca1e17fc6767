//! Writing a snapshot: files, then directories from the deepest up, then the hard-link index.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use xorfs_store::{
    BlockRef, Content, Entry, NameOf, Node, Reader, TreeError, VolumeRoot, Writer, Xattrs, crash,
};

use crate::view::inode::ROOT;
use crate::view::seal::snapshot::{FrozenXattrs, Snapshot};

/// Where everything went.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    /// New content of files and directories.
    pub(super) contents: HashMap<u64, Content>,
    /// Pieces of changed extended attributes; `None` where they stand in the entry.
    pub(super) xattr_pieces: HashMap<u64, Option<BlockRef>>,
    pub(super) index: Content,
}

/// Writes everything of a snapshot but its head. There is no root where the snapshot holds only
/// files without a name.
pub(super) fn write(
    snapshot: &Snapshot,
    writer: &mut Writer,
    reader: &Reader,
) -> Result<(Sealed, Option<VolumeRoot>), TreeError> {
    let mut sealed = Sealed::default();
    let mut drafts = Vec::with_capacity(snapshot.files.len());
    for (ino, edit) in &snapshot.files {
        drafts.push((*ino, writer.file(edit)?));
        crash::point("seal-after-file");
    }
    let xattrs = write_xattrs(snapshot, writer, &mut sealed)?;
    writer.flush()?;
    crash::point("seal-after-files");
    for (ino, draft) in drafts {
        sealed.contents.insert(ino, writer.settle(draft));
    }
    if snapshot.inodes.is_empty() {
        return Ok((sealed, None));
    }
    write_directories(snapshot, &xattrs, writer, &mut sealed)?;
    let changes = index_changes(snapshot, reader)?;
    sealed.index = snapshot.index.clone();
    if !changes.is_empty() {
        let draft = writer.names(&snapshot.index, changes)?;
        writer.flush()?;
        sealed.index = writer.settle(draft);
    }
    let root = VolumeRoot {
        directory: entry(snapshot, &xattrs, &sealed, ROOT),
        names: sealed.index.clone(),
        next_ino: snapshot.next_ino,
    };
    Ok((sealed, Some(root)))
}

fn write_xattrs(
    snapshot: &Snapshot,
    writer: &mut Writer,
    sealed: &mut Sealed,
) -> Result<HashMap<u64, Xattrs>, TreeError> {
    let mut xattrs = HashMap::new();
    for (ino, inode) in &snapshot.inodes {
        let written = match &inode.xattrs {
            FrozenXattrs::Sealed(written) => written.clone(),
            FrozenXattrs::Open(map) => {
                let written = writer.xattrs(map.clone())?;
                let piece = match &written {
                    Xattrs::Inline(_) => None,
                    Xattrs::Sealed(piece) => Some(piece.clone()),
                };
                sealed.xattr_pieces.insert(*ino, piece);
                written
            }
        };
        xattrs.insert(*ino, written);
    }
    Ok(xattrs)
}

fn write_directories(
    snapshot: &Snapshot,
    xattrs: &HashMap<u64, Xattrs>,
    writer: &mut Writer,
    sealed: &mut Sealed,
) -> Result<(), TreeError> {
    let mut by_depth: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for (ino, directory) in &snapshot.directories {
        by_depth.entry(directory.depth).or_default().insert(*ino);
    }
    for directories in by_depth.into_values().rev() {
        let mut drafts = Vec::with_capacity(directories.len());
        for ino in directories {
            let directory = &snapshot.directories[&ino];
            let rewritten = directory.rewritten.iter().map(|(name, ino)| (name, Some(*ino)));
            let mut changes: BTreeMap<_, _> = rewritten.collect();
            changes.extend(directory.changes.iter().map(|(name, change)| (name, *change)));
            let changes = changes.into_iter().map(|(name, change)| {
                (name.clone(), change.map(|ino| entry(snapshot, xattrs, sealed, ino)))
            });
            drafts.push((ino, writer.directory(&directory.base, changes.collect())?));
        }
        writer.flush()?;
        crash::point("seal-after-directories");
        for (ino, draft) in drafts {
            let content = writer.settle(draft);
            sealed.contents.insert(ino, content);
        }
    }
    Ok(())
}

/// What a directory says of an inode now.
fn entry(snapshot: &Snapshot, xattrs: &HashMap<u64, Xattrs>, sealed: &Sealed, ino: u64) -> Entry {
    let inode = &snapshot.inodes[&ino];
    let node = match (&inode.node, sealed.contents.get(&ino)) {
        (Node::File(_), Some(content)) => Node::File(content.clone()),
        (Node::Directory(_), Some(content)) => Node::Directory(content.clone()),
        (node, _) => node.clone(),
    };
    Entry { attr: inode.attr, node, xattrs: xattrs[&ino].clone() }
}

/// What changes in the hard-link index: inodes with several names, the directories above those,
/// and what is neither any more.
fn index_changes(
    snapshot: &Snapshot,
    reader: &Reader,
) -> Result<Vec<(u64, Vec<NameOf>)>, TreeError> {
    let mut changes: BTreeMap<u64, Vec<NameOf>> = BTreeMap::new();
    for (ino, inode) in &snapshot.inodes {
        if matches!(inode.node, Node::Directory(_)) || inode.attr.nlink < 2 {
            continue;
        }
        index_with_above(snapshot, *ino, &mut changes);
    }
    if snapshot.index.root.is_none() {
        return Ok(changes.into_iter().collect());
    }
    let moved = snapshot.inodes.iter().filter(|(ino, inode)| {
        inode.is_dirty && matches!(inode.node, Node::Directory(_)) && **ino != ROOT
    });
    for (ino, _) in moved {
        // What it moved below has to be found now, too.
        if !changes.contains_key(ino) && !reader.names_of(&snapshot.index, *ino)?.is_empty() {
            index_with_above(snapshot, *ino, &mut changes);
        }
    }
    for ino in &snapshot.unindexed {
        let stays = snapshot
            .inodes
            .get(ino)
            .is_some_and(|inode| inode.attr.nlink > 1 || matches!(inode.node, Node::Directory(_)));
        if !stays && !reader.names_of(&snapshot.index, *ino)?.is_empty() {
            changes.insert(*ino, Vec::new());
        }
    }
    let mut different = Vec::with_capacity(changes.len());
    for (ino, names) in changes {
        if reader.names_of(&snapshot.index, ino)? != names {
            different.push((ino, names));
        }
    }
    Ok(different)
}

/// Indexes an inode and the directories above it.
fn index_with_above(snapshot: &Snapshot, ino: u64, changes: &mut BTreeMap<u64, Vec<NameOf>>) {
    let mut waiting = vec![ino];
    while let Some(ino) = waiting.pop() {
        if ino == ROOT || changes.contains_key(&ino) {
            continue;
        }
        if let Some(inode) = snapshot.inodes.get(&ino) {
            changes.insert(ino, sorted(&inode.names));
            waiting.extend(inode.names.iter().map(|name| name.parent));
        }
    }
}

fn sorted(names: &[NameOf]) -> Vec<NameOf> {
    let mut names = names.to_vec();
    names.sort();
    names
}
