//! The variables of the Flask bridge, then file, then environment, then flags: one configuration, each value of which remembers where it came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize as _;
use toml::{Table, Value};

use super::error::{ConfigError, Problem, Source};
use super::file::File;
use super::shape::Shape;
use super::{Config, Mode, environment, flask, mcp_json};
use crate::base::seal::sha256;

/// The file that is read when none is named and it is there.
pub const DEFAULT_FILE: &str = "config.toml";

/// The name of the credential that holds the keys.
const KEY_CREDENTIAL: &str = "outlast.keys";

/// Everything a configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `--config`; none: [`DEFAULT_FILE`] in the current directory when it is there.
    pub file: Option<PathBuf>,
    /// `--mcp-json`, in order.
    pub mcp_json: Vec<PathBuf>,
    /// The environment: names that do not begin with `OUTLAST_` serve `${NAME}`, the places of directories, and those
    /// who come from the Flask bridge.
    pub environment: Vec<(OsString, OsString)>,
    /// Settings from flags.
    pub flags: Vec<Flag>,
    /// Where relative paths begin.
    pub current_dir: PathBuf,
}

/// A setting from the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as it is typed.
    pub name: &'static str,
    /// The key it sets.
    pub key: &'static str,
    /// Its value.
    pub value: Value,
}

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings. `store.data_dir` (unless nothing is kept), `store.key_file`, the files of `[redis]` and of the
    /// bridge, `tools.root` and every `cwd` are absolute.
    pub config: Config,
    /// What should be said but does not stop the start.
    pub warnings: Vec<String>,
    values: BTreeMap<String, Source>,
    hashes: BTreeMap<String, [u8; 32]>,
}

impl Loaded {
    /// Where the value of a key path came from.
    #[must_use]
    pub fn source_of(&self, key: &str) -> Source {
        self.values.get(key).cloned().unwrap_or(Source::Default)
    }

    /// The key paths whose values differ between two configurations, secrets included.
    #[must_use]
    pub fn changed_keys(&self, other: &Self) -> Vec<String> {
        let either = self.hashes.keys().chain(other.hashes.keys());
        let mut changed: Vec<String> =
            either.filter(|key| self.hashes.get(*key) != other.hashes.get(*key)).cloned().collect();
        changed.sort();
        changed.dedup();
        changed
    }
}

