//! Links: the text form of a capability.
//!
//! `xorfs:` and base32 (RFC 4648, lower case, no padding) of version, kind, payload and a 4-byte
//! BLAKE3 checksum of all of it, so that a mistyped link is told from one that nobody holds.
//! Case does not matter. An immutable link holds the ref of a file or directory; a live one the
//! keys of a volume.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::format::{Decoder, Encoder, FORMAT_VERSION, FormatError};
use crate::tree::entry::{Content, Node};
use crate::tree::head::VolumeId;
use crate::tree::volume::{Convergence, ReadKey, VolumeSecret};

/// What every link starts with.
pub const LINK_PREFIX: &str = "xorfs:";

/// Longest name in a link, in bytes: with it a link still is a file name (255 bytes).
pub const LINK_NAME_BYTES_MAX: usize = 48;

/// Longest text after the prefix that is looked at. The longest link is below 250 characters.
const TEXT_BYTES_MAX: usize = 512;

const CHECKSUM_BYTES: usize = 4;

const KIND_FILE: u8 = 1;
const KIND_DIRECTORY: u8 = 2;
const KIND_READ: u8 = 3;
const KIND_WRITE: u8 = 4;
const KIND_WRITE_NETWORK: u8 = 5;

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
    /// What it is and where.
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

/// Why a text is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It does not start as a link does.
    #[error("a link starts with \"xorfs:\"")]
    Prefix,
    /// A character that links never hold.
    #[error("character {position} of the link is {found:?}, which no link holds")]
    Character {
        /// Which, counted from 1 after the prefix.
        position: usize,
        /// What stands there.
        found: char,
    },
    /// Too short or too long to be whole.
    #[error("the link has {0} characters after \"xorfs:\", which is not the length of one")]
    Length(usize),
    /// The checksum does not fit: a character was changed, lost or swapped.
    #[error("the link was mistyped: its checksum does not fit")]
    Mistyped,
    /// Made by a newer version.
    #[error("the link has format {0}, newer than this version of xorfs reads")]
    Newer(u8),
    /// The checksum fits, and what it covers is nonsense all the same.
    #[error("the link does not decode")]
    Format(#[from] FormatError),
}

impl TreeLink {
    /// The link of a file or directory with permission bits `mode`; `None` for other kinds of
    /// node. A name that is too long or not UTF-8 is left out.
    pub fn new(name: Option<&[u8]>, mode: u32, node: &Node) -> Option<Self> {
        let node = match node {
            Node::File(content) => LinkNode::File(content.clone()),
            Node::Directory(content) => LinkNode::Directory(content.clone()),
            _ => return None,
        };
        let name = name
            .and_then(|name| std::str::from_utf8(name).ok())
            .filter(|name| is_name(name))
            .map(str::to_owned);
        Some(Self { name, mode: mode & 0o777, node })
    }

    /// What it names, as a directory would say.
    pub fn to_node(&self) -> Node {
        match &self.node {
            LinkNode::File(content) => Node::File(content.clone()),
            LinkNode::Directory(content) => Node::Directory(content.clone()),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut encoder = Encoder::versioned();
        match self {
            Self::Tree(tree) => {
                let (kind, content) = match &tree.node {
                    LinkNode::File(content) => (KIND_FILE, content),
                    LinkNode::Directory(content) => (KIND_DIRECTORY, content),
                };
                encoder.u8(kind).varint(tree.mode.into());
                content.encode(&mut encoder);
                encoder.bytes(tree.name.as_deref().unwrap_or_default().as_bytes());
            }
            Self::Read(volume, key) => {
                encoder.u8(KIND_READ).raw(volume.as_bytes()).raw(key.as_bytes());
            }
            Self::Write(secret) => {
                let kind = match secret.convergence() {
                    Convergence::Volume => KIND_WRITE,
                    Convergence::Network => KIND_WRITE_NETWORK,
                };
                encoder.u8(kind).raw(secret.as_bytes());
            }
        }
        let mut bytes = Zeroizing::new(encoder.finish());
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let text = data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        write!(f, "{LINK_PREFIX}{text}")
    }
}

impl FromStr for Link {
    type Err = LinkError;

    /// Parses `xorfs:…`, in either case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (prefix, body) = text.split_at_checked(LINK_PREFIX.len()).ok_or(LinkError::Prefix)?;
        if !prefix.eq_ignore_ascii_case(LINK_PREFIX) {
            return Err(LinkError::Prefix);
        }
        let bytes = decode_text(body)?;
        let (bytes, found) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(LinkError::Length(body.len()))?;
        if checksum(bytes) != *found {
            return Err(LinkError::Mistyped);
        }
        decode(bytes)
    }
}

fn decode_text(body: &str) -> Result<Zeroizing<Vec<u8>>, LinkError> {
    let wrong = body.chars().position(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '2'..='7'));
    if let Some(at) = wrong {
        let found = body.chars().nth(at).expect("the position was just found");
        return Err(LinkError::Character { position: at + 1, found });
    }
    if body.len() > TEXT_BYTES_MAX {
        return Err(LinkError::Length(body.len()));
    }
    data_encoding::BASE32_NOPAD
        .decode(body.to_ascii_uppercase().as_bytes())
        .map(Zeroizing::new)
        .map_err(|error| match error.kind {
            data_encoding::DecodeKind::Length => LinkError::Length(body.len()),
            _ => LinkError::Mistyped,
        })
}

