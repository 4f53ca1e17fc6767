//! Changing a shard map: one pass down for the changes, one pass up to seal what they touched.
//!
//! Going down, only nodes with changes below them are read; all others are kept by ref. Going
//! up, nodes are sealed level by level, because a branch can name its children only once the
//! shared block they lie in is complete.

use crate::error::TreeError;
use crate::plaintext::Plaintext;
use crate::seal::BlockRef;
use crate::tree::pack::{Packer, Plain, Slot};
use crate::tree::reader::Reader;
use crate::tree::shard::{Child, Item, Record, Shard, hash_of, is_leaf, slot_of};

/// A change of one key: a record, or nothing where the key goes.
pub(crate) struct Update<R> {
    hash: u64,
    key: Vec<u8>,
    record: Option<R>,
}

/// A node on its way to being sealed.
enum Draft<R> {
    /// As it was.
    Kept {
        piece: BlockRef,
        count: u64,
    },
    Leaf(Vec<Item<R>>),
    Branch(Vec<(u8, Self)>),
    /// Sealed into a shared block that is not complete yet.
    Sealed {
        slot: Slot,
        count: u64,
    },
}

/// The root of a changed map: how many entries, and where.
pub(crate) enum Root {
    Empty,
    Kept(BlockRef, u64),
    Sealed(Slot, u64),
}

/// Applies `changes` (a later change of a key wins) to the map below `base` and seals it, but
/// for the completion of the last shared block.
pub(crate) fn update<R: Record + Send + Sync + 'static>(
    reader: &Reader,
    packer: &mut Packer,
    base: Option<(BlockRef, u64)>,
    changes: Vec<(Vec<u8>, Option<R>)>,
) -> Result<Root, TreeError> {
    let mut updates: Vec<Update<R>> = changes
        .into_iter()
        .map(|(key, record)| Update { hash: hash_of(&key), key, record })
        .collect();
    updates.sort_by(|a, b| (a.hash, &a.key).cmp(&(b.hash, &b.key)));
    updates.reverse();
    updates.dedup_by(|later, kept| later.key == kept.key);
    updates.reverse();
    let base = match base {
        Some((piece, count)) => Draft::Kept { piece, count },
        None => Draft::Leaf(Vec::new()),
    };
    let mut root = change(reader, base, 0, updates)?;
    let depth = depth_of(&root);
    for level in (0..=depth).rev() {
        seal_level(packer, &mut root, level)?;
        if level > 0 {
            packer.flush()?;
        }
    }
    Ok(match root {
        Draft::Kept { count: 0, .. } => Root::Empty,
        Draft::Kept { piece, count } => Root::Kept(piece, count),
        Draft::Sealed { count: 0, .. } => Root::Empty,
        Draft::Sealed { slot, count } => Root::Sealed(slot, count),
        Draft::Leaf(_) | Draft::Branch(_) => Root::Empty,
    })
}

fn change<R: Record + Send + Sync + 'static>(
    reader: &Reader,
    node: Draft<R>,
    depth: u32,
    updates: Vec<Update<R>>,
) -> Result<Draft<R>, TreeError> {
    if updates.is_empty() {
        return Ok(node);
    }
    let node = match node {
        Draft::Kept { piece, .. } => opened(reader, &piece)?,
        other => other,
    };
    let changed = match node {
        Draft::Leaf(items) => split(merge(items, updates), depth),
        Draft::Branch(mut children) => {
            for (slot, updates) in by_slot(updates, depth) {
                let at = children.binary_search_by_key(&slot, |(slot, _)| *slot);
                let child = match at {
                    Ok(at) => std::mem::replace(&mut children[at].1, Draft::Leaf(Vec::new())),
                    Err(_) => Draft::Leaf(Vec::new()),
                };
                let child = change(reader, child, depth + 1, updates)?;
                match (at, child.count()) {
                    (Ok(at), 0) => drop(children.remove(at)),
                    (Ok(at), _) => children[at].1 = child,
                    (Err(_), 0) => {}
                    (Err(at), _) => children.insert(at, (slot, child)),
                }
            }
            Draft::Branch(children)
        }
        Draft::Kept { .. } | Draft::Sealed { .. } => unreachable!("nothing is sealed going down"),
    };
    match changed {
        Draft::Branch(_) if is_leaf(changed.count(), depth) => {
            let mut items = Vec::new();
            gather(reader, changed, &mut items)?;
            Ok(Draft::Leaf(items))
        }
        other => Ok(other),
    }
}

impl<R> Draft<R> {
    fn count(&self) -> u64 {
        match self {
            Self::Kept { count, .. } | Self::Sealed { count, .. } => *count,
            Self::Leaf(items) => items.len() as u64,
            Self::Branch(children) => children.iter().map(|(_, child)| child.count()).sum(),
        }
    }
}