impl Inputs {
    /// The inputs of this process: its environment and current directory.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub fn of_process(
        file: Option<PathBuf>,
        mcp_json: Vec<PathBuf>,
        flags: Vec<Flag>,
    ) -> Result<Self, ConfigError> {
        let current_dir = std::env::current_dir()
            .map_err(|error| Problem::general(format!("the current directory cannot be used: {error}")))?;
        Ok(Self { file, mcp_json, environment: std::env::vars_os().collect(), flags, current_dir })
    }

    /// Reads, merges and checks.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem that could be found, each with its place.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let shape = Shape::of_config();
        let mut layers = Layers::default();
        let file = self.read_file(&shape)?;
        if let Some(file) = &file {
            layers.table = file.table.clone();
            layers.values = file.values.clone();
            layers.sections = file.sections.clone();
        }
        self.hosted_servers(&mut layers)?;
        self.flask(&mut layers)?;
        self.variables(&mut layers, &shape)?;
        self.flags(&mut layers)?;
        self.flask_redis(&mut layers)?;
        self.header_variables(&mut layers)?;

        let mut config =
            Config::deserialize(layers.table.clone()).map_err(|error| Problem::general(error.message()))?;
        // An address says what it is for.
        if !layers.values.contains_key("mode") && config.redis.is_set() {
            config.mode = Mode::Redis;
            let place = layers.place("redis.url").or_else(|| layers.place("redis.sentinels"));
            layers.values.extend(place.map(|place| ("mode".to_owned(), place)));
        }
        let mut problems: Vec<Problem> = config
            .check()
            .into_iter()
            .map(|finding| {
                let source = layers.place(&finding.key);
                let shown = file.as_ref().zip(source.as_ref()).and_then(|(file, source)| file.line(source));
                Problem { source, shown, message: finding.message }
            })
            .collect();
        if let Err(problem) = self.resolve(&mut config, &mut layers) {
            problems.push(problem);
        }
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let mut hashes = BTreeMap::new();
        hash_leaves("", &Value::Table(layers.table), &mut hashes);
        Ok(Loaded { config, warnings: layers.warnings, values: layers.values, hashes })
    }

    fn read_file(&self, shape: &Shape) -> Result<Option<File>, ConfigError> {
        if let Some(path) = &self.file {
            return File::read_from(&self.current_dir, path, shape).map(Some);
        }
        // A file that is there but cannot be looked at is read, and fails, rather than passed over.
        match self.current_dir.join(DEFAULT_FILE).try_exists() {
            Ok(false) => Ok(None),
            Ok(true) | Err(_) => File::read_from(&self.current_dir, Path::new(DEFAULT_FILE), shape).map(Some),
        }
    }

    fn hosted_servers(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        for path in &self.mcp_json {
            let found = mcp_json::read(&self.current_dir, path, &|name| self.variable(name))?;
            layers.warnings.extend(found.warnings);
            let source = Source::McpJson(Arc::new(path.clone()));
            for (name, server) in found.servers {
                let section = format!("servers.{name}");
                if let Some(first) = layers.sections.get(&section) {
                    let message = format!(
                        "the server `{name}` is configured already, at {first}; rename one of the two"
                    );
                    return Err(Problem::at(source, message).into());
                }
                for key in server.keys() {
                    layers.values.insert(format!("{section}.{key}"), source.clone());
                }
                layers.sections.insert(section, source.clone());
                layers.put(&["servers".into(), name], Value::Table(server));
            }
        }
        Ok(())
    }

    /// What the variables of the Flask bridge say of what nothing else says anything of.
    fn flask(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        let servers: Vec<String> = layers.names_of("servers");
        let read = flask::read(&|name| self.variable(name), &servers)?;
        layers.warnings.extend(read.warnings);
        for setting in read.settings {
            let path = setting.keys.join(".");
            if !layers.values.contains_key(&path) {
                layers.set(&setting.keys, setting.value, Source::Variable(setting.variable.into()))?;
            }
        }
        Ok(())
    }

    /// Where Redis is by the variables of the Flask bridge. Only for who wants Redis and says nothing else of where it
    /// is: others have such variables, too.
    fn flask_redis(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        let wanted = layers.table.get("mode").and_then(Value::as_str) == Some("redis");
        let known = ["redis.url", "redis.sentinels"].iter().any(|key| layers.values.contains_key(*key));
        if !wanted || known || self.variable("REDIS_HOST").is_none() {
            return Ok(());
        }
        let url = super::flask_redis(&|name| self.variable(name))?.url;
        let keys = ["redis".to_owned(), "url".to_owned()];
        let value = Value::from(secrecy::ExposeSecret::expose_secret(&url));
        Ok(layers.set(&keys, value, Source::Variable("REDIS_HOST".into()))?)
    }

    fn variables(&self, layers: &mut Layers, shape: &Shape) -> Result<(), ConfigError> {
        let servers: Vec<String> = layers.names_of("servers");
        let mut ours: Vec<_> = self
            .environment
            .iter()
            .filter(|(name, _)| name.to_string_lossy().starts_with(environment::PREFIX))
            .collect();
        ours.sort();
        let mut problems = Vec::new();
        for (name, text) in ours {
            let name = name.to_string_lossy();
            let source = Source::Variable(name.to_string());
            let read = match text.to_str() {
                Some(text) => environment::read(&name, text, shape, &servers),
                None => Err(Problem::at(source.clone(), "is not UTF-8")),
            };
            match read.and_then(|setting| layers.set(&setting.keys, setting.value, source)) {
                Ok(()) => {}
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    /// `${NAME}` in headers of remote servers, so that the secrets in them need not stand in a file.
    fn header_variables(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        let mut found = Vec::new();
        let servers = layers.table.get_mut("servers").and_then(Value::as_table_mut);
        for (name, server) in servers.into_iter().flatten() {
            for section in ["headers", "headers_by_principal"] {
                if let Some(value) = server.get_mut(section) {
                    let path = format!("servers.{name}.{section}");
                    self.expand(&path, value, &mut found);
                }
            }
        }
        let problems: Vec<Problem> = found
            .into_iter()
            .map(|(key, message)| match layers.place(&key) {
                Some(place) => Problem::at(place, message),
                None => Problem::general(message),
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    fn expand(&self, path: &str, value: &mut Value, problems: &mut Vec<(String, String)>) {
        match value {
            Value::Table(inner) => {
                for (key, value) in inner.iter_mut() {
                    self.expand(&format!("{path}.{key}"), value, problems);
                }
            }
            Value::String(text) => {
                match mcp_json::expand(text, &self.current_dir, &|name| self.variable(name)) {
                    Ok(expanded) => *text = expanded,
                    Err(why) => problems.push((path.to_owned(), format!("`{path}`: {why}"))),
                }
            }
            _ => {}
        }
    }

    fn flags(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        for flag in &self.flags {
            let keys: Vec<String> = flag.key.split('.').map(str::to_owned).collect();
            layers.set(&keys, flag.value.clone(), Source::Flag(flag.name))?;
        }
        Ok(())
    }

    fn variable(&self, name: &str) -> Option<String> {
        let (_, text) = self.environment.iter().find(|(known, _)| known == name)?;
        text.to_str().map(str::to_owned)
    }

    /// Makes paths absolute and finds the data directory.
    fn resolve(&self, config: &mut Config, layers: &mut Layers) -> Result<(), Problem> {
        config.tools.root = self.current_dir.join(&config.tools.root);
        for server in config.servers.values_mut().filter(|server| !server.cwd.as_os_str().is_empty()) {
            server.cwd = self.current_dir.join(&server.cwd);
        }
        if !config.store.key_file.as_os_str().is_empty() {
            config.store.key_file = self.current_dir.join(&config.store.key_file);
        }
        let files = [
            &mut config.redis.password_file,
            &mut config.redis.ca_file,
            &mut config.bridge.system_info_file,
            &mut config.bridge.workflow_guidance_file,
        ];
        for path in files {
            if !path.as_os_str().is_empty() {
                *path = self.current_dir.join(&*path);
            }
        }
        config.store.key_credential = self.key_credential();
        config.store.shared = config.mode == Mode::Redis;
        if !config.store.data_dir.as_os_str().is_empty() {
            config.store.data_dir = self.current_dir.join(&config.store.data_dir);
            return Ok(());
        }
        if config.store.ephemeral {
            return Ok(());
        }
        let (variable, dir) = self.state_directory().ok_or_else(|| {
            Problem::general(
                "no place for data: give --data-dir, or set store.data_dir, STATE_DIRECTORY, XDG_STATE_HOME or HOME; \
                 --ephemeral keeps nothing",
            )
        })?;
        config.store.data_dir = dir;
        layers.values.insert("store.data_dir".into(), Source::Variable(variable.into()));
        Ok(())
    }

    /// The keys that the service manager passes (systemd.exec(5), `LoadCredential=outlast.keys:…`).
    fn key_credential(&self) -> Option<PathBuf> {
        let path = PathBuf::from(self.variable("CREDENTIALS_DIRECTORY")?).join(KEY_CREDENTIAL);
        // One that cannot be looked at is read, and fails, rather than passed over.
        (path.is_absolute() && path.try_exists().unwrap_or(true)).then_some(path)
    }

    fn state_directory(&self) -> Option<(&'static str, PathBuf)> {
        let absolute = |name: &str| {
            let path = PathBuf::from(self.variable(name)?);
            path.is_absolute().then_some(path)
        };
        // systemd separates several state directories by colons; ours is the first.
        let service =
            self.variable("STATE_DIRECTORY").and_then(|list| list.split(':').next().map(PathBuf::from));
        service
            .filter(|path| path.is_absolute())
            .map(|path| ("STATE_DIRECTORY", path))
            .or_else(|| absolute("XDG_STATE_HOME").map(|path| ("XDG_STATE_HOME", path.join("outlast"))))
            .or_else(|| absolute("HOME").map(|path| ("HOME", path.join(".local/state/outlast"))))
    }
}

impl File {
    /// Reads `path` as seen from `current_dir`, and names it in messages as it was given.
    fn read_from(current_dir: &Path, path: &Path, shape: &Shape) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(current_dir.join(path)).map_err(|error| {
            Problem::general(format!("{}: the configuration cannot be read: {error}", path.display()))
        })?;
        Self::parse(path, text, shape)
    }
}

/// The values so far and where they came from.
#[derive(Debug, Default)]
struct Layers {
    table: Table,
    values: BTreeMap<String, Source>,
    sections: BTreeMap<String, Source>,
    warnings: Vec<String>,
}

impl Layers {
    /// Sets one value after making sure that its kind fits, so that an error can name its source.
    fn set(&mut self, keys: &[String], value: Value, source: Source) -> Result<(), Problem> {
        let mut alone = Self::default();
        alone.put(keys, value.clone());
        Config::deserialize(alone.table)
            .map_err(|error| Problem::at(source.clone(), error.message().replace('\n', "; ")))?;
        let path = keys.join(".");
        // A list that is replaced takes the places of its old items along.
        self.values.retain(|known, _| !known.starts_with(&format!("{path}.")));
        self.values.insert(path, source.clone());
        if let [section, name, ..] = keys
            && section == "servers"
        {
            self.sections.entry(format!("servers.{name}")).or_insert(source);
        }
        self.put(keys, value);
        Ok(())
    }

    /// The keys of a section.
    fn names_of(&self, section: &str) -> Vec<String> {
        let table = self.table.get(section).and_then(Value::as_table);
        table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
    }

    fn put(&mut self, keys: &[String], value: Value) {
        let Some((last, above)) = keys.split_last() else { return };
        let mut table = &mut self.table;
        for key in above {
            let below = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            match below {
                Value::Table(inner) => table = inner,
                _ => return,
            }
        }
        table.insert(last.clone(), value);
    }

    /// Where a key path, or else the nearest thing above it, stands.
    fn place(&self, key: &str) -> Option<Source> {
        let mut path = key;
        loop {
            if let Some(source) = self.values.get(path).or_else(|| self.sections.get(path)) {
                return Some(source.clone());
            }
            path = path.rsplit_once('.')?.0;
        }
    }
}

fn hash_leaves(path: &str, value: &Value, hashes: &mut BTreeMap<String, [u8; 32]>) {
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(key, value)| hash_leaves(&super::shape::join(path, key), value, hashes));
        }
        _ => {
            hashes.insert(path.to_owned(), sha256(value.to_string().as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests;
