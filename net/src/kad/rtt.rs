//! How long answers take: a mean and a deviation, weighted towards the newest (RFC 6298).

use std::time::Duration;

/// An estimate that was fed at least once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rtt {
    mean: Duration,
    deviation: Duration,
}

/// Shortest wait before another is asked too: below it a busy machine looks slow.
const PATIENCE_MIN: Duration = Duration::from_millis(20);

impl Rtt {
    /// Takes a measurement into an estimate, or starts one.
    pub(crate) fn with(before: Option<Self>, took: Duration) -> Self {
        let Some(before) = before else { return Self { mean: took, deviation: took / 2 } };
        let error = took.abs_diff(before.mean);
        Self { mean: (before.mean * 7 + took) / 8, deviation: (before.deviation * 3 + error) / 4 }
    }

    /// When an answer is late, as few of the earlier ones were.
    pub(crate) fn patience(&self) -> Duration {
        (self.mean + 4 * self.deviation).max(PATIENCE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_what_answers_took() {
        let feed = |times: &[u64]| {
            let times = times.iter().map(|ms| Duration::from_millis(*ms));
            times.fold(None, |rtt, took| Some(Rtt::with(rtt, took))).unwrap().patience()
        };
        assert_eq!(feed(&[100]), Duration::from_millis(300));
        assert!(feed(&[100; 50]) < Duration::from_millis(110));
        assert!(feed(&[50, 150, 50, 150, 50, 150]) > Duration::from_millis(200));
        assert_eq!(feed(&[1; 50]), PATIENCE_MIN);
    }
}
