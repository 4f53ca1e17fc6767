//! Requests about names: stat, list, make, link, copies.
//!
//! A path is a path in the view (`main/dir/file`, `link/xorfs:…/file`), or with `mounted` an
//! absolute path below one of this node's mounts. Following symbolic links is the caller's.
//! Invariant: every inode that a request looks up is let go before it is answered.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::extract::State;
use xorfs_fuse::{FsError, InodeNo, Kind, Owner, Stat, View};

use crate::api::query::Query;
use crate::api::server::{ApiError, blocking};
use crate::api::types::{Attributes, Copies, EntryRow, LinkReply, Name, XattrRow};
use crate::daemon::Daemon;
use crate::exit::Failure;

/// An inode that was looked up, and is let go when dropped.
pub(crate) struct Held<'a> {
    view: &'a View,
    /// What the lookup found.
    pub(crate) stat: Stat,
}

impl<'a> Held<'a> {
    /// Takes charge of one lookup.
    pub(crate) fn new(view: &'a View, stat: Stat) -> Self {
        Self { view, stat }
    }

    /// Looks up a whole path.
    pub(crate) fn resolve(view: &'a View, path: &[u8]) -> anyhow::Result<Self> {
        match view.resolve(path) {
            Ok(stat) => Ok(Self { view, stat }),
            Err(FsError::NotFound) if !path.contains(&b'/') => {
                let name = Name(path.to_vec());
                Err(Failure::not_found(format!("there is no volume named {name}")).into())
            }
            Err(error) => Err(error).with_context(|| shown(path)),
        }
    }

    /// The inode.
    pub(crate) fn ino(&self) -> InodeNo {
        self.stat.ino
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.view.forget(self.stat.ino, 1);
    }
}

/// A path of the view for people: `VOLUME:/PATH`, or the link's.
pub(crate) fn shown(path: &[u8]) -> String {
    let text = Name(path.to_vec()).to_string();
    if let Some(link) = text.strip_prefix("link/") {
        return link.to_owned();
    }
    match text.split_once('/') {
        Some((volume, rest)) => format!("{volume}:/{rest}"),
        None => format!("{text}:/"),
    }
}

/// The path that a request is about.
pub(crate) fn path_of(daemon: &Daemon, query: &Query) -> Result<Vec<u8>, Failure> {
    match query.bytes("mounted") {
        Some(mounted) => daemon.path_in_mount(Name(mounted.to_vec()).as_path()),
        None => Ok(query.required("path")?.to_vec()),
    }
}

