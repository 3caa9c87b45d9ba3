//! The configuration as this process is to run it: read, and read again on SIGHUP.

use super::Failure;
use crate::config::LogFormat;
use crate::config::error::{ConfigError, Problem};
use crate::config::source::{Inputs, Loaded};
use crate::telemetry::log;

/// Where the configuration comes from, kept so that it can be read again.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    inputs: Inputs,
}

impl Settings {
    /// The configuration of these inputs.
    pub(crate) fn new(inputs: Inputs) -> Self {
        Self { inputs }
    }

    /// Reads and checks it, the log level included.
    pub(crate) fn load(&self) -> Result<Loaded, ConfigError> {
        let loaded = self.inputs.load()?;
        log::check(&loaded.config.log.level)
            .map_err(|error| Problem::at(loaded.source_of("log.level"), error.to_string()))?;
        Ok(loaded)
    }
}

/// What only the machine that serves can say of a configuration.
pub(crate) fn check_here(loaded: &Loaded) -> Result<(), Failure> {
    let tools = &loaded.config.tools;
    if tools.code && !tools.root.is_dir() {
        let message = format!("tools.root is {}: no such directory", tools.root.display());
        return Err(ConfigError::from(Problem::at(loaded.source_of("tools.root"), message)).into());
    }
    for (name, server) in &loaded.config.servers {
        if !server.cwd.as_os_str().is_empty() && !server.cwd.is_dir() {
            let source = loaded.source_of(&format!("servers.{name}.cwd"));
            let message = format!("server `{name}`: cwd is {}: no such directory", server.cwd.display());
            return Err(ConfigError::from(Problem::at(source, message)).into());
        }
    }
    Ok(())
}

/// The configured form in the terms of the logs.
pub(crate) fn log_format(format: LogFormat) -> log::Format {
    match format {
        LogFormat::Auto => log::Format::Auto,
        LogFormat::Json => log::Format::Json,
        LogFormat::Text => log::Format::Text,
        LogFormat::Journald => log::Format::Journald,
    }
}
