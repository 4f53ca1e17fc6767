//! One node: a daemon process, its home, its mounts, and commands that speak to it.
//!
//! The first line that a daemon prints tells its address and id; the port is the system's choice
//! at the first start and kept at a restart, so that peers find the node where it was.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::{
    COMMAND_DEADLINE, NODE_DEADLINE, Outcome, binary, detach, peak_bytes, run, wait_until,
};

/// Lines of a log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Its state folder.
    pub home: PathBuf,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its node id, as it prints it.
    pub id: String,
    child: Option<Child>,
    place: usize,
    log: PathBuf,
    mounts: Vec<PathBuf>,
    environment: Vec<(String, String)>,
    /// `XORFS_CRASH` of the next daemon.
    armed: Option<String>,
}

impl Node {
    /// Starts a daemon with a fresh home below `dir`.
    #[track_caller]
    pub fn start(
        dir: &Path,
        place: usize,
        join: impl Iterator<Item = SocketAddr>,
        environment: &[(String, String)],
    ) -> Self {
        let home = dir.join(format!("node{place}"));
        fs::create_dir(&home).expect("the home of a new node can be made");
        let mut node = Self {
            home,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            id: String::new(),
            child: None,
            place,
            log: dir.join(format!("node{place}.log")),
            mounts: Vec::new(),
            environment: environment.to_vec(),
            armed: None,
        };
        node.launch(join);
        node
    }

    /// Starts the daemon on `self.addr` and takes its address and id from its first line.
    #[track_caller]
    fn launch(&mut self, join: impl Iterator<Item = SocketAddr>) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let mut command = self.command(&["daemon", "--listen", &self.addr.to_string()]);
        for addr in join {
            command.arg("--join").arg(addr.to_string());
        }
        if let Some(point) = self.armed.take() {
            command.env("XORFS_CRASH", point);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(log.expect("the log of a node can be opened"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("stdout is piped");
        self.child = Some(child);
        let first = self.first_line(stdout);
        let told = first.as_deref().and_then(parse_first_line);
        let Some((addr, id)) = told else {
            self.show_log();
            panic!("node {} did not say where it listens, but {first:?}", self.place);
        };
        self.addr = addr;
        self.id = id;
    }

    /// The first line of a daemon; the rest goes to its log, so that it never waits for a reader.
    fn first_line(&self, stdout: impl std::io::Read + Send + 'static) -> Option<String> {
        let (sender, receiver) = mpsc::channel();
        let log = self.log.clone();
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let _ = sender.send(lines.next());
            for line in lines {
                if let Ok(mut log) = File::options().append(true).open(&log) {
                    let _ = writeln!(log, "stdout: {line}");
                }
            }
        });
        receiver.recv_timeout(NODE_DEADLINE).ok().flatten()
    }

    /// The binary with this node's home and environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--home").arg(&self.home).args(args);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command that speaks to this node, to its end.
    #[track_caller]
    pub fn xorfs(&self, args: &[&str]) -> Outcome {
        run(&mut self.command(args), COMMAND_DEADLINE)
    }

    /// Ids of the peers that this node knows.
    pub fn peers(&self) -> BTreeSet<String> {
        let outcome = self.xorfs(&["peers", "--json"]);
        let mut ids = BTreeSet::new();
        if let Ok(answer) = serde_json::from_slice(&outcome.stdout) {
            collect_ids(&answer, &mut ids);
        }
        ids.remove(&self.id);
        ids
    }

    /// Whether the daemon was started and not yet ended by this test.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Process id of the daemon.
    #[track_caller]
    pub fn process(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// Lets the next daemon that is started die at a crash point, when it is there for the n-th
    /// time.
    pub fn arm(&mut self, point: &str, n: u64) {
        self.armed = Some(format!("{point}:{n}"));
    }

    /// Whether the daemon ended by itself. It is still to be waited for, as by `kill9`.
    #[track_caller]
    pub fn has_died(&self) -> bool {
        let process = Pid::from_child(self.child.as_ref().expect("the node was started"));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(process), options).expect("a child can be waited for").is_some()
    }

