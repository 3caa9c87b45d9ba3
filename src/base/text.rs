//! Text of others, as it may be shown.

use std::borrow::Cow;

/// Text that moves no cursor and begins no line: names are chosen by tools and by those who name files.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}
