//! Staging: the crash-safe journal of what a volume was told and has not sealed yet.
//!
//! `fsync` appends the changes since the last one as a single synced batch. A change is logical
//! and names its file by path, so that a volume recovers by doing the journal again over its last
//! sealed root, through the same code that did it first. Records are sealed under the volume's
//! staging key: neither data nor names reach the disk in plaintext.
//!
//! Invariant: the records in the ledger are exactly the changes after the base, the head that this
//! home last sealed or took up; the batch that commits a head removes what it sealed.

mod codec;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::contract::{Batch, BlockStore, Ledger, Table};
use crate::crash;
use crate::error::{ReadError, TreeError, WriteError};
use crate::format::{Encoder, FORMAT_VERSION, FormatError};
use crate::id::{BlockId, ID_BYTES};
use crate::seal::{Kind, PieceKey, seal, unseal};
use crate::tree::entry::{Entry, Timestamp};
use crate::tree::head::{Head, VolumeId};
use crate::tree::volume::StagingKey;

/// A path inside a volume: names joined with `/`, no slash at either end; empty for the root.
pub type TreePath = Vec<u8>;

/// One change of a volume, as absolute as can be, so that replaying it needs no judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new name with a new inode.
    Create {
        /// Where.
        path: TreePath,
        /// What, complete; its content is empty and its `attr.ino` fresh.
        entry: Box<Entry>,
    },
    /// A further name of a file.
    Link {
        /// An existing name.
        from: TreePath,
        /// The new one.
        to: TreePath,
        /// New ctime of the file; mtime and ctime of the directory.
        time: Timestamp,
    },
    /// A name goes: of a file, an empty directory or anything else.
    Remove {
        /// Which.
        path: TreePath,
        /// New times of the directory, and ctime of what remains of the file.
        time: Timestamp,
    },
    /// A name moves, replacing what is at `to`, or changes places with it.
    Rename {
        /// From here.
        from: TreePath,
        /// To here.
        to: TreePath,
        /// Whether both change places.
        exchange: bool,
        /// New times of both directories.
        time: Timestamp,
    },
    /// Bytes are written; the file grows where needed.
    Write {
        /// The file.
        path: TreePath,
        /// Where in it.
        offset: u64,
        /// What.
        bytes: Bytes,
        /// New mtime and ctime.
        time: Timestamp,
    },
    /// A file is cut or extended.
    Resize {
        /// The file.
        path: TreePath,
        /// New size in bytes.
        size: u64,
        /// New mtime and ctime.
        time: Timestamp,
    },
    /// Mode, owner or times.
    SetAttr {
        /// Whose.
        path: TreePath,
        /// Permission and set-id bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Modification time.
        mtime: Timestamp,
        /// Access time.
        atime: Timestamp,
        /// Change time.
        ctime: Timestamp,
    },
    /// An extended attribute is set, or removed with `None`.
    SetXattr {
        /// Whose.
        path: TreePath,
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
        /// New ctime.
        time: Timestamp,
    },
}

/// The journal of one volume.
pub struct Journal {
    ledger: Arc<dyn Ledger>,
    volume: VolumeId,
    key: StagingKey,
    /// Sequence numbers in the ledger.
    held: Mutex<BTreeSet<u64>>,
}

impl Journal {
    /// Opens a volume's journal and reads what it holds, oldest first, with sequence numbers.
    ///
    /// # Errors
    /// `Corrupt` names the volume's point where a record does not open or decode.
    pub fn open(
        ledger: Arc<dyn Ledger>,
        volume: VolumeId,
        key: &StagingKey,
    ) -> Result<(Self, Vec<(u64, Change)>), ReadError> {
        let mut changes = Vec::new();
        for (record_key, value) in ledger.scan(Table::Journal, volume.as_bytes())? {
            let sequence = sequence_of(&record_key)
                .ok_or_else(|| corrupt(volume, "a journal record without a sequence number"))?;
            changes.push((sequence, open_record(key, volume, sequence, &value)?));
        }
        let held = Mutex::new(changes.iter().map(|(sequence, _)| *sequence).collect());
        Ok((Self { ledger, volume, key: key.clone(), held }, changes))
    }

    /// Makes a journal readable again: from the first record that does not open or decode on,
    /// all records leave the ledger and are written to the new file `aside`, as they were sealed.
    /// Those behind it go too, because they lean on it. Returns how many went; without any, no
    /// file is made.
    ///
    /// # Errors
    /// `Io` where the file exists or could not be written; nothing has changed then.
    pub fn salvage(
        ledger: &dyn Ledger,
        volume: VolumeId,
        key: &StagingKey,
        aside: &Path,
    ) -> Result<usize, TreeError> {
        let records = ledger.scan(Table::Journal, volume.as_bytes())?;
        let opens = |(record_key, value): &(Vec<u8>, Bytes)| {
            let opened =
                sequence_of(record_key).map(|sequence| open_record(key, volume, sequence, value));
            // What a newer version wrote is not damaged.
            matches!(opened, Some(Ok(_) | Err(ReadError::Newer { .. })))
        };
        let dropped = &records[records.iter().take_while(|record| opens(record)).count()..];
        if dropped.is_empty() {
            return Ok(0);
        }
        set_aside(dropped, aside).map_err(WriteError::Io)?;
        let mut batch = Batch::new();
        for (record_key, _) in dropped {
            batch.delete(Table::Journal, record_key.clone());
        }
        ledger.commit(batch)?;
        Ok(dropped.len())
    }

