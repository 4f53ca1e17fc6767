//! What can only be done when every file is there: hard links, then the attributes of directories.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::api::wire::{ASKED_MAX, Item, Meta, encode};
use crate::commands::put::content::vanished_or;
use crate::commands::put::meta::xattrs;
use crate::commands::put::upload::{Linked, Place, Upload};
use crate::exit::Failure;

/// Items of one request.
const BATCH_ITEMS: usize = 1024;

/// Bytes of names in one item: far below what its header may take.
const LINK_NAMES_BYTES: usize = 1 << 20;

/// Ends an upload whose files are all there.
pub(super) fn finish(upload: &Upload) {
    if let Err(error) = links(upload).and_then(|()| folders(upload)) {
        upload.stop(error);
    }
}

fn links(upload: &Upload) -> anyhow::Result<()> {
    let linked = std::mem::take(&mut *upload.linked());
    let mut files: Vec<Linked> =
        linked.into_values().filter(|file| !file.names.is_empty()).collect();
    files.sort_unstable_by(|a, b| a.first.cmp(&b.first));
    let (mut batch, mut names) = (Vec::new(), 0);
    for file in files {
        if file.failed {
            for name in &file.names {
                let text = format!("{} was left out with its other name", name.path.display());
                upload.problem(Failure::failed(text).into());
            }
            continue;
        }
        if names + file.names.len() >= ASKED_MAX / 2 {
            link_all(upload, &std::mem::take(&mut batch))?;
            names = 0;
        }
        names += file.names.len() + 1;
        batch.push(file);
    }
    link_all(upload, &batch)
}

/// Makes the further names of files hard links, where they are not yet.
fn link_all(upload: &Upload, files: &[Linked]) -> anyhow::Result<()> {
    let mut sent = Vec::new();
    let mut items = Vec::new();
    for (file, is_linked) in files.iter().zip(linked_already(upload, files)?) {
        for name in &file.names {
            let count = &upload.counts[name.source];
            let counter = if is_linked { &count.unchanged } else { &count.files };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if is_linked {
            continue;
        }
        for names in parts(&file.names) {
            let (first, stamp) = (file.first.clone(), file.stamp);
            let all = names.iter().map(|name| name.dest.clone()).collect();
            encode(&Item::Links { file: first, names: all, stamp }, &mut items);
            sent.push(names[0].path.as_path());
        }
    }
    send(upload, items, &sent)
}

/// The names of a file in parts that fit into one item each.
fn parts(names: &[Place]) -> Vec<&[Place]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, name) in names.iter().enumerate() {
        if at > start && bytes + name.dest.len() > LINK_NAMES_BYTES {
            parts.push(&names[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += name.dest.len();
    }
    parts.push(&names[start..]);
    parts
}

/// Of each file, whether all of its names stand for one that is as it was put.
fn linked_already(upload: &Upload, files: &[Linked]) -> anyhow::Result<Vec<bool>> {
    // More names than can be asked for at once are linked again.
    let askable = |file: &&Linked| file.stamp.is_some() && file.names.len() < ASKED_MAX / 2;
    let mut asked = Vec::new();
    for file in files.iter().filter(askable) {
        let Some(stamp) = file.stamp else { continue };
        asked.push((file.first.clone(), stamp));
        asked.extend(file.names.iter().map(|name| (name.dest.clone(), stamp)));
    }
    if asked.is_empty() {
        return Ok(vec![false; files.len()]);
    }
    let found = upload.runtime.block_on(upload.client.unchanged(&asked))?;
    let mut found = found.into_iter();
    let mut linked = |file: &Linked| {
        let inos: Vec<u64> = found.by_ref().take(file.names.len() + 1).collect();
        inos.len() == file.names.len() + 1 && inos[0] != 0 && inos.iter().all(|i| *i == inos[0])
    };
    Ok(files.iter().map(|file| askable(&file) && linked(file)).collect())
}

/// Gives directories the attributes that they have at the source.
fn folders(upload: &Upload) -> anyhow::Result<()> {
    let folders = upload.take_folders();
    for batch in folders.chunks(BATCH_ITEMS) {
        if upload.is_stopped() {
            return Ok(());
        }
        let (mut sent, mut items) = (Vec::new(), Vec::new());
        for folder in batch {
            match meta(upload, folder) {
                Ok(meta) => {
                    encode(&Item::Dress { path: folder.dest.clone(), meta }, &mut items);
                    sent.push(folder.path.as_path());
                }
                Err(error) => upload.problem(error),
            }
        }
        send(upload, items, &sent)?;
    }
    Ok(())
}

fn meta(upload: &Upload, folder: &Place) -> anyhow::Result<Meta> {
    // A symbolic link on the command line was followed to the directory.
    let metadata = folder.path.metadata().map_err(|error| vanished_or(error, &folder.path))?;
    let (xattrs, skipped) = xattrs(&folder.path, true);
    if skipped {
        upload.say_xattrs_left_out();
    }
    Ok(Meta { xattrs, ..upload.putter.meta(&metadata) })
}

fn send(upload: &Upload, items: Vec<u8>, sent: &[&Path]) -> anyhow::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    for problem in upload.send(items)?.problems {
        let path = usize::try_from(problem.item).ok().and_then(|at| sent.get(at));
        let error = anyhow::Error::from(Failure::new(problem.kind, problem.message));
        upload.problem(match path {
            Some(path) => error.context(path.display().to_string()),
            None => error,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::api::wire::HEADER_BYTES_MAX;

    #[test]
    fn many_long_names_of_a_file_fit_into_items() {
        let name = |n: usize| {
            let dest = format!("{n}/{}", "long".repeat(1000)).into_bytes();
            Place { source: 0, path: PathBuf::new(), dest }
        };
        let names: Vec<Place> = (0..3000).map(name).collect();
        let mut all = Vec::new();
        for part in parts(&names) {
            let names: Vec<_> = part.iter().map(|name| name.dest.clone()).collect();
            let mut item = Vec::new();
            all.extend(names.clone());
            encode(&Item::Links { file: b"first".to_vec(), names, stamp: None }, &mut item);
            assert!(!part.is_empty() && item.len() < HEADER_BYTES_MAX);
        }
        assert!(all.iter().eq(names.iter().map(|name| &name.dest)), "each once, in order");
        assert_eq!(parts(&names[..1]).len(), 1);
    }
}
