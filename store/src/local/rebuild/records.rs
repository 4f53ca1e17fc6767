//! The framing of RocksDB's manifest: records in fragments, each under a checksum, in blocks.
//!
//! | fragment | width |
//! |---|---|
//! | masked CRC-32C of kind and bytes | 4, little-endian |
//! | length | 2, little-endian |
//! | kind: 1 whole, 2 first, 3 middle, 4 last | 1 |
//! | bytes | length |
//!
//! No fragment crosses a block of 32 KiB; where fewer than 7 bytes are left, they are zero.

/// Bytes of a block.
const BLOCK_BYTES: usize = 32 << 10;

/// Bytes of a fragment before its own.
const HEADER_BYTES: usize = 7;

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// The records up to the first damage.
pub(super) fn decode(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut record = Vec::new();
    for block in bytes.chunks(BLOCK_BYTES) {
        let mut rest = block;
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let [c0, c1, c2, c3, l0, l1, kind] = *header;
            let length = usize::from(u16::from_le_bytes([l0, l1]));
            let Some(fragment) = after.get(..length) else { return records };
            if u32::from_le_bytes([c0, c1, c2, c3]) != masked_checksum(&[&[kind], fragment]) {
                return records;
            }
            record.extend_from_slice(fragment);
            match kind {
                WHOLE | LAST => records.push(std::mem::take(&mut record)),
                FIRST | MIDDLE => {}
                _ => return records,
            }
            rest = &after[length..];
        }
    }
    records
}

/// The bytes of a file that holds these records.
pub(super) fn encode(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let mut rest = record.as_slice();
        let mut begun = false;
        loop {
            let left = BLOCK_BYTES - bytes.len() % BLOCK_BYTES;
            if left < HEADER_BYTES {
                bytes.resize(bytes.len() + left, 0);
                continue;
            }
            let (fragment, after) = rest.split_at(rest.len().min(left - HEADER_BYTES));
            let kind = match (begun, after.is_empty()) {
                (false, true) => WHOLE,
                (false, false) => FIRST,
                (true, false) => MIDDLE,
                (true, true) => LAST,
            };
            bytes.extend_from_slice(&masked_checksum(&[&[kind], fragment]).to_le_bytes());
            let length = u16::try_from(fragment.len()).expect("a fragment is below 32 KiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.push(kind);
            bytes.extend_from_slice(fragment);
            (rest, begun) = (after, true);
            if rest.is_empty() {
                break;
            }
        }
    }
    bytes
}

/// The checksum as RocksDB stores it: turned and shifted, so that checksums of bytes which hold
/// checksums differ from them.
pub(super) fn masked_checksum(parts: &[&[u8]]) -> u32 {
    let mut sum = !0_u32;
    for byte in parts.iter().copied().flatten() {
        sum = TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8);
    }
    (!sum).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, reflected) by bytes.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut sum = n as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
            bit += 1;
        }
        table[n] = sum;
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_rocksdbs() {
        // CRC-32C of "123456789" is 0xe3069283.
        let masked = 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_checksum(&[b"1234", b"56789"]), masked);
    }

    #[test]
    fn records_come_back_however_they_fall_on_blocks() {
        for first in [0, 1, 100, BLOCK_BYTES - 14, BLOCK_BYTES - 13, BLOCK_BYTES - 8, 100_000] {
            let records = vec![vec![1; first], vec![2; 3], vec![3; 70_000]];
            let bytes = encode(&records);
            assert_eq!(decode(&bytes), records, "{first}");
            assert_eq!(decode(&bytes[..bytes.len() - 1]), records[..2]);
        }
    }
}
