//! Taking files in: many items a request, see `wire`.
//!
//! A request's items are done in order; one that is refused is answered with its number and does
//! not hold up the others. Where the store is full the request fails as a whole and at once,
//! because every further item would. Memory: what waits of the body, one header and one run, and
//! what a file that is not complete has gathered.

use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use xorfs_fuse::{FsError, ImportBody, InodeNo, Kind, Owner, View};
use xorfs_store::SourceStamp;

use crate::api::body::{BodyReader, receive};
use crate::api::incoming::{Incoming, Temporaries, told};
use crate::api::server::{ApiError, blocking};
use crate::api::tree::{Held, make_path, parent_of, shown};
use crate::api::wire::{
    ASKED_MAX, DATA_BYTES_MAX, HEADER_BYTES_MAX, ImportReply, Item, ItemProblem, Meta, Special,
    Stamp, decode,
};
use crate::daemon::Daemon;
use crate::exit::{Failure, classify};

/// Longest request of `unchanged` in bytes.
const ASKED_BYTES_MAX: usize = 32 << 20;

/// Takes in items from a request's body.
pub(crate) async fn import(
    State(daemon): State<Arc<Daemon>>,
    body: Body,
) -> Result<Json<ImportReply>, ApiError> {
    let work = |daemon: &Daemon, body| {
        let importer = Importer::new(daemon.view(), daemon.temporaries(), body);
        Ok(Json(importer.run()?))
    };
    receive(daemon, body, work).await
}

/// For each path the inode that a put from a source of its stamp left there; 0 where it has to be
/// put again.
pub(crate) async fn unchanged(
    State(daemon): State<Arc<Daemon>>,
    body: Body,
) -> Result<Vec<u8>, ApiError> {
    let asked = axum::body::to_bytes(body, ASKED_BYTES_MAX).await.context("too much is asked")?;
    let find = move || {
        let asked: Vec<(Vec<u8>, Stamp)> =
            postcard::from_bytes(&asked).map_err(|_| Failure::usage("no list of paths"))?;
        if asked.len() > ASKED_MAX {
            return Err(Failure::usage("too many paths").into());
        }
        let asked: Vec<(&[u8], SourceStamp)> =
            asked.iter().map(|(path, stamp)| (path.as_slice(), (*stamp).into())).collect();
        let found = daemon.view().unchanged(&asked)?;
        let found: Vec<u64> = found.into_iter().map(|ino| ino.map_or(0, |ino| ino.0)).collect();
        postcard::to_stdvec(&found).context("an answer always encodes")
    };
    blocking(find).await
}

/// One running import.
struct Importer<'a> {
    view: &'a View,
    temporaries: &'a Temporaries,
    body: BodyReader,
    parents: Parents<'a>,
    reply: ImportReply,
}

/// The directory that was asked for last: items of one directory come together.
struct Parents<'a> {
    view: &'a View,
    last: Option<(Vec<u8>, Held<'a>)>,
}

impl<'a> Importer<'a> {
    fn new(view: &'a View, temporaries: &'a Temporaries, body: BodyReader) -> Self {
        let parents = Parents { view, last: None };
        Self { view, temporaries, body, parents, reply: ImportReply::default() }
    }

    fn run(mut self) -> anyhow::Result<ImportReply> {
        let mut number = 0;
        while !self.body.is_at_end()? {
            let item = self.next_item()?;
            match self.take(item)? {
                Ok(()) => {}
                Err(error) if is_full(&error) => return Err(error),
                Err(error) => self.reply.problems.push(ItemProblem {
                    item: number,
                    kind: classify(&error),
                    message: format!("{error:#}"),
                }),
            }
            number += 1;
        }
        Ok(self.reply)
    }

    fn next_item(&mut self) -> Result<Item, Failure> {
        let length = self.body.take(4)?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length > HEADER_BYTES_MAX {
            return Err(Failure::usage("an item of an import is too long"));
        }
        decode(&self.body.take(length)?)
    }

    /// Does one item. The outer error is the request's, the inner one the item's.
    fn take(&mut self, item: Item) -> anyhow::Result<anyhow::Result<()>> {
        Ok(match item {
            Item::Directory { path, meta } => {
                let owner = Owner { uid: meta.uid, gid: meta.gid };
                make_path(self.view, &path, meta.mode & 0o7777, owner).map(drop)
            }
            Item::File { path, meta, size, stamp } => {
                let stamp = stamp.map(SourceStamp::from);
                return self.file(&path, meta, size, stamp.as_ref());
            }
            Item::Special { path, meta, node } => {
                self.special(&path, meta, node).with_context(|| shown(&path))
            }
            Item::Links { file, names, stamp } => {
                let stamp = stamp.map(SourceStamp::from);
                self.links(&file, &names, stamp.as_ref()).with_context(|| shown(&file))
            }
            Item::Dress { path, meta } => self.dress(&path, meta).with_context(|| shown(&path)),
            Item::Data { .. } | Item::End | Item::Abort => {
                return Err(Failure::usage("a run without a file").into());
            }
        })
    }

