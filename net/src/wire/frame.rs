//! Frames: a length, a header, a payload.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::HEADER_BYTES_MAX;

/// Bytes in front of a header: its length, little-endian.
pub(crate) const PREFIX_BYTES: usize = 4;

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// A header longer than any message has.
    #[error("a header of {0} bytes is longer than {HEADER_BYTES_MAX}")]
    HeaderLength(usize),
    /// The header is not a message.
    #[error("the header does not decode")]
    Header,
    /// A list or a payload in the message is longer than allowed, or empty where it must not be.
    #[error("{what} of length {length} is outside its limit")]
    Limit {
        /// What is too long.
        what: &'static str,
        /// How long it is.
        length: usize,
    },
}

/// A header with its length in front, ready to be sent.
pub(crate) fn encode<T: Serialize>(header: &T) -> Bytes {
    let prefixed = postcard::to_extend(header, vec![0; PREFIX_BYTES]);
    let mut bytes = prefixed.expect("our own messages encode");
    let length = bytes.len() - PREFIX_BYTES;
    assert!(length <= HEADER_BYTES_MAX, "our own messages keep the limits");
    bytes[..PREFIX_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    bytes.into()
}

/// How many bytes of header follow a prefix.
pub(crate) fn header_length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, WireError> {
    match u32::from_le_bytes(prefix) as usize {
        length if length <= HEADER_BYTES_MAX => Ok(length),
        length => Err(WireError::HeaderLength(length)),
    }
}

/// Decodes a header, all of it.
pub(crate) fn decode<T: DeserializeOwned>(header: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(header) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError::Header),
    }
}
