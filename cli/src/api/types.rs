//! What travels through the local API as JSON.
//!
//! These types are also what `--json` prints, so fields are added and never renamed. Names are
//! bytes: one that is not UTF-8 is written as `{"hex": "…"}` instead of a string.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xorfs_fuse::{Import, ImportBody, Kind, Stat};
use xorfs_store::{Timestamp, XattrMap};

use crate::exit::Exit;
use crate::passphrase::Typed;

/// A name or a path, which may be any bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(pub(crate) Vec<u8>);

/// How a `Name` is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NameText {
    Text(String),
    Raw { hex: String },
}

impl Name {
    /// The name as the system takes it.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The name as a path.
    pub(crate) fn as_path(&self) -> &Path {
        Path::new(self.as_os_str())
    }
}

impl From<&Path> for Name {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

/// Without control characters, so that a name cannot drive a terminal.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in String::from_utf8_lossy(&self.0).chars() {
            if char.is_control() {
                write!(f, "{}", char.escape_default())?;
            } else {
                write!(f, "{char}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let hex = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
                NameText::Raw { hex }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NameText::deserialize(deserializer)? {
            NameText::Text(text) => Ok(Self(text.into_bytes())),
            NameText::Raw { hex } => unhex(&hex)
                .map(Self)
                .ok_or_else(|| serde::de::Error::custom("a name's hex digits do not pair up")),
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|char| char.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits?;
    if digits.len() % 2 != 0 {
        return None;
    }
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// An error: its kind, which is the exit code, and one line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) kind: Exit,
    pub(crate) message: String,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// One entry, as `stat` and `ls` see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EntryRow {
    /// Its name in its directory; absent where a single path was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Name>,
    pub(crate) kind: EntryKind,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    /// Bytes.
    pub(crate) size: u64,
    /// Last change of the content: whole seconds since 1970, and nanoseconds after them.
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: u32,
    /// Last access, as it was set: whole seconds since 1970, and nanoseconds after them.
    #[serde(default)]
    pub(crate) atime: i64,
    #[serde(default)]
    pub(crate) atime_nanos: u32,
    /// The same for all names of one file.
    #[serde(default)]
    pub(crate) ino: u64,
    /// Number of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<u64>,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Name>,
    /// Extended attributes, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) xattrs: Vec<XattrRow>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct XattrRow {
    pub(crate) name: Name,
    pub(crate) value: Name,
}

/// Where a file has bytes rather than holes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Runs {
    /// Offset and length of each, in order.
    pub(crate) runs: Vec<(u64, u64)>,
    /// How far this looked.
    pub(crate) until: u64,
}

impl EntryRow {
    /// A row of `stat`, with neither name nor target.
    pub(crate) fn new(stat: &Stat) -> Self {
        Self {
            name: None,
            kind: match stat.kind {
                Kind::File => EntryKind::File,
                Kind::Directory => EntryKind::Directory,
                Kind::Symlink => EntryKind::Symlink,
                Kind::Fifo => EntryKind::Fifo,
                Kind::Socket => EntryKind::Socket,
                Kind::CharDevice(_) => EntryKind::CharDevice,
                Kind::BlockDevice(_) => EntryKind::BlockDevice,
            },
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            nlink: stat.nlink,
            size: stat.size,
            mtime: stat.mtime.seconds,
            mtime_nanos: stat.mtime.nanos,
            atime: stat.atime.seconds,
            atime_nanos: stat.atime.nanos,
            ino: stat.ino.0,
            device: match stat.kind {
                Kind::CharDevice(number) | Kind::BlockDevice(number) => Some(number),
                _ => None,
            },
            target: None,
            xattrs: Vec::new(),
        }
    }

    /// When the content changed last.
    pub(crate) fn modified(&self) -> Timestamp {
        Timestamp { seconds: self.mtime, nanos: self.mtime_nanos }
    }
}

/// What is set on an entry that is made or changed through the API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits with set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
}

impl Attributes {
    /// As an import of what is not said here.
    pub(crate) fn without_content(self) -> Import {
        let Self { mode, uid, gid, mtime } = self;
        let (xattrs, body) = (XattrMap::new(), ImportBody::Directory);
        Import { mode, uid, gid, mtime, atime: mtime, xattrs, body }
    }
}

/// A link.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LinkReply {
    pub(crate) link: String,
}

