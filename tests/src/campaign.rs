//! What a crash campaign does to a volume, and what must be left of it.
//!
//! A run is a sequence of [`Op`]s that follows from a seed. [`Model`] is a volume in memory; the
//! same operation is done to it and to a real [`View`]. Every operation is one change, so that a
//! store which keeps a prefix of the changes holds exactly the model after some operation.

mod model;
mod op;

use std::sync::Arc;
use std::time::Duration;

pub use model::{Model, Thing};
pub use op::{Op, Upkeep};

use xorfs_fuse::{
    FsError, InodeNo, Kind, Owner, RenameMode, SetAttr, Stat, View, ViewConfig, XattrMode,
};
use xorfs_store::gc::{Marked, Root, Strength, Swept, mark};
use xorfs_store::{
    Access, BlockStore, Head, Inventory, Ledger, Local, LocalConfig, Reader, TreeError,
    VolumeSecret, stored_head,
};

/// The volume of a campaign.
pub const VOLUME: &str = "main";

/// The attribute that operations set.
const NOTE: &[u8] = b"user.note";

const OWNER: Owner = Owner { uid: 0, gid: 0 };

/// A small store, so that it evicts and reclaims soon.
pub fn local_config() -> LocalConfig {
    LocalConfig { quota_bytes: Some(96 << 20), memory_bytes: 16 << 20, ..LocalConfig::default() }
}

/// A view of the campaign's volume that seals every few milliseconds.
pub fn open_view(store: &Arc<Local>) -> Result<Arc<View>, FsError> {
    let config = ViewConfig {
        seal_quiet: Duration::from_millis(15),
        seal_age_max: Duration::from_millis(60),
        journal_batch_bytes_max: 1 << 20,
        cache_bytes: 8 << 20,
        ..ViewConfig::default()
    };
    let view = View::new(
        config,
        Arc::clone(store) as Arc<dyn BlockStore>,
        Arc::clone(store) as Arc<dyn Inventory>,
        Arc::clone(store) as Arc<dyn Ledger>,
        Arc::new(|_: Head| {}),
    );
    view.add_volume(VOLUME, &Access::Owner(secret()))?;
    Ok(view)
}

/// The key of the campaign's volume.
pub fn secret() -> VolumeSecret {
    VolumeSecret::from_bytes([7; 32])
}

/// Collects the garbage of a store that holds the campaign's volume and nothing else, as a daemon
/// does while nothing is open. With what was done, the marks that it went by.
///
/// # Errors
/// The first metadata that does not read, or the write that failed.
pub fn collect(store: &Arc<Local>) -> Result<(Swept, Marked), TreeError> {
    let reader = Reader::new(Arc::clone(store) as Arc<dyn BlockStore>, 8 << 20);
    let horizon = store.horizon();
    let secret = secret();
    let head = stored_head(&**store, secret.id())?;
    let roots: Vec<Root> = head
        .into_iter()
        .map(|head| Root::Volume {
            head: Box::new(head),
            key: secret.read_key(),
            strength: Strength::Pinned,
        })
        .collect();
    let mut marked = Marked::default();
    mark(&reader, &roots, &mut marked)?;
    Ok((store.sweep(horizon, &marked, false)?, marked))
}

/// Does an operation to the volume. What it does not fit is refused, as in the model.
///
/// # Errors
/// What no operation of a campaign should meet.
pub fn perform(view: &View, op: &Op) -> Result<(), FsError> {
    match attempt(view, op) {
        Err(
            FsError::NotFound
            | FsError::Exists
            | FsError::NotEmpty
            | FsError::IsDirectory
            | FsError::NotDirectory
            | FsError::Invalid(_),
        ) => Ok(()),
        done => done,
    }
}

fn attempt(view: &View, op: &Op) -> Result<(), FsError> {
    match op {
        Op::Make { path, folder } => with_parent(view, path, |parent, name| {
            let kind = if *folder { Kind::Directory } else { Kind::File };
            let made = view.make_node(parent, name, kind, 0o644, OWNER)?;
            view.forget(made.ino, 1);
            Ok(())
        }),
        Op::Write { path, offset, bytes } => {
            with_file(view, path, |file| view.write(file.ino, *offset as u64, bytes))
        }
        Op::Resize { path, size } => with_file(view, path, |file| {
            let change = SetAttr { size: Some(*size as u64), ..SetAttr::default() };
            view.set_attr(file.ino, &change).map(drop)
        }),
        Op::Mode { path, mode } => with(view, path, |thing| {
            let change = SetAttr { mode: Some(*mode), ..SetAttr::default() };
            view.set_attr(thing.ino, &change).map(drop)
        }),
        Op::Note { path, note } => {
            with(view, path, |thing| view.set_xattr(thing.ino, NOTE, Some(note), XattrMode::Any))
        }
        Op::Remove { path, folder } => with_parent(view, path, |parent, name| match folder {
            true => view.rmdir(parent, name),
            false => view.unlink(parent, name),
        }),
        Op::Rename { from, to } => with_parent(view, from, |parent, name| {
            with_parent(view, to, |to_parent, to_name| {
                view.rename(parent, name, to_parent, to_name, RenameMode::Replace)
            })
        }),
    }
}

/// The volume as it is, read through the view.
///
/// # Errors
/// The first thing that does not read.
pub fn read_out(view: &View) -> Result<Model, FsError> {
    let mut model = Model::default();
    let mut open = vec![String::new()];
    while let Some(folder) = open.pop() {
        let above = view.resolve(format!("{VOLUME}/{folder}").as_bytes())?;
        for entry in view.list(above.ino)? {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let stat = view.resolve(format!("{VOLUME}/{path}").as_bytes())?;
            let note = match view.xattr(stat.ino, NOTE) {
                Ok(note) => Some(note),
                Err(FsError::NoXattr) => None,
                Err(error) => return Err(error),
            };
            let content = match stat.kind {
                Kind::Directory => None,
                // A byte more than there should be is asked for, too.
                _ => Some(Arc::new(view.read(stat.ino, 0, stat.size as usize + 1)?.to_vec())),
            };
            if content.is_none() {
                open.push(path.clone());
            }
            model.things.insert(path, Thing { content, mode: stat.mode, note });
            view.forget(stat.ino, 1);
        }
        view.forget(above.ino, 1);
    }
    Ok(model)
}

fn with<T>(
    view: &View,
    path: &str,
    act: impl FnOnce(Stat) -> Result<T, FsError>,
) -> Result<T, FsError> {
    let stat = view.resolve(format!("{VOLUME}/{path}").as_bytes())?;
    let done = act(stat);
    view.forget(stat.ino, 1);
    done
}

fn with_file<T>(
    view: &View,
    path: &str,
    act: impl FnOnce(Stat) -> Result<T, FsError>,
) -> Result<T, FsError> {
    with(view, path, |stat| match stat.kind {
        Kind::File => act(stat),
        _ => Err(FsError::IsDirectory),
    })
}

fn with_parent<T>(
    view: &View,
    path: &str,
    act: impl FnOnce(InodeNo, &[u8]) -> Result<T, FsError>,
) -> Result<T, FsError> {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    with(view, above, |parent| act(parent.ino, name.as_bytes()))
}
