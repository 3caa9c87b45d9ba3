//! SIGHUP: the configuration is read again. The log level and the hosted servers follow at once, everything else at the
//! next start; a bad configuration is refused as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::settings::Settings;
use super::{hosts, systemd};
use crate::config::source::Loaded;
use crate::telemetry::log::Logs;
use crate::tools::registry::Registry;

/// What a reload changes.
pub(crate) struct Reloaded<'a> {
    pub(crate) settings: &'a Settings,
    /// What the server was started with.
    pub(crate) started: &'a Loaded,
    /// What the hosted servers are as of now.
    pub(crate) running: Loaded,
    pub(crate) logs: &'a Logs,
    pub(crate) registry: Arc<Registry>,
}

impl Reloaded<'_> {
    /// Reads the configuration again and applies what can change while the server runs.
    pub(crate) async fn reload(&mut self, status: &str) {
        systemd::reloading();
        let read = {
            let settings = self.settings.clone();
            tokio::task::spawn_blocking(move || settings.load()).await
        };
        match read {
            Ok(Ok(fresh)) => self.apply(fresh),
            Ok(Err(error)) => {
                tracing::error!(%error, "the new configuration is refused; the old one stays in force")
            }
            Err(error) => {
                tracing::error!(%error, "the configuration could not be read; the old one stays in force")
            }
        }
        systemd::ready(status);
    }

    fn apply(&mut self, fresh: Loaded) {
        // Checked while loading.
        if let Err(error) = self.logs.set_level(&fresh.config.log.level) {
            tracing::error!(%error, "the log level stays as it was");
        }
        for warning in &fresh.warnings {
            tracing::warn!("{warning}");
        }
        let servers = changed_servers(&self.running.changed_keys(&fresh));
        if !servers.is_empty() {
            // As long as the rest stays as it was, servers are below the root, and under the times, of the start.
            let mut config = fresh.config.clone();
            config.tools = self.started.config.tools.clone();
            let made: Result<Vec<_>, String> =
                servers.iter().filter_map(|name| hosts::hosted(&config, name).transpose()).collect();
            let new = match made {
                Ok(new) => new,
                Err(error) => {
                    tracing::error!(%error, "the new configuration is refused; the old one stays in force");
                    return;
                }
            };
            let gone: Vec<String> = servers.iter().cloned().collect();
            self.registry.replace(&gone, new);
            let names = gone.join(", ");
            tracing::info!(servers = %names, "hosted servers are as configured now; all others go on untouched");
        }
        let mut later = self.started.changed_keys(&fresh);
        later.retain(|key| key != "log.level" && !key.starts_with("servers."));
        let level = &fresh.config.log.level;
        if later.is_empty() {
            tracing::info!(log_level = %level, "the configuration is reloaded");
        } else {
            let keys = later.join(", ");
            tracing::warn!(log_level = %level, %keys, "the configuration is reloaded, but for {keys}: restart to change them");
        }
        self.running = fresh;
    }
}

/// The servers to which these keys belong. No name of a server has a dot in it.
fn changed_servers(keys: &[String]) -> BTreeSet<String> {
    let names = keys.iter().filter_map(|key| key.strip_prefix("servers.")?.split('.').next());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_changed_by_any_of_its_keys_and_by_no_other() {
        let keys = ["log.level", "servers.a.args", "servers.a.env.K", "servers.b-c.command", "serversx.d.e"];
        let keys: Vec<String> = keys.map(str::to_owned).into();
        assert_eq!(changed_servers(&keys), BTreeSet::from(["a".to_owned(), "b-c".to_owned()]));
    }
}
