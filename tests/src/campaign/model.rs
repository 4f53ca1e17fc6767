//! A volume in memory: what the operations of a campaign do where nothing goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Op;

/// A volume: everything in it by path. Copies share the contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub(super) things: BTreeMap<String, Thing>,
}

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// The bytes of a file; none for a folder.
    pub content: Option<Arc<Vec<u8>>>,
    /// Permission bits.
    pub mode: u32,
    /// The extended attribute that operations set.
    pub note: Option<Vec<u8>>,
}

impl Model {
    /// Does an operation, or nothing where it does not fit.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Make { path, folder } => {
                if self.has_parent(path) && !self.things.contains_key(path) {
                    let content = (!folder).then(Arc::default);
                    self.things.insert(path.clone(), Thing { content, mode: 0o644, note: None });
                }
            }
            Op::Write { path, offset, bytes } => {
                if let Some(content) = self.content(path) {
                    let end = offset + bytes.len();
                    content.resize(content.len().max(end), 0);
                    content[*offset..end].copy_from_slice(bytes);
                }
            }
            Op::Resize { path, size } => {
                if let Some(content) = self.content(path) {
                    content.resize(*size, 0);
                }
            }
            Op::Mode { path, mode } => {
                if let Some(thing) = self.things.get_mut(path) {
                    thing.mode = *mode;
                }
            }
            Op::Note { path, note } => {
                if let Some(thing) = self.things.get_mut(path) {
                    thing.note = Some(note.clone());
                }
            }
            Op::Remove { path, folder } => {
                if self.is_folder(path) == Some(*folder) && self.is_bare(path) {
                    self.things.remove(path);
                }
            }
            Op::Rename { from, to } => self.rename(from, to),
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let Some(folder) = self.is_folder(from) else { return };
        let fits = match self.is_folder(to) {
            None => true,
            Some(there) => there == folder && self.is_bare(to),
        };
        if from == to || !fits || !self.has_parent(to) || below(to, from) {
            return;
        }
        let moves = |path: &String| path == from || below(path, from);
        let moved: Vec<String> = self.things.keys().filter(|path| moves(path)).cloned().collect();
        for path in moved {
            if let Some(thing) = self.things.remove(&path) {
                self.things.insert(format!("{to}{}", &path[from.len()..]), thing);
            }
        }
    }

    fn content(&mut self, path: &str) -> Option<&mut Vec<u8>> {
        self.things.get_mut(path)?.content.as_mut().map(Arc::make_mut)
    }

    fn has_parent(&self, path: &str) -> bool {
        path.rsplit_once('/').is_none_or(|(above, _)| self.is_folder(above) == Some(true))
    }

    fn is_folder(&self, path: &str) -> Option<bool> {
        Some(self.things.get(path)?.content.is_none())
    }

    fn is_bare(&self, path: &str) -> bool {
        !self.things.keys().any(|other| below(other, path))
    }

    /// What differs from another volume, a line each; for messages.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let paths = self.things.keys().chain(other.things.keys());
        let mut paths: Vec<_> = paths.collect();
        paths.sort();
        paths.dedup();
        let differs = |path: &&&String| self.things.get(**path) != other.things.get(**path);
        paths
            .iter()
            .filter(differs)
            .map(|path| {
                let told = |model: &Self| match model.things.get(*path) {
                    None => "nothing".to_owned(),
                    Some(Thing { content: None, mode, .. }) => format!("a folder, mode {mode:o}"),
                    Some(Thing { content: Some(bytes), mode, .. }) => {
                        format!("{} bytes, mode {mode:o}", bytes.len())
                    }
                };
                format!("{path}: {} and {}", told(self), told(other))
            })
            .collect()
    }
}

/// Whether a path lies below a folder.
fn below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
