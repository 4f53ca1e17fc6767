//! Random operations on the mount and on a directory of the local disk: every answer is the
//! same, and so are the trees in the end.
//!
//! `XORFS_TEST_SEED` runs one seed more; a failure prints its seed and the operation.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, XattrFlags, getxattr, removexattr, renameat_with, setxattr};

use crate::Mounted;

/// Operations a seed.
const STEPS: usize = 600;

/// Names to choose from: few, so that they meet.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "a/b", "c/d"];

/// Files open at once.
const OPEN_MAX: usize = 4;

/// Longest file.
const SIZE_MAX: u64 = 3 << 20;

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn name(&mut self) -> String {
        let first = NAMES[self.below(NAMES.len() as u64) as usize];
        match self.below(3) {
            0 => first.to_owned(),
            _ => format!("{first}/{}", NAMES[self.below(4) as usize]),
        }
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let salt = self.next();
        // Half compresses, half does not.
        (0..length)
            .map(|place| if salt & 1 == 0 { (salt >> 8) as u8 } else { (place ^ salt) as u8 })
            .collect()
    }
}

/// One operation, the same for both sides.
#[derive(Debug)]
enum Step {
    Write { name: String, offset: u64, bytes: Vec<u8> },
    Replace { name: String, bytes: Vec<u8> },
    Read { name: String, offset: u64, length: usize },
    Truncate { name: String, size: u64 },
    MakeDirectory { name: String },
    Unlink { name: String },
    RemoveDirectory { name: String },
    Rename { from: String, to: String, flags: RenameFlags },
    Symlink { name: String, target: String },
    HardLink { from: String, to: String },
    Mode { name: String, mode: u32 },
    SetXattr { name: String, attribute: u64, value: Vec<u8> },
    RemoveXattr { name: String, attribute: u64 },
    Open { name: String },
    WriteOpen { which: usize, offset: u64, bytes: Vec<u8> },
    ReadOpen { which: usize },
    Close { which: usize },
    Sync { which: usize },
}

impl Step {
    fn draw(random: &mut Random) -> Self {
        let name = random.name();
        let which = random.below(OPEN_MAX as u64) as usize;
        let offset = match random.below(3) {
            0 => 0,
            1 => random.below(5_000),
            _ => random.below(SIZE_MAX / 2),
        };
        let length = match random.below(4) {
            0 => random.below(10),
            3 => random.below(SIZE_MAX / 4),
            _ => random.below(20_000),
        };
        match random.below(24) {
            0..=3 => Self::Write { name, offset, bytes: random.bytes(length) },
            4..=5 => Self::Replace { name, bytes: random.bytes(length) },
            6..=7 => Self::Read { name, offset, length: length as usize },
            8 => Self::Truncate { name, size: offset },
            9..=10 => Self::MakeDirectory { name },
            11 => Self::Unlink { name },
            12 => Self::RemoveDirectory { name },
            13..=14 => {
                let flags = [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];
                let flags = flags[random.below(3) as usize];
                Self::Rename { from: name, to: random.name(), flags }
            }
            15 => Self::Symlink { name, target: random.name() },
            16 => Self::HardLink { from: name, to: random.name() },
            17 => Self::Mode { name, mode: 0o700 | random.below(0o100) as u32 },
            18 => {
                // Four of them have to fit into one block, where ext4 keeps them.
                let length = random.below(800);
                let (attribute, value) = (random.below(4), random.bytes(length));
                Self::SetXattr { name, attribute, value }
            }
            19 => Self::RemoveXattr { name, attribute: random.below(4) },
            20 => Self::Open { name },
            21 => Self::WriteOpen { which, offset, bytes: random.bytes(length) },
            22 => Self::ReadOpen { which },
            _ if random.below(2) == 0 => Self::Sync { which },
            _ => Self::Close { which },
        }
    }
}

/// One of the two sides: a directory and the files open in it.
struct Side {
    root: PathBuf,
    open: Vec<File>,
}

impl Side {
    /// What a program would see of the step.
    fn take(&mut self, step: &Step) -> io::Result<Vec<u8>> {
        let path = |name: &String| self.root.join(name);
        let nothing = Vec::new();
        match step {
            Step::Write { name, offset, bytes } => {
                let options = File::options().write(true).create(true).clone();
                options.open(path(name))?.write_all_at(bytes, *offset)?;
            }
            Step::Replace { name, bytes } => fs::write(path(name), bytes)?,
            Step::Read { name, offset, length } => {
                return read_at(&File::open(path(name))?, *offset, *length);
            }
            Step::Truncate { name, size } => {
                File::options().write(true).open(path(name))?.set_len(*size)?;
            }
            Step::MakeDirectory { name } => fs::create_dir(path(name))?,
            Step::Unlink { name } => fs::remove_file(path(name))?,
            Step::RemoveDirectory { name } => fs::remove_dir(path(name))?,
            Step::Rename { from, to, flags } => {
                renameat_with(CWD, path(from), CWD, path(to), *flags)?;
            }
            Step::Symlink { name, target } => std::os::unix::fs::symlink(target, path(name))?,
            Step::HardLink { from, to } => fs::hard_link(path(from), path(to))?,
            Step::Mode { name, mode } => {
                fs::set_permissions(path(name), Permissions::from_mode(*mode))?;
            }
            Step::SetXattr { name, attribute, value } => {
                let attribute = format!("user.{attribute}");
                setxattr(path(name), attribute, value, XattrFlags::empty())?;
            }
            Step::RemoveXattr { name, attribute } => {
                removexattr(path(name), format!("user.{attribute}"))?;
            }
            Step::Open { name } => {
                if self.open.len() < OPEN_MAX {
                    let file = File::options().read(true).write(true).open(path(name))?;
                    self.open.push(file);
                }
            }
            Step::WriteOpen { which, offset, bytes } => {
                if let Some(file) = self.open.get(*which) {
                    file.write_all_at(bytes, *offset)?;
                }
            }
            Step::ReadOpen { which } => {
                if let Some(file) = self.open.get(*which) {
                    return read_at(file, 0, SIZE_MAX as usize);
                }
            }
            Step::Close { which } => {
                if *which < self.open.len() {
                    self.open.swap_remove(*which);
                }
            }
            Step::Sync { which } => {
                if let Some(file) = self.open.get(*which) {
                    file.sync_all()?;
                }
            }
        }
        Ok(nothing)
    }
}

fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// All that a program can see of a tree, in an order of its own.
fn tree(root: &Path) -> Vec<(PathBuf, String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let mut names: Vec<OsString> = fs::read_dir(root.join(&dir))
            .expect("it lists")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort_unstable();
        for name in names {
            let path = dir.join(name);
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).expect("attributes");
            let mut told = format!("{:?} {:o}", meta.file_type(), meta.mode());
            let content = if meta.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else {
                told += &format!(" {} links, {} bytes", meta.nlink(), meta.len());
                if meta.is_symlink() {
                    fs::read_link(&full).expect("a target").into_os_string().into_encoded_bytes()
                } else {
                    fs::read(&full).expect("it reads")
                }
            };
            if !meta.is_symlink() {
                told += &xattrs(&full);
            }
            found.push((path, told, content));
        }
    }
    found
}

fn xattrs(path: &Path) -> String {
    let mut told = String::new();
    for attribute in 0..4 {
        let mut value = [0; 4_096];
        if let Ok(length) = getxattr(path, format!("user.{attribute}"), &mut value) {
            told += &format!(" {attribute}={:?}", &value[..length]);
        }
    }
    told
}

fn same_trees(mounted: &Mounted, real: &Path, when: &str) {
    let (ours, theirs) = (tree(&mounted.dir()), tree(real));
    for (our, their) in ours.iter().zip(&theirs) {
        assert_eq!((&our.0, &our.1), (&their.0, &their.1), "{when}");
        assert!(our.2 == their.2, "{when}: the content of {} differs", our.0.display());
    }
    assert_eq!(ours.len(), theirs.len(), "{when}");
}

fn run(seed: u64) {
    let Some(mut mounted) = Mounted::new() else { return };
    let real = tempfile::tempdir().expect("a temporary directory");
    let attributes = setxattr(real.path(), "user.probe", b"", XattrFlags::empty()).is_ok();
    removexattr(real.path(), "user.probe").ok();
    let mut random = Random(seed);
    let mut ours = Side { root: mounted.dir(), open: Vec::new() };
    let mut theirs = Side { root: real.path().to_owned(), open: Vec::new() };
    for turn in 0..STEPS {
        let step = Step::draw(&mut random);
        if !attributes && matches!(step, Step::SetXattr { .. } | Step::RemoveXattr { .. }) {
            continue;
        }
        let (our, their) = (ours.take(&step), theirs.take(&step));
        let same = match (&our, &their) {
            (Ok(our), Ok(their)) => our == their,
            (Err(our), Err(their)) => our.raw_os_error() == their.raw_os_error(),
            _ => false,
        };
        let told = |answer: &io::Result<Vec<u8>>| match answer {
            Ok(bytes) => format!("{} bytes", bytes.len()),
            Err(error) => error.to_string(),
        };
        assert!(
            same,
            "seed {seed}, step {turn}: the mount says {}, the disk {} to {}",
            told(&our),
            told(&their),
            format!("{step:?}").chars().take(200).collect::<String>(),
        );
        match random.below(100) {
            0..=1 => mounted.view.seal().expect("it seals"),
            2 => {
                (ours.open, theirs.open) = (Vec::new(), Vec::new());
                mounted = mounted.remount();
                same_trees(&mounted, real.path(), &format!("seed {seed}, step {turn}, remounted"));
            }
            3 => {
                (ours.open, theirs.open) = (Vec::new(), Vec::new());
                mounted = mounted.reopen();
                same_trees(&mounted, real.path(), &format!("seed {seed}, step {turn}, reopened"));
            }
            _ => {}
        }
    }
    same_trees(&mounted, real.path(), &format!("seed {seed}, at the end"));
    (ours.open, theirs.open) = (Vec::new(), Vec::new());
    let mounted = mounted.reopen();
    same_trees(&mounted, real.path(), &format!("seed {seed}, reopened at the end"));
}

#[test]
fn the_mount_and_a_disk_agree() {
    for seed in 1..=3 {
        run(seed);
    }
}

#[test]
fn the_mount_and_a_disk_agree_on_the_seed_given() {
    let Some(seed) = std::env::var("XORFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok())
    else {
        return;
    };
    run(seed);
}
