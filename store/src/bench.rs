//! What the micro-benchmarks measure of the inside. No interface: nothing else uses it, and it
//! changes with what it measures.

use std::ops::Range;

use crate::block::BLOCK_BYTES_MAX;
use crate::chunk::Cutter;
use crate::compress;
use crate::id::BlockId;
use crate::plaintext::Plaintext;
use crate::seal::{BlockRef, Kind, PieceKey, open_piece, seal_piece};
use crate::tree::map::{self, Extent};
use crate::tree::volume::ConvergenceSecret;

/// A sealed piece.
pub struct SealedPiece {
    piece: BlockRef,
    sealed: Vec<u8>,
}

impl SealedPiece {
    /// Derives the key, compresses where that pays, and seals.
    pub fn of(secret: &ConvergenceSecret, plaintext: &[u8]) -> Self {
        let key = PieceKey::derive(secret, plaintext);
        let mut sealed = Vec::with_capacity(BLOCK_BYTES_MAX);
        let encoding = seal_piece(Kind::Data, &key, plaintext, &mut sealed);
        let (id, length) = (BlockId::from_bytes([0; 32]), sealed.len() as u32);
        Self { piece: BlockRef { id, offset: 0, length, encoding, key }, sealed }
    }

    /// Sealed bytes.
    pub fn length(&self) -> usize {
        self.sealed.len()
    }

    /// Opens a part.
    pub fn open(&self, range: Range<usize>) -> Plaintext {
        open_piece(Kind::Data, &self.piece, &self.sealed, range).expect("it was just sealed")
    }
}

/// The look at samples that decides whether a piece is compressed.
pub fn probe(plaintext: &[u8]) -> bool {
    compress::shows_gain(plaintext)
}

/// Cuts a run and counts the pieces.
pub fn cut(secret: &ConvergenceSecret, run: &[u8]) -> usize {
    let cutter = Cutter::new(secret);
    let (mut at, mut pieces) = (0, 0);
    while at < run.len() {
        at += cutter.cut(&run[at..]);
        pieces += 1;
    }
    pieces
}

/// Encodes a map node of so many extents and decodes it again.
pub fn map_node(piece: &SealedPiece, extents: usize) -> usize {
    let length = piece.piece.plain_length();
    let extents = vec![Extent { length, piece: Some(piece.piece.clone()) }; extents];
    let bytes = map::encode(1, &extents);
    map::decode(&bytes, 1, length * extents.len() as u64).expect("it was just encoded").len()
}
