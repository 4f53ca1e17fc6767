//! Crash points: places where a test lets the process die, at every boundary of the write order.
//!
//! Owns the names of the points and the one variable that arms one: `XORFS_CRASH=name:n` ends the
//! process, as SIGKILL does, when the point is reached for the n-th time. A point stands where
//! one promise is written and the next is not; `tests/it/campaign.rs` dies at each of them and
//! looks at what is left.
//!
//! Compiled in only where the feature `crash-points` meets debug assertions, hence in tests alone:
//! anywhere else `point` is an empty function, and the environment is not looked at.

/// Every point, in the order in which one write meets them. A test goes through all.
pub const POINTS: [&str; 33] = [
    "format-before-rename",
    "identity-before-rename",
    "identity-after-rename",
    "keyring-before-rename",
    "keyring-after-rename",
    "put-before",
    "put-after",
    "evict",
    "remove-before",
    "remove-after",
    "seal-after-file",
    "seal-after-files",
    "seal-after-directories",
    "seal-before-head",
    "flush-before",
    "flush-after",
    "log-before",
    "log-after",
    "head-before-commit",
    "head-after-commit",
    "journal-before-append",
    "journal-after-append",
    "sweep-before",
    "sweep-after",
    "reclaim-before",
    "reclaim-after",
    "rebuild-after-probe",
    "rebuild-after-rescue",
    "rebuild-before-current",
    "rebuild-after-manifest",
    "rebuild-before-mend",
    "rebuild-after-mend",
    "rebuild-before-cleaning",
];

/// Ends the process here where a test asked for it.
#[cfg(not(all(feature = "crash-points", debug_assertions)))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Ends the process here where a test asked for it.
///
/// # Panics
/// Where the name is not one of [`POINTS`]: nobody would ever die there.
#[cfg(all(feature = "crash-points", debug_assertions))]
pub fn point(name: &str) {
    assert!(POINTS.contains(&name), "{name} is missing in the list of crash points");
    if armed::is_met(name) {
        armed::die(name);
    }
}

#[cfg(all(feature = "crash-points", debug_assertions))]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// What was asked for: a name, and how often it is still passed.
    static ARMED: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let wanted = std::env::var("XORFS_CRASH").ok()?;
        let parsed = wanted.split_once(':').and_then(|(name, n)| Some((name, n.parse().ok()?)));
        let Some((name, n)) = parsed.filter(|(name, n)| super::POINTS.contains(name) && *n > 0)
        else {
            panic!("XORFS_CRASH={wanted:?} is no name:n of a crash point");
        };
        Some((name.to_owned(), AtomicU64::new(n)))
    });

    pub(super) fn is_met(name: &str) -> bool {
        ARMED
            .as_ref()
            .is_some_and(|(armed, left)| armed == name && left.fetch_sub(1, Ordering::AcqRel) == 1)
    }

    /// SIGKILL and not `abort`: no handler runs and no core with keys in it is written.
    pub(super) fn die(name: &str) -> ! {
        eprintln!("crash point {name}");
        let killed = kill_process(getpid(), Signal::KILL);
        unreachable!("nobody survives SIGKILL: {killed:?}");
    }
}
