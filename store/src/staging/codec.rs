//! Bytes of a journal record's plaintext: a tag, then the fields of the change in order.

use bytes::Bytes;

use crate::format::{Decoder, Encoder, FormatError};
use crate::staging::Change;
use crate::tree::entry::{Entry, Timestamp};

const TAG_CREATE: u8 = 1;
const TAG_LINK: u8 = 2;
const TAG_REMOVE: u8 = 3;
const TAG_RENAME: u8 = 4;
const TAG_WRITE: u8 = 5;
const TAG_RESIZE: u8 = 6;
const TAG_SET_ATTR: u8 = 7;
const TAG_SET_XATTR: u8 = 8;

impl Change {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::versioned();
        match self {
            Self::Create { path, entry } => {
                entry.encode(encoder.u8(TAG_CREATE).bytes(path));
            }
            Self::Link { from, to, time } => {
                time.encode(encoder.u8(TAG_LINK).bytes(from).bytes(to));
            }
            Self::Remove { path, time } => {
                time.encode(encoder.u8(TAG_REMOVE).bytes(path));
            }
            Self::Rename { from, to, exchange, time } => {
                time.encode(encoder.u8(TAG_RENAME).bytes(from).bytes(to).u8(u8::from(*exchange)));
            }
            Self::Write { path, offset, bytes, time } => {
                time.encode(encoder.u8(TAG_WRITE).bytes(path).varint(*offset));
                encoder.bytes(bytes);
            }
            Self::Resize { path, size, time } => {
                time.encode(encoder.u8(TAG_RESIZE).bytes(path).varint(*size));
            }
            Self::SetAttr { path, mode, uid, gid, mtime, atime, ctime } => {
                encoder.u8(TAG_SET_ATTR).bytes(path).u32(*mode).u32(*uid).u32(*gid);
                for time in [mtime, atime, ctime] {
                    time.encode(&mut encoder);
                }
            }
            Self::SetXattr { path, name, value, time } => {
                time.encode(encoder.u8(TAG_SET_XATTR).bytes(path).bytes(name));
                match value {
                    None => encoder.u8(0),
                    Some(value) => encoder.u8(1).bytes(value),
                };
            }
        }
        encoder.finish()
    }

    pub(crate) fn decode(plain: &[u8]) -> Result<Self, FormatError> {
        let mut decoder = Decoder::versioned(plain)?;
        let change = decode_change(&mut decoder)?;
        decoder.finish()?;
        Ok(change)
    }
}

fn decode_change(decoder: &mut Decoder<'_>) -> Result<Change, FormatError> {
    let tag = decoder.u8()?;
    let path = decoder.bytes()?.to_vec();
    Ok(match tag {
        TAG_CREATE => Change::Create { path, entry: Box::new(Entry::decode(decoder)?) },
        TAG_LINK => Change::Link {
            from: path,
            to: decoder.bytes()?.to_vec(),
            time: Timestamp::decode(decoder)?,
        },
        TAG_REMOVE => Change::Remove { path, time: Timestamp::decode(decoder)? },
        TAG_RENAME => Change::Rename {
            from: path,
            to: decoder.bytes()?.to_vec(),
            exchange: decode_bool(decoder)?,
            time: Timestamp::decode(decoder)?,
        },
        TAG_WRITE => {
            let offset = decoder.varint()?;
            let time = Timestamp::decode(decoder)?;
            let bytes = Bytes::copy_from_slice(decoder.bytes()?);
            Change::Write { path, offset, bytes, time }
        }
        TAG_RESIZE => {
            Change::Resize { path, size: decoder.varint()?, time: Timestamp::decode(decoder)? }
        }
        TAG_SET_ATTR => Change::SetAttr {
            path,
            mode: decoder.u32()?,
            uid: decoder.u32()?,
            gid: decoder.u32()?,
            mtime: Timestamp::decode(decoder)?,
            atime: Timestamp::decode(decoder)?,
            ctime: Timestamp::decode(decoder)?,
        },
        TAG_SET_XATTR => {
            let name = decoder.bytes()?.to_vec();
            let time = Timestamp::decode(decoder)?;
            let value = match decode_bool(decoder)? {
                false => None,
                true => Some(decoder.bytes()?.to_vec()),
            };
            Change::SetXattr { path, name, value, time }
        }
        _ => return Err(FormatError::Invalid("a kind of change")),
    })
}

fn decode_bool(decoder: &mut Decoder<'_>) -> Result<bool, FormatError> {
    match decoder.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FormatError::Invalid("a truth value")),
    }
}
