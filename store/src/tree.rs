//! The tree: files, directories, heads and links, over any `BlockStore`.

pub(crate) mod head;
pub(crate) mod volume;
