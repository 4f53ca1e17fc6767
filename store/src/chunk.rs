//! Cutting file content into pieces by content, so that an insertion changes only the pieces
//! around it.
//!
//! FastCDC (Xia et al., USENIX ATC '16, the 2020 variant) with a gear table seeded from the
//! volume's convergence secret: where a public table is used, the lengths of sealed blocks tell
//! an observer which known file they are.

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::seal::PIECE_BYTES_MAX;
use crate::tree::volume::ConvergenceSecret;

/// Shortest piece but the last one of a run. Shorter pieces cost more metadata and more blocks.
pub(crate) const PIECE_BYTES_MIN: usize = 64 << 10;

/// Average piece: what a small change re-publishes, against about 80 bytes of map each.
const PIECE_BYTES_AVERAGE: usize = 256 << 10;

/// Finds where pieces end. Pure: the end depends on the bytes of the piece and the secret only.
pub(crate) struct Cutter {
    masks: (u64, u64),
    gear: Vec<u64>,
    gear_shifted: Vec<u64>,
}

impl Cutter {
    pub(crate) fn new(secret: &ConvergenceSecret) -> Self {
        let derived = blake3::derive_key("xorfs 2026-11 v1 cutting seed", secret.as_bytes());
        let (seed, _) = derived.split_first_chunk::<8>().expect("32 bytes hold 8");
        let (gear, gear_shifted) = get_gear_with_seed(u64::from_le_bytes(*seed));
        Self {
            masks: select_masks(PIECE_BYTES_AVERAGE, Normalization::Level1),
            gear: gear.into_owned(),
            gear_shifted: gear_shifted.into_owned(),
        }
    }

    /// Length of the piece at the start of `source`, which is not empty. The caller passes at
    /// least `PIECE_BYTES_MAX` bytes, or all there is to the end of the run.
    pub(crate) fn cut(&self, source: &[u8]) -> usize {
        let (small, large) = self.masks;
        let (_, length) = cut_gear(
            source,
            PIECE_BYTES_MIN,
            PIECE_BYTES_AVERAGE,
            PIECE_BYTES_MAX,
            small,
            large,
            small << 1,
            large << 1,
            &self.gear,
            &self.gear_shifted,
        );
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn ends(cutter: &Cutter, source: &[u8]) -> Vec<usize> {
        let mut ends = Vec::new();
        let mut at = 0;
        while at < source.len() {
            at += cutter.cut(&source[at..]);
            ends.push(at);
        }
        ends
    }

    #[test]
    fn pieces_keep_their_bounds_and_survive_an_insertion() {
        let secret = crate::VolumeSecret::from_bytes([1; 32]).convergence_secret();
        let cutter = Cutter::new(&secret);
        let source = noise(16 << 20);
        let before = ends(&cutter, &source);
        let mut start = 0;
        for end in &before[..before.len() - 1] {
            assert!((PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&(end - start)));
            start = *end;
        }
        let shifted: Vec<usize> =
            ends(&cutter, &[&[7], &source[..]].concat()).iter().map(|end| end - 1).collect();
        let moved = before.iter().filter(|end| !shifted.contains(end)).count();
        assert!(moved <= 4, "{moved} of {} cuts moved", before.len());
    }

    #[test]
    fn another_volume_cuts_elsewhere() {
        let source = noise(4 << 20);
        let [one, two] = [1, 2].map(|seed| {
            let secret = crate::VolumeSecret::from_bytes([seed; 32]).convergence_secret();
            ends(&Cutter::new(&secret), &source)
        });
        assert_ne!(one, two);
    }
}
