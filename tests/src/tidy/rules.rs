//! The rules themselves.
//!
//! Each takes what was read and returns complaints, one line each. Limits and allowed places are
//! constants with their reasons; whoever needs an exception changes the rule, in sight of all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use xorfs_store::crash::POINTS;

use super::text::{is_word, words};
use super::{CRATES, Source};

/// Lines of code a file may have at most, inline tests not counted: beyond it nobody holds the
/// file in their head. The aim is far below, see `sizes`.
const FILE_LINES_MAX: usize = 800;

/// Lines a function may have at most: one screen.
const FUNCTION_LINES_MAX: usize = 70;

/// What each crate may depend on of this workspace: the arrows of the architecture.
const EDGES: [(&str, &[&str]); 4] = [
    ("store", &[]),
    ("net", &["xorfs-store"]),
    ("fuse", &["xorfs-store"]),
    ("cli", &["xorfs-store", "xorfs-net", "xorfs-fuse"]),
];

/// Libraries that few files may name, so that all the others cannot tell what lies beneath:
/// library, then the beginnings of the paths that may.
const LIBRARIES: [(&str, &[&str]); 4] = [
    ("rocksdb", &["store/src/local"]),
    ("quinn", &["net/src/driver", "net/src/identity"]),
    ("tokio", &["net/src/driver", "net/src/replicated", "cli/"]),
    ("fuser", &["fuse/src/adapter", "fuse/src/session", "fuse/src/errno"]),
];

/// Parts of a type's name that say nothing of what it is.
const EMPTY_WORDS: [&str; 6] = ["Manager", "Helper", "Util", "Common", "Data", "Info"];

/// Macros of unfinished or half-debugged code.
const BANNED_MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Files that are too long. With it, the median and the 90th percentile of all that is not test
/// code, of which at most 200 and 500 are the aim.
pub fn sizes(sources: &[Source]) -> (Vec<String>, usize, usize) {
    let too_long = |source: &&Source| source.lines() > FILE_LINES_MAX;
    let complaints = sources.iter().filter(too_long).map(|source| {
        format!("{}: {} lines, the limit is {FILE_LINES_MAX}", source.path, source.lines())
    });
    let code = sources.iter().filter(|source| !source.is_test());
    let mut lines: Vec<usize> = code.map(Source::lines).collect();
    lines.sort_unstable();
    let at = |share: usize| lines.get(lines.len() * share / 100).copied().unwrap_or(0);
    (complaints.collect(), at(50), at(90))
}

/// Functions that are too long, outside test code.
pub fn function_lengths(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        for (line, name, length) in functions(&source.code) {
            if length > FUNCTION_LINES_MAX {
                let path = &source.path;
                complaints.push(format!(
                    "{path}:{line}: fn {name} has {length} lines, the limit is {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    complaints
}

/// First line, name and number of lines of every function that has a body.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && is_word(code.as_bytes()[at - 1]) {
            continue;
        }
        let Some(name) = words(&code[at + 3..]).next() else { continue };
        let Some(length) = body_length(&code[at..]) else { continue };
        let line = code[..at].matches('\n').count() + 1;
        found.push((line, name.to_owned(), length));
    }
    found
}

/// Lines from a signature to the brace that closes its body; none for a declaration.
fn body_length(code: &str) -> Option<usize> {
    let open = signature_end(code)?;
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(code[..at].matches('\n').count() + 1);
        }
    }
    None
}