    /// Takes a file and all of its runs. What refuses it is known only after they are read.
    fn file(
        &mut self,
        path: &[u8],
        meta: Meta,
        size: u64,
        stamp: Option<&SourceStamp>,
    ) -> anyhow::Result<anyhow::Result<()>> {
        let mut incoming = Ok(Incoming::new(self.view, self.temporaries, path));
        loop {
            match self.next_item()? {
                Item::Data { offset, length } if length as usize <= DATA_BYTES_MAX => {
                    let bytes = Bytes::from_owner(self.body.take(length as usize)?);
                    if let Ok(file) = &mut incoming
                        && let Err(error) = file.write(offset, bytes)
                    {
                        incoming = Err(error);
                    }
                    if incoming.as_ref().is_err_and(is_full) {
                        break;
                    }
                }
                Item::Abort => return Ok(Ok(())),
                Item::End => break,
                _ => return Err(Failure::usage("a file that does not end").into()),
            }
        }
        let finished = incoming.and_then(|file| {
            let (parent, name) = self.parents.of(path)?;
            let import = meta.with(ImportBody::Directory)?;
            file.finish((parent, name), import, size, stamp)
        });
        Ok(finished.map(drop).with_context(|| shown(path)))
    }

    fn special(&mut self, path: &[u8], meta: Meta, node: Special) -> anyhow::Result<()> {
        let (parent, name) = self.parents.of(path)?;
        let import = meta.with(node.into())?;
        self.view.import(parent, name, &import, None).map_err(told)?;
        Ok(())
    }

    fn links(
        &mut self,
        file: &[u8],
        names: &[Vec<u8>],
        stamp: Option<&SourceStamp>,
    ) -> anyhow::Result<()> {
        let path = file;
        let file = Held::resolve(self.view, path)?;
        // The file may have been put long ago, and a mount may have written to it since. It is
        // the source's only if nothing but the links themselves changes it until all are made.
        let mut known = None;
        if let Some(stamp) = stamp
            && self.view.unchanged(&[(path, *stamp)])? == [Some(file.ino())]
        {
            known = Some((stamp, file.stat.ctime));
        }
        for path in names {
            let (parent, name) = self.parents.of(path)?;
            let (before, after) = self.view.import_link(file.ino(), parent, name).map_err(told)?;
            known = known.filter(|(_, ctime)| *ctime == before).map(|(stamp, _)| (stamp, after));
        }
        if let Some((stamp, ctime)) = known {
            self.view.remember_links(file.ino(), stamp, ctime)?;
        }
        Ok(())
    }

    fn dress(&self, path: &[u8], meta: Meta) -> anyhow::Result<()> {
        let held = Held::resolve(self.view, path)?;
        self.view.dress(held.ino(), &meta.with(ImportBody::Directory)?).map_err(told)?;
        Ok(())
    }
}

impl Parents<'_> {
    /// The directory that a path is in, and its name there.
    fn of<'p>(&mut self, path: &'p [u8]) -> anyhow::Result<(InodeNo, &'p [u8])> {
        let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        if let Some((above, held)) = &self.last
            && above == &path[..at]
        {
            return Ok((held.ino(), &path[at + 1..]));
        }
        let (held, name) = parent_of(self.view, path)?;
        if held.stat.kind != Kind::Directory {
            return Err(Failure::refused("what it is to be in is no directory").into());
        }
        let ino = held.ino();
        self.last = Some((path[..at].to_vec(), held));
        Ok((ino, name))
    }
}

fn is_full(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<FsError>(), Some(FsError::NoSpace))
}

#[cfg(test)]
mod tests {
    use xorfs_fuse::SetAttr;

    use super::*;
    use crate::api::incoming::tests::view;
    use crate::api::wire::encode;

    fn import(view: &View, items: &[Item]) {
        let (temporaries, mut body) = (Temporaries::new("a"), Vec::new());
        items.iter().for_each(|item| encode(item, &mut body));
        let reply = Importer::new(view, &temporaries, BodyReader::whole(body)).run().unwrap();
        assert!(reply.problems.is_empty(), "{:?}", reply.problems);
    }

    #[test]
    fn names_of_a_file_that_a_mount_wrote_to_are_not_called_unchanged() {
        let view = view();
        let stamp = Stamp { device: 1, inode: 2, size: 0, mtime: (3, 4), ctime: (5, 6) };
        for written in [false, true] {
            let (file, name) = (format!("main/{written}"), format!("main/{written}-too"));
            let (path, meta, stamp) = (file.clone().into_bytes(), Meta::default(), Some(stamp));
            import(&view, &[Item::File { path, meta, size: 0, stamp }, Item::End]);
            if written {
                let held = Held::resolve(&view, file.as_bytes()).unwrap();
                view.write(held.ino(), 0, b"by a mount").unwrap();
                let cut = SetAttr { size: Some(0), ..SetAttr::default() };
                view.set_attr(held.ino(), &cut).unwrap();
            }
            let names = vec![name.clone().into_bytes()];
            import(&view, &[Item::Links { file: file.clone().into_bytes(), names, stamp }]);
            for path in [&file, &name] {
                let stamp = stamp.map(SourceStamp::from).unwrap();
                let found = view.unchanged(&[(path.as_bytes(), stamp)]).unwrap();
                assert_eq!(found[0].is_none(), written, "{path}");
            }
        }
    }
}
