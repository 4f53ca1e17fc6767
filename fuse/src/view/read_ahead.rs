//! Read-ahead: which bytes a sequential reader will want next.
//!
//! Pure: it sees offsets and says ranges; `file` hands those to the store as a hint.

use std::ops::Range;

/// First window in bytes: a few pieces, so that a short sequential read fetches little in vain.
const WINDOW_FIRST: u64 = 1 << 20;

/// Largest window in bytes. Covers about a second of a slow link; more would only crowd out
/// other readers.
const WINDOW_MAX: u64 = 16 << 20;

/// Where a reader is, and how far ahead was asked for.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ReadAhead {
    next: u64,
    window: u64,
    asked: u64,
}

impl ReadAhead {
    /// Notes a read and says what to fetch now. Half a window is always left between the reader
    /// and the end of what was asked for, so that hints are few and large.
    pub(super) fn on_read(&mut self, offset: u64, length: u64, size: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(length).min(size);
        // Kernel read-ahead may deliver neighbouring requests out of order.
        let near = offset <= self.next && end >= self.next.saturating_sub(WINDOW_FIRST);
        let ahead = offset > self.next && offset - self.next <= WINDOW_FIRST;
        if !(near || ahead) {
            *self = Self { next: end, window: 0, asked: end };
            return None;
        }
        self.next = self.next.max(end);
        self.asked = self.asked.max(self.next);
        if self.asked - self.next > self.window / 2 || self.asked >= size {
            return None;
        }
        self.window = (self.window * 2).clamp(WINDOW_FIRST, WINDOW_MAX);
        let range = self.asked..(self.next + self.window).min(size);
        self.asked = range.end;
        (range.start < range.end).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_reads_ramp_up_and_never_ask_twice() {
        let (mut ahead, size) = (ReadAhead::default(), 100 << 20);
        let (mut asked, mut hints) = (0, 0);
        for at in (0..size).step_by(128 << 10) {
            if let Some(range) = ahead.on_read(at, 128 << 10, size) {
                assert!(range.start >= asked, "{range:?} again");
                asked = range.end;
                hints += 1;
            }
        }
        assert_eq!(asked, size);
        assert!(hints < 40, "{hints} hints");
    }

    #[test]
    fn random_reads_ask_for_nothing() {
        let mut ahead = ReadAhead::default();
        for at in [50 << 20, 10 << 20, 90 << 20, 30 << 20] {
            assert_eq!(ahead.on_read(at, 4096, 100 << 20), None);
        }
    }
}