    /// Sends the daemon a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let process = Pid::from_child(self.child.as_ref().expect("the node runs"));
        kill_process(process, signal).expect("a child can be signalled");
    }

    /// Peak resident memory of the daemon in bytes.
    #[track_caller]
    pub fn peak_bytes(&self) -> u64 {
        peak_bytes(self.process()).expect("the node runs")
    }

    /// SIGKILL: no goodbye, no flush. Its mounts stay behind, dead.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// SIGTERM, and how the daemon ended.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("the node runs");
        kill_process(Pid::from_child(child), Signal::TERM).expect("a child can be signalled");
        let mut ended = None;
        let deadline = NODE_DEADLINE;
        wait_until("the node leaves after SIGTERM", deadline, || {
            ended = child.try_wait().expect("a child can be waited for");
            ended.is_some()
        });
        self.child = None;
        ended.expect("it was waited for")
    }

    /// Starts the daemon again: same home, same address, peers from what it remembers.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "node {} still runs", self.place);
        let id = self.id.clone();
        self.launch(std::iter::empty());
        assert_eq!(self.id, id, "a node keeps its identity");
    }

    /// The directory of this node's mount, whether or not it is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.home.with_file_name(format!("mnt{}", self.place))
    }

    /// Mounts this node; also over what a killed daemon left behind.
    #[track_caller]
    pub fn mount(&mut self) -> PathBuf {
        let dir = self.mount_point();
        // A dead mount answers every question with an error, so it is not asked.
        if !self.mounts.contains(&dir) {
            fs::create_dir(&dir).expect("a mount point can be made");
            self.mounts.push(dir.clone());
        }
        self.xorfs(&["mount", dir.to_str().expect("paths of tests are text")]).ok();
        dir
    }

    /// Notes a directory that a test mounts by itself, to be taken off at the end.
    pub fn adopt_mount(&mut self, dir: &Path) {
        self.mounts.push(dir.to_owned());
    }

    /// What the daemon logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log holds `text`, for what no command can ask.
    #[track_caller]
    pub fn await_log(&self, text: &str, deadline: Duration) {
        let what = format!("the log of node {} holds {text:?}", self.place);
        wait_until(&what, deadline, || self.log().contains(text));
    }

    /// Shows the end of the log with the output of a failing test.
    pub fn show_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        eprintln!("--- node {} ({}), the end of its log:", self.place, self.addr);
        for line in &lines[from..] {
            eprintln!("    {line}");
        }
    }

    /// Takes its mounts off and kills it, if need be. Never fails: it runs while tests unwind.
    pub(super) fn end(&mut self) {
        for dir in &self.mounts {
            detach(dir);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // A mount that was being made when the first look was taken.
        for dir in self.mounts.drain(..) {
            detach(&dir);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// `listening on ADDR as NODEID`
fn parse_first_line(line: &str) -> Option<(SocketAddr, String)> {
    let (addr, id) = line.strip_prefix("listening on ")?.split_once(" as ")?;
    Some((addr.parse().ok()?, id.trim().to_owned()))
}

/// Every 256-bit id in an answer, wherever it stands: the shape of the answer may grow.
fn collect_ids(value: &serde_json::Value, ids: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::String(text)
            if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            ids.insert(text.clone());
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_ids(item, ids)),
        serde_json::Value::Object(fields) => {
            fields.values().for_each(|field| collect_ids(field, ids));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_address_and_id() {
        let line = "listening on 127.0.0.1:4040 as 0123";
        assert_eq!(
            parse_first_line(line),
            Some(([127, 0, 0, 1], 4040).into()).zip(Some("0123".to_owned()))
        );
        assert_eq!(parse_first_line("ready"), None);
    }
}
