//! Subcommands and flags, and the exit code of each outcome: 0 well, 1 failed, 2 bad usage or bad configuration.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use super::cached::{self, Cache};
use super::keys::{self, KeysCommand};
use super::migrate::{self, MigrateCommand};
use super::sessions::args::{Sessions, StatusArgs};
use super::settings::Settings;
use super::tools::args::Tools;
use super::topics::{PublishArgs, TailArgs};
use super::{Failure, run, sessions, tools, topics};
use crate::config::redact;
use crate::config::source::{Flag, Inputs};

/// Hosts MCP tools whose sessions outlast restarts.
///
/// `outlast` alone is `outlast serve`.
#[derive(Debug, Parser)]
#[command(name = "outlast", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

const AFTER_HELP: &str = "Settings come from flags, then environment variables such as OUTLAST_SERVER__LISTEN, then \
                          the configuration file, then defaults; `outlast config show` prints them with their sources.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve MCP over HTTP until SIGTERM or SIGINT
    Serve(ServeArgs),
    /// Serve MCP on stdin and stdout until stdin ends
    Stdio(ServeArgs),
    /// Look at the configuration without serving
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List, rotate and prune the keys that sign session ids and seal values
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Take over sessions of other servers
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Look at sessions and change them, while a server runs or while none does
    #[command(subcommand, after_help = SESSIONS_HELP)]
    Sessions(Sessions),
    /// List the tools that clients see, show one with all that is known of it, or call one
    #[command(subcommand, after_help = TOOLS_HELP)]
    Tools(Tools),
    /// Say something on a topic: to a session, to all of them, or to whoever listens with `outlast tail`
    Publish(PublishArgs),
    /// Print what is said on topics, on this instance and on its sisters, until interrupted
    #[command(disable_help_flag = true)]
    Tail(TailArgs),
    /// Look at the results that a running server answers again, or void them on all its instances
    #[command(subcommand)]
    Cache(Cache),
    /// Say how the server on a data directory is: exit code 0 when it is ready
    #[command(disable_help_flag = true)]
    Status(StatusArgs),
}

const SESSIONS_HELP: &str = "While a server runs on the data directory these commands ask its admin listener; else they \
                             open the directory themselves. Run them as the user of the server.";

const TOOLS_HELP: &str = "While a server runs on the data directory these commands ask its admin listener; else they start \
                          the hosts that the configuration names themselves, and end them.";

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether the configuration is right: exit code 0, or 2 with what is wrong and where
    Check(ServeArgs),
    /// Print the configuration in force as TOML, each key with its source, without secrets
    Show(ServeArgs),
}

#[derive(Clone, Debug, Default, Args)]
struct ServeArgs {
    /// Configuration file [default: ./config.toml when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port of the MCP endpoint [default: 127.0.0.1:8808]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Listen beyond loopback although nobody has to authenticate
    #[arg(long)]
    allow_open: bool,
    /// Address and port of the admin listener, "" for none [default: 127.0.0.1:8809]
    #[arg(long, value_name = "ADDR:PORT")]
    admin_listen: Option<String>,
    /// Where data lives [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/outlast, else ~/.local/state/outlast]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Keep everything in memory: a restart forgets all sessions
    #[arg(long)]
    ephemeral: bool,
    /// Directory that the code tools may see [default: the current directory]
    #[arg(long, value_name = "DIR")]
    root: Option<String>,
    /// MCP servers to host, from the `mcpServers` JSON of desktop clients and editors; may be repeated
    #[arg(long, value_name = "FILE")]
    mcp_json: Vec<PathBuf>,
    /// Add the tools that test a deployment: echo, sleep, counter, ask, emit, fill
    #[arg(long)]
    diagnostics: bool,
    /// How the plain HTTP bridge answers: default, or sandsiv for callers of the Flask bridge
    #[arg(long, value_name = "PROFILE")]
    compat: Option<String>,
    /// local or redis [default: redis when an address is given, else local]
    #[arg(long)]
    mode: Option<String>,
    /// Address of Redis: redis://HOST, rediss://HOST, redis+sentinel://HOST,HOST/MASTER
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// error, warn, info, debug, trace, or directives such as info,outlast::engine=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl ServeArgs {
    fn flags(&self) -> Vec<Flag> {
        let texts = [
            ("--listen", "server.listen", &self.listen),
            ("--admin-listen", "admin.listen", &self.admin_listen),
            ("--data-dir", "store.data_dir", &self.data_dir),
            ("--root", "tools.root", &self.root),
            ("--compat", "bridge.profile", &self.compat),
            ("--mode", "mode", &self.mode),
            ("--redis", "redis.url", &self.redis),
            ("--log-level", "log.level", &self.log_level),
        ];
        let switches = [
            ("--allow-open", "server.allow_open", self.allow_open),
            ("--ephemeral", "store.ephemeral", self.ephemeral),
            ("--diagnostics", "tools.diagnostics", self.diagnostics),
        ];
        let texts = texts.into_iter().filter_map(|(name, key, text)| {
            text.clone().map(|text| Flag { name, key, value: toml::Value::String(text) })
        });
        let on = switches.into_iter().filter(|(_, _, on)| *on);
        texts.chain(on.map(|(name, key, _)| Flag { name, key, value: toml::Value::Boolean(true) })).collect()
    }

