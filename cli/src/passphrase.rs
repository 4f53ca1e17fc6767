//! Where passphrases come from: a file that was named, or the terminal, without echo.
//!
//! Never an argument or the environment, which other processes may see. What is read is wiped when
//! dropped; copies in the buffers of the terminal and of the local API are beyond that.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xorfs_store::{Passphrase, StoredKeyring};

use crate::exit::Failure;
use crate::home::Home;

/// Longest passphrase that is read from a file, in bytes: beyond it the wrong file was named.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A passphrase on its way through the local API.
#[derive(Debug)]
pub(crate) struct Typed(pub(crate) Passphrase);

impl Serialize for Typed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Typed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let passphrase = Passphrase::new(String::deserialize(deserializer)?);
        passphrase.map(Self).ok_or_else(|| serde::de::Error::custom("a passphrase is not empty"))
    }
}

/// The passphrase in the file that was named for this home, if one was.
pub(crate) fn from_file_of(home: &Home) -> anyhow::Result<Option<Passphrase>> {
    home.passphrase_file().map(from_file).transpose()
}

/// The first line of a file.
pub(crate) fn from_file(path: &Path) -> anyhow::Result<Passphrase> {
    let shown = path.display();
    let read = || -> io::Result<String> {
        // Room for all of it at once: a text that grows leaves copies behind.
        let mut line = String::with_capacity(FILE_BYTES_MAX as usize);
        BufReader::new(File::open(path)?.take(FILE_BYTES_MAX)).read_line(&mut line)?;
        Ok(line)
    };
    let mut line = read().with_context(|| format!("could not read the passphrase file {shown}"))?;
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    let empty = || Failure::usage(format!("the first line of {shown} is empty: no passphrase"));
    Ok(Passphrase::new(line).ok_or_else(empty)?)
}

/// Asks the terminal; refused where there is none.
pub(crate) fn ask(prompt: &str) -> anyhow::Result<Passphrase> {
    if !io::stdin().is_terminal() {
        let text = "there is no terminal to ask for the passphrase: give --passphrase-file FILE";
        return Err(Failure::usage(text).into());
    }
    let typed = rpassword::prompt_password(format!("{prompt}: ")).context("no passphrase")?;
    Ok(Passphrase::new(typed).ok_or_else(|| Failure::usage("an empty passphrase is none"))?)
}

/// From the file that was named for this home, else from the terminal.
pub(crate) fn of_home(home: &Home) -> anyhow::Result<Passphrase> {
    match from_file_of(home)? {
        Some(passphrase) => Ok(passphrase),
        None => ask("Passphrase of the keyring"),
    }
}

/// What a command's own node opens the keyring with: nothing where it has no passphrase, or where
/// there is nobody to ask; what needs a key is refused then.
pub(crate) fn for_own_node(home: &Home) -> anyhow::Result<Option<Passphrase>> {
    match StoredKeyring::open(&home.keyring()) {
        Ok(StoredKeyring::Sealed(_)) => {}
        // What is wrong with it is told where it is opened for use.
        Ok(StoredKeyring::Open(_)) | Err(_) => return Ok(None),
    }
    if home.passphrase_file().is_none() && !io::stdin().is_terminal() {
        return Ok(None);
    }
    of_home(home).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        for (content, expected) in
            [("secret\n", "secret"), (" two words \r\nmore", " two words "), ("bare", "bare")]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(from_file(&path).unwrap().as_str(), expected);
        }
        std::fs::write(&path, "\nsecond").unwrap();
        assert!(from_file(&path).is_err());
        assert!(from_file(&dir.path().join("nowhere")).is_err());
    }
}
