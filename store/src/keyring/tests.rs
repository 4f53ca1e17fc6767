//! What a keyring survives, refuses and notices, and the bytes that it is pinned to.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::tree::entry::Content;
use crate::tree::link::{Link, LinkNode};
use crate::tree::volume::Convergence;

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

fn tree() -> TreeLink {
    TreeLink {
        name: Some("film".to_owned()),
        mode: 0o644,
        node: LinkNode::File(Content::default()),
    }
}

fn example() -> Keyring {
    let mut keyring = Keyring::default();
    let secret = VolumeSecret::from_bytes([1; 32]);
    keyring.add("films", Access::Reader(secret.id(), secret.read_key())).unwrap();
    keyring.add("main", Access::Owner(secret)).unwrap();
    let shared = VolumeSecret::with_convergence([2; 32], Convergence::Network);
    keyring.add("shared", Access::Owner(shared)).unwrap();
    keyring
}

/// A fresh folder, which goes with the first value, and a file in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyring");
    (folder, file)
}

#[track_caller]
fn opened(file: &Path) -> Keyring {
    match StoredKeyring::open(file).unwrap() {
        StoredKeyring::Open(keyring) => keyring,
        StoredKeyring::Sealed(_) => panic!("the keyring is sealed"),
    }
}

#[track_caller]
fn sealed(file: &Path) -> SealedKeyring {
    match StoredKeyring::open(file).unwrap() {
        StoredKeyring::Sealed(sealed) => sealed,
        StoredKeyring::Open(_) => panic!("the keyring is open"),
    }
}

#[test]
fn a_keyring_survives_and_notices_damage() {
    let (_folder, file) = place();
    assert_eq!(opened(&file), Keyring::default());
    let mut keyring = example();
    keyring.pin(tree());
    keyring.save(&file).unwrap();
    assert_eq!(opened(&file), keyring);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut bytes = fs::read(&file).unwrap();
    bytes[30] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(matches!(StoredKeyring::open(&file), Err(KeyringError::Damaged(_))));
}

