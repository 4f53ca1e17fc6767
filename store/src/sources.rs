//! Sources: which file of this machine a file of a volume was put from, so that putting it again
//! reads only what has changed.
//!
//! A record says what the source looked like and what the file in the volume ended as. It is a
//! hint that both sides are compared with, never a promise: a record that is missing, damaged or
//! of a newer version only costs that the source is read once more. Records are sealed under the
//! volume's staging key and found by a keyed hash of the path, so that the disk tells neither
//! names nor which of two volumes holds the same file.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::contract::{Batch, Ledger, Table};
use crate::error::{ReadError, WriteError};
use crate::format::{Decoder, Encoder, FORMAT_VERSION, FormatError};
use crate::id::ID_BYTES;
use crate::seal::{Kind, PieceKey, seal, unseal};
use crate::staging::TreePath;
use crate::tree::entry::Timestamp;
use crate::tree::head::VolumeId;
use crate::tree::volume::StagingKey;

/// What a file looked like when it was read: where any of this differs, it has to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceStamp {
    /// Number of its device.
    pub device: u64,
    /// Inode number on that device.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
}

/// What is remembered of one file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRecord {
    /// The file in the volume.
    pub path: TreePath,
    /// What it was put from.
    pub stamp: SourceStamp,
    /// Its inode number in the volume.
    pub ino: u64,
    /// Its ctime when it was complete: any later change of it shows.
    pub ctime: Timestamp,
}

/// The records of one volume.
pub struct Sources {
    ledger: Arc<dyn Ledger>,
    volume: VolumeId,
    key: SourcesKey,
}

/// Keys the places of records, and the records.
#[derive(Zeroize, ZeroizeOnDrop)]
struct SourcesKey([u8; 32]);

/// What a path is hashed for; both are keyed the same.
const FOR_PLACE: u8 = 0;
const FOR_SEALING: u8 = 1;

impl Sources {
    /// The records of a volume in a ledger.
    pub fn new(ledger: Arc<dyn Ledger>, volume: VolumeId, key: &StagingKey) -> Self {
        let key = blake3::derive_key("xorfs 2026-11 v1 source records", key.as_bytes());
        Self { ledger, volume, key: SourcesKey(key) }
    }

    /// What is remembered of the file at `path`; `None` also where that does not decode.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub fn find(&self, path: &[u8]) -> Result<Option<SourceRecord>, ReadError> {
        let place = self.place(path);
        let found = self.ledger.read(Table::Sources, &place)?;
        let record = found.and_then(|value| self.open(&place, &value).ok());
        Ok(record.filter(|record| record.path == path))
    }

    /// Up to `limit` records out of a 256th of all; which ones, `turn` decides. What does not
    /// decode is left out.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub fn slice(&self, turn: u64, limit: usize) -> Result<Vec<SourceRecord>, ReadError> {
        let prefix = [self.volume.as_bytes().as_slice(), &[turn as u8]].concat();
        let found = self.ledger.scan(Table::Sources, &prefix)?;
        let parts = found.len().div_ceil(limit.max(1)).max(1) as u64;
        let first = (turn >> 8) % parts * limit as u64;
        let seen = found.iter().skip(first as usize).take(limit);
        Ok(seen.filter_map(|(place, value)| self.open(place, value).ok()).collect())
    }

    /// Remembers some files and forgets others, in one synced batch.
    ///
    /// # Errors
    /// Where the ledger cannot be written.
    pub fn commit<'a>(
        &self,
        records: impl IntoIterator<Item = &'a SourceRecord>,
        forgotten: impl IntoIterator<Item = &'a TreePath>,
    ) -> Result<(), WriteError> {
        let mut batch = Batch::new();
        for record in records {
            let place = self.place(&record.path);
            // A record's key seals every record of one path. AES-GCM-SIV then reveals nothing
            // but whether two of them are equal.
            let mut value = vec![FORMAT_VERSION];
            let key = self.record_key(&place);
            seal(Kind::Source, &key, &record.encode(), &mut value);
            batch.put(Table::Sources, place, Bytes::from(value));
        }
        for path in forgotten {
            batch.delete(Table::Sources, self.place(path));
        }
        if batch.is_empty() { Ok(()) } else { self.ledger.commit(batch) }
    }

    fn open(&self, place: &[u8], value: &[u8]) -> Result<SourceRecord, FormatError> {
        const DAMAGED: FormatError = FormatError::Invalid("a source record");
        let Some((&FORMAT_VERSION, sealed)) = value.split_first() else { return Err(DAMAGED) };
        let plain = unseal(Kind::Source, &self.record_key(place), sealed).map_err(|_| DAMAGED)?;
        SourceRecord::decode(&plain)
    }

    /// Volume id, then the keyed hash of the path.
    fn place(&self, path: &[u8]) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key.0);
        hasher.update(self.volume.as_bytes()).update(&[FOR_PLACE]).update(path);
        [self.volume.as_bytes().as_slice(), hasher.finalize().as_bytes()].concat()
    }

    fn record_key(&self, place: &[u8]) -> PieceKey {
        debug_assert_eq!(place.len(), 2 * ID_BYTES, "a place is the volume and a hash");
        let mut hasher = blake3::Hasher::new_keyed(&self.key.0);
        hasher.update(self.volume.as_bytes()).update(&[FOR_SEALING]).update(place);
        PieceKey::from_bytes(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sources({:?})", self.volume)
    }
}

