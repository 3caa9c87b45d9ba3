//! `outlast sessions` and `outlast status`: what can be typed.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};

use crate::app::text::parse_duration;

/// Where the sessions are, and how they are told.
///
/// A key can begin with a hyphen, so these commands have no short flags, `-h` included.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Place {
    /// Configuration file [default: ./config.toml when it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data directory [default: as for `outlast serve`]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// `outlast status`
#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Say it again every second, until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

/// A session.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// Key of the session, as `sessions ls` has it; a whole session id will do, but is a secret
    #[arg(value_name = "SESSION", allow_hyphen_values = true)]
    pub(crate) session: String,
}

/// A version that a session must still have.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Expected {
    /// Only if the session is still at this version, as `set` and `show` print it
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List sessions by their keys, page by page
    #[command(disable_help_flag = true)]
    Ls(Ls),
    /// Make a session and print its id, unless one with this key is there
    #[command(disable_help_flag = true)]
    Create(Create),
    /// Show one session: times, values with sizes, streams with positions, locks
    #[command(disable_help_flag = true)]
    Show(Show),
    /// Print a value, byte for byte
    #[command(disable_help_flag = true)]
    Get(Get),
    /// Set a value
    #[command(disable_help_flag = true)]
    Set(Set),
    /// Remove a value, or end the whole session when no value is named
    #[command(disable_help_flag = true)]
    Rm(Rm),
    /// Say how long a session has, or keep it for longer
    #[command(disable_help_flag = true)]
    Ttl(Ttl),
    /// Take, renew or release a lock
    #[command(subcommand)]
    Lock(Lock),
    /// List values that lost against a later write of another instance, which could not see them
    #[command(disable_help_flag = true)]
    Conflicts(Conflicts),
    /// Write a session to a file: its values, its log, its results. The file is not encrypted
    #[command(disable_help_flag = true)]
    Export(Export),
    /// Put an exported session in; its client goes on with its old session id
    #[command(disable_help_flag = true)]
    Import(Import),
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Sessions of this principal only: its name, or its hash as it is listed
    #[arg(long, value_name = "NAME")]
    pub(crate) principal: Option<String>,
    /// Sessions only that nobody used for longer than this (90s, 15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) idle_over: Option<u64>,
    /// At most so many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Sessions only whose keys come after this one
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) after: Option<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Whose it is to be: a principal of [[auth.tokens]] [default: anonymous]
    #[arg(long, value_name = "NAME")]
    pub(crate) principal: Option<String>,
    /// Under this key, 22 characters as `sessions ls` has them [default: any]
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Name of the value; session.… are the server's own
    #[arg(allow_hyphen_values = true)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Name of the value
    #[arg(allow_hyphen_values = true)]
    pub(crate) name: String,
    /// The value
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: Option<String>,
    /// Read the value from a file, - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) expected: Expected,
    /// Only while nobody has taken this lock since --fence was told
    #[arg(long, value_name = "NAME", requires = "fence", allow_hyphen_values = true)]
    pub(crate) lock: Option<String>,
    /// The fence that `lock take` printed
    #[arg(long, value_name = "N", requires = "lock")]
    pub(crate) fence: Option<u64>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Name of the value; none: the session ends, with its streams and its calls
    #[arg(allow_hyphen_values = true)]
    pub(crate) name: Option<String>,
    /// Only if the session is still at this version
    #[arg(long, value_name = "VERSION", requires = "name")]
    pub(crate) if_version: Option<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Ttl {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Keep it for so long from now though nobody uses it (90s, 15m, 2h, 7d); never beyond its deadline
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) extend: Option<u64>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lock {
    /// Take a lock; prints the token that its holder needs
    #[command(disable_help_flag = true)]
    Take(TakeLock),
    /// Say how a lock stands
    #[command(disable_help_flag = true)]
    Show(ShowLock),
    /// Hold it for longer
    #[command(disable_help_flag = true)]
    Renew(RenewLock),
    /// Let it go
    #[command(disable_help_flag = true)]
    Release(ReleaseLock),
}

#[derive(Debug, Args)]
pub(crate) struct TakeLock {
    /// Name of the lock
    #[arg(allow_hyphen_values = true)]
    pub(crate) name: String,
    /// For how long (90s, 15m, 2h)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ttl: u64,
    /// Among whom it has one holder [default: global in mode redis, else instance]
    #[arg(long)]
    pub(crate) scope: Option<Among>,
    /// In the name of this session: it is released when the session goes
    #[arg(long, value_name = "SESSION", allow_hyphen_values = true)]
    pub(crate) session: Option<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Among whom a lock has one holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Among {
    /// Among all instances that share a Redis
    Global,
    /// On this instance alone
    Instance,
}

#[derive(Debug, Args)]
pub(crate) struct ShowLock {
    /// Name of the lock
    #[arg(allow_hyphen_values = true)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct RenewLock {
    /// Name of the lock
    #[arg(allow_hyphen_values = true)]
    pub(crate) name: String,
    /// The token that `take` printed
    #[arg(long)]
    pub(crate) token: String,
    /// For how long from now (90s, 15m, 2h)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ttl: u64,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseLock {
    /// Name of the lock
    #[arg(allow_hyphen_values = true)]
    pub(crate) name: String,
    /// The token that `take` printed
    #[arg(long)]
    pub(crate) token: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The file, which must not be there yet [default: stdout, unless that is a terminal]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file, - for stdin
    pub(crate) file: PathBuf,
    /// Put it in place of the session that is there, whose streams and calls end, or that was ended here
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

impl Sessions {
    /// Where the sessions are.
    pub(crate) fn place(&self) -> &Place {
        match self {
            Self::Ls(args) => &args.place,
            Self::Create(args) => &args.place,
            Self::Show(args) => &args.place,
            Self::Get(args) => &args.place,
            Self::Set(args) => &args.place,
            Self::Rm(args) => &args.place,
            Self::Ttl(args) => &args.place,
            Self::Lock(Lock::Take(args)) => &args.place,
            Self::Lock(Lock::Show(args)) => &args.place,
            Self::Lock(Lock::Renew(args)) => &args.place,
            Self::Lock(Lock::Release(args)) => &args.place,
            Self::Conflicts(args) => &args.place,
            Self::Export(args) => &args.place,
            Self::Import(args) => &args.place,
        }
    }
}