/// How many nodes hold what a path names.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Copies {
    /// Blocks of the path and everything below it.
    pub(crate) blocks: u64,
    /// Those with fewer copies than the target.
    pub(crate) lacking: u64,
    /// The lowest number of copies over all blocks.
    pub(crate) lowest: u8,
    /// Copies that make a block replicated, as in `Replication`.
    pub(crate) target: u8,
}

/// A volume of this home.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VolumeRow {
    pub(crate) name: String,
    pub(crate) id: String,
    /// Whether it is ours to write.
    pub(crate) writable: bool,
    /// Sequence number of the newest head; 0 before the first.
    pub(crate) sequence: u64,
    /// Whether everything written is sealed.
    pub(crate) sealed: bool,
    /// Bytes that are not sealed yet.
    pub(crate) dirty_bytes: u64,
    /// Why sealing fails, while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seal_error: Option<String>,
    /// Why it does not open, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) open_error: Option<String>,
}

/// Whether the keys of the volumes are within reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyringState {
    /// Whether the keyring's file is sealed under a passphrase.
    pub(crate) passphrase: bool,
    /// Whether the passphrase has to be given before a volume opens.
    pub(crate) locked: bool,
}

/// Opens a locked keyring.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnlockRequest {
    pub(crate) passphrase: Typed,
}

/// Sets another passphrase, or takes it off.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PassphraseRequest {
    /// What it is now; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<Typed>,
    /// What it is to be; absent takes it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) new: Option<Typed>,
}

/// Another node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PeerRow {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) connected: bool,
    /// Round trip in milliseconds, where it was measured.
    pub(crate) rtt_ms: Option<f64>,
    /// Seconds since it was last heard of.
    pub(crate) last_seen_s: f64,
}

/// How far long work is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobProgress {
    /// Blocks that were looked at.
    pub(crate) done_blocks: u64,
    /// Bytes that were fetched, or read.
    pub(crate) done_bytes: u64,
    /// Blocks to look at, where that is known.
    pub(crate) total_blocks: Option<u64>,
    /// Blocks that were found to be bad or missing.
    pub(crate) bad_blocks: u64,
}

/// Asks for a pin: of a volume by its name, or of what an immutable link names.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PinRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
}

/// What pinning did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PinReply {
    /// Whether it was not so before.
    pub(crate) changed: bool,
    /// Blocks that it holds.
    pub(crate) blocks: u64,
    /// Those that had to be fetched.
    pub(crate) fetched_blocks: u64,
    pub(crate) fetched_bytes: u64,
}

/// Something that is pinned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PinRow {
    /// The volume's name, or the one that the link suggests.
    pub(crate) name: Option<String>,
    /// Whether it is a volume, which goes on changing.
    pub(crate) volume: bool,
    /// Whether the volume is ours to write.
    pub(crate) own: bool,
    /// The link of a tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
}

/// What a garbage collection did, or with `dry_run` would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Collected {
    pub(crate) dry_run: bool,
    pub(crate) removed_blocks: u64,
    /// Their sealed bytes.
    pub(crate) removed_bytes: u64,
    /// Blocks that became pinned, and that stopped being pinned or owed.
    pub(crate) pinned_blocks: u64,
    pub(crate) released_blocks: u64,
    /// Blocks that something needs.
    pub(crate) kept_blocks: u64,
    /// Pins that are not here whole; while there are any, everything pinned stays.
    pub(crate) incomplete_pins: u64,
    /// What the store takes of the disk, before and after.
    pub(crate) disk_before_bytes: u64,
    pub(crate) disk_after_bytes: u64,
    pub(crate) took_ms: u64,
    /// When it ended, in seconds since 1970.
    pub(crate) at: u64,
}

