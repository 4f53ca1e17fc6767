//! Reading files, and the frames that carry them.
//!
//! Holes are found and not sent. A file counts only if it was the same before and after it was
//! read. A path that names something else by the time it is opened is refused: nothing is followed
//! or waited for that the walk did not see.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;
use axum::body::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::api::wire::{DATA_BYTES_MAX, Item, encode};
use crate::commands::put::meta::plain_stamp;
use crate::exit::Failure;
use crate::progress::Progress;

/// Opens a file for reading, as what the walk saw it to be.
pub(super) fn open(path: &Path, follow: bool) -> anyhow::Result<(File, Metadata)> {
    let flags = if follow { OFlags::NONBLOCK } else { OFlags::NONBLOCK | OFlags::NOFOLLOW };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits() as i32);
    let file = options.open(path).map_err(|error| vanished_or(error, path))?;
    let metadata = file.metadata().with_context(|| path.display().to_string())?;
    if !metadata.is_file() {
        return Err(changed(path).into());
    }
    Ok((file, metadata))
}

/// Appends a whole file's runs.
pub(super) fn read_whole(
    file: &mut File,
    before: &Metadata,
    path: &Path,
    out: &mut Vec<u8>,
) -> anyhow::Result<()> {
    let mut from = 0;
    while let Some(run) = next_run(file, before, from).with_context(|| shown(path))? {
        from = run.end;
        for part in parts(run) {
            encode(&data(&part), out);
            let start = out.len();
            let length = (part.end - part.start) as usize;
            out.resize(start + length, 0);
            file.seek(SeekFrom::Start(part.start)).with_context(|| shown(path))?;
            read_exactly(file, &mut out[start..], path)?;
        }
    }
    check_unchanged(file, before, path)?;
    encode(&Item::End, out);
    Ok(())
}

/// Sends a whole file's runs. Where the file changed the node is told to drop it.
pub(super) fn stream(
    mut file: File,
    before: &Metadata,
    path: &Path,
    frames: &mpsc::Sender<io::Result<Bytes>>,
    progress: &Progress,
) -> anyhow::Result<()> {
    // Where the node gave up, its answer says why.
    let send = |bytes: Vec<u8>| frames.blocking_send(Ok(bytes.into())).is_ok();
    let mut read = || {
        let mut from = 0;
        while let Some(run) = next_run(&mut file, before, from).with_context(|| shown(path))? {
            progress.add(run.start - from);
            from = run.end;
            file.seek(SeekFrom::Start(run.start)).with_context(|| shown(path))?;
            for part in parts(run) {
                let mut header = Vec::with_capacity(32);
                encode(&data(&part), &mut header);
                let mut bytes = vec![0; (part.end - part.start) as usize];
                read_exactly(&mut file, &mut bytes, path)?;
                progress.add(bytes.len() as u64);
                if !send(header) || !send(bytes) {
                    return Ok(());
                }
            }
        }
        progress.add(before.len() - from);
        check_unchanged(&file, before, path)
    };
    let done: anyhow::Result<()> = read();
    let mut last = Vec::new();
    encode(if done.is_ok() { &Item::End } else { &Item::Abort }, &mut last);
    send(last);
    done
}

/// The next run of bytes from `from` on; what lies before it is a hole.
fn next_run(file: &mut File, metadata: &Metadata, from: u64) -> io::Result<Option<Range<u64>>> {
    let size = metadata.len();
    if from >= size {
        return Ok(None);
    }
    // A file that has all of its blocks has no holes, and is not asked for them.
    if metadata.blocks().saturating_mul(512) >= size {
        return Ok(Some(from..size));
    }
    let start = match rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A disk that cannot tell.
        Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some(from..size)),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(&*file, rustix::fs::SeekFrom::Hole(start))?;
    // What grew meanwhile is noticed when all is read.
    Ok((start < size).then(|| start..end.min(size)))
}

fn parts(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = run.end;
    run.step_by(DATA_BYTES_MAX).map(move |at| at..end.min(at + DATA_BYTES_MAX as u64))
}

fn data(part: &Range<u64>) -> Item {
    Item::Data { offset: part.start, length: (part.end - part.start) as u32 }
}

fn read_exactly(file: &mut File, bytes: &mut [u8], path: &Path) -> anyhow::Result<()> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => changed(path).into(),
        _ => anyhow::Error::from(error).context(shown(path)),
    })
}

fn check_unchanged(file: &File, before: &Metadata, path: &Path) -> anyhow::Result<()> {
    let after = file.metadata().with_context(|| shown(path))?;
    // Its ctime moves with its name as well, which is no change of what was read.
    let seen = |metadata: &Metadata| {
        let stamp = plain_stamp(metadata);
        (stamp.size, stamp.mtime)
    };
    if seen(&after) != seen(before) { Err(changed(path).into()) } else { Ok(()) }
}

fn changed(path: &Path) -> Failure {
    Failure::failed(format!("{} changed while it was read and was left out", path.display()))
}

/// A file that was there a moment ago has vanished; everything else is what it is.
pub(super) fn vanished_or(error: io::Error, path: &Path) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::failed(format!("{} vanished while it was put", path.display())).into();
    }
    anyhow::Error::from(error).context(shown(path))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Exit, classify};

    fn read(path: &Path, meanwhile: impl FnOnce()) -> anyhow::Result<Vec<u8>> {
        let (mut file, before) = open(path, false)?;
        meanwhile();
        let mut frames = Vec::new();
        read_whole(&mut file, &before, path, &mut frames).map(|()| frames)
    }

    #[test]
    fn a_source_that_vanishes_grows_shrinks_or_is_replaced_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let told = |meanwhile: &dyn Fn()| {
            let error = read(&path, meanwhile).unwrap_err();
            assert!(classify(&error) == Exit::Failed, "{error:#}");
            format!("{error:#}")
        };
        assert!(told(&|| ()).contains("vanished"));
        std::fs::write(&path, [1; 5000]).unwrap();
        assert!(read(&path, || ()).is_ok());
        let resize = |size| File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
        assert!(told(&|| resize(6000)).contains("changed"));
        assert!(told(&|| resize(10)).contains("changed"));
        // One that loses its name while it is read is still what it was.
        assert!(read(&path, || std::fs::remove_file(&path).unwrap()).is_ok());
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(open(&path, false).is_err(), "what the walk did not see is not followed");
    }
}
