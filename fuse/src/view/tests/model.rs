//! Random operations on the view and on a plain reference filesystem, with seals, syncs and
//! crashes between them: both must hold the same tree, and after a crash the tree of the last
//! durable moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use xorfs_store::{Access, Memory};

use super::faults::Faulty;
use super::{OWNER, open_with, quiet, secret};
use crate::config::ViewConfig;
use crate::error::FsError;
use crate::view::View;
use crate::view::types::{InodeNo, Kind, RenameMode, SetAttr, XattrMode};

type Path = Vec<u8>;

#[derive(Debug, Clone)]
enum Op {
    File(Path),
    Directory(Path),
    Symlink(Path, u8),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, RenameMode),
    Write(Path, u32, u16, u8),
    Truncate(Path, u32),
    Mode(Path, u16),
    Xattr(Path, u8, Option<u16>),
    Read(Path, u32, u16),
    List(Path),
    /// Keeps a reference to what the path names.
    Hold(Path),
    Seal,
    /// Seals on a store that takes only so many blocks.
    SealUpTo(u8),
    Fsync,
    Crash,
}

/// A path of one to three names out of four.
fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec(0u8..4, 1..4)
        .prop_map(|names| names.iter().map(|name| b"abcd"[usize::from(*name)]).collect())
}