    fn settings(self) -> Result<Settings, Failure> {
        let flags = self.flags();
        Ok(Settings::new(Inputs::of_process(self.config, self.mcp_json, flags)?))
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Stdio(args)) => stdio(args),
        Some(Command::Config(ConfigCommand::Check(args))) => check(args),
        Some(Command::Config(ConfigCommand::Show(args))) => show(args),
        Some(Command::Keys(command)) => keys::run(command).and_then(|text| print(&text)),
        Some(Command::Migrate(command)) => migrate::run(command, print),
        Some(Command::Sessions(command)) => sessions::run(&command),
        Some(Command::Status(args)) => sessions::status(&args),
        Some(Command::Publish(args)) => topics::publish(&args),
        Some(Command::Tail(args)) => topics::tail(&args),
        Some(Command::Tools(command)) => tools::run(&command),
        Some(Command::Cache(command)) => cached::run(&command),
    };
    let (text, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Failed(error)) => (format!("{error:#}"), 1),
    };
    let _ = writeln!(std::io::stderr().lock(), "outlast: {text}");
    ExitCode::from(code)
}

fn serve(args: ServeArgs) -> Result<(), Failure> {
    run::serve(args.settings()?)
}

fn stdio(args: ServeArgs) -> Result<(), Failure> {
    super::stdio::serve(&args.settings()?)
}

fn check(args: ServeArgs) -> Result<(), Failure> {
    let loaded = args.settings()?.load()?;
    for warning in &loaded.warnings {
        let _ = writeln!(std::io::stderr().lock(), "outlast: warning: {warning}");
    }
    print("the configuration is right\n")
}

fn show(args: ServeArgs) -> Result<(), Failure> {
    print(&redact::show(&args.settings()?.load()?))
}

fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| anyhow::Error::new(error).context("stdout").into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::Config;

    #[test]
    fn verify_cli() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_sets_a_key_that_exists() {
        let args = Cli::parse_from([
            "outlast",
            "--listen=a",
            "--admin-listen=b",
            "--data-dir=c",
            "--root=d",
            "--compat=sandsiv",
            "--mode=local",
            "--redis=e",
            "--log-level=f",
            "--allow-open",
            "--ephemeral",
            "--diagnostics",
        ]);
        let flags = args.serve.flags();
        assert_eq!(flags.len(), 11);
        let defaults = toml::Value::try_from(Config::default()).unwrap();
        for flag in flags {
            let found = flag.key.split('.').try_fold(&defaults, |value, key| value.get(key));
            assert!(found.is_some_and(|found| found.same_type(&flag.value)), "{}", flag.name);
        }
    }

    #[test]
    fn a_key_may_begin_with_hyphens() {
        for key in [
            "-hAAAAAAAAAAAAAAAAAAAA",
            "--AAAAAAAAAAAAAAAAAAAA",
            "-VAAAAAAAAAAAAAAAAAAAA",
            "-0AAAAAAAAAAAAAAAAAAAA",
        ] {
            for args in [
                vec!["outlast", "sessions", "show", key, "--json"],
                vec!["outlast", "sessions", "show", "--json", key],
            ] {
                let cli = Cli::try_parse_from(&args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
                let Some(Command::Sessions(Sessions::Show(show))) = cli.command else { panic!("{args:?}") };
                assert_eq!((show.which.session.as_str(), show.place.json), (key, true), "{args:?}");
            }
            let args = ["outlast", "sessions", "set", key, "-name", "-5", "--if-version", "x"];
            let cli = Cli::try_parse_from(args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
            let Some(Command::Sessions(Sessions::Set(set))) = cli.command else { panic!("{args:?}") };
            assert_eq!((set.name.as_str(), set.value.as_deref()), ("-name", Some("-5")));
            assert_eq!(set.expected.if_version.as_deref(), Some("x"));
        }
    }

    #[test]
    fn a_typo_in_a_flag_is_answered_with_the_flag_that_was_meant() {
        let error = Cli::try_parse_from(["outlast", "serve", "--lisen", "x"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--listen"), "{error}");
    }
}
