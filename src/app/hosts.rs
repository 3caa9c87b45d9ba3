//! The hosts of tools that a configuration asks for.

use std::sync::Arc;

use super::Failure;
use crate::base::seal::Keys;
use crate::config::Config;
use crate::tools::Host;
use crate::tools::builtin::diagnostics::Diagnostics;
use crate::tools::child::ChildHost;
use crate::tools::registry::Source;
use crate::tools::upstream::UpstreamHost;

/// Every host of `config`: built-in ones first, then hosted servers by name. `keys` sign the cursors of results.
///
/// # Errors
/// A root that the code tools cannot read; an address that is none.
pub(crate) fn sources(config: &Config, keys: &Keys) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    #[cfg(feature = "code")]
    if config.tools.code {
        let tools = crate::tools::code::CodeTools::new(config.tools.root.clone(), keys)
            .map_err(|why| Failure::Usage(format!("tools.root: {why}; or set tools.code = false")))?;
        sources.push(Source { host: Arc::new(tools), server: None });
    }
    #[cfg(not(feature = "code"))]
    let _ = keys;
    if config.tools.diagnostics {
        sources.push(Source { host: Arc::new(Diagnostics), server: None });
    }
    for name in config.servers.keys() {
        sources.extend(hosted(config, name).map_err(Failure::Usage)?);
    }
    Ok(sources)
}

/// The hosted server of this name, if there is one. Nothing is started yet, and nobody is called.
///
/// # Errors
/// An address that is none.
pub(crate) fn hosted(config: &Config, name: &str) -> Result<Option<Source>, String> {
    let Some(settings) = config.servers.get(name) else { return Ok(None) };
    let host: Arc<dyn Host> = if settings.url.is_empty() {
        ChildHost::new(name, settings, &config.tools.root, &config.tools)
    } else {
        UpstreamHost::new(name, settings, &config.tools)?
    };
    Ok(Some(Source { host, server: Some(name.to_owned()) }))
}
