//! The home: the folder that holds a node's state, and the names of what is in it.
//!
//! Everything a node keeps is below this folder: `store/` (the database), `identity` (the node's
//! key), `keyring` (the volumes and what opens them), `lock` (who runs), `port` (where the daemon
//! listened last), `api.sock` (the daemon's local API), `command.sock` (the same API of a command
//! that runs a node of its own) and `daemon.log`. The folder is made with mode 0700 on first use, so that no `init` is needed.
//! Nothing here opens those files; that is the daemon's.

use std::fs::{self, DirBuilder};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use etcetera::BaseStrategy;
use rustix::fs::{Mode, OFlags};

/// Longest path of a Unix socket that is used as it is, in bytes. The system's limit is 108 with
/// the terminator; longer ones are reached through a descriptor of their folder.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// A node's folder.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    dir: PathBuf,
}

impl Home {
    /// Takes `dir`, or the platform's data folder, and makes it where it is missing.
    pub(crate) fn open(dir: Option<&Path>) -> anyhow::Result<Self> {
        let dir = match dir {
            Some(dir) => std::path::absolute(dir)
                .with_context(|| format!("the home {} is no path", dir.display()))?,
            None => etcetera::choose_base_strategy()
                .context("no home folder is known: give one with --home DIR")?
                .data_dir()
                .join("xorfs"),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("could not make the home {}", dir.display()))?;
        let dir = fs::canonicalize(&dir)
            .with_context(|| format!("could not open the home {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The folder itself, absolute and without symbolic links.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The database.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// The seed of the node's key.
    pub(crate) fn identity(&self) -> PathBuf {
        self.dir.join("identity")
    }

    /// The volumes.
    pub(crate) fn keyring(&self) -> PathBuf {
        self.dir.join("keyring")
    }

    /// Who runs a node on this home.
    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The port that the daemon listened on last.
    pub(crate) fn port(&self) -> PathBuf {
        self.dir.join("port")
    }

    /// What a daemon in the background says.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// The daemon's API.
    pub(crate) fn socket(&self) -> anyhow::Result<SocketPath> {
        SocketPath::new(&self.dir, "api.sock")
    }

    /// The API of a command that runs a node of its own. It has another name, so that no second
    /// command starts to rely on a node that ends with the first one.
    pub(crate) fn command_socket(&self) -> anyhow::Result<SocketPath> {
        SocketPath::new(&self.dir, "command.sock")
    }
}

/// The path of a Unix socket, usable however long it is. Must live as long as the path is used.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

impl SocketPath {
    fn new(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let path = dir.join(name);
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self { path, _folder: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(dir, flags, Mode::empty())
            .with_context(|| format!("could not open the home {}", dir.display()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()));
        Ok(Self { path, _folder: Some(folder) })
    }

    /// Where to bind or connect.
    pub(crate) fn as_path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_long_home_still_has_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(&dir.path().join("h".repeat(200)))).unwrap();
        let socket = home.socket().unwrap();
        let _listener = UnixListener::bind(socket.as_path()).unwrap();
        assert!(home.dir().join("api.sock").exists());
        UnixStream::connect(home.socket().unwrap().as_path()).unwrap();
    }
}
