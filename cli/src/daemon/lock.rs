//! The home's lock: one node at a time, and its process id for whoever is refused.
//!
//! An advisory `flock` on `HOME/lock`, so a killed process leaves nothing to clean up. The file
//! says who holds it: the process id, and whether that is a daemon or a command that runs a node
//! for its own duration.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::FlockOperation;

/// Who runs a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// `xorfs daemon`.
    Daemon,
    /// Any other command, for as long as it takes.
    Command,
}

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Somebody else holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its process id, where it has been written already.
    pub(crate) pid: Option<u32>,
    /// What it is; a daemon where it does not say.
    pub(crate) role: Role,
}

impl Lock {
    /// Takes the lock, or says who holds it.
    pub(crate) fn acquire(path: &Path, role: Role) -> anyhow::Result<Result<Self, Holder>> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("could not open the lock {}", path.display()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Err(read_holder(&mut file)?)),
            Err(error) => {
                let error = io::Error::from(error);
                return Err(error).with_context(|| format!("could not lock {}", path.display()));
            }
        }
        let role = match role {
            Role::Daemon => "daemon",
            Role::Command => "command",
        };
        file.set_len(0)?;
        writeln!(file, "{} {role}", std::process::id())?;
        Ok(Ok(Self { _file: file }))
    }
}

fn read_holder(file: &mut File) -> io::Result<Holder> {
    let mut text = String::new();
    file.rewind()?;
    file.take(64).read_to_string(&mut text)?;
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let role = if words.next() == Some("command") { Role::Command } else { Role::Daemon };
    Ok(Holder { pid, role })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path, Role::Daemon).unwrap().unwrap();
        let holder = Lock::acquire(&path, Role::Command).unwrap().unwrap_err();
        assert_eq!(holder, Holder { pid: Some(std::process::id()), role: Role::Daemon });
        drop(first);
        assert!(Lock::acquire(&path, Role::Command).unwrap().is_ok());
    }
}