fn decode(bytes: &[u8]) -> Result<Link, LinkError> {
    let mut decoder = match Decoder::versioned(bytes) {
        Err(FormatError::Newer(found)) => return Err(LinkError::Newer(found)),
        other => other?,
    };
    let link = match decoder.u8()? {
        KIND_READ => Link::Read(
            VolumeId::from_bytes(decoder.array()?),
            ReadKey::from_bytes(decoder.array()?),
        ),
        KIND_WRITE => Link::Write(VolumeSecret::from_bytes(decoder.array()?)),
        KIND_WRITE_NETWORK => {
            Link::Write(VolumeSecret::with_convergence(decoder.array()?, Convergence::Network))
        }
        kind @ (KIND_FILE | KIND_DIRECTORY) => Link::Tree(decode_tree(kind, &mut decoder)?),
        _ => return Err(FormatError::Invalid("a kind of link").into()),
    };
    decoder.finish()?;
    Ok(link)
}

fn decode_tree(kind: u8, decoder: &mut Decoder<'_>) -> Result<TreeLink, FormatError> {
    let mode = decoder.varint()?;
    let mode = u32::try_from(mode)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or(FormatError::Invalid("a mode over 0o777"))?;
    let content = Content::decode(decoder)?;
    let name = match std::str::from_utf8(decoder.bytes()?) {
        Ok("") => None,
        Ok(name) if is_name(name) => Some(name.to_owned()),
        _ => return Err(FormatError::Invalid("a name in a link")),
    };
    let node = match kind {
        KIND_FILE => LinkNode::File(content),
        _ => LinkNode::Directory(content),
    };
    Ok(TreeLink { name, mode, node })
}

/// Whether a receiver may use the text as a file name. A link comes from somebody else, so a name
/// that would lead out of the receiver's directory is refused here.
fn is_name(name: &str) -> bool {
    let fits = (1..=LINK_NAME_BYTES_MAX).contains(&name.len());
    fits && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
        && !name.contains(char::is_control)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    *hash.as_bytes().first_chunk().expect("a hash holds a checksum")
}

const _: () = assert!(FORMAT_VERSION == 1, "a new format needs a new look at links");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockId;
    use crate::seal::{BlockRef, Encoding, PieceKey};

    fn links() -> Vec<Link> {
        let secret = VolumeSecret::from_bytes([5; 32]);
        let root = BlockRef {
            id: BlockId::of(b"block"),
            offset: 1_000_000,
            length: 40_000,
            encoding: Encoding::Zstd { plain_length: 1_000_000 },
            key: PieceKey::from_bytes([9; 32]),
        };
        let content = Content { size: u64::MAX, height: 4, root: Some(root) };
        let longest = "n".repeat(LINK_NAME_BYTES_MAX);
        let tree = |name: Option<&str>, node: Node| {
            Link::Tree(TreeLink::new(name.map(str::as_bytes), 0o644, &node).unwrap())
        };
        vec![
            tree(Some(&longest), Node::File(content.clone())),
            tree(None, Node::Directory(content)),
            tree(Some("empty"), Node::File(Content::default())),
            Link::Read(secret.id(), secret.read_key()),
            Link::Write(secret),
            Link::Write(VolumeSecret::with_convergence([5; 32], Convergence::Network)),
        ]
    }

    #[test]
    fn links_round_trip_in_either_case_and_fit_a_file_name() {
        for link in links() {
            let text = link.to_string();
            assert!(text.len() <= 255, "{} characters", text.len());
            assert_eq!(text.parse(), Ok(link.clone()));
            assert_eq!(text.to_ascii_uppercase().parse(), Ok(link));
        }
    }

    #[test]
    fn every_wrong_character_is_noticed() {
        for link in links() {
            let text = link.to_string();
            for at in LINK_PREFIX.len()..text.len() {
                let mut typo = text.clone().into_bytes();
                typo[at] = if typo[at] == b'a' { b'b' } else { b'a' };
                let typo = String::from_utf8(typo).unwrap();
                assert!(typo.parse::<Link>().is_err(), "{typo}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = links()[3].to_string();
        let parse = |text: &str| text.parse::<Link>().unwrap_err();
        assert_eq!(parse("http://x"), LinkError::Prefix);
        assert_eq!(parse("xorfs:ab!c"), LinkError::Character { position: 3, found: '!' });
        assert_eq!(parse("xorfs:"), LinkError::Length(0));
        assert_eq!(parse(&text.replacen('a', "b", 1)), LinkError::Mistyped);
        let longer = parse(&format!("{text}aaaaaaaa"));
        assert_eq!(longer, LinkError::Mistyped);
    }

    #[test]
    fn a_name_cannot_lead_out_of_a_directory() {
        let node = Node::File(Content::default());
        for name in ["..", ".", "a/b", "", "tab\there"] {
            assert_eq!(TreeLink::new(Some(name.as_bytes()), 0o600, &node).unwrap().name, None);
        }
    }
}
