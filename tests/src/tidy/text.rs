//! Blanking out what is not code.
//!
//! Both functions keep every line break, so that a line number in the result is one in the file.
//! They know as much of Rust's lexer as they need: nested comments, raw strings, and the
//! difference between a lifetime and a character. They do not expand macros.

/// The text with comments removed and the insides of strings and characters emptied.
pub(super) fn without_comments(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skipped_until(bytes, at);
        if end > at {
            let lines = bytes[at..end].iter().filter(|byte| **byte == b'\n').count();
            out.push_str(if bytes[at] == b'/' { " " } else { "\"\"" });
            out.extend(std::iter::repeat_n('\n', lines));
            at = end;
        } else {
            // Only ASCII matters to the rules; everything else is kept as a mark.
            out.push(if bytes[at].is_ascii() { bytes[at] as char } else { '?' });
            at += 1;
        }
    }
    out
}

/// Where the comment, string or character literal that starts at `at` ends; `at` where none does.
fn skipped_until(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(bytes[at - 1]);
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    match rest[0] {
        b'"' => at + quoted(rest, b'"'),
        b'r' if !after_word => at + raw_string(rest, 1),
        b'b' if !after_word && rest.get(1) == Some(&b'r') => at + raw_string(rest, 2),
        // A character, unless it is a lifetime: 'a' against 'a.
        b'\'' if rest.get(1) == Some(&b'\\') => at + quoted(rest, b'\''),
        b'\'' => {
            let width = rest[1..].iter().take(5).position(|byte| *byte == b'\'');
            match width {
                Some(width) if width == 1 || (width > 1 && !rest[1].is_ascii()) => at + width + 2,
                _ => at,
            }
        }
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of the raw string whose hashes start at `prefix`; 0 where it is none.
fn raw_string(rest: &[u8], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(prefix + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let from = prefix + hashes + 1;
    let inside = rest[from..].windows(end.len()).position(|window| window == end);
    inside.map_or(rest.len(), |inside| from + inside + end.len())
}

/// The code up to its inline test module, which stands last in a file of this house.
pub(super) fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut lines = code.lines().peekable();
    while let Some(line) = lines.next() {
        let starts = lines.peek().is_some_and(|next| next.starts_with("mod tests"));
        if line.trim() == "#[cfg(test)]" && starts {
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// Whether a byte belongs to an identifier.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The identifiers of a line, in order.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_go_and_lines_stay() {
        let text = "let a = \"x // y\"; // b\n/* c\n/* d */ */ let e = r#\"\n\"f\"#;\nlet g;";
        let code = without_comments(text);
        assert_eq!(code.lines().count(), text.lines().count());
        let left: Vec<_> = words(&code).collect();
        assert_eq!(left, ["let", "a", "let", "e", "let", "g"]);
    }

    #[test]
    fn characters_are_told_from_lifetimes() {
        let code = without_comments("fn f<'a>(x: &'a str) -> char { '\"' } // '\nlet y = b'\\'';");
        let left: Vec<_> = words(&code).collect();
        assert_eq!(left, ["fn", "f", "a", "x", "a", "str", "char", "let", "y", "b"]);
    }

    #[test]
    fn inline_tests_are_cut_off() {
        let code = "fn a() {}\n#[cfg(test)]\nuse b;\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(without_tests(code), "fn a() {}\n#[cfg(test)]\nuse b;\n");
    }
}
