//! A damaged store whose rebuild dies on the way: the next opening takes it up again, and the
//! damage costs no more than it would have cost at once.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use xorfs_store::crash::POINTS;
use xorfs_store::{Batch, Block, BlockId, BlockStore, Ledger, Local, Purpose, ReadError, Table};
use xorfs_tests::campaign::local_config;
use xorfs_tests::child::{Child, tell};
use xorfs_tests::conformance::block;
use xorfs_tests::files::copy_tree;

/// Openings that leave a table of every family.
const ROUNDS: u64 = 4;

/// What a child says when it opened the store and did not die.
const OPENED: &str = "opened";

fn sample(round: u64) -> impl Iterator<Item = Block> {
    (0..10).map(move |n| block(round << 8 | n, if n % 3 == 0 { 700 } else { 40_000 }))
}

/// A store of which a table is cut in half and the manifest is gone.
fn make_damaged(dir: &Path) {
    for round in 0..ROUNDS {
        let store = Local::open(dir, local_config()).unwrap();
        sample(round).for_each(|block| store.put(&block, Purpose::Own).unwrap());
        store.flush().unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Heads, round.to_be_bytes(), vec![round as u8; 100]);
        store.commit(batch).unwrap();
    }
    let mut tables = Vec::new();
    for entry in fs::read_dir(dir.join("db")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("MANIFEST") {
            fs::remove_file(&path).unwrap();
        } else if name.ends_with(".sst") {
            tables.push(path);
        }
    }
    tables.sort();
    let table = &tables[1];
    let bytes = fs::read(table).unwrap();
    fs::write(table, &bytes[..bytes.len() / 2]).unwrap();
}

/// Blocks and heads that an opened store lacks. Whatever reads is right.
fn lost(store: &Local) -> (BTreeSet<BlockId>, Vec<u64>) {
    let gone = |block: &Block| match store.get(&block.id()) {
        Ok(found) => {
            assert_eq!(found, *block);
            false
        }
        Err(ReadError::Missing { .. } | ReadError::Corrupt { .. }) => true,
        Err(error) => panic!("{error:?}"),
    };
    let blocks = (0..ROUNDS).flat_map(sample).filter(gone).map(|block| block.id()).collect();
    let lacks = |round: &u64| store.read(Table::Heads, &round.to_be_bytes()).unwrap().is_none();
    (blocks, (0..ROUNDS).filter(lacks).collect())
}

#[test]
fn child_opens_a_damaged_store() {
    let Some(Child { dir, .. }) = Child::wanted() else { return };
    drop(Local::open(&dir, local_config()).unwrap());
    tell(OPENED, 1);
}

#[test]
fn a_rebuild_that_dies_is_taken_up_again() {
    let sample = tempfile::tempdir().unwrap();
    make_damaged(sample.path());
    let dir = tempfile::tempdir().unwrap();
    copy_tree(sample.path(), dir.path()).unwrap();
    let expected = lost(&Local::open(dir.path(), local_config()).unwrap());
    assert!(expected.0.len() < 40, "most blocks are found: {expected:?}");

    let points: Vec<_> = POINTS.into_iter().filter(|name| name.starts_with("rebuild")).collect();
    assert!(points.len() > 3, "{points:?}");
    for point in points {
        let dir = tempfile::tempdir().unwrap();
        copy_tree(sample.path(), dir.path()).unwrap();
        // Twice, because the second rebuild begins with what the first one left; one that died
        // when all but cleaning was done has ended.
        for attempt in 0..2 {
            let mut child = Child::command("rebuild::child_opens_a_damaged_store", dir.path(), 0);
            let output = child.env("XORFS_CRASH", format!("{point}:1")).output().unwrap();
            let died = output.status.signal() == Some(libc::SIGKILL);
            let has_ended = attempt > 0 && point == "rebuild-before-cleaning";
            assert!(died || has_ended, "{point}: {output:?}");
        }
        let found = lost(&Local::open(dir.path(), local_config()).expect(point));
        assert_eq!(found, expected, "{point}");
        let left = |name: &str| dir.path().join(name).exists();
        assert!(!left("probe") && !left("rescue"), "{point}: nothing of the work is left");
        // And it is whole: the next opening has nothing to do.
        assert_eq!(lost(&Local::open(dir.path(), local_config()).expect(point)), expected);
    }
}
