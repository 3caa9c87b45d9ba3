//! Source text made fit for one cell of a table.

/// Longest signature, in characters.
const SIGNATURE: usize = 240;
/// Longest documentation that is kept, in bytes.
const DOCUMENTATION: usize = 4_096;

/// A declaration on one line, without what opens its body.
#[must_use]
pub fn signature(source: &str) -> String {
    let line = collapse(source, SIGNATURE);
    let end = line.trim_end().trim_end_matches(['{', ';', ',']).trim_end();
    let end = end.strip_suffix("=>").unwrap_or(end).trim_end();
    end.strip_suffix([':', '=']).unwrap_or(end).trim_end().to_owned()
}

/// White space collapsed; at most `longest` characters, an ellipsis for the rest.
#[must_use]
pub fn collapse(source: &str, longest: usize) -> String {
    let mut line = String::with_capacity(source.len().min(longest * 4));
    let mut count = 0;
    for word in source.split_whitespace() {
        let tight = line.is_empty() || line.ends_with(['(', '[']) || word.starts_with([')', ']']);
        if !tight {
            if count + 1 >= longest {
                line.push('…');
                return line;
            }
            line.push(' ');
            count += 1;
        }
        for character in word.chars() {
            if count + 1 >= longest {
                line.push('…');
                return line;
            }
            line.push(character);
            count += 1;
        }
    }
    line
}

/// A comment or docstring without its marks.
#[must_use]
pub fn documentation(source: &str) -> String {
    let source = source.trim();
    let source = source.trim_start_matches(['r', 'R', 'u', 'U', 'b', 'B', 'f', 'F']);
    let (body, docstring) = match source {
        quoted if quoted.starts_with("\"\"\"") || quoted.starts_with("'''") => {
            (quoted.get(3..quoted.len().saturating_sub(3)).unwrap_or_default(), true)
        }
        quoted if quoted.starts_with(['"', '\'']) => {
            (quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default(), true)
        }
        comment => (comment, false),
    };
    let mut text = String::new();
    for line in body.lines() {
        let line = line.trim();
        let line = if docstring { line } else { unmark(line) };
        if text.is_empty() && line.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
        if text.len() > DOCUMENTATION {
            let mut cut = DOCUMENTATION;
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            text.truncate(cut);
            text.push('…');
            break;
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn unmark(line: &str) -> &str {
    let line = line.strip_suffix("*/").unwrap_or(line);
    for mark in ["///", "//!", "//", "/**", "/*!", "/*", "*"] {
        if let Some(rest) = line.strip_prefix(mark) {
            return rest.trim();
        }
    }
    line.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_one_line_without_the_opening_of_the_body() {
        assert_eq!(signature("def f(\n    a,\n    b=1,\n) -> int:\n"), "def f(a, b=1,) -> int");
        assert_eq!(signature("fn f(a: u8) -> u8 {"), "fn f(a: u8) -> u8");
        assert_eq!(signature("f = async (a) =>"), "f = async (a)");
        assert_eq!(signature(&"x".repeat(500)).chars().count(), 240);
    }

    #[test]
    fn documentation_loses_its_marks() {
        assert_eq!(documentation("/// One.\n/// Two."), "One.\nTwo.");
        assert_eq!(documentation("/**\n * One.\n *\n * Two.\n */"), "One.\n\nTwo.");
        assert_eq!(documentation("\"\"\"\n    One.\n    \"\"\""), "One.");
        assert_eq!(documentation("'x'"), "x");
        assert_eq!(documentation("\"\"\""), "");
    }
}
