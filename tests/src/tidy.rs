//! The style that a compiler does not check, as checks over the source text.
//!
//! Owns reading the workspace's sources and the rules of the house: sizes, headers, which crate
//! and which file may name what, words that say nothing, dead links. Each rule returns its
//! complaints, one line each with the place; an empty list means tidy.
//!
//! Deliberately not a parser: comments, strings and test code are blanked out (`text`), and the
//! rest is looked at as words. Formatting and everything that clippy can tell is left to them.

mod rules;
mod text;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use rules::{
    banned_words, crash_points, crate_edges, dead_links, function_lengths, headers, library_edges,
    module_files, sizes,
};

/// Crates, in the order of their dependencies; each is a folder of the workspace.
pub const CRATES: [&str; 5] = ["store", "net", "fuse", "cli", "tests"];

/// One Rust file.
#[derive(Debug)]
pub struct Source {
    /// Where it is, relative to the workspace, with `/` between folders.
    pub path: String,
    /// As it stands on disk.
    pub text: String,
    /// The text without comments, strings and inline tests; every line keeps its number.
    pub code: String,
}

impl Source {
    /// Takes a file's text.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let code = text::without_tests(&text::without_comments(&text));
        Self { path: path.into(), text, code }
    }

    /// Whether all of it is test code: a file of the tests crate or of a `tests` module.
    pub fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.split('/').any(|part| part == "tests" || part == "benches")
    }

    /// Lines that are not in an inline test module.
    pub fn lines(&self) -> usize {
        self.code.lines().count()
    }
}

/// The workspace that this crate was built in.
pub fn workspace() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().expect("the tests crate lies in the workspace").to_owned()
}

/// Every Rust file of the crates, in the order of their paths.
pub fn sources(root: &Path) -> io::Result<Vec<Source>> {
    let mut found = Vec::new();
    for name in CRATES {
        for path in files_below(&root.join(name), "rs")? {
            found.push(Source::new(relative(root, &path), fs::read_to_string(&path)?));
        }
    }
    Ok(found)
}

/// The documents whose links are checked: those of the root and of `docs/`.
pub fn documents(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "md") {
            found.push(path);
        }
    }
    if root.join("docs").is_dir() {
        found.extend(files_below(&root.join("docs"), "md")?);
    }
    found.sort();
    Ok(found)
}

fn relative(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or(path);
    inside.to_string_lossy().replace('\\', "/")
}

fn files_below(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                // Build output and fuzzing corpora are nobody's style.
                let skipped = ["target", "corpus", "artifacts"];
                if !path.file_name().is_some_and(|name| skipped.iter().any(|skip| name == *skip)) {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|ext| ext == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