/// What a check found and mended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CheckReply {
    /// Whether nothing is left to be mended.
    pub(crate) clean: bool,
    pub(crate) good_blocks: u64,
    pub(crate) good_bytes: u64,
    /// Blocks that were fetched again.
    pub(crate) restored_blocks: u64,
    /// Entries that disagreed with the rows of blocks.
    pub(crate) wrong_entries: u64,
    /// Unsealed changes that were lost with a damaged journal.
    pub(crate) dropped_records: u64,
    /// Blocks that were held and do not read.
    pub(crate) bad: Vec<BadRow>,
    /// Blocks that pinned trees need and that are not here.
    pub(crate) missing: Vec<String>,
    /// What needs a bad or missing block.
    pub(crate) files: Vec<NeedingRow>,
    /// Volumes that do not open.
    pub(crate) unopened: Vec<String>,
}

/// A block that was held and does not read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BadRow {
    pub(crate) block: String,
    pub(crate) pinned: bool,
    pub(crate) owed: bool,
    pub(crate) bytes: u64,
    /// When it was set aside, in seconds since 1970.
    pub(crate) since: u64,
}

/// A file or directory that needs blocks which are bad or missing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NeedingRow {
    pub(crate) path: String,
    pub(crate) blocks: Vec<String>,
    /// Whether what lies below it is not known.
    pub(crate) unreadable: bool,
}

/// Sealed bytes in use.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Space {
    pub(crate) pinned_bytes: u64,
    pub(crate) in_range_bytes: u64,
    pub(crate) cached_bytes: u64,
    /// Crash-safe here and not sealed yet.
    pub(crate) staged_bytes: u64,
    /// Forgotten, and still to be given back to the disk.
    pub(crate) reclaimable_bytes: u64,
    /// What the store takes of the disk, all in all.
    pub(crate) occupied_bytes: u64,
    pub(crate) blocks: u64,
    /// Blocks that were held and did not read.
    pub(crate) bad_blocks: u64,
    /// The limit, where one was set.
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) disk_free_bytes: u64,
}

/// How far replication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replication {
    /// Other nodes that are believed to live.
    pub(crate) live_peers: u64,
    /// Whether any other node is to be expected: one to join, or one of earlier runs.
    pub(crate) expects_peers: bool,
    /// Copies that make a block replicated: three, or all live nodes where there are fewer; the
    /// holders make the rest.
    pub(crate) target: u8,
    /// Blocks that still lack copies.
    pub(crate) owed_blocks: u64,
    pub(crate) owed_bytes: u64,
    /// Newest roots of volumes that the network has not acknowledged.
    pub(crate) heads_pending: u64,
    /// Blocks brought to their number of copies since the node started.
    pub(crate) published_blocks: u64,
}

/// What a node is doing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) pid: u32,
    pub(crate) home: Name,
    /// Whether a daemon answers, or a command with a node of its own.
    pub(crate) daemon: bool,
    pub(crate) uptime_s: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) replication: Replication,
    pub(crate) space: Space,
    /// The last garbage collection since the node started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_gc: Option<Collected>,
    pub(crate) keyring: KeyringState,
    pub(crate) volumes: Vec<VolumeRow>,
    pub(crate) mounts: Vec<Name>,
}

/// Asks for a mount.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MountRequest {
    /// An absolute path.
    pub(crate) dir: Name,
    pub(crate) read_only: bool,
    pub(crate) allow_other: bool,
}

/// Asks for a mount to go.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnmountRequest {
    /// An absolute path.
    pub(crate) dir: Name,
}

/// Asks for a volume: a new one, or with a link one to follow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VolumeRequest {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
    /// Whether a new volume shares blocks of equal content with the whole network.
    #[serde(default)]
    pub(crate) network_convergence: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_json() {
        for name in [b"plain".as_slice(), b"caf\xc3\xa9", b"\xff\x00raw", b""] {
            let name = Name(name.to_vec());
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<Name>(&json).unwrap(), name, "{json}");
        }
        assert!(serde_json::from_str::<Name>(r#"{"hex":"abc"}"#).is_err());
    }

    #[test]
    fn a_name_cannot_drive_a_terminal() {
        assert_eq!(Name(b"a\x1b[2J\n".to_vec()).to_string(), "a\\u{1b}[2J\\n");
    }
}
