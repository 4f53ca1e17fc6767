//! The home: the folder that holds a node's state, and the names of what is in it.
//!
//! Everything a node keeps is below this folder: `store/` (the database), `identity` (the node's
//! key), `keyring` (the volumes and what opens them), `lock` (who runs), `port` (where the daemon
//! listened last), `api.sock` (the daemon's local API), `command.sock` (the same API of a command
//! that runs a node of its own) and `daemon.log`. The folder is made with mode 0700 on first use, so that no `init` is needed.
//! Nothing here opens those files; that is the daemon's. But their modes are looked at: what others
//! may read or write is closed to them, with a line that says so, or refused where that might
//! not be what was meant.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use etcetera::BaseStrategy;
use rustix::fs::{Mode, OFlags};

use crate::exit::Failure;

/// Longest path of a Unix socket that is used as it is, in bytes. The system's limit is 108 with
/// the terminator; longer ones are reached through a descriptor of their folder.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// A node's folder.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    dir: PathBuf,
    passphrase_file: Option<PathBuf>,
}

impl Home {
    /// Takes `dir`, or the platform's data folder, and makes it where it is missing.
    /// The keyring's passphrase is in `passphrase_file`, where one is named.
    pub(crate) fn open(dir: Option<&Path>, passphrase_file: Option<&Path>) -> anyhow::Result<Self> {
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
        let home = Self { dir, passphrase_file: passphrase_file.map(Path::to_owned) };
        home.close_to_others()?;
        Ok(home)
    }

    /// Where the keyring's passphrase is to be read, where that was said.
    pub(crate) fn passphrase_file(&self) -> Option<&Path> {
        self.passphrase_file.as_deref()
    }

    /// Takes away what others may do with the folder and with the files of keys in it.
    fn close_to_others(&self) -> anyhow::Result<()> {
        let shown = self.dir.display();
        let is_ours = self.keyring().exists() || self.identity().exists();
        let check = || format!("could not look at the home {shown}");
        if is_open(&self.dir).with_context(check)? {
            let is_empty = fs::read_dir(&self.dir).with_context(check)?.next().is_none();
            // A folder of somebody's other things, such as `.` or `/tmp`, is not ours to close.
            if !is_ours && !is_empty {
                let text = format!(
                    "{shown} holds other things and is open to others; choose a folder of its own \
                     as home"
                );
                return Err(Failure::refused(text).into());
            }
            close(&self.dir, 0o700, "the home")?;
        }
        for (file, what) in [(self.identity(), "the identity"), (self.keyring(), "the keyring")] {
            if file.exists() && is_open(&file).with_context(check)? {
                close(&file, 0o600, what)?;
            }
        }
        Ok(())
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

/// Whether anybody but the owner may do something with it.
fn is_open(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

fn close(path: &Path, mode: u32, what: &str) -> anyhow::Result<()> {
    let shown = path.display();
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("{what} {shown} is open to others and could not be closed"))?;
    eprintln!("note: {what} {shown} was open to others and is not any more");
    Ok(())
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
        let home = Home::open(Some(&dir.path().join("h".repeat(200))), None).unwrap();
        let socket = home.socket().unwrap();
        let _listener = UnixListener::bind(socket.as_path()).unwrap();
        assert!(home.dir().join("api.sock").exists());
        UnixStream::connect(home.socket().unwrap().as_path()).unwrap();
    }

    #[test]
    fn a_home_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let open_to_all = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

        let made_by_hand = dir.path().join("home");
        fs::create_dir(&made_by_hand).unwrap();
        open_to_all(&made_by_hand, 0o755);
        let home = Home::open(Some(&made_by_hand), None).unwrap();
        assert_eq!(mode(home.dir()), 0o700);

        fs::write(home.keyring(), "keys").unwrap();
        open_to_all(&home.keyring(), 0o644);
        open_to_all(home.dir(), 0o775);
        Home::open(Some(&made_by_hand), None).unwrap();
        assert_eq!((mode(home.dir()), mode(&home.keyring())), (0o700, 0o600));

        let others = dir.path().join("others");
        fs::create_dir(&others).unwrap();
        fs::write(others.join("letter"), "dear").unwrap();
        open_to_all(&others, 0o755);
        assert!(Home::open(Some(&others), None).is_err());
        assert_eq!(mode(&others), 0o755, "what is somebody else's is left as it is");
        open_to_all(&others, 0o700);
        assert!(Home::open(Some(&others), None).is_ok());
    }
}
