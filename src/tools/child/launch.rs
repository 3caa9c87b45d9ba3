//! What is run for a hosted server: program, arguments, environment, directory.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use rustix::fs::{Access, access};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::process::Command;

use super::error::StartError;
use crate::config::{ChildLimits, HostedServer};

/// Variables that a child inherits. All others stay here: they hold the secrets of this server and of others.
const INHERITED: &[&str] = &["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "TERM", "SHELL"];
/// Beginnings of names that a child inherits.
const INHERITED_PREFIXES: &[&str] = &["LC_", "XDG_"];

/// How a hosted server is started.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) server: Arc<str>,
    command: String,
    args: Vec<String>,
    env: Vec<(String, SecretString)>,
    directory: PathBuf,
    /// What a child may use.
    pub(super) limits: ChildLimits,
}

impl Launch {
    pub(super) fn new(server: &str, settings: &HostedServer, root: &Path) -> Self {
        Self {
            server: Arc::from(server),
            command: settings.command.clone(),
            args: settings.args.clone(),
            env: settings.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            // An absolute `cwd` replaces the root.
            directory: root.join(&settings.cwd),
            limits: settings.limits,
        }
    }

    /// The command, ready but for what [`super::process`] adds. Looks at the file system, so not for a runtime thread.
    pub(super) fn command(&self) -> Result<Command, StartError> {
        if self.command.is_empty() {
            return Err(StartError::NoCommand { server: Arc::clone(&self.server) });
        }
        if !self.directory.is_dir() {
            return Err(StartError::NoDirectory {
                server: Arc::clone(&self.server),
                path: self.directory.clone(),
            });
        }
        let mut command = Command::new(self.program()?);
        command
            .args(&self.args)
            .env_clear()
            .envs(env::vars_os().filter(|(name, _)| is_inherited(name)))
            .envs(self.env.iter().map(|(name, value)| (name, value.expose_secret())))
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    /// The program as an absolute path: what is missing or not executable is told by name, not as an error number of
    /// `exec`, and the child's own directory does not decide what is run.
    fn program(&self) -> Result<PathBuf, StartError> {
        let candidates: Vec<PathBuf> = if self.command.contains('/') {
            vec![self.directory.join(&self.command)]
        } else {
            let path = self.search_path().unwrap_or_default();
            env::split_paths(&path)
                .map(|directory| self.directory.join(directory).join(&self.command))
                .collect()
        };
        let mut not_executable = None;
        for candidate in candidates {
            if !candidate.exists() {
                continue;
            }
            if candidate.is_file() && access(&candidate, Access::EXEC_OK).is_ok() {
                return Ok(candidate);
            }
            not_executable.get_or_insert(candidate);
        }
        let server = Arc::clone(&self.server);
        Err(match not_executable {
            Some(path) => StartError::NotExecutable { server, path },
            None => StartError::NotFound {
                server,
                command: self.command.clone(),
                searched: match self.command.contains('/') {
                    true => self.directory.display().to_string(),
                    false => format!(
                        "PATH={}",
                        self.search_path()
                            .map(|path| path.to_string_lossy().into_owned())
                            .unwrap_or_default()
                    ),
                },
            },
        })
    }

    /// The child's PATH: its own, when the configuration sets one.
    fn search_path(&self) -> Option<OsString> {
        let own = self.env.iter().find(|(name, _)| name == "PATH");
        own.map(|(_, path)| OsString::from(path.expose_secret())).or_else(|| env::var_os("PATH"))
    }

    pub(super) fn name_of_command(&self) -> String {
        self.command.clone()
    }
}

fn is_inherited(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(command: &str) -> Launch {
        let settings = HostedServer { command: command.into(), ..HostedServer::default() };
        Launch::new("x", &settings, Path::new("/tmp"))
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_server() {
        let error = launch("no-such-program-anywhere").command().unwrap_err().to_string();
        assert!(error.contains("\"x\"") && error.contains("no-such-program-anywhere"), "{error}");
        assert!(launch("").command().is_err());
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_told_apart_from_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("data");
        std::fs::write(&file, "x").unwrap();
        let error = launch(file.to_str().unwrap()).command().unwrap_err();
        assert!(matches!(error, StartError::NotExecutable { .. }), "{error}");
        let error = launch(directory.path().to_str().unwrap()).command().unwrap_err();
        assert!(matches!(error, StartError::NotExecutable { .. }), "{error}");
    }

    #[test]
    fn a_missing_working_directory_is_named() {
        let settings =
            HostedServer { command: "sh".into(), cwd: "/no/such/place".into(), ..HostedServer::default() };
        let error = Launch::new("x", &settings, Path::new("/tmp")).command().unwrap_err().to_string();
        assert!(error.contains("/no/such/place"), "{error}");
    }

    #[test]
    fn only_listed_variables_are_inherited() {
        for name in ["PATH", "HOME", "LC_ALL", "XDG_RUNTIME_DIR"] {
            assert!(is_inherited(OsStr::new(name)), "{name}");
        }
        for name in ["OUTLAST_REDIS__URL", "AWS_SECRET_ACCESS_KEY", "NOTIFY_SOCKET", "PATHS", "LD_PRELOAD"] {
            assert!(!is_inherited(OsStr::new(name)), "{name}");
        }
    }
}
