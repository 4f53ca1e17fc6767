//! Opened links: which slot holds which link, and which of them may go.

use lru::LruCache;

use xorfs_store::Link;

use crate::error::FsError;

/// Slots by link text, the longest unused first to go.
#[derive(Debug)]
pub(super) struct Links {
    slots: LruCache<String, u16>,
    max: usize,
}

impl Links {
    pub(super) fn new(max: usize) -> Self {
        Self { slots: LruCache::unbounded(), max }
    }

    /// The slot of a link that is open.
    pub(super) fn find(&mut self, text: &str) -> Option<u16> {
        self.slots.get(text).copied()
    }

    pub(super) fn insert(&mut self, text: String, slot: u16) {
        self.slots.put(text, slot);
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
    }

    /// Makes room for one more. Returns the slot that is to be closed for it, if one has to be.
    pub(super) fn make_room(
        &mut self,
        is_idle: impl Fn(u16) -> bool,
    ) -> Result<Option<u16>, FsError> {
        if self.slots.len() < self.max {
            return Ok(None);
        }
        let oldest = self.slots.iter().rev().find(|(_, slot)| is_idle(**slot));
        let (text, slot) = oldest.map(|(text, slot)| (text.clone(), *slot)).ok_or(FsError::Busy)?;
        self.slots.pop(&text);
        Ok(Some(slot))
    }
}

/// Parses a name under `link/`, with or without `xorfs:` in front.
pub(super) fn parse(name: &[u8]) -> Result<Link, FsError> {
    let text = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
    let has_prefix =
        text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    Ok(if has_prefix { text.parse()? } else { format!("{PREFIX}{text}").parse()? })
}

const PREFIX: &str = "xorfs:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_idle_link_goes_first() {
        let mut links = Links::new(2);
        links.insert("a".into(), 1);
        links.insert("b".into(), 2);
        assert_eq!(links.find("a"), Some(1));
        assert!(matches!(links.make_room(|_| false), Err(FsError::Busy)));
        assert!(matches!(links.make_room(|_| true), Ok(Some(2))));
        assert_eq!(links.find("b"), None);
        assert!(matches!(links.make_room(|_| true), Ok(None)));
    }
}
