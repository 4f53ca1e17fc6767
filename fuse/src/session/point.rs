//! What lies at a mount point: the checks before a mount, and whose mount is there.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::session::MountError;
use crate::session::detach::detach;

/// Mounts lying dead on top of one another that are cleared before giving up.
const STALE_MAX: usize = 16;

/// A mount at a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `major:minor`, unique to a mounted filesystem.
    pub(super) device: String,
    /// Kind, such as `ext4`.
    pub(super) kind: String,
    /// What was mounted, such as a disk.
    pub(super) source: String,
}

impl Mounted {
    /// For people.
    pub(super) fn filesystem(&self) -> String {
        format!("{} ({})", self.kind, self.source)
    }
}

/// Checks that a directory can be mounted on, after clearing what a killed process left there,
/// and returns its absolute path.
pub(super) fn prepare(dir: &Path) -> Result<PathBuf, MountError> {
    let dir = absolute(dir)?;
    for _ in 0..STALE_MAX {
        let attributes = match answering(&dir) {
            Ok(attributes) => attributes,
            Err(error) if is_stale(&error) => {
                tracing::info!(dir = %dir.display(), "clearing the mount of a process that died");
                detach(&dir)?;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MountError::Missing { dir });
            }
            Err(error) => return Err(MountError::Unreadable { dir, error }),
        };
        if !attributes.is_dir() {
            return Err(MountError::NotDirectory { dir });
        }
        if let Some(mounted) = mounted_at(&dir).pop() {
            return Err(MountError::Mounted { dir, filesystem: mounted.filesystem() });
        }
        let mut names = match fs::read_dir(&dir) {
            Ok(names) => names,
            Err(error) => return Err(MountError::Unreadable { dir, error }),
        };
        if names.next().is_some() {
            return Err(MountError::NotEmpty { dir });
        }
        return Ok(dir);
    }
    Err(MountError::Mounted { dir, filesystem: "dead mounts".into() })
}

/// What is at `dir`, by whoever serves it now. The attributes of a mount may be remembered by the
/// kernel for a second after its process died; how full it is never is.
fn answering(dir: &Path) -> io::Result<fs::Metadata> {
    let attributes = fs::metadata(dir)?;
    rustix::fs::statvfs(dir)?;
    Ok(attributes)
}

/// What programs get from a FUSE mount whose process is gone.
fn is_stale(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// The path without links and dots. What is mounted there is not asked if that can be helped: it
/// may be dead, or hang.
pub(super) fn absolute(dir: &Path) -> Result<PathBuf, MountError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing { dir: dir.to_owned() },
        _ => MountError::Unreadable { dir: dir.to_owned(), error },
    };
    let full = std::path::absolute(dir).map_err(failed)?;
    if let (Some(parent), Some(name)) = (full.parent(), full.file_name()) {
        let full = fs::canonicalize(parent).map_err(failed)?.join(name);
        if !mounted_at(&full).is_empty() {
            return Ok(full);
        }
    }
    fs::canonicalize(dir).map_err(failed)
}

/// The mounts at exactly this absolute path in the order they were made; the last one is seen.
/// Empty where `/proc` is not there to tell.
pub(super) fn mounted_at(dir: &Path) -> Vec<Mounted> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts_in(&table, dir)
}

/// Reads proc_pid_mountinfo(5): `id parent major:minor root point options [tags…] - kind source
/// options`, with blanks and backslashes in octal.
fn mounts_in(table: &[u8], dir: &Path) -> Vec<Mounted> {
    let mut found = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let (Some(device), Some(point)) = (fields.nth(2), fields.nth(1)) else {
            continue;
        };
        if unescape(point).as_bytes() != dir.as_os_str().as_bytes() {
            continue;
        }
        let mut described = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, source) = (described.next(), described.next());
        let text = |field: Option<&[u8]>| {
            unescape(field.unwrap_or_default()).to_string_lossy().into_owned()
        };
        found.push(Mounted {
            device: String::from_utf8_lossy(device).into_owned(),
            kind: text(kind),
            source: text(source),
        });
    }
    found
}

fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(escaped) => {
                plain.push(escaped);
                rest = &tail[3..];
            }
            None => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
36 35 98:0 / / rw,noatime shared:1 - ext4 /dev/root rw\n\
40 36 0:52 / /mnt/my\\040net rw,nodev - fuse.xorfs xorfs rw,user_id=0\n\
41 40 0:53 / /mnt/my\\040net rw shared:7 master:2 - tmpfs none rw\n\
\n\
broken line\n";

    #[test]
    fn the_last_mount_is_on_top() {
        let found = mounts_in(TABLE, Path::new("/mnt/my net"));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].device, "0:52");
        assert_eq!(found[0].filesystem(), "fuse.xorfs (xorfs)");
        assert_eq!(found[1].filesystem(), "tmpfs (none)");
    }

    #[test]
    fn a_directory_below_a_mount_is_none() {
        assert!(mounts_in(TABLE, Path::new("/mnt")).is_empty());
        assert!(mounts_in(TABLE, Path::new("/mnt/my net/sub")).is_empty());
    }

    #[test]
    fn escapes_are_undone_and_half_ones_kept() {
        assert_eq!(unescape(b"a\\040b\\134c"), OsString::from("a b\\c"));
        assert_eq!(unescape(b"a\\04"), OsString::from("a\\04"));
        assert_eq!(unescape(b"\\999"), OsString::from("\\999"));
    }

    #[test]
    fn what_cannot_be_mounted_on_is_named() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let missing = home.path().join("missing");
        assert!(matches!(prepare(&missing), Err(MountError::Missing { .. })));
        let file = home.path().join("file");
        fs::write(&file, b"x").expect("a file");
        assert!(matches!(prepare(&file), Err(MountError::NotDirectory { .. })));
        assert!(matches!(prepare(home.path()), Err(MountError::NotEmpty { .. })));
        assert!(matches!(prepare(Path::new("/proc")), Err(MountError::Mounted { .. })));
    }
}
