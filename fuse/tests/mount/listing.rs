//! Directories while they are listed, and large ones.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use crate::Mounted;

const NAMES: usize = 5_000;

fn name(number: usize) -> String {
    format!("a-name-that-is-a-little-longer-{number:05}")
}

#[test]
fn every_name_is_listed_once() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.path("big")).expect("a directory");
    for number in 0..NAMES {
        File::create(mounted.path("big").join(name(number))).expect("a file");
    }
    let mounted = mounted.remount();
    let listed: Vec<String> = fs::read_dir(mounted.path("big"))
        .expect("it lists")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    assert_eq!(listed.len(), NAMES);
    let expected: BTreeSet<String> = (0..NAMES).map(name).collect();
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn names_removed_while_listing_hide_no_others() {
    let Some(mounted) = Mounted::new() else { return };
    let dir = mounted.path("shrinking");
    fs::create_dir(&dir).expect("a directory");
    for number in 0..NAMES {
        File::create(dir.join(name(number))).expect("a file");
    }
    // As `rm -r` does: remove each name as it comes.
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&dir).expect("it lists") {
        let entry = entry.expect("an entry");
        fs::remove_file(entry.path()).expect("it is there");
        assert!(seen.insert(entry.file_name()), "listed twice: {:?}", entry.file_name());
    }
    assert_eq!(seen.len(), NAMES);
    fs::remove_dir(&dir).expect("it is empty");
}

#[test]
fn names_that_stay_are_listed_once_while_others_come_and_go() {
    let Some(mounted) = Mounted::new() else { return };
    let dir = mounted.path("busy");
    fs::create_dir(&dir).expect("a directory");
    for number in 0..1_000 {
        File::create(dir.join(name(number))).expect("a file");
    }
    let mut stayed = BTreeSet::new();
    for (count, entry) in fs::read_dir(&dir).expect("it lists").enumerate() {
        let listed = entry.expect("an entry").file_name().into_string().expect("a name");
        if count < 500 {
            // Every second one goes, from the end; new ones come at the front.
            fs::remove_file(dir.join(name(999 - 2 * count))).expect("it is there");
            File::create(dir.join(format!("0-new-{count}"))).expect("a file");
        }
        if listed.starts_with("a-name") {
            assert!(stayed.insert(listed.clone()), "listed twice: {listed}");
        }
    }
    for number in 0..1_000 {
        if dir.join(name(number)).exists() {
            assert!(stayed.contains(&name(number)), "not listed: {}", name(number));
        }
    }
}

#[test]
fn a_listing_tells_what_stat_tells() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.path("sub")).expect("a directory");
    fs::write(mounted.path("file"), b"12345").expect("a file");
    std::os::unix::fs::symlink("file", mounted.path("link")).expect("a link");
    let mounted = mounted.remount();
    for entry in fs::read_dir(mounted.dir()).expect("it lists") {
        let entry = entry.expect("an entry");
        let meta = fs::symlink_metadata(entry.path()).expect("it is there");
        assert_eq!(entry.file_type().expect("a kind"), meta.file_type());
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), meta.ino());
    }
}

#[test]
fn the_dots_lead_where_they_should() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir_all(mounted.path("a/b")).expect("directories");
    let ino = |path: &str| fs::metadata(mounted.path(path)).expect("a directory").ino();
    let dots: Vec<(String, u64)> =
        rustix::fs::Dir::new(File::open(mounted.path("a/b")).expect("the directory"))
            .expect("it lists")
            .map(|entry| {
                let entry = entry.expect("an entry");
                (entry.file_name().to_string_lossy().into_owned(), entry.ino())
            })
            .collect();
    assert_eq!(dots, [(".".to_owned(), ino("a/b")), ("..".to_owned(), ino("a"))]);
    assert_eq!(ino("a/b/.."), ino("a"));
}

#[test]
fn a_removed_directory_lists_nothing() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.path("gone")).expect("a directory");
    let open = File::open(mounted.path("gone")).expect("the directory");
    fs::remove_dir(mounted.path("gone")).expect("it is empty");
    let names = rustix::fs::Dir::new(open).map_or(0, |names| {
        names
            .map_while(Result::ok)
            .filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
            .count()
    });
    assert_eq!(names, 0);
}
