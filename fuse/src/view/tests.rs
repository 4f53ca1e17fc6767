//! The view over `Memory`, without a mount.

mod faults;
mod follow;
mod import;
mod model;
mod open;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use xorfs_store::{Access, BlockStore, Head, Inventory, Ledger, Memory, Timestamp, VolumeSecret};

use crate::config::ViewConfig;
use crate::error::FsError;
use crate::view::View;
use crate::view::types::{InodeNo, Kind, Owner, Stat};

const OWNER: Owner = Owner { uid: 1000, gid: 1000 };

/// Settings whose background sealing never starts by itself.
fn quiet() -> ViewConfig {
    let ticks = AtomicU64::new(0);
    ViewConfig {
        clock: Arc::new(move || Timestamp {
            seconds: 1_000_000 + ticks.fetch_add(1, Ordering::Relaxed) as i64,
            nanos: 0,
        }),
        seal_quiet: Duration::from_secs(3600),
        seal_age_max: Duration::from_secs(3600),
        write_wait_max: Duration::from_secs(20),
        ..ViewConfig::default()
    }
}

fn secret() -> VolumeSecret {
    VolumeSecret::from_bytes([3; 32])
}

fn open(store: &Arc<Memory>) -> Arc<View> {
    open_with(store, quiet())
}

fn open_with<S>(store: &Arc<S>, config: ViewConfig) -> Arc<View>
where
    S: BlockStore + Inventory + Ledger + 'static,
{
    let view = View::new(
        config,
        Arc::clone(store) as Arc<dyn BlockStore>,
        Arc::clone(store) as Arc<dyn Inventory>,
        Arc::clone(store) as Arc<dyn Ledger>,
        Arc::new(|_: Head| {}),
    );
    view.add_volume("main", &Access::Owner(secret())).unwrap();
    view
}

fn find(view: &View, path: &str) -> Result<Stat, FsError> {
    let stat = view.resolve(path.as_bytes())?;
    Ok(stat)
}

fn make(view: &View, path: &str, kind: Kind) -> Stat {
    let (above, name) = path.rsplit_once('/').unwrap();
    let above = find(view, above).unwrap().ino;
    let stat = view.make_node(above, name.as_bytes(), kind, 0o644, OWNER).unwrap();
    view.forget(above, 1);
    stat
}

fn put(view: &View, path: &str, bytes: &[u8]) -> InodeNo {
    let ino = make(view, path, Kind::File).ino;
    view.write(ino, 0, bytes).unwrap();
    ino
}

fn text(view: &View, path: &str) -> Vec<u8> {
    let stat = find(view, path).unwrap();
    let bytes = view.read(stat.ino, 0, stat.size as usize + 1).unwrap().to_vec();
    view.forget(stat.ino, 1);
    bytes
}

#[test]
fn what_is_sealed_or_synced_is_there_after_a_crash_and_the_rest_is_not() {
    let store = Arc::new(Memory::new());
    let view = open(&store);
    make(&view, "main/dir", Kind::Directory);
    put(&view, "main/dir/sealed", b"sealed");
    view.seal().unwrap();
    let staged = put(&view, "main/dir/staged", b"staged");
    view.fsync(staged).unwrap();
    put(&view, "main/dir/lost", b"lost");
    assert_eq!(view.xattr(staged, b"user.xorfs.state").unwrap(), b"staged");
    drop(view);
    let view = open(&store);
    assert_eq!(text(&view, "main/dir/sealed"), b"sealed");
    assert_eq!(text(&view, "main/dir/staged"), b"staged");
    assert!(matches!(find(&view, "main/dir/lost"), Err(FsError::NotFound)));
    view.shutdown().unwrap();
    drop(view);
    let view = open(&store);
    assert_eq!(text(&view, "main/dir/staged"), b"staged");
    let stat = find(&view, "main/dir/staged").unwrap();
    assert_eq!(view.xattr(stat.ino, b"user.xorfs.state").unwrap(), b"sealed");
}
