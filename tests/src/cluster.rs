//! Several real nodes on loopback: processes of the built binary, each with a home of its own.
//!
//! Owns starting, mounting, killing and cleaning up. A `Cluster` ends whatever way its test ends:
//! dropping it detaches its mounts, kills its processes by id and removes its directory; where
//! the test fails, the ends of the nodes' logs are shown first.
//!
//! Everything waits for a condition with a deadline (`wait_until`), nothing for a time. One
//! cluster runs at a time in a test process, so that deadlines mean the same in every test.
//!
//! The binary is `XORFS_BIN`, else `xorfs` in the target directory that the test itself was built
//! into. It is not built from here: `make test` builds it first.

mod mounts;
mod node;
mod process;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use mounts::{detach, fuse_available, is_mounted};
pub use node::Node;
pub use process::{Outcome, peak_bytes, run};

/// How long a node may take to start, to meet its peers, or to leave.
pub const NODE_DEADLINE: Duration = Duration::from_secs(30);

/// How long one command may take.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(180);

/// Pause between two looks at a condition: short against any deadline, long against the look.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// One cluster at a time, see the module's header.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Nodes that know each other.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order of their start; all but the first joined the first.
    pub nodes: Vec<Node>,
    environment: Vec<(String, String)>,
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts `count` nodes and returns when every one knows all the others.
    pub fn start(count: usize) -> Self {
        Self::with_environment(count, &[])
    }

    /// Starts nodes with these environment variables, for themselves and their commands.
    pub fn with_environment(count: usize, environment: &[(&str, &str)]) -> Self {
        // A test that failed has cleaned up behind itself as well.
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let environment =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let mut cluster = Self {
            nodes: Vec::new(),
            environment: environment.collect(),
            dir: tempfile::Builder::new()
                .prefix("xorfs-it-")
                .tempdir()
                .expect("a temporary directory can be made"),
            _alone: alone,
        };
        for _ in 0..count {
            cluster.add_node();
        }
        cluster.await_acquaintance();
        cluster
    }

    /// Starts one node more, which joins the first that lives. Returns its place.
    pub fn add_node(&mut self) -> usize {
        let join = self.nodes.iter().find(|node| node.is_running()).map(|node| node.addr);
        let place = self.nodes.len();
        let node = Node::start(self.dir.path(), place, join.into_iter(), &self.environment);
        self.nodes.push(node);
        place
    }

    /// Waits until every running node knows every other running node.
    pub fn await_acquaintance(&self) {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.is_running()).collect();
        for node in &running {
            wait_until("the nodes know each other", NODE_DEADLINE, || {
                let known = node.peers();
                running.iter().all(|other| other.id == node.id || known.contains(&other.id))
            });
        }
    }

    /// A directory that goes away with the cluster, for the files of a test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in &self.nodes {
                node.show_log();
            }
        }
        // Mounts go before processes: a detached mount cannot keep anybody waiting.
        for node in &mut self.nodes {
            node.end();
        }
    }
}

/// The built binary.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("XORFS_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "XORFS_BIN names {}, which is no file", path.display());
        return path;
    }
    let test = env::current_exe().expect("a process knows its file");
    // The test lies in TARGET/debug/deps, the binary beside that folder.
    let path = test.parent().and_then(Path::parent).map(|dir| dir.join("xorfs"));
    let path = path.expect("a test lies in a target directory");
    assert!(
        path.is_file(),
        "the binary is not built: {} is missing; run `make test`, or `cargo build -p xorfs` first",
        path.display()
    );
    path
}

/// Looks at a condition until it holds.
///
/// # Panics
/// Where it does not hold before the deadline, naming what was waited for.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "waited {} s in vain until {what}", deadline.as_secs());
        thread::sleep(POLL_INTERVAL);
    }
}