/// A path's directory, looked up, and the name in it.
pub(crate) fn parent_of<'v, 'p>(
    view: &'v View,
    path: &'p [u8],
) -> anyhow::Result<(Held<'v>, &'p [u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/');
    let at = at.ok_or_else(|| Failure::refused("only volumes stand at the top"))?;
    Ok((Held::resolve(view, &path[..at])?, &path[at + 1..]))
}

/// Who owns what a request makes.
pub(crate) fn owner(attributes: &Attributes) -> Owner {
    Owner { uid: attributes.uid, gid: attributes.gid }
}

pub(crate) async fn stat(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<EntryRow>, ApiError> {
    let row = move || {
        let view = daemon.view();
        let held = Held::resolve(view, &path_of(&daemon, &query)?)?;
        row_of(view, &held.stat, query.flag("xattrs"))
    };
    Ok(Json(blocking(row).await?))
}

pub(crate) async fn list(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<Vec<EntryRow>>, ApiError> {
    let rows = move || {
        let (view, with_xattrs) = (daemon.view(), query.flag("xattrs"));
        let path = path_of(&daemon, &query)?;
        let held = Held::resolve(view, &path)?;
        let entries = view.list(held.ino()).with_context(|| shown(&path))?;
        let named = entries.into_iter().map(|entry| {
            let mut row = if with_xattrs || entry.stat.kind == Kind::Symlink {
                let found = Held::new(view, view.lookup(held.ino(), &entry.name)?);
                row_of(view, &found.stat, with_xattrs)?
            } else {
                EntryRow::new(&entry.stat)
            };
            row.name = Some(Name(entry.name));
            Ok(row)
        });
        named.collect::<anyhow::Result<Vec<_>>>()
    };
    Ok(Json(blocking(rows).await?))
}

/// Makes a directory and those above it; one that is there already is fine.
pub(crate) async fn make_directory(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<EntryRow>, ApiError> {
    let make = move || {
        let (path, attributes) = (query.required("path")?, query.attributes()?);
        let made = make_path(daemon.view(), path, attributes.mode, owner(&attributes))?;
        Ok(EntryRow::new(&made.stat))
    };
    Ok(Json(blocking(make).await?))
}

/// Makes a directory and those above it, unless they are there.
pub(crate) fn make_path<'v>(
    view: &'v View,
    path: &[u8],
    mode: u32,
    owner: Owner,
) -> anyhow::Result<Held<'v>> {
    let mut done = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    let mut held = Held::resolve(view, &path[..done])?;
    for name in path[done..].split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        done += name.len() + 1;
        let child = match view.lookup(held.ino(), name) {
            Ok(stat) if stat.kind == Kind::Directory => Held::new(view, stat),
            Ok(stat) => {
                drop(Held::new(view, stat));
                let text = format!("{} exists and is no directory", shown(&path[..done]));
                return Err(Failure::refused(text).into());
            }
            Err(FsError::NotFound) => {
                let made = view.make_node(held.ino(), name, Kind::Directory, mode, owner);
                match made {
                    // Another request was quicker.
                    Err(FsError::Exists) => Held::new(view, view.lookup(held.ino(), name)?),
                    made => Held::new(view, made.with_context(|| shown(&path[..done]))?),
                }
            }
            Err(error) => return Err(error).with_context(|| shown(&path[..done])),
        };
        held = child;
    }
    Ok(held)
}

/// The link of a path; `live` asks for that of its whole volume.
pub(crate) async fn link(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<LinkReply>, ApiError> {
    let link = move || {
        let path = path_of(&daemon, &query)?;
        let held = Held::resolve(daemon.view(), &path)?;
        let link = if query.flag("live") {
            // A live link opens a whole volume: who asks for that of a folder means less.
            let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
            let volume = names.next().unwrap_or(&path);
            if names.next().is_some() {
                let text = format!(
                    "a live link opens a whole volume, not just {}; make a volume for it with \
                     `xorfs volume create`, or link {}:/",
                    shown(&path),
                    String::from_utf8_lossy(volume)
                );
                return Err(Failure::usage(text).into());
            }
            daemon.share_volume(&String::from_utf8_lossy(volume), false)?
        } else {
            daemon.view().link_of(held.ino()).with_context(|| shown(&path))?
        };
        Ok(LinkReply { link: link.to_string() })
    };
    Ok(Json(blocking(link).await?))
}

/// How many copies there are of all that a path names.
pub(crate) async fn copies(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<Copies>, ApiError> {
    let copies = move || {
        let path = path_of(&daemon, &query)?;
        let held = Held::resolve(daemon.view(), &path)?;
        let blocks = daemon.view().blocks_of(held.ino(), true).with_context(|| shown(&path))?;
        daemon.copies(&blocks)
    };
    Ok(Json(blocking(copies).await?))
}

/// Seals a volume, that of a path, or all of them.
pub(crate) async fn seal(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<()>, ApiError> {
    let seal = move || {
        match query.text("volume")? {
            Some(name) => drop(daemon.view().seal_volume(name)?),
            None => daemon.view().seal()?,
        }
        daemon.wake_publisher();
        Ok(())
    };
    blocking(seal).await?;
    Ok(Json(()))
}

/// Makes everything written to a path's volume crash-safe on this disk.
pub(crate) async fn fsync(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<()>, ApiError> {
    let sync = move || {
        let held = Held::resolve(daemon.view(), &path_of(&daemon, &query)?)?;
        Ok(daemon.view().fsync(held.ino())?)
    };
    blocking(sync).await?;
    Ok(Json(()))
}

/// What a looked-up entry is.
fn row_of(view: &View, stat: &Stat, with_xattrs: bool) -> anyhow::Result<EntryRow> {
    let mut row = EntryRow::new(stat);
    if stat.kind == Kind::Symlink {
        row.target = Some(Name(view.read_link(stat.ino)?));
    }
    // The mount's own directories have none.
    if with_xattrs && let Ok(xattrs) = view.all_xattrs(stat.ino) {
        let pair = |(name, value)| XattrRow { name: Name(name), value: Name(value) };
        row.xattrs = xattrs.into_iter().map(pair).collect();
    }
    Ok(row)
}

/// A path below a mount as the view sees it, where `mounted` is below `mount`.
pub(crate) fn below(mount: &Path, mounted: &Path) -> Option<Vec<u8>> {
    mounted.strip_prefix(mount).ok().map(|rest| Name::from(rest).0)
}
