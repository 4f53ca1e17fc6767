//! The usual port of a daemon: `HOME/port`.
//!
//! A daemon without `--listen` takes the port of its last run where that is free, so that peers
//! which remember it find it again. The file is a convenience: whatever is wrong with it, the
//! system picks a port.

use std::fs;
use std::io;
use std::path::Path;

/// The port of the last run, if there was one.
pub(super) fn last(file: &Path) -> Option<u16> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|port| *port > 0)
}

/// Remembers a port for the next run.
pub(super) fn remember(file: &Path, port: u16) {
    let temporary = file.with_extension("new");
    let write = || -> io::Result<()> {
        fs::write(&temporary, format!("{port}\n"))?;
        fs::rename(&temporary, file)
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "could not remember the port for the next run");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_port_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("port");
        assert_eq!(last(&file), None);
        remember(&file, 7447);
        assert_eq!(last(&file), Some(7447));
        for bad in ["", "0", "99999", "port"] {
            fs::write(&file, bad).unwrap();
            assert_eq!(last(&file), None, "{bad:?}");
        }
    }
}
