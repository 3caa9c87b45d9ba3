//! What an error of Redis means, by the code that it begins with.

use std::fmt;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use crate::state::link::Cause;

/// What follows from a failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// No answer, and none can come: the connection is gone.
    Lost,
    /// The link is down at once.
    Hard(Cause),
    /// Reads go on, writes are refused.
    RefusesWrites(Cause),
    /// It is not the primary any more: connect anew.
    NotPrimary,
    /// In a cluster another node has the slot.
    Moved(String),
    /// In a cluster another node may have the key already.
    Ask(String),
    /// In a cluster the keys are on the move: soon.
    TryAgain,
    /// The script is not known.
    NoScript,
    /// What was sent is wrong: a fault of ours, and no sign of the server's health.
    Bug,
}

/// A failed command.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) text: Arc<str>,
}

impl Failure {
    pub(super) fn new(class: Class, text: impl Into<Arc<str>>) -> Self {
        Self { class, text: text.into() }
    }

    /// The reason for which the link is not up, if it is one.
    pub(super) fn cause(&self) -> Cause {
        match &self.class {
            Class::Hard(cause) | Class::RefusesWrites(cause) => *cause,
            Class::NotPrimary => Cause::WrongPrimary,
            Class::Bug => Cause::Unfit,
            _ => Cause::Unreachable,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let class = classify(&error);
        let text = match &class {
            Class::Hard(Cause::Auth) => match error.code() {
                Some("NOPERM") => {
                    format!("{error}: give the user of [redis] the rights that docs/redis.md lists")
                }
                _ => format!("{error}: check redis.user, redis.password and redis.password_file"),
            },
            Class::Hard(Cause::Unfit) => format!("{error}: Redis 6.2 or later is needed, with RESP3"),
            _ => error.to_string(),
        };
        Self::new(class, text)
    }
}

fn classify(error: &RedisError) -> Class {
    if let Some(code) = error.code() {
        let node = || error.redirect_node().map(|(node, _)| node.to_owned());
        return of_code(code, error.detail().unwrap_or_default(), node);
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => Class::Hard(Cause::Auth),
        ErrorKind::RESP3NotSupported => Class::Hard(Cause::Unfit),
        ErrorKind::InvalidClientConfig | ErrorKind::UnexpectedReturnType | ErrorKind::Client => Class::Bug,
        _ => Class::Lost,
    }
}

/// The class of an error that the server sent: its code and the rest of its text.
fn of_code(code: &str, detail: &str, node: impl FnOnce() -> Option<String>) -> Class {
    match code {
        "LOADING" => Class::Hard(Cause::Loading),
        "MASTERDOWN" | "CLUSTERDOWN" => Class::Hard(Cause::ClusterDown),
        "BUSY" => Class::Hard(Cause::Busy),
        "READONLY" | "UNBLOCKED" => Class::NotPrimary,
        "OOM" => Class::RefusesWrites(Cause::Full),
        "MISCONF" => Class::RefusesWrites(Cause::Misconfigured),
        "NOREPLICAS" => Class::RefusesWrites(Cause::NoReplicas),
        "MOVED" => node().map_or(Class::TryAgain, Class::Moved),
        "ASK" => node().map_or(Class::TryAgain, Class::Ask),
        "TRYAGAIN" => Class::TryAgain,
        "NOSCRIPT" => Class::NoScript,
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Class::Hard(Cause::Auth),
        "NOPROTO" => Class::Hard(Cause::Unfit),
        // A proxy, or a server that was told to take no more.
        "ERR" if detail.contains("max number of clients") => Class::Hard(Cause::Unreachable),
        // Servers of before ACLs say it so.
        "ERR" if detail.contains("invalid password") || detail.contains("without any password") => {
            Class::Hard(Cause::Auth)
        }
        // An error within a script carries the code of the command that failed.
        "ERR" if detail.contains("-OOM ") => Class::RefusesWrites(Cause::Full),
        "ERR" if detail.contains("-READONLY ") => Class::NotPrimary,
        "ERR" if detail.contains("-MISCONF ") => Class::RefusesWrites(Cause::Misconfigured),
        "ERR" if detail.contains("-NOREPLICAS ") => Class::RefusesWrites(Cause::NoReplicas),
        _ => Class::Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_class() {
        for (code, class) in [
            ("LOADING", Class::Hard(Cause::Loading)),
            ("MASTERDOWN", Class::Hard(Cause::ClusterDown)),
            ("CLUSTERDOWN", Class::Hard(Cause::ClusterDown)),
            ("BUSY", Class::Hard(Cause::Busy)),
            ("READONLY", Class::NotPrimary),
            ("UNBLOCKED", Class::NotPrimary),
            ("OOM", Class::RefusesWrites(Cause::Full)),
            ("MISCONF", Class::RefusesWrites(Cause::Misconfigured)),
            ("NOREPLICAS", Class::RefusesWrites(Cause::NoReplicas)),
            ("TRYAGAIN", Class::TryAgain),
            ("NOSCRIPT", Class::NoScript),
            ("NOAUTH", Class::Hard(Cause::Auth)),
            ("WRONGPASS", Class::Hard(Cause::Auth)),
            ("NOPERM", Class::Hard(Cause::Auth)),
            ("NOPROTO", Class::Hard(Cause::Unfit)),
            ("CROSSSLOT", Class::Bug),
            ("WRONGTYPE", Class::Bug),
            ("ERR", Class::Bug),
        ] {
            assert_eq!(of_code(code, "", || None), class, "{code}");
        }
        assert_eq!(of_code("MOVED", "", || Some("h:1".into())), Class::Moved("h:1".into()));
        assert_eq!(of_code("ASK", "", || Some("h:1".into())), Class::Ask("h:1".into()));
        assert_eq!(
            of_code("ERR", "Error running script … -OOM command not allowed", || None),
            Class::RefusesWrites(Cause::Full)
        );
    }

    #[test]
    fn a_connection_that_broke_is_lost() {
        let error = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!(classify(&error), Class::Lost);
    }
}
