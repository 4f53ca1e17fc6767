//! How much the journal holds, so that nobody has to walk it.
//!
//! Volumes drop their records after each sealing, so what is remembered here stays short: the
//! key and the length of every record that is not sealed yet.

use std::collections::HashMap;

use rocksdb::DB;

use super::columns::Column;
use super::family;
use super::fault::open_error;
use crate::contract::{Batch, Table};
use crate::error::OpenError;

/// Length of each record in the journal.
#[derive(Debug, Default)]
pub(super) struct Staged {
    lengths: HashMap<Vec<u8>, u64>,
    bytes: u64,
}

impl Staged {
    /// Reads the journal once.
    pub(super) fn of(db: &DB) -> Result<Self, OpenError> {
        let mut staged = Self::default();
        let mut records = db.raw_iterator_cf(family(db, Column::Journal));
        records.seek_to_first();
        while let Some((key, value)) = records.item() {
            staged.set(key, Some(value.len() as u64));
            records.next();
        }
        records.status().map_err(open_error)?;
        Ok(staged)
    }

    /// Takes note of a batch that was written. Two batches never change the same record at once,
    /// so the order of notes does not matter.
    pub(super) fn note(&mut self, batch: &Batch) {
        for (table, key, value) in &batch.changes {
            if *table == Table::Journal {
                self.set(key, value.as_ref().map(|value| value.len() as u64));
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn set(&mut self, key: &[u8], length: Option<u64>) {
        let before = match length {
            Some(length) => self.lengths.insert(key.to_vec(), length),
            None => self.lengths.remove(key),
        };
        self.bytes = self.bytes - before.unwrap_or(0) + length.unwrap_or(0);
    }
}
