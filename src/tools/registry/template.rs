//! Whether a URI can have come of a URI template (RFC 6570), without working out of which values.

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// These bytes.
    Text(Box<[u8]>),
    /// One or more bytes that are no delimiter of a URI's parts: `{id}`.
    Segment,
    /// Anything, or nothing: `{+path}`, `{/rest*}`, `{?query}`.
    Anything,
}

/// A URI template.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Reads a template. What is no expression is taken as text, so a broken template matches nothing but itself.
    pub(super) fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let push_text = |pieces: &mut Vec<Piece>, text: &str| {
            if !text.is_empty() {
                pieces.push(Piece::Text(text.as_bytes().into()));
            }
        };
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((expression, behind)) = after.split_once('}') else { break };
            push_text(&mut pieces, before);
            let simple = expression.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '%');
            // Two variables or an exploded one may have become several values.
            pieces.push(if simple && !expression.contains('*') { Piece::Segment } else { Piece::Anything });
            rest = behind;
        }
        push_text(&mut pieces, rest);
        Self { pieces }
    }

    /// Whether `uri` can be one of it. Takes time in proportion to the lengths of both, multiplied.
    pub(super) fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        // `reached[at]`: the pieces so far can have made the first `at` bytes.
        let mut reached = vec![false; uri.len() + 1];
        if let Some(start) = reached.first_mut() {
            *start = true;
        }
        for piece in &self.pieces {
            let mut next = vec![false; reached.len()];
            match piece {
                Piece::Text(text) => {
                    for (at, _) in reached.iter().enumerate().filter(|(_, is)| **is) {
                        if uri.get(at..).is_some_and(|rest| rest.starts_with(text))
                            && let Some(end) = next.get_mut(at + text.len())
                        {
                            *end = true;
                        }
                    }
                }
                Piece::Segment => {
                    let mut open = false;
                    for (at, end) in next.iter_mut().enumerate().skip(1) {
                        let byte = uri.get(at - 1).copied().unwrap_or(b'/');
                        let starts = reached.get(at - 1).copied().unwrap_or(false);
                        open = (open || starts) && !matches!(byte, b'/' | b'?' | b'#');
                        *end = open;
                    }
                }
                Piece::Anything => {
                    let first = reached.iter().position(|is| *is).unwrap_or(reached.len());
                    next.iter_mut().skip(first).for_each(|end| *end = true);
                }
            }
            reached = next;
        }
        reached.last().copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_matches_what_it_can_make() {
        for (template, uri, is) in [
            ("test://template/{id}/data", "test://template/123/data", true),
            ("test://template/{id}/data", "test://template//data", false),
            ("test://template/{id}/data", "test://template/1/2/data", false),
            ("test://template/{id}/data", "test://template/1/data/x", false),
            ("file:///{+path}", "file:///a/b/c", true),
            ("file://{/path*}", "file:///a/b", true),
            ("x://{a}{?q,r}", "x://1?q=2", true),
            ("x://{a}{?q,r}", "x://1", true),
            ("x://{a}.{b}", "x://1.2.3", true),
            ("x://{a}.{b}", "x://12", false),
            ("x://a", "x://a", true),
            ("x://{broken", "x://1", false),
            ("{uri}", "", false),
            ("", "", true),
        ] {
            assert_eq!(Template::parse(template).matches(uri), is, "{template} {uri}");
        }
    }

    #[test]
    fn a_hostile_template_takes_bounded_time() {
        let template = Template::parse(&"{a}b".repeat(1_000));
        assert!(!template.matches(&"b".repeat(4_000)[..3_999].replace('b', "ab")[..3_999]));
    }
}