impl SourceRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let SourceStamp { device, inode, size, mtime, ctime } = self.stamp;
        let mut encoder = Encoder::versioned();
        encoder.bytes(&self.path).varint(device).varint(inode).varint(size);
        mtime.encode(&mut encoder);
        ctime.encode(&mut encoder);
        self.ctime.encode(encoder.varint(self.ino));
        encoder.finish()
    }

    pub(crate) fn decode(plain: &[u8]) -> Result<Self, FormatError> {
        let mut decoder = Decoder::versioned(plain)?;
        let path = decoder.bytes()?.to_vec();
        let stamp = SourceStamp {
            device: decoder.varint()?,
            inode: decoder.varint()?,
            size: decoder.varint()?,
            mtime: Timestamp::decode(&mut decoder)?,
            ctime: Timestamp::decode(&mut decoder)?,
        };
        let ino = decoder.varint()?;
        let ctime = Timestamp::decode(&mut decoder)?;
        decoder.finish()?;
        Ok(Self { path, stamp, ino, ctime })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, VolumeSecret};

    fn record(path: &str) -> SourceRecord {
        let time = |seconds, nanos| Timestamp { seconds, nanos };
        let (mtime, ctime) = (time(-5, 999_999_999), time(1_700_000_000, 1));
        let stamp = SourceStamp { device: 66_306, inode: u64::MAX, size: 9_000, mtime, ctime };
        SourceRecord { path: path.into(), stamp, ino: 77, ctime: time(3, 4) }
    }

    fn sources(ledger: &Arc<Memory>, seed: u8) -> Sources {
        let secret = VolumeSecret::from_bytes([seed; 32]);
        Sources::new(Arc::clone(ledger) as _, secret.id(), &secret.staging_key())
    }

    #[test]
    fn what_was_remembered_is_found_by_its_path_and_volume_only() {
        let ledger = Arc::new(Memory::new());
        let sources_of = |seed| sources(&ledger, seed);
        let (one, two) = (record("plain/one"), record("plain/two"));
        sources_of(1).commit([&one, &two], []).unwrap();
        assert_eq!(sources_of(1).find(b"plain/one").unwrap(), Some(one.clone()));
        assert_eq!(sources_of(1).find(b"plain").unwrap(), None);
        assert_eq!(sources_of(2).find(b"plain/one").unwrap(), None);
        let all: Vec<_> = (0..=255).flat_map(|n| sources_of(1).slice(n, 9).unwrap()).collect();
        assert!(all.len() == 2 && all.contains(&one) && all.contains(&two));
        sources_of(1).commit([], [&one.path]).unwrap();
        assert_eq!(sources_of(1).find(b"plain/one").unwrap(), None);
        assert_eq!(sources_of(1).find(b"plain/two").unwrap(), Some(two));
    }

    #[test]
    fn records_are_sealed_and_a_damaged_one_is_none() {
        let ledger = Arc::new(Memory::new());
        let sources = sources(&ledger, 1);
        sources.commit([&record("plain/one")], []).unwrap();
        let (place, value) = ledger.scan(Table::Sources, &[]).unwrap().remove(0);
        assert!(!value.windows(5).any(|window| window == b"plain"));
        for at in 0..value.len() {
            let mut damaged = value.to_vec();
            damaged[at] ^= 1;
            let mut batch = Batch::new();
            batch.put(Table::Sources, place.clone(), damaged);
            ledger.commit(batch).unwrap();
            assert_eq!(sources.find(b"plain/one").unwrap(), None, "byte {at}");
        }
    }

    #[test]
    fn golden_bytes() {
        let hex: String = record("a/b").encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "01",
                "03612f62",
                "828604",
                "ffffffffffffffffff01",
                "a846",
                "fbffffffffffffffffc99a3b",
                "00f153650000000001000000",
                "4d",
                "030000000000000004000000",
            )
        );
        assert_eq!(SourceRecord::decode(&record("a/b").encode()), Ok(record("a/b")));
    }
}