fn opened<R: Record + Send + Sync + 'static>(
    reader: &Reader,
    piece: &BlockRef,
) -> Result<Draft<R>, TreeError> {
    Ok(match &*reader.shard::<R>(piece)? {
        Shard::Leaf(items) => Draft::Leaf(items.clone()),
        Shard::Branch(children) => Draft::Branch(
            children
                .iter()
                .map(|child| {
                    let kept = Draft::Kept { piece: child.piece.clone(), count: child.count };
                    (child.slot, kept)
                })
                .collect(),
        ),
    })
}

fn merge<R>(items: Vec<Item<R>>, updates: Vec<Update<R>>) -> Vec<Item<R>> {
    let mut merged = Vec::with_capacity(items.len() + updates.len());
    let mut items = items.into_iter().peekable();
    for update in updates {
        while let Some(item) =
            items.next_if(|item| (item.hash, &item.key) < (update.hash, &update.key))
        {
            merged.push(item);
        }
        items.next_if(|item| item.key == update.key);
        if let Some(record) = update.record {
            merged.push(Item { hash: update.hash, key: update.key, record });
        }
    }
    merged.extend(items);
    merged
}

fn split<R>(items: Vec<Item<R>>, depth: u32) -> Draft<R> {
    if is_leaf(items.len() as u64, depth) {
        return Draft::Leaf(items);
    }
    let mut children: Vec<(u8, Vec<Item<R>>)> = Vec::new();
    for item in items {
        let slot = slot_of(item.hash, depth);
        match children.last_mut() {
            Some((last, items)) if *last == slot => items.push(item),
            _ => children.push((slot, vec![item])),
        }
    }
    let split_child = |(slot, items)| (slot, split(items, depth + 1));
    Draft::Branch(children.into_iter().map(split_child).collect())
}

fn by_slot<R>(updates: Vec<Update<R>>, depth: u32) -> Vec<(u8, Vec<Update<R>>)> {
    let mut groups: Vec<(u8, Vec<Update<R>>)> = Vec::new();
    for update in updates {
        let slot = slot_of(update.hash, depth);
        match groups.last_mut() {
            Some((last, group)) if *last == slot => group.push(update),
            _ => groups.push((slot, vec![update])),
        }
    }
    groups
}

fn gather<R: Record + Send + Sync + 'static>(
    reader: &Reader,
    node: Draft<R>,
    items: &mut Vec<Item<R>>,
) -> Result<(), TreeError> {
    match node {
        Draft::Leaf(own) => items.extend(own),
        Draft::Branch(children) => {
            for (_, child) in children {
                gather(reader, child, items)?;
            }
        }
        Draft::Kept { piece, .. } => {
            reader.collect::<R>(&piece, &mut |item| items.push(item.clone()))?;
        }
        Draft::Sealed { .. } => unreachable!("nothing is sealed going down"),
    }
    Ok(())
}

fn depth_of<R>(node: &Draft<R>) -> u32 {
    match node {
        Draft::Branch(children) => {
            1 + children.iter().map(|(_, child)| depth_of(child)).max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// Seals the changed nodes `level` levels below `node`; everything deeper is sealed and complete.
fn seal_level<R: Record>(
    packer: &mut Packer,
    node: &mut Draft<R>,
    level: u32,
) -> Result<(), TreeError> {
    if let (Draft::Branch(children), 1..) = (&mut *node, level) {
        for (_, child) in children {
            seal_level(packer, child, level - 1)?;
        }
        return Ok(());
    }
    let count = node.count();
    let shard = match std::mem::replace(node, Draft::Leaf(Vec::new())) {
        Draft::Leaf(items) if level == 0 => Shard::Leaf(items),
        Draft::Branch(children) => Shard::Branch(
            children.into_iter().map(|(slot, child)| settled(packer, slot, child)).collect(),
        ),
        unchanged => {
            *node = unchanged;
            return Ok(());
        }
    };
    if count > 0 {
        let plain = Plain::whole(Plaintext::from(shard.encode()));
        let slot = packer.share(R::KIND, plain)?;
        *node = Draft::Sealed { slot, count };
    }
    Ok(())
}

fn settled<R>(packer: &Packer, slot: u8, child: Draft<R>) -> Child {
    match child {
        Draft::Kept { piece, count } => Child { slot, count, piece },
        Draft::Sealed { slot: at, count } => Child { slot, count, piece: packer.settle(at) },
        Draft::Leaf(_) | Draft::Branch(_) => unreachable!("levels below are sealed first"),
    }
}
