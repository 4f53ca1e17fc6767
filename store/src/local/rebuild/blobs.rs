//! Blob files as they are on disk, read without RocksDB.
//!
//! A blob file says of every block in it which it is, and a block proves itself by its hash. So
//! whatever became of the tables that lead to it, a block whose bytes are there is found again.
//!
//! A file is a header of 30 bytes, records and, once it is complete, a footer of 32 bytes. A
//! record is key length, value length and expiration (8 bytes each), the masked CRC-32C of these
//! and of what follows (4 bytes each), the key, which is the block id, and the sealed bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::records::masked_checksum;
use crate::block::{BLOCK_BYTES_MAX, Block};
use crate::id::{BlockId, ID_BYTES};

const FILE_HEADER_BYTES: u64 = 30;
const FOOTER_BYTES: u64 = 32;
const RECORD_HEADER_BYTES: usize = 32;

/// Magic number, version, the number of the family `blocks`; nothing compressed, nothing that
/// expires.
const FILE_HEADER: [u8; FILE_HEADER_BYTES as usize] = {
    let mut header = [0; FILE_HEADER_BYTES as usize];
    let magic = 2_395_959_u32.to_le_bytes();
    let mut n = 0;
    while n < 4 {
        header[n] = magic[n];
        n += 1;
    }
    header[4] = 1;
    header[8] = 1;
    header
};

/// Bytes that are searched at a time for where the records go on behind damage.
const SEARCH_BYTES: usize = 256 << 10;

/// An open blob file.
pub(super) struct BlobFile {
    file: File,
    length: u64,
}

/// Where a block lies in a blob file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) id: BlockId,
    offset: u64,
    pub(super) length: u32,
}

impl BlobFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    /// Whether header and footer are as they should be. RocksDB reads nothing of a file where
    /// they are not.
    pub(super) fn is_framed(&self) -> io::Result<bool> {
        let Some(footer_at) = self.length.checked_sub(FOOTER_BYTES) else { return Ok(false) };
        let mut header = [0; FILE_HEADER_BYTES as usize];
        let mut footer = [0; FOOTER_BYTES as usize];
        if footer_at < FILE_HEADER_BYTES {
            return Ok(false);
        }
        self.file.read_exact_at(&mut header, 0)?;
        self.file.read_exact_at(&mut footer, footer_at)?;
        let (body, checksum) = footer.split_at(28);
        Ok(header == FILE_HEADER && checksum == masked_checksum(&[body]).to_le_bytes())
    }

    /// The bytes of all records, damaged ones included.
    pub(super) fn record_bytes(&self) -> u64 {
        self.length.saturating_sub(FILE_HEADER_BYTES + FOOTER_BYTES)
    }

    /// Every record whose header reads, in order. Reads no sealed bytes unless a header is
    /// damaged.
    pub(super) fn spots(&self) -> io::Result<Vec<Spot>> {
        let mut spots = Vec::new();
        let mut at = FILE_HEADER_BYTES;
        let record_bytes_min = (RECORD_HEADER_BYTES + ID_BYTES) as u64;
        while at + record_bytes_min < self.length {
            let mut header = [0; RECORD_HEADER_BYTES + ID_BYTES];
            self.file.read_exact_at(&mut header, at)?;
            if let Some((id, length)) = parse(&header)
                && at + record_bytes_min + u64::from(length) <= self.length
            {
                spots.push(Spot { id, offset: at + record_bytes_min, length });
                at += record_bytes_min + u64::from(length);
            } else if at + FOOTER_BYTES >= self.length {
                break;
            } else {
                match self.next_record(at + 1)? {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
        Ok(spots)
    }

    /// The block at a spot; `None` where its bytes are not what its id names.
    pub(super) fn block(&self, spot: &Spot) -> io::Result<Option<Block>> {
        let mut bytes = vec![0; spot.length as usize];
        self.file.read_exact_at(&mut bytes, spot.offset)?;
        Ok(Block::verified(spot.id, Bytes::from(bytes)).ok())
    }

    fn next_record(&self, from: u64) -> io::Result<Option<u64>> {
        let mut start = from;
        while start + (RECORD_HEADER_BYTES as u64) < self.length {
            let wanted = SEARCH_BYTES.min((self.length - start) as usize);
            let mut window = vec![0; wanted];
            self.file.read_exact_at(&mut window, start)?;
            let found = window.windows(RECORD_HEADER_BYTES).position(is_header);
            if let Some(found) = found {
                return Ok(Some(start + found as u64));
            }
            // The windows overlap by all but one byte of a header.
            start += (wanted - (RECORD_HEADER_BYTES - 1).min(wanted - 1)) as u64;
        }
        Ok(None)
    }
}

/// The id and the length that a record's first bytes tell, if they are a record's.
fn parse(bytes: &[u8; RECORD_HEADER_BYTES + ID_BYTES]) -> Option<(BlockId, u32)> {
    let (header, key) = bytes.split_at(RECORD_HEADER_BYTES);
    if !is_header(header) {
        return None;
    }
    let length = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let length = u32::try_from(length).ok().filter(|length| *length as usize <= BLOCK_BYTES_MAX)?;
    Some((BlockId::from_bytes(key.try_into().ok()?), length))
}

fn is_header(header: &[u8]) -> bool {
    header[..8] == (ID_BYTES as u64).to_le_bytes()
        && header[24..28] == masked_checksum(&[&header[..24]]).to_le_bytes()
}
