//! `xorfs put`: copies files and directories into a volume and prints a link for each.
//!
//! The command reads the files and hands their content over; the node never opens a path of its
//! caller. What cannot be read, or changes while it is read, is named and left out, the rest goes
//! on, and the exit code tells. Standard output has the links, one a path, and nothing else.

mod content;
mod ending;
mod meta;
mod reader;
mod source;
mod upload;
mod walk;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::api::client::{Client, at};
use crate::api::types::{Attributes, Name};
use crate::args::{Level, PutArgs};
use crate::attach::with_node;
use crate::commands::put::source::own_attributes;
use crate::commands::put::upload::Upload;
use crate::commands::sync::wait::{Scope, replicated};
use crate::exit::{Exit, Failure};
use crate::home::Home;
use crate::output::Output;
use crate::progress::Progress;
use crate::target::{names_of, volume_path};

/// How long peers of earlier runs may take to answer before a put settles for this disk.
const PEERS_WAIT: Duration = Duration::from_secs(3);

/// One path that was put.
#[derive(Debug, Serialize)]
struct Stored {
    path: Name,
    link: String,
    /// Files that were sent.
    files: u64,
    /// Files that are as they were put last, and were not read.
    unchanged: u64,
    /// Bytes of the files that were sent.
    bytes: u64,
}

pub(crate) async fn run(home: &Home, args: PutArgs, out: Output) -> anyhow::Result<Exit> {
    check_place(&args)?;
    let mut into = args.volume.clone().into_bytes();
    for name in names_of(args.to.as_deref().unwrap_or_else(|| Path::new("")))? {
        into.push(b'/');
        into.extend_from_slice(name.as_bytes());
    }
    let (sources, problems) = source::open_all(&args.paths);
    let progress = Arc::new(Progress::new("put", 0));
    let mut failures = Failures::default();
    for problem in problems {
        failures.note(&progress, &problem);
    }
    with_node(home, async |client| {
        let attributes = Attributes { mode: 0o755, ..own_attributes() };
        client.make_directory(&into, &attributes).await?;
        let mounts = client.status().await?.mounts;
        let mounts: Vec<PathBuf> = mounts.iter().map(|dir| dir.as_os_str().into()).collect();
        let shown = Arc::clone(&progress);
        let upload = Upload::new(client.clone(), sources, into, shown, mounts);
        let problems = upload.run().await?;
        progress.finish();
        for problem in problems {
            failures.note(&progress, &problem);
        }
        finish(client, &args, &upload, out).await
    })
    .await?;
    Ok(failures.exit())
}

/// Tells a volume from a directory in it, which are easily mistaken for one another.
fn check_place(args: &PutArgs) -> Result<(), Failure> {
    let volume = &args.volume;
    if volume.is_empty() || volume == "link" || volume.contains(['/', ':']) {
        let text = format!("{volume:?} is no volume; name one, and a directory in it with --to");
        return Err(Failure::usage(text));
    }
    match args.to.as_deref().and_then(Path::to_str).and_then(volume_path) {
        Some((volume, below)) => {
            let text = format!(
                "--to takes a directory in a volume: use --volume {volume:?} --to {below:?}"
            );
            Err(Failure::usage(text))
        }
        None => Ok(()),
    }
}

/// Brings what was stored to the level that was asked for, and prints the links.
async fn finish(
    client: &Client,
    args: &PutArgs,
    upload: &Upload,
    out: Output,
) -> anyhow::Result<()> {
    if upload.stored().next().is_none() {
        return Ok(());
    }
    // A link names sealed content, so making one seals, and what is sealed is staged.
    client.seal(Some(&args.volume)).await?;
    let mut stored = Vec::new();
    for (source, dest, count) in upload.stored() {
        let link = client.link(at(&dest), false).await?;
        if !out.is_json() {
            out.line(&link)?;
        }
        let of = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        stored.push(Stored {
            path: Name::from(source.path.as_path()),
            link,
            files: of(&count.files),
            unchanged: of(&count.unchanged),
            bytes: of(&count.bytes),
        });
    }
    if out.is_json() {
        out.value(&stored, |_| String::new())?;
    } else {
        say_unchanged(&stored);
    }
    let level = match args.wait {
        Some(level) => level,
        None => default_level(client).await?,
    };
    if level == Level::Replicated {
        replicated(client, &Scope::All, None).await?;
    }
    Ok(())
}

fn say_unchanged(stored: &[Stored]) {
    let unchanged: u64 = stored.iter().map(|path| path.unchanged).sum();
    let files: u64 = stored.iter().map(|path| path.files).sum();
    if unchanged > 0 {
        eprintln!("{unchanged} of {} files were unchanged", files + unchanged);
    }
}

/// As safe as this node can make it.
async fn default_level(client: &Client) -> anyhow::Result<Level> {
    let started = Instant::now();
    loop {
        let status = client.status().await?;
        if status.replication.live_peers > 0 {
            return Ok(Level::Replicated);
        }
        // A daemon has met its peers long ago; a node of our own may be about to.
        let expects = status.replication.expects_peers && !status.daemon;
        if !expects || started.elapsed() >= PEERS_WAIT {
            eprintln!("no peer is reachable: sealed on this disk, not replicated yet");
            return Ok(Level::Sealed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What went wrong with single files.
#[derive(Debug, Default)]
struct Failures {
    exit: Option<Exit>,
}

impl Failures {
    /// Names a problem; different kinds of problems end in the general exit code.
    fn note(&mut self, progress: &Progress, problem: &anyhow::Error) {
        progress.say(&format!("{problem:#}"));
        let exit = crate::exit::classify(problem);
        self.exit = match self.exit {
            None => Some(exit),
            Some(before) if before == exit => Some(exit),
            Some(_) => Some(Exit::Failed),
        };
    }

    fn exit(&self) -> Exit {
        self.exit.unwrap_or(Exit::Done)
    }
}
