//! `xorfs get`: what a link names, as a file or directory on this disk.
//!
//! Everything goes to `.NAME.xorfs-partial` beside the destination and is renamed when complete,
//! so the destination is whole or absent. A get that was interrupted goes on: complete files of
//! the partial are kept, and where the source can never change, an incomplete one is continued.
//! A file that cannot be fetched does not keep the others away, but the destination then waits.

pub(crate) mod download;
mod dress;
mod place;

use std::path::PathBuf;

use serde::Serialize;

use crate::api::client::Client;
use crate::api::types::{EntryKind, Name};
use crate::args::GetArgs;
use crate::attach::with_node;
use crate::commands::get::download::Download;
use crate::commands::get::dress::Dresser;
use crate::commands::get::place::Place;
use crate::exit::{Exit, Failure};
use crate::home::Home;
use crate::output::Output;
use crate::progress::Progress;
use crate::target::{self, Target};

/// What was fetched, for `--json`.
#[derive(Debug, Serialize)]
struct Fetched {
    path: Name,
    bytes: u64,
    /// Entries that could not be made here.
    left_out: u64,
}

pub(crate) async fn run(home: &Home, args: &GetArgs, out: Output) -> anyhow::Result<Exit> {
    let target = target::parse(&args.source)?;
    let dest = match &args.dest {
        Some(dest) => dest.clone(),
        None => default_dest(&target)?,
    };
    let place = Place::new(&dest, args.force)?;
    let fetch = async |client: &Client| fetch(client, &target, &place).await;
    let (bytes, left_out) = with_node(home, fetch).await?;
    let fetched = Fetched { path: Name::from(dest.as_path()), bytes, left_out };
    out.value(&fetched, |fetched| fetched.path.to_string())?;
    Ok(if left_out > 0 { Exit::Refused } else { Exit::Done })
}

/// Fetches everything; tells the bytes of all files, and how many entries could not be made here.
async fn fetch(client: &Client, target: &Target, place: &Place) -> anyhow::Result<(u64, u64)> {
    let entry = client.stat_whole(&target.path).await?;
    let total = if entry.kind == EntryKind::File { entry.size } else { 0 };
    let progress = Progress::new("get", total);
    let dresser = Dresser::new(&progress, is_own(client, &target.path).await?);
    place.prepare(&target.path, &entry)?;
    let download = Download::new(client, &progress, &dresser, target.immutable);
    let fetched = download.entry(&target.path, place.partial(), &entry).await;
    progress.finish();
    let problems = download.into_problems();
    let bytes = match fetched {
        Ok(bytes) if problems.is_empty() => bytes,
        Ok(_) => {
            place.leave();
            return Err(incomplete(&progress, problems, place));
        }
        Err(error) => {
            place.leave();
            problems.iter().for_each(|problem| progress.say(&format!("{problem:#}")));
            return Err(error);
        }
    };
    place.finish()?;
    Ok((bytes, dresser.left_out()))
}

/// Whether a path is in a volume that is written here.
async fn is_own(client: &Client, path: &[u8]) -> anyhow::Result<bool> {
    let volume = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    // What a link names is asked for without any volume, also while the keyring is locked.
    if volume == b"link" {
        return Ok(false);
    }
    let volumes = client.volumes().await?;
    Ok(volumes.iter().any(|own| own.writable && own.name.as_bytes() == volume))
}

/// Names all that is missing but the last, which becomes the error with what is there.
fn incomplete(
    progress: &Progress,
    mut problems: Vec<anyhow::Error>,
    place: &Place,
) -> anyhow::Error {
    let count = problems.len();
    let last = problems.pop().unwrap_or_else(|| Failure::failed("nothing was fetched").into());
    problems.iter().for_each(|problem| progress.say(&format!("{problem:#}")));
    let text = format!(
        "{count} could not be fetched; the rest is in {} until a further get of the same",
        place.partial().display()
    );
    last.context(text)
}

fn default_dest(target: &Target) -> anyhow::Result<PathBuf> {
    match &target.name {
        Some(name) => Ok(PathBuf::from(checked_name(&Name(name.clone().into_bytes()))?)),
        None => {
            Err(Failure::usage("this link carries no name: say where to put what it names").into())
        }
    }
}

/// A name from somebody else's directory, if it is one that can only stand for itself.
fn checked_name(name: &Name) -> Result<&std::ffi::OsStr, Failure> {
    let bytes = name.0.as_slice();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(Failure::new(Exit::Corrupt, format!("{:?} is no file name", name.to_string())));
    }
    Ok(name.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_climb_out() {
        for bad in ["", ".", "..", "a/b", "/etc", "a\0b"] {
            assert!(checked_name(&Name(bad.into())).is_err(), "{bad:?}");
        }
        assert!(checked_name(&Name(b"..a\xff".to_vec())).is_ok());
    }
}
