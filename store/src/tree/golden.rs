//! Golden bytes: every format as `docs/format.md` describes it, pinned, so that a change of a
//! format is a decision and never an accident.

use bytes::Bytes;

use crate::format::Encoder;
use crate::id::BlockId;
use crate::seal::{BlockRef, Encoding, Kind, PieceKey, seal, seal_piece};
use crate::staging::Change;
use crate::tree::entry::{Attr, Content, Entry, NameOf, Node, Timestamp, VolumeRoot, Xattrs};
use crate::tree::head::Head;
use crate::tree::link::{Link, TreeLink};
use crate::tree::map::{self, Extent};
use crate::tree::shard::{Child, Item, Shard, hash_of};
use crate::tree::volume::{Convergence, VolumeSecret};

fn secret() -> VolumeSecret {
    VolumeSecret::from_bytes([0x11; 32])
}

fn piece() -> BlockRef {
    let id = BlockId::from_bytes([0xaa; 32]);
    let key = PieceKey::from_bytes([0xbb; 32]);
    BlockRef { id, offset: 0x1234, length: 0x5678, encoding: Encoding::Plain, key }
}

fn entry() -> Entry {
    let attr = Attr {
        ino: 0x1234,
        mode: 0o4755,
        uid: 1000,
        gid: 100,
        nlink: 2,
        mtime: Timestamp { seconds: 1_700_000_000, nanos: 1 },
        ctime: Timestamp { seconds: 1_700_000_001, nanos: 2 },
        atime: Timestamp { seconds: -1, nanos: 3 },
        crtime: Timestamp { seconds: 0, nanos: 4 },
    };
    let xattrs = Xattrs::Inline([(b"user.a".to_vec(), b"v".to_vec())].into());
    Entry { attr, node: Node::Symlink(b"to".to_vec()), xattrs }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

#[test]
fn small_formats_byte_by_byte() {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let mut encoder = Encoder::default();
    piece().encode(&mut encoder);
    let id_offset_length_encoding = format!("{}b424f8ac0100", "aa".repeat(32));
    assert_eq!(hex(&encoder.finish()), format!("{id_offset_length_encoding}{}", "bb".repeat(32)));

    let mut encoder = Encoder::default();
    let encoding = Encoding::Zstd { plain_length: 0x9_1234 };
    BlockRef { encoding, ..piece() }.encode(&mut encoder);
    let id_offset_length_encoding = format!("{}b424f8ac0101b4a424", "aa".repeat(32));
    assert_eq!(hex(&encoder.finish()), format!("{id_offset_length_encoding}{}", "bb".repeat(32)));

    let mut encoder = Encoder::default();
    entry().encode(&mut encoder);
    let numbers = "b424ed13e8076402";
    let times = concat!(
        "00f153650000000001000000",
        "01f153650000000002000000",
        "ffffffffffffffff03000000",
        "000000000000000004000000",
    );
    let (node, xattrs) = ("0302746f", "000106757365722e610176");
    assert_eq!(hex(&encoder.finish()), format!("{numbers}{times}{node}{xattrs}"));
}

#[test]
fn larger_formats_by_their_hash() {
    let extents =
        [Extent { length: 0x5668, piece: Some(piece()) }, Extent { length: 9, piece: None }];
    let item = Item { hash: hash_of(b"name"), key: b"name".to_vec(), record: entry() };
    let child = Child { slot: 5, count: 300, piece: piece() };
    let names = vec![NameOf { parent: 1, name: b"name".to_vec() }];
    let names = Item {
        hash: hash_of(&7_u64.to_be_bytes()),
        key: 7_u64.to_be_bytes().to_vec(),
        record: names,
    };
    let content = Content { size: 300, height: 0, root: Some(piece()) };
    let directory = Entry { node: Node::Directory(content.clone()), ..entry() };
    let root = VolumeRoot { directory, names: content.clone(), next_ino: 8 };
    let head = Head::sign(&secret(), None, 1_700_000_000_000, Bytes::from_static(b"sealed"));
    let write = Change::Write {
        path: b"dir/name".to_vec(),
        offset: 4096,
        bytes: Bytes::from_static(b"bytes"),
        time: Timestamp { seconds: 5, nanos: 6 },
    };
    let mut sealed = Vec::new();
    seal(Kind::Data, &PieceKey::from_bytes([0xbb; 32]), &[7; 40_000], &mut sealed);
    let mut packed = Vec::new();
    seal_piece(Kind::Data, &PieceKey::from_bytes([0xbb; 32]), &[7; 140_000], &mut packed);
    let link = TreeLink::new(Some(b"film"), 0o644, &Node::File(content)).unwrap();
    let shared = VolumeSecret::with_convergence([0x11; 32], Convergence::Network);
    let found = [
        ("map", hash(&map::encode(1, &extents))),
        ("directory leaf", hash(&Shard::Leaf(vec![item]).encode())),
        ("directory branch", hash(&Shard::<Entry>::Branch(vec![child]).encode())),
        ("names leaf", hash(&Shard::Leaf(vec![names]).encode())),
        ("volume root", hash(&root.encode())),
        ("head", hash(head.encoded())),
        ("journal record", hash(&write.encode())),
        ("sealed piece", hash(&sealed)),
        ("sealed piece, compressed", hash(&packed)),
        ("derived key", hash(PieceKey::derive(&secret().convergence_secret(), b"x").as_bytes())),
        ("file link", hash(Link::Tree(link).to_string().as_bytes())),
        ("write link", hash(Link::Write(secret()).to_string().as_bytes())),
        ("write link, network", hash(Link::Write(shared.clone()).to_string().as_bytes())),
        ("network key", hash(PieceKey::derive(&shared.convergence_secret(), b"x").as_bytes())),
        ("read link", hash(Link::Read(secret().id(), secret().read_key()).to_string().as_bytes())),
    ];
    let found: Vec<String> = found.iter().map(|(name, hash)| format!("{name} {hash}")).collect();
    let expected = include_str!("golden.txt");
    assert_eq!(found.join("\n"), expected.trim_end());
}
