//! Links: the text form of a capability.
use std::fmt;
use std::str::FromStr;

use crate::tree::entry::{Content, Node};
use crate::tree::head::VolumeId;
use crate::tree::volume::{ReadKey, VolumeSecret};

/// A capability to one tree or to a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// One file or directory as it was; it never changes.
    Tree(TreeLink),
    /// A volume, live, to read.
    Read(VolumeId, ReadKey),
    /// A volume, live, to read and write.
    Write(VolumeSecret),
}

/// What an immutable link names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeLink {
    /// The name it had, as a suggestion for the receiver; at most `LINK_NAME_BYTES_MAX` bytes.
    pub name: Option<String>,
    /// Permission bits, `0..=0o777`.
    pub mode: u32,
    /// A file or a directory; nothing else can be linked.
    pub node: LinkNode,
}

/// What kind of thing an immutable link names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkNode {
    /// A file.
    File(Content),
    /// A directory and all below it.
    Directory(Content),
}

/// Longest name in a link.
pub const LINK_NAME_BYTES_MAX: usize = 48;

/// Why a text is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No `xorfs:` at the front.
    #[error("a link starts with \"xorfs:\"")]
    Prefix,
}

impl TreeLink {
    /// The link of a file or directory; `None` for other kinds of node.
    pub fn new(_name: Option<&[u8]>, _mode: u32, _node: &Node) -> Option<Self> {
        todo!()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl FromStr for Link {
    type Err = LinkError;
    /// Parses `xorfs:…`, in either case.
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}
