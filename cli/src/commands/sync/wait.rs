//! Waiting for replication, for `sync` and for `put --wait replicated`.
//!
//! Ends when enough copies are acknowledged, and in an error that names what is left when there
//! is nobody to send to, when nothing has moved for a minute, or at the caller's deadline.

use std::time::{Duration, Instant};

use crate::api::client::Client;
use crate::api::query::Query;
use crate::api::types::Replication;
use crate::exit::Failure;
use crate::output::{lacking, unannounced};
use crate::progress::Progress;

/// How long peers may take to appear: a node that just started is still joining.
const PEERS_WAIT: Duration = Duration::from_secs(10);

/// How long nothing may move.
const STALL_MAX: Duration = Duration::from_secs(60);

/// First and longest pause between two looks. Looking costs a request; small work is answered
/// at once.
const POLL_FIRST: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(250);

/// What must be replicated.
#[derive(Debug)]
pub(crate) enum Scope {
    /// Everything that this node owes, and the heads of its volumes.
    All,
    /// What a request's path names.
    Path(Query),
}

/// Waits until everything in scope is replicated; tells the state that was reached.
pub(crate) async fn replicated(
    client: &Client,
    scope: &Scope,
    timeout: Option<Duration>,
) -> anyhow::Result<Replication> {
    let started = Instant::now();
    let uptime = Duration::from_secs(client.status().await?.uptime_s);
    let progress = Progress::new("sync", 0);
    let (mut pause, mut moved, mut last) = (POLL_FIRST, Instant::now(), None);
    loop {
        let now = client.status().await?.replication;
        if is_done(client, scope, &now).await? {
            progress.finish();
            return Ok(now);
        }
        if last.is_none_or(|last: Replication| last != now) {
            (last, moved) = (Some(now), Instant::now());
        }
        progress.set_left(now.owed_bytes, format!("{} blocks left", now.owed_blocks));
        if let Some(why) = why_give_up(&now, started, uptime, moved, timeout) {
            progress.finish();
            return Err(Failure::failed(format!("{why}; {}", left(&now))).into());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}

async fn is_done(client: &Client, scope: &Scope, now: &Replication) -> anyhow::Result<bool> {
    if now.owed_blocks == 0 && now.heads_pending == 0 {
        return Ok(true);
    }
    match scope {
        _ if now.live_peers == 0 => Ok(false),
        Scope::All => Ok(false),
        Scope::Path(query) => Ok(client.copies(query).await?.lacking == 0),
    }
}

fn why_give_up(
    now: &Replication,
    started: Instant,
    uptime: Duration,
    moved: Instant,
    timeout: Option<Duration>,
) -> Option<String> {
    let waited = started.elapsed();
    if timeout.is_some_and(|timeout| waited >= timeout) {
        return Some("not replicated in time".to_owned());
    }
    // A node that has run for longer than this without a peer will not find one soon.
    let expects = now.expects_peers && uptime + waited < PEERS_WAIT;
    if now.live_peers == 0 && !expects {
        return Some("no peer is reachable to replicate to".to_owned());
    }
    if moved.elapsed() >= STALL_MAX {
        let seconds = STALL_MAX.as_secs();
        return Some(format!("replication has not moved for {seconds} s"));
    }
    None
}

fn left(now: &Replication) -> String {
    let blocks = lacking(now.owed_blocks, now.owed_bytes);
    match (now.owed_blocks, now.heads_pending) {
        (0, heads) => unannounced(heads),
        (_, 0) => blocks,
        (_, heads) => format!("{blocks} and {}", unannounced(heads)),
    }
}