/// Where the body of a function opens; none where a semicolon comes first, outside of brackets
/// (an array type holds one too).
fn signature_end(code: &str) -> Option<usize> {
    let mut brackets = 0_usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'[' | b'(' => brackets += 1,
            b']' | b')' => brackets = brackets.checked_sub(1)?,
            b'{' if brackets == 0 => return Some(at),
            b';' if brackets == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Modules that do not say what they own.
pub fn headers(sources: &[Source]) -> Vec<String> {
    let headless = sources.iter().filter(|source| !source.text.trim_start().starts_with("//!"));
    headless.map(|source| format!("{}: no //! header", source.path)).collect()
}

/// Modules in `mod.rs`, whose tab in an editor says nothing.
pub fn module_files(sources: &[Source]) -> Vec<String> {
    let is_mod = |source: &&Source| source.path.ends_with("/mod.rs");
    let complaint = |source: &Source| format!("{}: name it after its module", source.path);
    sources.iter().filter(is_mod).map(complaint).collect()
}

/// Dependencies between our crates that point the wrong way.
pub fn crate_edges(root: &Path) -> io::Result<Vec<String>> {
    let mut complaints = Vec::new();
    for (name, allowed) in EDGES {
        let manifest = fs::read_to_string(root.join(name).join("Cargo.toml"))?;
        for dependency in own_dependencies(&manifest) {
            if !allowed.contains(&dependency.as_str()) {
                complaints.push(format!("{name}/Cargo.toml: {name} must not know {dependency}"));
            }
        }
    }
    Ok(complaints)
}

/// Our own crates among a manifest's dependencies of every kind.
fn own_dependencies(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.contains("dependencies");
            // The long form: [dependencies.xorfs-net]
            found.extend(own_crate(section.trim_end_matches(']').rsplit('.').next().unwrap_or("")));
        } else if inside {
            found.extend(own_crate(line));
        }
    }
    found
}

fn own_crate(text: &str) -> Option<String> {
    let name: String =
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').collect();
    let own = CRATES.iter().any(|ours| name == format!("xorfs-{ours}"));
    own.then_some(name)
}

/// Crash points that nobody reaches or lists, and manifests that would build them into anything
/// but tests.
pub fn crash_points(root: &Path, sources: &[Source]) -> io::Result<Vec<String>> {
    let mut complaints = Vec::new();
    let code = sources.iter().filter(|source| !source.is_test());
    let placed: Vec<&str> = code
        .flat_map(|source| source.text.split("crash::point(\"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    for name in POINTS {
        if !placed.contains(&name) {
            complaints.push(format!("crash point {name} is listed and stands nowhere"));
        }
    }
    let unlisted = placed.iter().filter(|name| !POINTS.contains(name));
    complaints.extend(unlisted.map(|name| format!("crash point {name} is not listed")));
    for name in CRATES.into_iter().filter(|name| *name != "tests") {
        let manifest = fs::read_to_string(root.join(name).join("Cargo.toml"))?;
        let enables =
            |line: &&str| line.contains("\"crash-points\"") || line.contains("/crash-points");
        if manifest.lines().any(|line| enables(&line)) {
            complaints.push(format!("{name}/Cargo.toml: only tests may enable crash points"));
        }
    }
    Ok(complaints)
}

/// Files that name a library which is none of their business.
pub fn library_edges(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        for (library, allowed) in LIBRARIES {
            if allowed.iter().any(|path| source.path.starts_with(path)) {
                continue;
            }
            for (number, line) in (1..).zip(source.code.lines()) {
                if words(line).any(|word| word == library) {
                    complaints.push(format!(
                        "{}:{number}: only {} may name {library}",
                        source.path,
                        allowed.join("*, ") + "*"
                    ));
                }
            }
        }
    }
    complaints
}

/// Empty names, unfinished code, getters, and lints that were silenced without a reason.
pub fn banned_words(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (number, line) in (1..).zip(source.code.lines()) {
            complaints.extend(
                line_complaints(line)
                    .into_iter()
                    .map(|complaint| format!("{}:{number}: {complaint}", source.path)),
            );
        }
    }
    complaints
}

