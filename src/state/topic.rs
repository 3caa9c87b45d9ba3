//! Topics, and filters that pick some of them: names of levels between slashes, as MQTT has them.
//!
//! In a filter `+` stands for one level, whatever its name, and `#` at the end for all levels from there on, also for none:
//! `a/#` picks `a`, `a/b` and `a/b/c`.

use crate::base::limits::TOPIC_BYTES;

/// Which topics are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: Box<str>,
    levels: Vec<Level>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Named(Box<str>),
    /// `+`
    Any,
    /// `#`
    Rest,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_levels("filter", text)?;
        let last = text.split('/').count() - 1;
        let level = |(at, name): (usize, &str)| match name {
            "+" => Ok(Level::Any),
            "#" if at == last => Ok(Level::Rest),
            "#" => Err(format!(
                "the filter {text:?}: # stands for all levels from there on, so it is the last one"
            )),
            name if name.contains(['+', '#']) => Err(format!(
                "the filter {text:?}: + and # stand for whole levels, as in a/+/b and a/#, not for parts such as {name:?}"
            )),
            name => Ok(Level::Named(name.into())),
        };
        let levels = text.split('/').enumerate().map(level).collect::<Result<_, String>>()?;
        Ok(Self { text: text.into(), levels })
    }

    /// Whether it picks this topic.
    #[must_use]
    pub fn picks(&self, topic: &str) -> bool {
        let mut names = topic.split('/');
        for level in &self.levels {
            match level {
                Level::Rest => return true,
                Level::Any if names.next().is_none() => return false,
                Level::Named(name) if names.next() != Some(name) => return false,
                Level::Any | Level::Named(_) => {}
            }
        }
        names.next().is_none()
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether this is a topic that something can be said on.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn check_topic(text: &str) -> Result<(), String> {
    check_levels("topic", text)?;
    match text.contains(['+', '#']) {
        true => Err(format!("the topic {text:?}: + and # are for filters; something is said on one topic")),
        false => Ok(()),
    }
}

fn check_levels(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > TOPIC_BYTES {
        return Err(format!("a {what} has 1 to {TOPIC_BYTES} bytes, such as mcp/broadcast/notification"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("the {what} {text:?}: no blanks and no control characters"));
    }
    match text.split('/').any(str::is_empty) {
        true => {
            Err(format!("the {what} {text:?}: a level without a name; no slash at the ends, and none twice"))
        }
        false => Ok(()),
    }
}
