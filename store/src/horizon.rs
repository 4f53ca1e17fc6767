//! How garbage collection is kept from taking what is being written.
//!
//! Every `put` and `renew` stamps a block with the next number of its store's order. A
//! [`WriteGuard`] remembers the number at its creation; a [`Horizon`] is the number below which
//! nothing can be part of work in flight: that of the oldest living guard, or of the next put.
//! A collection takes its horizon before it lists roots and leaves everything at or above it
//! alone. So a block is safe from its put until its guard goes, and whoever lets the guard go
//! has made the block reachable from a root before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The order below which blocks belong to no work in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Horizon(pub(crate) u64);

/// While it lives, garbage collection takes nothing that was put or renewed since it was made.
#[must_use = "the blocks are safe only while the guard lives"]
pub struct WriteGuard {
    guards: Arc<Guards>,
    order: u64,
}

/// The living guards of one store.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    /// Order at their creation → how many.
    living: Mutex<BTreeMap<u64, usize>>,
}

impl Guards {
    /// A guard from `order`, the number of the next put, on.
    pub(crate) fn enter(self: &Arc<Self>, order: u64) -> WriteGuard {
        *self.living().entry(order).or_default() += 1;
        WriteGuard { guards: Arc::clone(self), order }
    }

    /// The horizon where `next` is the number of the next put.
    pub(crate) fn horizon(&self, next: u64) -> Horizon {
        Horizon(self.living().first_key_value().map_or(next, |(oldest, _)| *oldest))
    }

    /// Whether a block with this order is safe for as long as any guard that lives now. Without
    /// a guard nobody can say, so it is not.
    pub(crate) fn covers(&self, order: u64) -> bool {
        self.living().last_key_value().is_some_and(|(newest, _)| order >= *newest)
    }

    /// Every change is one insertion or removal, so a holder that panicked left it whole.
    fn living(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let mut living = self.guards.living();
        if let Some(count) = living.get_mut(&self.order) {
            *count -= 1;
            if *count == 0 {
                living.remove(&self.order);
            }
        }
    }
}

impl std::fmt::Debug for WriteGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriteGuard({})", self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_guard_is_the_horizon_and_the_newest_says_what_is_covered() {
        let guards = Arc::new(Guards::default());
        assert_eq!(guards.horizon(7), Horizon(7));
        assert!(!guards.covers(6));
        let first = guards.enter(3);
        let same = guards.enter(3);
        let second = guards.enter(5);
        assert_eq!(guards.horizon(7), Horizon(3));
        assert!(guards.covers(5) && !guards.covers(4), "the second guard's block has to be newer");
        drop(first);
        assert_eq!(guards.horizon(7), Horizon(3));
        drop(same);
        assert_eq!(guards.horizon(7), Horizon(5));
        drop(second);
        assert_eq!(guards.horizon(7), Horizon(7));
    }
}