#[test]
fn what_a_crash_left_behind_does_not_decide_the_mode() {
    let (_folder, file) = place();
    let left = file.with_extension("new");
    fs::write(&left, "half").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o666)).unwrap();
    example().save(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn petnames_are_plain_and_unique() {
    let mut keyring = Keyring::default();
    let access = || Access::Owner(VolumeSecret::from_bytes([1; 32]));
    for name in ["", "link", "Xorfs", "../x", "a/b", ".hidden", &"x".repeat(65)] {
        assert!(matches!(keyring.add(name, access()), Err(KeyringError::Name(_))), "{name}");
    }
    keyring.add("Ärger-1.0", access()).unwrap();
    assert!(matches!(keyring.add("Ärger-1.0", access()), Err(KeyringError::Exists(_))));
}

#[test]
fn own_volumes_start_pinned_and_pins_are_kept_once() {
    let mut keyring = example();
    assert!(keyring.is_pinned("main") && !keyring.is_pinned("films"));
    assert!(keyring.set_pinned("main", false) && !keyring.set_pinned("main", false));
    assert!(!keyring.set_pinned("nobody", true) && !keyring.is_pinned("main"));
    assert!(keyring.pin(tree()));
    let renamed = TreeLink { name: None, ..tree() };
    assert!(!keyring.pin(renamed.clone()), "the same content under another name");
    assert!(keyring.unpin(&renamed) && !keyring.unpin(&renamed) && keyring.pins().is_empty());
}

#[test]
fn only_its_passphrase_opens_a_sealed_keyring() {
    let (_folder, file) = place();
    let mut keyring = example();
    keyring.pin(tree());
    keyring.set_passphrase(&passphrase("correct horse"));
    keyring.save(&file).unwrap();
    let bytes = fs::read(&file).unwrap();
    let seed = [1; 32];
    assert!(!bytes.windows(8).any(|window| window == &seed[..8] || window == b"films\x02\x00\x00"));
    let locked = sealed(&file);
    let wrong = locked.unlock(&passphrase("correct horsf"));
    assert!(matches!(wrong, Err(KeyringError::WrongPassphrase)));
    let open = locked.unlock(&passphrase("correct horse")).unwrap();
    assert_eq!(open, keyring);
    assert!(
        open.is_passphrase(&passphrase("correct horse")) && !open.is_passphrase(&passphrase("x"))
    );

    // A change is saved under the same passphrase, with a nonce of its own.
    open.save(&file).unwrap();
    assert!(fs::read(&file).unwrap() != bytes);
    let mut open = sealed(&file).unlock(&passphrase("correct horse")).unwrap();
    let locked = open.lock().unwrap().unwrap();
    assert_eq!(locked.unlock(&passphrase("correct horse")).unwrap(), open);

    open.set_passphrase(&passphrase("battery"));
    open.save(&file).unwrap();
    assert!(sealed(&file).unlock(&passphrase("correct horse")).is_err());
    let mut open = sealed(&file).unlock(&passphrase("battery")).unwrap();
    open.remove_passphrase();
    open.save(&file).unwrap();
    assert_eq!(opened(&file), {
        keyring.remove_passphrase();
        keyring
    });
    assert!(open.lock().unwrap().is_none());
}

#[test]
fn a_sealed_keyring_is_bound_to_how_its_key_is_derived() {
    let mut keyring = example();
    keyring.set_passphrase(&passphrase("p"));
    let bytes = codec::encode(&keyring);
    // Any byte that is changed is noticed, also by one who makes the checksum fit again.
    for at in [15, 18, 20, 30, 45, bytes.len() - 40] {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        assert!(matches!(codec::decode(&bytes), Err(KeyringError::Damaged(_))), "{at}");
        let content = bytes.len() - 32;
        let checksum = blake3::hash(&bytes[14..content]);
        bytes[content..].copy_from_slice(checksum.as_bytes());
        let opened = match codec::decode(&bytes) {
            Ok(StoredKeyring::Sealed(sealed)) => sealed.unlock(&passphrase("p")).is_ok(),
            Ok(StoredKeyring::Open(_)) => true,
            Err(_) => false,
        };
        assert!(!opened, "{at}");
    }
}

#[test]
fn a_forged_file_cannot_ask_for_much() {
    // 4 GiB of memory, then 100 passes, then 17 lanes.
    for costs in ["8080801003", "8080046401", "8080040311"] {
        let content = [&unhex("0201")[..], &unhex(costs), &[0; 80]].concat();
        let checksum = blake3::hash(&content);
        let bytes = [b"xorfs keyring\n", &content[..], checksum.as_bytes()].concat();
        assert!(matches!(codec::decode(&bytes), Err(KeyringError::Damaged(_))), "{costs}");
    }
}

#[test]
fn the_formats_are_pinned() {
    let mut keyring = Keyring::default();
    keyring.add("main", Access::Owner(VolumeSecret::from_bytes([0x11; 32]))).unwrap();
    let seed = "11".repeat(32);
    let first_line = hex(b"xorfs keyring\n");
    let whole = |content: &str| {
        let checksum = blake3::hash(&unhex(content)).to_hex();
        format!("{first_line}{content}{checksum}")
    };
    // Version 2: no protection, one volume, pinned, no pins.
    let plain = whole(&format!("020001046d61696e01{seed}0100"));
    assert_eq!(hex(&codec::encode(&keyring)), plain);
    // Version 1, as the first homes have it.
    let first = whole(&format!("0101046d61696e01{seed}"));
    let StoredKeyring::Open(read) = codec::decode(&unhex(&first)).unwrap() else { panic!() };
    assert_eq!(read, keyring);
    // A pin is a link.
    keyring.pin(tree());
    let link = Link::Tree(tree()).to_string();
    let pinned = format!("020001046d61696e01{seed}0101{:02x}{}", link.len(), hex(link.as_bytes()));
    assert_eq!(hex(&codec::encode(&keyring)), whole(&pinned));
    // Sealed: 64 MiB, 3 passes, 1 lane, then salt, nonce, body and tag.
    keyring.set_passphrase(&passphrase("p"));
    let sealed = hex(&codec::encode(&keyring));
    assert!(sealed.starts_with(&format!("{first_line}020180800403 01").replace(' ', "")));
    let body = (pinned.len() - 4) / 2;
    assert_eq!(sealed.len() / 2, 14 + 2 + 5 + 16 + 12 + body + 16 + 32);
}