fn line_complaints(line: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut before = "";
    for word in words(line) {
        let empty = EMPTY_WORDS.iter().find(|empty| camel_parts(word).any(|part| part == **empty));
        match (before, empty) {
            ("struct" | "enum" | "trait" | "type" | "union", Some(empty)) => {
                complaints.push(format!("{word}: {empty} says nothing of what it is"));
            }
            ("fn", _) if word.starts_with("get_") => {
                complaints.push(format!("{word}: a function is named by its verb, without get_"));
            }
            _ => {}
        }
        if BANNED_MACROS.contains(&word) && line.contains(&format!("{word}!")) {
            complaints.push(format!("{word}! is for code that is not finished"));
        }
        before = word;
    }
    if line.contains("#[allow(") || line.contains("#![allow(") {
        complaints.push("expect a lint and give the reason, instead of allowing it".to_owned());
    }
    complaints
}

/// `BlockInfo` → `Block`, `Info`.
fn camel_parts(name: &str) -> impl Iterator<Item = &str> {
    let starts = name.char_indices().filter(|(at, c)| *at == 0 || c.is_ascii_uppercase());
    let starts: Vec<usize> = starts.map(|(at, _)| at).collect();
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([name.len()]).collect();
    starts.into_iter().zip(ends).map(|(from, to)| &name[from..to])
}

/// Relative links in documents that lead nowhere.
pub fn dead_links(documents: &[PathBuf]) -> io::Result<Vec<String>> {
    let mut complaints = Vec::new();
    for document in documents {
        let text = fs::read_to_string(document)?;
        let folder = document.parent().expect("a file lies in a folder");
        for (number, target) in links(&text) {
            let file = target.split('#').next().unwrap_or("");
            if !file.is_empty() && !folder.join(file).exists() {
                complaints.push(format!("{}:{number}: {target} is dead", document.display()));
            }
        }
    }
    Ok(complaints)
}

/// Line and target of the relative links of a Markdown text; those in code do not count.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second part lies between backticks.
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        let prose = prose.join("``");
        for (at, _) in prose.match_indices("](") {
            let target = prose[at + 2..].split([')', ' ']).next().unwrap_or("");
            let elsewhere = ["http://", "https://", "mailto:"];
            if !elsewhere.iter().any(|scheme| target.starts_with(scheme)) {
                found.push((number, target.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_measured_from_signature_to_brace() {
        let code = "fn a();\nfn b(\n    x: [u8; 2],\n) {\n  if c { d }\n}\nstruct E;\n";
        assert_eq!(functions(code), [(2, "b".to_owned(), 5)]);
    }

    #[test]
    fn wrong_edges_are_found_in_both_forms() {
        let manifest = "[package]\nname = \"xorfs-fuse\"\n[dependencies]\nxorfs-store.workspace = \
                        true\n[dev-dependencies.xorfs-net]\npath = \"../net\"\n";
        assert_eq!(own_dependencies(manifest), ["xorfs-store", "xorfs-net"]);
    }

    #[test]
    fn libraries_stay_where_they_belong() {
        let code = "//! quinn is named here in prose.\nuse quinn::Endpoint;\n";
        let wrong = Source::new("net/src/node.rs", code);
        let right = Source::new("net/src/driver/endpoint.rs", code);
        let complaints = library_edges(&[wrong, right]);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("net/src/node.rs:2:"), "{complaints:?}");
    }

    #[test]
    fn empty_words_are_parts_of_names() {
        assert_eq!(line_complaints("pub struct BlockInfo {").len(), 1);
        assert_eq!(line_complaints("pub struct Metadata {").len(), 0);
        assert_eq!(line_complaints("let x = BlockInfo::new();").len(), 0);
        assert_eq!(line_complaints("pub fn get_block() {").len(), 1);
    }

    #[test]
    fn links_in_code_do_not_count() {
        let text = "[a](b.md) `[c](d.md)` [e](https://f)\n```\n[g](h.md)\n```\n[i](j.md#k)\n";
        assert_eq!(links(text), [(1, "b.md".to_owned()), (5, "j.md#k".to_owned())]);
    }
}