    /// Makes changes crash-safe: one synced batch. Sequence numbers ascend, are the caller's and
    /// start above those of every change before.
    pub fn append(&self, changes: &[(u64, Change)]) -> Result<(), WriteError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for (sequence, change) in changes {
            let mut sealed = vec![FORMAT_VERSION];
            let key = record_key(&self.key, self.volume, *sequence);
            seal(Kind::Journal, &key, &change.encode(), &mut sealed);
            batch.put(Table::Journal, ledger_key(self.volume, *sequence), sealed);
        }
        crash::point("journal-before-append");
        self.ledger.commit(batch)?;
        crash::point("journal-after-append");
        self.held().extend(changes.iter().map(|(sequence, _)| *sequence));
        Ok(())
    }

    /// Flushes `blocks`, then makes `head` the volume's base, and its newest head unless another
    /// writer's is newer, and drops every record up to and including `through`, in one synced
    /// batch.
    pub fn commit_head(
        &self,
        blocks: &dyn BlockStore,
        head: &Head,
        through: u64,
    ) -> Result<(), WriteError> {
        assert_eq!(head.volume(), self.volume, "a journal commits its own volume's heads");
        blocks.flush()?;
        let mut batch = Batch::new();
        batch.put(Table::Bases, *self.volume.as_bytes(), head.encoded().clone());
        // A newest head that does not read is replaced.
        let newest = stored_head(&*self.ledger, self.volume).unwrap_or_default();
        if newest.is_none_or(|newest| head.supersedes(&newest)) {
            batch.put(Table::Heads, *self.volume.as_bytes(), head.encoded().clone());
        }
        let sealed: Vec<u64> = self.held().range(..=through).copied().collect();
        for sequence in &sealed {
            batch.delete(Table::Journal, ledger_key(self.volume, *sequence));
        }
        crash::point("head-before-commit");
        self.ledger.commit(batch)?;
        crash::point("head-after-commit");
        let mut held = self.held();
        for sequence in sealed {
            held.remove(&sequence);
        }
        Ok(())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({:?})", self.volume)
    }
}

/// The newest head that the ledger holds of a volume, whoever wrote it.
pub fn stored_head(ledger: &dyn Ledger, volume: VolumeId) -> Result<Option<Head>, ReadError> {
    read_head(ledger, Table::Heads, volume)
}

/// Chooses the head that a writable volume goes on from, and records it: the newest one, unless
/// the journal holds changes, which fit only the head that they were made after.
///
/// # Errors
/// `Read` where a head does not decode, `Write` where the choice could not be recorded.
pub fn take_base(
    ledger: &dyn Ledger,
    volume: VolumeId,
    has_changes: bool,
) -> Result<Option<Head>, TreeError> {
    let base = read_head(ledger, Table::Bases, volume)?;
    if base.is_some() && has_changes {
        return Ok(base);
    }
    let newest = stored_head(ledger, volume)?;
    match (base, newest) {
        (Some(base), newest) if newest.as_ref().is_none_or(|newest| !newest.supersedes(&base)) => {
            Ok(Some(base))
        }
        (_, Some(newest)) => {
            let mut batch = Batch::new();
            batch.put(Table::Bases, *volume.as_bytes(), newest.encoded().clone());
            ledger.commit(batch)?;
            Ok(Some(newest))
        }
        (base, None) => Ok(base),
    }
}

fn read_head(
    ledger: &dyn Ledger,
    table: Table,
    volume: VolumeId,
) -> Result<Option<Head>, ReadError> {
    let Some(encoded) = ledger.read(table, volume.as_bytes())? else { return Ok(None) };
    let head = Head::decode(encoded).map_err(|error| corrupt(volume, &error.to_string()))?;
    match head.volume() == volume {
        true => Ok(Some(head)),
        false => Err(corrupt(volume, "its head is another volume's")),
    }
}

/// Each record as the length and the bytes of its key and of its value.
fn set_aside(records: &[(Vec<u8>, Bytes)], path: &Path) -> io::Result<()> {
    let mut bytes = Encoder::versioned();
    for (record_key, value) in records {
        bytes.bytes(record_key).bytes(value);
    }
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(&bytes.finish())?;
    file.sync_all()
}

fn open_record(
    key: &StagingKey,
    volume: VolumeId,
    sequence: u64,
    value: &[u8],
) -> Result<Change, ReadError> {
    let newer = |found| ReadError::Newer { id: volume.point(), found };
    let sealed = match value.split_first() {
        Some((&FORMAT_VERSION, sealed)) => sealed,
        Some((&found, _)) if found > FORMAT_VERSION => return Err(newer(found)),
        _ => return Err(corrupt(volume, "a journal record without a version")),
    };
    let plain = unseal(Kind::Journal, &record_key(key, volume, sequence), sealed)
        .map_err(|error| corrupt(volume, &error.to_string()))?;
    Change::decode(&plain).map_err(|error| match error {
        FormatError::Newer(found) => newer(found),
        error => corrupt(volume, &error.to_string()),
    })
}

/// Each record has a key of its own. A number can only come again after a crash lost the record
/// that had it first, and AES-GCM-SIV then reveals nothing but whether both were equal.
fn record_key(key: &StagingKey, volume: VolumeId, sequence: u64) -> PieceKey {
    let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
    hasher.update(volume.as_bytes()).update(&sequence.to_le_bytes());
    PieceKey::from_bytes(*hasher.finalize().as_bytes())
}

/// Volume id, then the sequence number big-endian, so that a scan is in order.
fn ledger_key(volume: VolumeId, sequence: u64) -> Vec<u8> {
    [volume.as_bytes().as_slice(), &sequence.to_be_bytes()].concat()
}

fn sequence_of(ledger_key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(ledger_key.get(ID_BYTES..)?.try_into().ok()?))
}

fn corrupt(volume: VolumeId, detail: &str) -> ReadError {
    let id: BlockId = volume.point();
    ReadError::Corrupt { id, detail: format!("volume {volume}: {detail}") }
}

#[cfg(test)]
mod tests;
