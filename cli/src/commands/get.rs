//! `xorfs get`: what a link names, as a file or directory on this disk.
//!
//! Everything goes to `.NAME.xorfs-partial` beside the destination and is renamed when complete,
//! so the destination is whole or absent. A get that was interrupted goes on: complete files of
//! the partial are kept, and where the source can never change, an incomplete one is continued.

pub(crate) mod download;
mod place;

use std::path::PathBuf;

use serde::Serialize;

use crate::api::client::Client;
use crate::api::types::{EntryKind, Name};
use crate::args::GetArgs;
use crate::attach::with_node;
use crate::commands::get::download::Download;
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
}

pub(crate) async fn run(home: &Home, args: &GetArgs, out: Output) -> anyhow::Result<()> {
    let target = target::parse(&args.source)?;
    let dest = match &args.dest {
        Some(dest) => dest.clone(),
        None => default_dest(&target)?,
    };
    let place = Place::new(&dest, args.force)?;
    let bytes = with_node(home, async |client| fetch(client, &target, &place).await).await?;
    let fetched = Fetched { path: Name::from(dest.as_path()), bytes };
    out.value(&fetched, |fetched| fetched.path.to_string())
}

async fn fetch(client: &Client, target: &Target, place: &Place) -> anyhow::Result<u64> {
    let entry = client.stat(&target.path).await?;
    let total = if entry.kind == EntryKind::File { entry.size } else { 0 };
    let progress = Progress::new("get", total);
    place.prepare(&target.path, &entry)?;
    let download = Download { client, progress: &progress, immutable: target.immutable };
    let fetched = download.entry(&target.path, place.partial(), &entry).await;
    progress.finish();
    match fetched {
        Ok(bytes) => {
            place.finish()?;
            Ok(bytes)
        }
        Err(error) => {
            place.leave();
            Err(error)
        }
    }
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
