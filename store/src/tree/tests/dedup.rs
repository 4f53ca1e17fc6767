//! What is stored once, what is stored again, and how little a change costs.

use super::*;

fn file(content: Content, ino: u64) -> Entry {
    Entry { node: Node::File(content), ..entry(ino) }
}

fn text(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(|n| format!("line {n} of a text\n").into_bytes()).take(length).collect()
}

#[test]
fn equal_content_is_stored_once_across_sealings() {
    let volume = Volume::new();
    for length in [10, 5_000, 60_000, 200_000, 3_000_000] {
        let bytes = noise(length as u64, length);
        // Among others the second time: the small ones lie in another block then.
        let first = volume.seal_bytes(&bytes);
        let mut writer = volume.writer();
        let others: Vec<_> = [noise(1_000 + length as u64, 4_000), bytes.clone()]
            .into_iter()
            .map(|bytes| {
                let mut edit = FileEdit::new(Content::default());
                edit.write(0, bytes.into());
                writer.file(&edit).unwrap()
            })
            .collect();
        let stored = volume.stored_bytes();
        writer.flush().unwrap();
        let added = volume.stored_bytes() - stored;
        assert!(added < 4_200, "{added} bytes more for {length} that were there");
        let second = others.into_iter().map(|draft| writer.settle(draft)).next_back().unwrap();
        assert_eq!(second, first);
    }
    let entries = |count| (0..count).map(|n| (format!("f{n}").into_bytes(), Some(entry(n))));
    let first = volume.change(&Content::default(), entries(5_000).collect());
    let stored = volume.stored_bytes();
    assert_eq!(volume.change(&Content::default(), entries(5_000).collect()), first);
    assert_eq!(volume.stored_bytes(), stored);
}

#[test]
fn another_volume_shares_only_by_choice() {
    let volume = Volume::new();
    let with = |seed, convergence| VolumeSecret::with_convergence([seed; 32], convergence);
    let seal_as = |secret: VolumeSecret| {
        let before = volume.stored_bytes();
        let other = Volume {
            blocks: Arc::clone(&volume.blocks),
            reader: Arc::clone(&volume.reader),
            secret,
        };
        other.seal_bytes(&noise(8, 20_000));
        volume.stored_bytes() - before
    };
    let whole = seal_as(with(1, Convergence::Volume));
    assert_eq!(seal_as(with(3, Convergence::Volume)), whole);
    assert_eq!(seal_as(with(1, Convergence::Network)), whole);
    assert_eq!(seal_as(with(3, Convergence::Network)), 0);
}

#[test]
fn nothing_is_named_that_is_gone_or_damaged() {
    let volume = Volume::new();
    for length in [9_000, 300_000] {
        let bytes = noise(length as u64, length);
        let first = volume.seal_bytes(&bytes);
        let blocks = volume.reader.blocks_of(&file(first, 2)).unwrap();
        assert!(volume.blocks.corrupt(&blocks[0]));
        for gone in [false, true] {
            if gone {
                blocks.iter().for_each(|id| volume.blocks.remove(id).unwrap());
            }
            let again = volume.seal_bytes(&bytes);
            let fresh = Reader::new(Arc::clone(&volume.blocks) as _, 1 << 20);
            let read = fresh.read_at(&again, 0, usize::MAX).unwrap();
            assert!(read[..] == bytes[..], "{length} bytes, gone: {gone}");
        }
    }
}

#[test]
fn what_is_written_again_is_owned_though_it_was_only_cached() {
    let volume = Volume::new();
    let bytes = noise(1, 9_000);
    let content = volume.seal_bytes(&bytes);
    let id = content.root.as_ref().unwrap().block();
    let block = volume.blocks.get(&id).unwrap();
    volume.blocks.remove(&id).unwrap();
    volume.blocks.put(&block, Purpose::Cache).unwrap();
    assert_eq!(volume.blocks.usage().pinned_bytes, 0);
    assert_eq!(volume.seal_bytes(&bytes), content);
    let usage = volume.blocks.usage();
    assert_eq!((usage.pinned_bytes, usage.cached_bytes), (block.bytes().len() as u64, 0));
}

#[test]
fn what_compresses_is_stored_smaller() {
    let volume = Volume::new();
    for length in [9_000, 2_000_000] {
        let bytes = text(length);
        let before = volume.stored_bytes();
        let content = volume.seal_bytes(&bytes);
        let added = volume.stored_bytes() - before;
        assert!(added < length as u64 / 3, "{added} bytes for {length}");
        let read = volume.reader.read_at(&content, 0, usize::MAX).unwrap();
        assert!(read[..] == bytes[..]);
        let part = volume.reader.read_at(&content, length as u64 / 2, 4_096).unwrap();
        assert!(part[..] == bytes[length / 2..length / 2 + 4_096]);
    }
}

/// 20,000 files of about 9 KiB in 200 directories; a tenth of it where time is short.
#[test]
fn a_source_tree_is_few_blocks() {
    let is_long = std::env::var_os("XORFS_TEST_LONG").is_some_and(|value| value == "1");
    let (directories, files) = if is_long { (200, 100) } else { (20, 100) };
    let volume = Volume::new();
    let mut writer = volume.writer();
    let mut drafts = Vec::new();
    for number in 0..directories * files {
        let mut edit = FileEdit::new(Content::default());
        edit.write(0, noise(number, 6_000 + number as usize % 6_000).into());
        drafts.push(writer.file(&edit).unwrap());
    }
    writer.flush().unwrap();
    let settled: Vec<_> = drafts.into_iter().map(|draft| writer.settle(draft)).collect();
    let mut contents = settled.into_iter();
    let mut below = Vec::new();
    for directory in 0..directories {
        let names = (0..files).map(|n| {
            let content = contents.next().expect("every file was sealed");
            (format!("file {n}").into_bytes(), Some(file(content, directory * files + n)))
        });
        below.push(writer.directory(&Content::default(), names.collect()).unwrap());
    }
    writer.flush().unwrap();
    let names = (0_u64..).zip(below).map(|(n, draft)| {
        let node = Node::Directory(writer.settle(draft));
        (format!("directory {n}").into_bytes(), Some(Entry { node, ..entry(n) }))
    });
    let names = names.collect();
    writer.directory(&Content::default(), names).unwrap();
    writer.flush().unwrap();
    let blocks = volume.blocks.usage().blocks;
    assert!(blocks < directories * files / 10, "{blocks} blocks");
}
