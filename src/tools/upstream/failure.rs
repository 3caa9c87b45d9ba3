//! Why a remote server gave no answer: sentences that name the server and say what to do, and what each means for the
//! next attempt.

use std::fmt;
use std::sync::Arc;

use crate::rpc::error::RpcError;

/// How a request to a remote server ended without a result.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// With the server's own error: the server works.
    Answer(RpcError),
    /// With no answer that could be passed on.
    Trouble(Trouble),
}

/// No answer that could be passed on.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// A sentence that names the server and says what to do.
    pub(super) why: Arc<str>,
    /// The server may have acted on the request.
    pub(super) sent: bool,
}

/// What trouble means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server does not work, or is not reached.
    Down,
    /// It works, and refuses this request or these credentials.
    Refused,
    /// It does not know the session any more.
    Gone,
    /// It does not speak the revision that it spoke.
    Era,
    /// A header did not repeat an argument as the server has it by now.
    Headers,
    /// It is not called: it failed too often a moment ago.
    Open,
    /// It is taken out of the configuration, or this server ends.
    Closed,
}

impl Trouble {
    pub(super) fn new(kind: Kind, sent: bool, why: impl Into<Arc<str>>) -> Self {
        Self { kind, why: why.into(), sent }
    }

    /// Whether it says that the server does not work.
    pub(super) fn is_down(&self) -> bool {
        self.kind == Kind::Down
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.why)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(error) => error.fmt(to),
            Self::Trouble(trouble) => trouble.fmt(to),
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Failure {
    /// The failure of a request about something that the server has begun: whatever it says of that request, it has
    /// acted on the call.
    pub(super) fn begun(self) -> Self {
        let Self::Trouble(trouble) = self else { return self };
        let kind = match trouble.kind {
            Kind::Era | Kind::Headers => Kind::Refused,
            kind => kind,
        };
        Self::Trouble(Trouble { kind, sent: true, ..trouble })
    }

    /// The failure as an answer to a request of a client. `retryable`: it is told whether asking again does no harm.
    pub(super) fn as_rpc_error(&self) -> RpcError {
        match self {
            Self::Answer(error) => error.clone(),
            Self::Trouble(trouble) => RpcError::internal(trouble.why.to_string())
                .with_data(&serde_json::json!({ "retryable": !trouble.sent })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_was_sent_and_is_no_sign_of_another_revision() {
        for (kind, then) in [
            (Kind::Down, Kind::Down),
            (Kind::Refused, Kind::Refused),
            (Kind::Gone, Kind::Gone),
            (Kind::Era, Kind::Refused),
            (Kind::Headers, Kind::Refused),
        ] {
            match Failure::from(Trouble::new(kind, false, "x")).begun() {
                Failure::Trouble(trouble) => assert_eq!((trouble.kind, trouble.sent), (then, true)),
                Failure::Answer(error) => panic!("{error}"),
            }
        }
    }
}
