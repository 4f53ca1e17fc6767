//! Plaintext that is wiped when dropped.
//!
//! `zeroize` wipes a vector with one volatile write a byte: measured, that takes longer than
//! opening the bytes did. Plaintext comes by the megabyte, so it is wiped with a fill, which the
//! compiler is kept from leaving out. Keys are few and stay with `zeroize`.

use std::fmt;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

/// A vector of bytes that is wiped when dropped, its spare capacity included. What growing it
/// leaves behind is not: it is made with the capacity that it needs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Plaintext(Vec<u8>);

impl Plaintext {
    /// Empty, with room for so many bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }
}

impl From<Vec<u8>> for Plaintext {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Plaintext {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Plaintext {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl AsRef<[u8]> for Plaintext {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Plaintext {
    fn drop(&mut self) {
        self.0.clear();
        let all = self.0.spare_capacity_mut();
        all.fill(MaybeUninit::new(0));
        // To the compiler the bytes are looked at, so they have to be zero by now.
        black_box(all);
    }
}

/// Nothing of it gets into a log.
impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes)", self.0.len())
    }
}