fn op() -> impl Strategy<Value = Op> {
    let mode = prop_oneof![
        Just(RenameMode::Replace),
        Just(RenameMode::NoReplace),
        Just(RenameMode::Exchange)
    ];
    prop_oneof![
        6 => path().prop_map(Op::File),
        6 => path().prop_map(Op::Directory),
        1 => (path(), any::<u8>()).prop_map(|(path, target)| Op::Symlink(path, target)),
        4 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        3 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        6 => (path(), path(), mode).prop_map(|(from, to, mode)| Op::Rename(from, to, mode)),
        8 => (path(), 0u32..300_000, 0u16..5000, any::<u8>())
            .prop_map(|(path, at, length, byte)| Op::Write(path, at, length, byte)),
        3 => (path(), 0u32..300_000).prop_map(|(path, size)| Op::Truncate(path, size)),
        2 => (path(), 0u16..0o1000).prop_map(|(path, mode)| Op::Mode(path, mode)),
        3 => (path(), 0u8..3, prop::option::of(0u16..3000))
            .prop_map(|(path, name, value)| Op::Xattr(path, name, value)),
        2 => (path(), 0u32..300_000, 0u16..5000)
            .prop_map(|(path, at, length)| Op::Read(path, at, length)),
        2 => path().prop_map(Op::List),
        2 => path().prop_map(Op::Hold),
        3 => Just(Op::Seal),
        2 => (0u8..8).prop_map(Op::SealUpTo),
        3 => Just(Op::Fsync),
        1 => Just(Op::Crash),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, usize>),
    Symlink(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    content: Content,
    mode: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The reference: nodes by number, the root at 0. Nodes are never freed.
#[derive(Debug, Clone)]
struct Reference {
    nodes: Vec<Node>,
}

type Errno = Result<(), i32>;

impl Reference {
    fn new() -> Self {
        let content = Content::Directory(BTreeMap::new());
        Self { nodes: vec![Node { content, mode: 0o755, xattrs: BTreeMap::new() }] }
    }

    fn names(&self, node: usize) -> Result<&BTreeMap<Vec<u8>, usize>, i32> {
        match &self.nodes[node].content {
            Content::Directory(names) => Ok(names),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn names_mut(&mut self, node: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.nodes[node].content {
            Content::Directory(names) => names,
            _ => panic!("checked before"),
        }
    }

    fn find(&self, path: &[u8]) -> Result<usize, i32> {
        path.iter().try_fold(0, |node, name| {
            self.names(node)?.get([*name].as_slice()).copied().ok_or(libc::ENOENT)
        })
    }

    fn above(&self, path: &[u8]) -> Result<(usize, Vec<u8>), i32> {
        let (name, above) = path.split_last().unwrap();
        let above = self.find(above)?;
        self.names(above)?;
        Ok((above, vec![*name]))
    }

    fn add(&mut self, path: &[u8], content: Content, mode: u32) -> Errno {
        let (above, name) = self.above(path)?;
        if self.names(above)?.contains_key(&name) {
            return Err(libc::EEXIST);
        }
        self.nodes.push(Node { content, mode, xattrs: BTreeMap::new() });
        let node = self.nodes.len() - 1;
        self.names_mut(above).insert(name, node);
        Ok(())
    }

    fn link(&mut self, from: &[u8], to: &[u8]) -> Errno {
        let node = self.find(from)?;
        let (above, name) = self.above(to)?;
        if let Content::Directory(_) = self.nodes[node].content {
            return Err(libc::EPERM);
        }
        if self.names(above)?.contains_key(&name) {
            return Err(libc::EEXIST);
        }
        self.names_mut(above).insert(name, node);
        Ok(())
    }

    fn remove(&mut self, path: &[u8], directory: bool) -> Errno {
        let (above, name) = self.above(path)?;
        let node = *self.names(above)?.get(&name).ok_or(libc::ENOENT)?;
        match (&self.nodes[node].content, directory) {
            (Content::Directory(_), false) => return Err(libc::EISDIR),
            (Content::Directory(names), true) if !names.is_empty() => return Err(libc::ENOTEMPTY),
            (Content::File(_) | Content::Symlink(_), true) => return Err(libc::ENOTDIR),
            _ => {}
        }
        self.names_mut(above).remove(&name);
        Ok(())
    }

    /// Whether `node` is `above` or below it.
    fn is_below(&self, node: usize, above: usize) -> bool {
        node == above
            || self
                .names(above)
                .is_ok_and(|names| names.values().any(|child| self.is_below(node, *child)))
    }

    fn rename(&mut self, from: &[u8], to: &[u8], mode: RenameMode) -> Errno {
        let (above, name) = self.above(from)?;
        let (to_above, to_name) = self.above(to)?;
        let node = *self.names(above)?.get(&name).ok_or(libc::ENOENT)?;
        let target = self.names(to_above)?.get(&to_name).copied();
        if target == Some(node) && mode == RenameMode::Replace {
            return Ok(());
        }
        let is_directory = self.names(node).is_ok();
        if is_directory && self.is_below(to_above, node) {
            return Err(libc::EINVAL);
        }
        match (mode, target) {
            (RenameMode::Exchange, None) => return Err(libc::ENOENT),
            (RenameMode::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameMode::Exchange, Some(target)) => {
                if self.names(target).is_ok() && self.is_below(above, target) {
                    return Err(libc::EINVAL);
                }
                self.names_mut(above).insert(name, target);
                self.names_mut(to_above).insert(to_name, node);
                return Ok(());
            }
            (RenameMode::Replace, Some(target)) => match (self.names(target), is_directory) {
                (Ok(_), false) => return Err(libc::EISDIR),
                (Ok(names), true) if !names.is_empty() => return Err(libc::ENOTEMPTY),
                (Err(_), true) => return Err(libc::ENOTDIR),
                _ => {}
            },
            (_, None) => {}
        }
        self.names_mut(above).remove(&name);
        self.names_mut(to_above).insert(to_name, node);
        Ok(())
    }

    fn edit(&mut self, path: &[u8], edit: impl FnOnce(&mut Vec<u8>)) -> Errno {
        let node = self.find(path)?;
        match &mut self.nodes[node].content {
            Content::File(bytes) => edit(bytes),
            Content::Directory(_) => return Err(libc::EISDIR),
            Content::Symlink(_) => return Err(libc::EINVAL),
        }
        Ok(())
    }

    fn set_xattr(&mut self, path: &[u8], name: Vec<u8>, value: Option<Vec<u8>>) -> Errno {
        let node = self.find(path)?;
        let xattrs = &mut self.nodes[node].xattrs;
        match value {
            Some(value) => drop(xattrs.insert(name, value)),
            None => drop(xattrs.remove(&name).ok_or(libc::ENODATA)?),
        }
        Ok(())
    }

    /// Every path with what it names; hard links show as equal numbers.
    fn tree(&self) -> BTreeMap<Path, (Node, usize)> {
        let mut tree = BTreeMap::new();
        let mut waiting = vec![(Path::new(), 0)];
        while let Some((path, node)) = waiting.pop() {
            let mut shown = self.nodes[node].clone();
            if let Content::Directory(names) = &mut shown.content {
                for (name, child) in names.iter_mut() {
                    waiting.push(([path.as_slice(), name].concat(), *child));
                    *child = 0;
                }
            }
            tree.insert(path, (shown, node));
        }
        number_inodes(tree)
    }
}

/// Numbers inodes in the order of their first path, so that two trees compare.
fn number_inodes(tree: BTreeMap<Path, (Node, usize)>) -> BTreeMap<Path, (Node, usize)> {
    let mut numbers = BTreeMap::new();
    tree.into_iter()
        .map(|(path, (node, ino))| {
            let next = numbers.len();
            (path, (node, *numbers.entry(ino).or_insert(next)))
        })
        .collect()
}

/// The same of a view, through its public operations alone. Checks link counts on the way.
fn tree_of(view: &View, top: InodeNo) -> BTreeMap<Path, (Node, usize)> {
    let mut tree = BTreeMap::new();
    let mut links: BTreeMap<InodeNo, (u32, u32)> = BTreeMap::new();
    let mut waiting = vec![(Path::new(), top)];
    while let Some((path, ino)) = waiting.pop() {
        let stat = view.stat(ino).unwrap();
        let content = match stat.kind {
            Kind::File => {
                let bytes = view.read(ino, 0, stat.size as usize + 10).unwrap();
                assert_eq!(bytes.len() as u64, stat.size);
                Content::File(bytes.to_vec())
            }
            Kind::Symlink => Content::Symlink(view.read_link(ino).unwrap()),
            Kind::Directory => {
                let mut names = BTreeMap::new();
                for entry in view.list(ino).unwrap() {
                    let child = view.lookup(ino, &entry.name).unwrap();
                    assert_eq!(child, entry.stat, "a listing says what a lookup says");
                    waiting.push(([path.as_slice(), &entry.name].concat(), child.ino));
                    names.insert(entry.name, 0);
                }
                Content::Directory(names)
            }
            kind => panic!("nobody made a {kind:?}"),
        };
        let names = view.xattr_names(ino).unwrap();
        let xattrs = names.into_iter().map(|name| {
            let value = view.xattr(ino, &name).unwrap();
            (name, value)
        });
        if !matches!(content, Content::Directory(_)) {
            let counted = links.entry(ino).or_insert((0, stat.nlink));
            counted.0 += 1;
        }
        let node = Node { content, mode: stat.mode, xattrs: xattrs.collect() };
        tree.insert(path, (node, ino.0 as usize));
    }
    for (ino, (found, told)) in links {
        assert_eq!(found, told, "link count of {ino:?}");
    }
    let inodes: Vec<InodeNo> = tree.values().map(|(_, ino)| InodeNo(*ino as u64)).collect();
    inodes.into_iter().filter(|ino| *ino != top).for_each(|ino| view.forget(ino, 1));
    number_inodes(tree)
}

/// A directory of a view, as the root of what is compared.
#[derive(Clone, Copy)]
struct At<'a> {
    view: &'a View,
    top: &'a str,
}

fn main_dir(view: &View) -> InodeNo {
    view.resolve(b"main").unwrap().ino
}

/// A path of the view, resolved and counted.
fn resolve(at: At<'_>, path: &[u8]) -> Result<InodeNo, FsError> {
    let names: Vec<_> = path.iter().map(|name| vec![*name]).collect();
    let text = [at.top.as_bytes(), b"/", &names.join(&b'/')].concat();
    Ok(at.view.resolve(&text)?.ino)
}

/// Runs `operation` on the directory above a path and the last name.
fn in_above<T>(
    at: At<'_>,
    path: &[u8],
    operation: impl FnOnce(InodeNo, &[u8]) -> Result<T, FsError>,
) -> Result<T, FsError> {
    let (name, above) = path.split_last().unwrap();
    let At { view, .. } = at;
    let above = resolve(at, above)?;
    if view.stat(above)?.kind != Kind::Directory {
        view.forget(above, 1);
        return Err(FsError::NotDirectory);
    }
    let outcome = operation(above, &[*name]);
    view.forget(above, 1);
    outcome
}

fn on_inode<T>(
    at: At<'_>,
    path: &[u8],
    operation: impl FnOnce(InodeNo) -> Result<T, FsError>,
) -> Result<T, FsError> {
    let ino = resolve(at, path)?;
    let outcome = operation(ino);
    at.view.forget(ino, 1);
    outcome
}

fn xattr_of(name: u8, value: Option<u16>) -> (Vec<u8>, Option<Vec<u8>>) {
    let value = value.map(|length| vec![b'v'; usize::from(length)]);
    (format!("user.{name}").into_bytes(), value)
}

fn target_of(target: u8) -> Vec<u8> {
    format!("to/{target}").into_bytes()
}

fn on_reference(reference: &mut Reference, op: &Op) -> Errno {
    match op {
        Op::File(path) => reference.add(path, Content::File(Vec::new()), 0o644),
        Op::Directory(path) => reference.add(path, Content::Directory(BTreeMap::new()), 0o755),
        Op::Symlink(path, target) => {
            reference.add(path, Content::Symlink(target_of(*target)), 0o777)
        }
        Op::Link(from, to) => reference.link(from, to),
        Op::Unlink(path) => reference.remove(path, false),
        Op::Rmdir(path) => reference.remove(path, true),
        Op::Rename(from, to, mode) => reference.rename(from, to, *mode),
        Op::Write(path, at, length, byte) => reference.edit(path, |bytes| {
            let (at, length) = (*at as usize, usize::from(*length));
            if length > 0 {
                bytes.resize(bytes.len().max(at + length), 0);
                bytes[at..at + length].fill(*byte);
            }
        }),
        Op::Truncate(path, size) => reference.edit(path, |bytes| bytes.resize(*size as usize, 0)),
        Op::Mode(path, mode) => {
            let node = reference.find(path)?;
            reference.nodes[node].mode = u32::from(*mode);
            Ok(())
        }
        Op::Xattr(path, name, value) => {
            let (name, value) = xattr_of(*name, *value);
            reference.set_xattr(path, name, value)
        }
        _ => Ok(()),
    }
}

fn on_view(at: At<'_>, op: &Op) -> Result<(), FsError> {
    let At { view, .. } = at;
    let made = |stat: crate::Stat| view.forget(stat.ino, 1);
    let node = |path: &[u8], kind, mode| {
        in_above(at, path, |above, name| view.make_node(above, name, kind, mode, OWNER)).map(made)
    };
    match op {
        Op::File(path) => node(path, Kind::File, 0o644),
        Op::Directory(path) => node(path, Kind::Directory, 0o755),
        Op::Symlink(path, target) => in_above(at, path, |above, name| {
            view.make_symlink(above, name, &target_of(*target), OWNER)
        })
        .map(made),
        Op::Link(from, to) => on_inode(at, from, |ino| {
            in_above(at, to, |above, name| view.link(ino, above, name)).map(made)
        }),
        Op::Unlink(path) => in_above(at, path, |above, name| view.unlink(above, name)),
        Op::Rmdir(path) => in_above(at, path, |above, name| view.rmdir(above, name)),
        Op::Rename(from, to, mode) => in_above(at, from, |above, name| {
            in_above(at, to, |to, to_name| view.rename(above, name, to, to_name, *mode))
        }),
        Op::Write(path, offset, length, byte) => on_inode(at, path, |ino| {
            let bytes = vec![*byte; usize::from(*length)];
            // An empty write is refused as any other where it makes no sense.
            view.open(ino, true, false).map(|handle| view.close(handle))?;
            view.write(ino, u64::from(*offset), &bytes)
        }),
        Op::Truncate(path, size) => on_inode(at, path, |ino| {
            let change = SetAttr { size: Some(u64::from(*size)), ..SetAttr::default() };
            view.set_attr(ino, &change).map(drop)
        }),
        Op::Mode(path, mode) => on_inode(at, path, |ino| {
            let change = SetAttr { mode: Some(u32::from(*mode)), ..SetAttr::default() };
            view.set_attr(ino, &change).map(drop)
        }),
        Op::Xattr(path, name, value) => on_inode(at, path, |ino| {
            let (name, value) = xattr_of(*name, *value);
            view.set_xattr(ino, &name, value.as_deref(), XattrMode::Any)
        }),
        _ => Ok(()),
    }
}

fn check_read(at: At<'_>, reference: &Reference, path: &[u8], offset: u32, length: u16) {
    let Ok(node) = reference.find(path) else { return };
    let Content::File(bytes) = &reference.nodes[node].content else { return };
    let from = bytes.len().min(offset as usize);
    let to = bytes.len().min(offset as usize + usize::from(length));
    let read = on_inode(at, path, |ino| at.view.read(ino, u64::from(offset), usize::from(length)));
    assert!(read.unwrap().as_slice() == &bytes[from..to], "read {offset}+{length} of {path:?}");
}

fn check_list(at: At<'_>, reference: &Reference, path: &[u8]) {
    let Ok(names) = reference.find(path).and_then(|node| reference.names(node)) else { return };
    let listed = on_inode(at, path, |ino| at.view.list(ino)).unwrap();
    let listed: Vec<_> = listed.into_iter().map(|entry| entry.name).collect();
    assert_eq!(listed, names.keys().cloned().collect::<Vec<_>>());
}

fn in_main(view: &View) -> At<'_> {
    At { view, top: "main" }
}

fn run(ops: &[Op], journal_batch_bytes_max: u64) {
    let store = Faulty::new(&Arc::new(Memory::new()));
    let mut held = Vec::new();
    let config = || ViewConfig { journal_batch_bytes_max, cache_bytes: 1 << 20, ..quiet() };
    let mut view = open_with(&store, config());
    let mut now = Reference::new();
    let mut durable = now.clone();
    for op in ops {
        match op {
            Op::Read(path, at, length) => check_read(in_main(&view), &now, path, *at, *length),
            Op::List(path) => check_list(in_main(&view), &now, path),
            Op::Seal => {
                view.seal().unwrap();
                durable = now.clone();
            }
            Op::SealUpTo(blocks) => {
                store.puts_left.store(u64::from(*blocks), Ordering::Relaxed);
                if view.seal().is_ok() {
                    durable = now.clone();
                }
                store.puts_left.store(u64::MAX, Ordering::Relaxed);
            }
            Op::Hold(path) => held.extend(resolve(in_main(&view), path)),
            Op::Fsync => {
                view.fsync(main_dir(&view)).unwrap();
                durable = now.clone();
            }
            Op::Crash => {
                assert_eq!(tree_of(&view, main_dir(&view)), now.tree());
                held.clear();
                drop(view);
                view = open_with(&store, config());
                now = durable.clone();
                assert_eq!(tree_of(&view, main_dir(&view)), now.tree(), "after a crash");
            }
            op => {
                let expected = on_reference(&mut now, op);
                let found = on_view(in_main(&view), op).map_err(|error| error.errno());
                assert_eq!(found, expected, "{op:?}");
            }
        }
    }
    assert_eq!(tree_of(&view, main_dir(&view)), now.tree());
    held.into_iter().for_each(|ino| view.forget(ino, 1));
    let main = view.inside(main_dir(&view)).unwrap().0;
    view.seal().unwrap();
    assert_eq!(main.lock().inodes.len(), 1, "what is clean and unused leaves the table");
    assert_eq!(view.around.budget.used(), 0, "what is sealed is counted no more");
    let access = Access::Reader(secret().id(), secret().read_key());
    view.add_volume("follower", &access).unwrap();
    let follower = view.resolve(b"follower").unwrap().ino;
    assert_eq!(tree_of(&view, follower), now.tree(), "as another node reads it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 3000, ..Default::default() })]

    #[test]
    fn a_view_holds_what_a_plain_filesystem_holds(
        ops in prop::collection::vec(op(), 1..150),
        journal in prop_oneof![Just(0), Just(20_000), Just(u64::MAX)],
    ) {
        run(&ops, journal);
    }
}

/// What one thread of many does: everything that `run` does but crashes, below its own directory.
fn run_beside_others(at: At<'_>, ops: &[Op]) -> Reference {
    let mut now = Reference::new();
    for op in ops {
        match op {
            Op::Read(path, offset, length) => check_read(at, &now, path, *offset, *length),
            Op::List(path) => check_list(at, &now, path),
            Op::Fsync | Op::Crash => at.view.fsync(main_dir(at.view)).unwrap(),
            Op::Seal | Op::SealUpTo(_) => at.view.seal().unwrap(),
            Op::Hold(_) => {}
            op => {
                let expected = on_reference(&mut now, op);
                let found = on_view(at, op).map_err(|error| error.errno());
                assert_eq!(found, expected, "{op:?} in {}", at.top);
            }
        }
    }
    now
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 0, ..Default::default() })]

    #[test]
    fn threads_beside_each_other_each_hold_what_a_plain_filesystem_holds(
        ops in prop::collection::vec(prop::collection::vec(op(), 200..400), 3),
    ) {
        let store = Arc::new(Memory::new());
        let view = open_with(&store, quiet());
        let tops: Vec<String> = (0..ops.len()).map(|thread| format!("main/{thread}")).collect();
        for top in &tops {
            let name = &top.as_bytes()["main/".len()..];
            let made = view.make_node(main_dir(&view), name, Kind::Directory, 0o755, OWNER);
            view.forget(made.unwrap().ino, 1);
        }
        let references: Vec<Reference> = std::thread::scope(|scope| {
            let threads: Vec<_> = tops
                .iter()
                .zip(&ops)
                .map(|(top, ops)| {
                    let at = At { view: &view, top };
                    scope.spawn(move || run_beside_others(at, ops))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        view.fsync(main_dir(&view)).unwrap();
        for reopened in [false, true] {
            let view = if reopened { open_with(&store, quiet()) } else { Arc::clone(&view) };
            for (top, reference) in tops.iter().zip(&references) {
                let dir = view.resolve(top.as_bytes()).unwrap().ino;
                assert_eq!(tree_of(&view, dir), reference.tree(), "reopened: {reopened}");
            }
        }
    }
}
