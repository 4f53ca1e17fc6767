//! What a command is about: a link, a path below one, or `VOLUME:/PATH`.
//!
//! Texts become paths of the view here and nowhere else. A link is checked before anything is
//! asked of a node, so a mistyped one is told from a missing file. Pure but for `in_mount`.

use std::path::{Component, Path};

use anyhow::Context;
use xorfs_store::Link;

use crate::api::client::at;
use crate::api::query::Query;
use crate::api::types::Name;
use crate::exit::Failure;

/// Something in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The path in the view.
    pub(crate) path: Vec<u8>,
    /// What it is called, as a suggestion: the last name of the path, or the link's own.
    pub(crate) name: Option<String>,
    /// Whether it can never change.
    pub(crate) immutable: bool,
}

/// Reads a link, `LINK/PATH` or `VOLUME:/PATH`.
pub(crate) fn parse(text: &str) -> anyhow::Result<Target> {
    if let Some((volume, below)) = volume_path(text) {
        let mut path = volume.as_bytes().to_vec();
        let name = join(&mut path, below).unwrap_or_else(|| volume.to_owned());
        return Ok(Target { path, name: Some(name), immutable: false });
    }
    let (link, below) = text.split_once('/').unwrap_or((text, ""));
    // A path in a mount or a bare name is somebody's first guess, and deserves more of an answer.
    if link.get(..6).is_none_or(|start| !start.eq_ignore_ascii_case("xorfs:")) {
        let text = format!(
            "{text:?} is neither a link, which starts with \"xorfs:\", nor a path in a volume, such \
             as main:/PATH"
        );
        return Err(Failure::usage(text).into());
    }
    let link: Link = link.parse().with_context(|| format!("{link:?} is no link"))?;
    // A link that also allows to write is only ever read through.
    let link = match link {
        Link::Write(secret) => Link::Read(secret.id(), secret.read_key()),
        link => link,
    };
    let (own_name, immutable) = match &link {
        Link::Tree(tree) => (tree.name.clone(), true),
        Link::Read(..) | Link::Write(_) => (None, false),
    };
    let mut path = format!("link/{link}").into_bytes();
    let name = join(&mut path, below).or(own_name);
    Ok(Target { path, name, immutable })
}

/// Splits `VOLUME:/PATH`; `None` where the text is something else.
pub(crate) fn volume_path(text: &str) -> Option<(&str, &str)> {
    let (volume, below) = text.split_once(':')?;
    let named = !volume.is_empty() && !volume.contains('/') && volume != "link";
    let below = if below.is_empty() { below } else { below.strip_prefix('/')? };
    // `http://…` is nobody's volume.
    let named = named && !below.starts_with('/');
    (named && !volume.eq_ignore_ascii_case("xorfs")).then_some((volume, below))
}

/// What a request about `VOLUME:/PATH` or a path in a mount says.
pub(crate) fn in_view_or_mount(path: &Path) -> anyhow::Result<Query> {
    if let Some(text) = path.to_str()
        && volume_path(text).is_some()
    {
        return Ok(at(&parse(text)?.path));
    }
    Ok(Query::new().with("mounted", Name::from(in_mount(path)?.as_path()).0))
}

/// The absolute path of something that exists, as its mount knows it.
pub(crate) fn in_mount(path: &Path) -> anyhow::Result<std::path::PathBuf> {
    // The last name is kept as it is, because a symbolic link is a thing of its own.
    let shown = || path.display().to_string();
    let absolute = std::path::absolute(path).with_context(shown)?;
    match (absolute.parent(), absolute.file_name(), absolute.components().next_back()) {
        (Some(parent), Some(name), Some(Component::Normal(_))) => {
            std::fs::symlink_metadata(&absolute).with_context(shown)?;
            Ok(std::fs::canonicalize(parent).with_context(shown)?.join(name))
        }
        _ => std::fs::canonicalize(&absolute).with_context(shown),
    }
}

/// The names of a path inside a volume, checked: no `..`, nothing empty.
pub(crate) fn names_of(path: &Path) -> Result<Vec<&std::ffi::OsStr>, Failure> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                let text = format!("{} is no path inside a volume", path.display());
                return Err(Failure::usage(text));
            }
        }
    }
    Ok(names)
}

/// Appends the names of `below` and says the last one.
fn join(path: &mut Vec<u8>, below: &str) -> Option<String> {
    let mut last = None;
    for name in below.split('/').filter(|name| !name.is_empty() && *name != ".") {
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        last = Some(name.to_owned());
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_told_from_links() {
        let target = parse("main:/a//b/").unwrap();
        assert_eq!((target.path.as_slice(), target.name.as_deref()), (&b"main/a/b"[..], Some("b")));
        assert_eq!(parse("main:").unwrap().path, b"main");
        assert_eq!(volume_path("xorfs:abc"), None);
        assert_eq!(volume_path("XORFS:abc"), None);
        assert_eq!(volume_path("/mnt/a:/b"), None);
        assert_eq!(volume_path("a:b"), None);
        assert_eq!(volume_path("http://example.org/"), None);
        assert!(parse("nonsense").is_err());
    }

    #[test]
    fn nobody_climbs_out_of_a_volume() {
        assert!(names_of(Path::new("a/../../b")).is_err());
        assert_eq!(names_of(Path::new("/a/./b")).unwrap().len(), 2);
    }
}
