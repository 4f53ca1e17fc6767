//! The tree: files, directories, heads and links, over any `BlockStore`.

pub(crate) mod edit;
pub(crate) mod entry;
pub(crate) mod head;
pub(crate) mod link;
pub(crate) mod map;
pub(crate) mod pack;
pub(crate) mod pool;
pub(crate) mod reader;
pub(crate) mod shard;
pub(crate) mod update;
pub(crate) mod volume;
pub(crate) mod writer;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
