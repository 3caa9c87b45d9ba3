//! Logs: lines for people, JSON lines, or the journal, with a level that can change while the server runs.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// Form of the logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// [`Format::Journald`] when stderr is the journal's, [`Format::Text`] on a terminal, [`Format::Json`] elsewhere.
    #[default]
    Auto,
    /// One JSON object per line on stderr.
    Json,
    /// Lines for people on stderr.
    Text,
    /// The journal of systemd, fields as fields.
    Journald,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor a list of directives.
    #[error(
        "{directives:?} is no log level: want error, warn, info, debug or trace, or such as info,outlast::engine=debug"
    )]
    Level {
        /// What was given.
        directives: String,
    },
    /// The journal was asked for by name and is not there.
    #[error("the journal cannot be reached: {0}; set log.format to \"json\" or \"text\"")]
    Journal(std::io::Error),
    /// Logging was set up before in this process.
    #[error("logging is set up already")]
    Twice,
}

/// The running logs.
#[derive(Clone, Debug)]
pub struct Logs {
    format: Format,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging for the process.
///
/// # Errors
/// [`LogError`].
pub fn start(format: Format, level: &str) -> Result<Logs, LogError> {
    let (filter, handle) = reload::Layer::new(directives(level)?);
    let (format, output) = match format {
        Format::Auto if stderr_is_the_journal() => match tracing_journald::layer() {
            Ok(journal) => (Format::Journald, journal.boxed()),
            Err(_) => (Format::Json, json()),
        },
        Format::Auto if std::io::stderr().is_terminal() => (Format::Text, text()),
        Format::Auto | Format::Json => (Format::Json, json()),
        Format::Text => (Format::Text, text()),
        Format::Journald => (Format::Journald, tracing_journald::layer().map_err(LogError::Journal)?.boxed()),
    };
    // The filter is the innermost layer: what it turns off is off for all.
    tracing_subscriber::registry().with(filter).with(output).try_init().map_err(|_| LogError::Twice)?;
    Ok(Logs { format, filter: handle })
}

/// Whether `level` would be taken by [`start`] and [`Logs::set_level`].
///
/// # Errors
/// [`LogError::Level`].
pub fn check(level: &str) -> Result<(), LogError> {
    directives(level).map(|_| ())
}

impl Logs {
    /// Changes the level from now on.
    ///
    /// # Errors
    /// [`LogError::Level`]; the old one stays then.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        // Fails only when the subscriber is gone, and then there is nothing left to filter.
        let _ = self.filter.reload(directives(level)?);
        Ok(())
    }

    /// Says something that must be seen at every level, as one line on stderr in the form of the other lines there.
    /// `fields` go beside the text in JSON.
    pub fn announce(&self, message: &str, fields: &[(&str, &str)]) {
        let line = match self.format {
            Format::Json => json_line(message, fields),
            Format::Auto | Format::Text | Format::Journald => message.to_owned(),
        };
        // Whoever closed stderr does not want to read it.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

fn json_line(message: &str, fields: &[(&str, &str)]) -> String {
    let mut timestamp = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let mut line = format!(
        r#"{{"timestamp":{},"level":"INFO","message":{}"#,
        serde_json::Value::from(timestamp),
        serde_json::Value::from(message)
    );
    for (name, value) in fields {
        let _ = write!(line, ",{}:{}", serde_json::Value::from(*name), serde_json::Value::from(*value));
    }
    line.push('}');
    line
}

fn directives(level: &str) -> Result<EnvFilter, LogError> {
    let refused = || LogError::Level { directives: level.to_owned() };
    // A bare word that is no level would be taken for the name of a target, and nothing would be logged.
    let word = |part: &str| {
        part.contains(['=', '[', ':']) || part.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    let parts: Vec<&str> = level.split(',').map(str::trim).collect();
    if !parts.iter().all(|part| !part.is_empty() && word(part)) {
        return Err(refused());
    }
    EnvFilter::builder().parse(parts.join(",")).map_err(|_| refused())
}

type Output = Box<
    dyn Layer<tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>> + Send + Sync,
>;

fn json() -> Output {
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_writer(std::io::stderr)
        .boxed()
}

fn text() -> Output {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr).boxed()
}

/// systemd sets `JOURNAL_STREAM` to device and inode of the stream it gave; a process whose stderr was sent elsewhere
/// since inherits the variable all the same (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(status) = rustix::fs::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", status.st_dev, status.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_taken_and_words_are_not() {
        for level in [
            "info",
            "WARN",
            "off",
            "info,outlast::engine=debug",
            "outlast=trace",
            "warn, outlast::store=info",
        ] {
            assert!(check(level).is_ok(), "{level}");
        }
        for level in ["", "loud", "info,verbose", "outlast=loud", "info,"] {
            assert!(check(level).unwrap_err().to_string().contains("want error, warn, info"), "{level}");
        }
    }

    #[test]
    fn an_announcement_is_one_json_line_whatever_it_says() {
        let line = json_line("serving \"x\"\nnow", &[("url", "http://127.0.0.1:1/mcp")]);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(value["message"], "serving \"x\"\nnow");
        assert_eq!(value["url"], "http://127.0.0.1:1/mcp");
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}
