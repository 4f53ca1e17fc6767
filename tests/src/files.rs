//! Files for tests: contents that can be made again instead of being kept, comparing trees, and
//! searching raw files for what must not be in them.
//!
//! Contents come from a seed and a length alone, so a test compares what it reads with what it
//! would write now, and holds at most one file in memory.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Bytes that the disk gave to the files below a folder, as `du` counts them. A file that goes
/// meanwhile counts as gone.
pub fn disk_usage(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("a folder that can be listed");
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(file) if file.is_dir() => disk_usage(&entry.path()),
        Ok(file) => file.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Bytes that are made, written and compared at a time.
const PART_BYTES: usize = 1 << 20;

/// A tree that can be described by one seed: names and contents follow from it.
#[derive(Debug, Clone)]
pub struct Tree {
    seed: u64,
    lengths: Vec<u64>,
}

/// Files in one folder of a `Tree`.
const FOLDER_FILES: usize = 100;

impl Tree {
    /// `count` files of `bytes` in total, of lengths that differ widely; some are empty.
    pub fn new(seed: u64, count: usize, bytes: u64) -> Self {
        assert!(count > 0, "a tree has files");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mean = bytes / count as u64;
        let mut left = bytes;
        let mut lengths = Vec::with_capacity(count);
        for at in 0..count {
            let wanted = if at % 50 == 7 { 0 } else { random.next_u64() % (2 * mean + 1) };
            let length = if at + 1 == count { left } else { wanted.min(left) };
            left -= length;
            lengths.push(length);
        }
        Self { seed, lengths }
    }

    /// Path of a file below the tree's root.
    fn path(&self, at: usize) -> PathBuf {
        PathBuf::from(format!("folder-{:02}/file-{at:04}.bin", at / FOLDER_FILES))
    }

    /// Seed of a file's contents.
    fn file_seed(&self, at: usize) -> u64 {
        self.seed.wrapping_mul(1_000_003).wrapping_add(at as u64)
    }

    /// Writes it below `root`, which must not exist.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        fs::create_dir(root)?;
        for (at, length) in self.lengths.iter().enumerate() {
            let path = root.join(self.path(at));
            if at % FOLDER_FILES == 0 {
                fs::create_dir(path.parent().expect("a file of a tree lies in a folder"))?;
            }
            write_file(&path, self.file_seed(at), *length)?;
        }
        Ok(())
    }

    /// What differs below `root`; empty where nothing does.
    pub fn differences(&self, root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut expected = Vec::new();
        for (at, length) in self.lengths.iter().enumerate() {
            let path = self.path(at);
            found.extend(difference(&root.join(&path), self.file_seed(at), *length));
            expected.push(path);
        }
        match files_below(root) {
            Ok(present) if present == expected => {}
            Ok(present) => {
                found.push(format!("{} files instead of {}", present.len(), expected.len()));
            }
            Err(error) => found.push(format!("{} cannot be listed: {error}", root.display())),
        }
        found
    }
}

/// The first `length` bytes of the stream of `seed`.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Writes a fresh file with the stream of `seed`, a part at a time.
pub fn write_file(path: &Path, seed: u64, length: u64) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut left = length;
    let mut part = vec![0; PART_BYTES.min(length as usize)];
    while left > 0 {
        let now = left.min(PART_BYTES as u64) as usize;
        random.fill_bytes(&mut part[..now]);
        file.write_all(&part[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Says how a file differs from the stream of `seed`; none where it does not.
pub fn difference(path: &Path, seed: u64, length: u64) -> Option<String> {
    let told = |what: String| Some(format!("{}: {what}", path.display()));
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) => return told(format!("cannot be opened: {error}")),
    };
    match file.metadata() {
        Ok(metadata) if metadata.len() == length => {}
        Ok(metadata) => return told(format!("{} bytes instead of {length}", metadata.len())),
        Err(error) => return told(format!("stat failed: {error}")),
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut left = length;
    let (mut expected, mut found) = (vec![0; PART_BYTES], vec![0; PART_BYTES]);
    while left > 0 {
        let now = left.min(PART_BYTES as u64) as usize;
        random.fill_bytes(&mut expected[..now]);
        if let Err(error) = file.read_exact(&mut found[..now]) {
            return told(format!("cannot be read at {}: {error}", length - left));
        }
        if expected[..now] != found[..now] {
            let at = expected.iter().zip(&found).position(|(a, b)| a != b).unwrap_or(0);
            return told(format!("differs at byte {}", length - left + at as u64));
        }
        left -= now as u64;
    }
    None
}

/// Paths of all files below `root`, relative to it and sorted; symbolic links count as files.
pub fn files_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                let path = entry.path();
                found.push(path.strip_prefix(root).expect("it was found below").to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies the files below `from`, with the folders that they are in, to below `to`.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for path in files_below(from)? {
        let target = to.join(&path);
        fs::create_dir_all(target.parent().expect("it lies below"))?;
        fs::copy(from.join(&path), target)?;
    }
    Ok(())
}

/// Which of `needles` occur in the raw bytes of which files below `root`.
///
/// Reads each file whole: made for the files of a small store.
pub fn occurrences(root: &Path, needles: &[&[u8]]) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files_below(root)? {
        let full = root.join(&path);
        // Sockets and the like hold nothing.
        if !full.metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let bytes = fs::read(&full)?;
        for needle in needles {
            assert!(needle.len() >= 6, "a short needle is found by chance");
            if bytes.windows(needle.len()).any(|window| window == *needle) {
                let needle = String::from_utf8_lossy(needle);
                found.push(format!("{} holds {needle:?}", full.display()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_its_own_measure() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(1, 120, 100_000);
        let root = dir.path().join("tree");
        tree.write(&root).expect("writes");
        assert_eq!(tree.differences(&root), Vec::<String>::new());

        let file = root.join(tree.path(3));
        let mut bytes = fs::read(&file).expect("reads");
        bytes.push(0);
        fs::write(&file, &bytes).expect("writes");
        fs::write(root.join("more"), b"x").expect("writes");
        assert_eq!(tree.differences(&root).len(), 2);
    }

    #[test]
    fn what_is_there_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("deep")).expect("creates");
        fs::write(dir.path().join("deep/file"), b"\0\xffsecret marker\0").expect("writes");
        let found = occurrences(dir.path(), &[b"secret marker", b"another marker"]);
        assert_eq!(found.expect("reads").len(), 1);
    }
}
