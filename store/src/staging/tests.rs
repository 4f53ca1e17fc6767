//! The journal over the in-memory store, and its codec.

use proptest::prelude::*;

use super::*;
use crate::tree::entry::{Attr, Content, Node, Xattrs};
use crate::tree::volume::VolumeSecret;
use crate::{Memory, NAME_BYTES_MAX};

fn secret() -> VolumeSecret {
    VolumeSecret::from_bytes([8; 32])
}

fn open(ledger: &Arc<Memory>) -> (Journal, Vec<(u64, Change)>) {
    Journal::open(Arc::clone(ledger) as _, secret().id(), &secret().staging_key()).unwrap()
}

fn remove(name: &str) -> Change {
    Change::Remove { path: name.into(), time: Timestamp::default() }
}

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..NAME_BYTES_MAX)
}

fn change() -> impl Strategy<Value = Change> {
    let entry = |(ino, mode, time, target): (u64, u32, Timestamp, Vec<u8>)| {
        let attr = Attr { ino, mode, mtime: time, ..Attr::default() };
        let node = match target.is_empty() {
            true => Node::File(Content::default()),
            false => Node::Symlink(target),
        };
        Box::new(Entry { attr, node, xattrs: Xattrs::default() })
    };
    prop_oneof![
        (path(), (any::<u64>(), 0..0o10000_u32, time(), path()))
            .prop_map(move |(path, parts)| Change::Create { path, entry: entry(parts) }),
        (path(), path(), time()).prop_map(|(from, to, time)| Change::Link { from, to, time }),
        (path(), time()).prop_map(|(path, time)| Change::Remove { path, time }),
        (path(), path(), any::<bool>(), time())
            .prop_map(|(from, to, exchange, time)| Change::Rename { from, to, exchange, time }),
        (path(), any::<u64>(), path(), time()).prop_map(|(path, offset, bytes, time)| {
            Change::Write { path, offset, bytes: bytes.into(), time }
        }),
        (path(), any::<u64>(), time()).prop_map(|(path, size, time)| Change::Resize {
            path,
            size,
            time
        }),
        (path(), any::<[u32; 3]>(), time(), time()).prop_map(|(path, ids, mtime, ctime)| {
            let [mode, uid, gid] = ids;
            Change::SetAttr { path, mode, uid, gid, mtime, atime: ctime, ctime }
        }),
        (path(), path(), proptest::option::of(path()), time())
            .prop_map(|(path, name, value, time)| Change::SetXattr { path, name, value, time }),
    ]
}

proptest! {
    #[test]
    fn changes_round_trip(change in change()) {
        prop_assert_eq!(Change::decode(&change.encode()), Ok(change));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Change::decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = FORMAT_VERSION;
            if let Ok(change) = Change::decode(&bytes) {
                prop_assert_eq!(change.encode(), bytes, "one encoding a change");
            }
        }
    }
}

#[test]
fn a_journal_holds_what_no_head_sealed() {
    let ledger = Arc::new(Memory::new());
    let (journal, found) = open(&ledger);
    assert!(found.is_empty());
    journal.append(&[(1, remove("a")), (2, remove("b"))]).unwrap();
    journal.append(&[(3, remove("c"))]).unwrap();
    let (journal, found) = open(&ledger);
    assert_eq!(found, vec![(1, remove("a")), (2, remove("b")), (3, remove("c"))]);
    let head = Head::sign(&secret(), None, 0, Bytes::from_static(b"root"));
    journal.commit_head(&*ledger, &head, 2).unwrap();
    assert_eq!(open(&ledger).1, vec![(3, remove("c"))]);
    assert_eq!(stored_head(&*ledger, secret().id()).unwrap(), Some(head));
}

#[test]
fn records_are_sealed_and_moving_one_is_noticed() {
    let ledger = Arc::new(Memory::new());
    let (journal, _) = open(&ledger);
    let bytes = Bytes::from_static(b"plain content");
    let path = b"plain/name".to_vec();
    let write = Change::Write { path, offset: 0, bytes, time: Timestamp::default() };
    journal.append(&[(1, write)]).unwrap();
    let (key, value) = ledger.scan(Table::Journal, &[]).unwrap().remove(0);
    assert!(!value.windows(5).any(|window| window == b"plain"));
    let mut batch = Batch::new();
    batch.put(Table::Journal, ledger_key(secret().id(), 2), value);
    batch.delete(Table::Journal, key);
    ledger.commit(batch).unwrap();
    let opened = Journal::open(Arc::clone(&ledger) as _, secret().id(), &secret().staging_key());
    assert!(matches!(opened, Err(ReadError::Corrupt { .. })));
}

#[test]
fn a_damaged_journal_gives_what_came_before() {
    let dir = tempfile::tempdir().unwrap();
    let aside = dir.path().join("journal");
    let ledger = Arc::new(Memory::new());
    let (journal, _) = open(&ledger);
    let changes = [(1, remove("a")), (2, remove("b")), (3, remove("c"))];
    journal.append(&changes).unwrap();
    let salvage =
        || Journal::salvage(&*ledger, secret().id(), &secret().staging_key(), &aside).unwrap();
    assert_eq!((salvage(), aside.exists()), (0, false));
    let second = ledger_key(secret().id(), 2);
    let mut batch = Batch::new();
    batch.put(Table::Journal, second, vec![FORMAT_VERSION; 40]);
    ledger.commit(batch).unwrap();
    assert_eq!(salvage(), 2);
    assert_eq!(open(&ledger).1, changes[..1]);
    assert!(std::fs::read(&aside).unwrap().windows(40).any(|part| part == [FORMAT_VERSION; 40]));
}

#[test]
fn another_writers_head_waits_until_the_journal_is_sealed() {
    let ledger = Arc::new(Memory::new());
    let id = secret().id();
    let (journal, _) = open(&ledger);
    let ours = Head::sign(&secret(), None, 0, Bytes::from_static(b"ours"));
    journal.commit_head(&*ledger, &ours, 0).unwrap();
    let sign = |before: &Head| Head::sign(&secret(), Some(before), 9, Bytes::from_static(b"next"));
    let theirs = sign(&sign(&ours));
    let mut batch = Batch::new();
    batch.put(Table::Heads, *id.as_bytes(), theirs.encoded().clone());
    ledger.commit(batch).unwrap();
    assert_eq!(take_base(&*ledger, id, true).unwrap(), Some(ours.clone()));

    let sealed = sign(&ours);
    journal.commit_head(&*ledger, &sealed, 1).unwrap();
    assert_eq!(stored_head(&*ledger, id).unwrap(), Some(theirs.clone()), "the newest stays");
    assert_eq!(take_base(&*ledger, id, true).unwrap(), Some(sealed));
    assert_eq!(take_base(&*ledger, id, false).unwrap(), Some(theirs.clone()));
    assert_eq!(take_base(&*ledger, id, true).unwrap(), Some(theirs), "it was taken up");
}
