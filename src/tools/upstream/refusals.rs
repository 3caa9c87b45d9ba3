//! What a server of the legacy era means by refusing a request of a session: that it lost the session, that it speaks
//! another revision by now, or an answer.

use super::failure::{Failure, Kind, Trouble};
use super::http::Refusal;
use super::session::Session;
use crate::rpc::error::{HEADER_MISMATCH, RpcError, UNSUPPORTED_VERSION};

impl Session {
    /// What a status that is no success means for a request of this session, whose number is `id` if it has one.
    pub(super) fn judge(&self, refusal: &Refusal, trouble: Trouble, id: Option<u64>) -> Failure {
        if self.is_lost(refusal, id) {
            self.gone.cancel();
            let what = format!("does not know its session any more ({})", refusal.status);
            return self.common.http.trouble(Kind::Gone, false, &what).into();
        }
        let error = refusal.error.as_ref().map(|(error, _)| error);
        match (refusal.status.as_u16(), error) {
            (400, Some(error)) if is_of_another_era(error) => {}
            (400, Some(error)) if refusal.names_a_request() && self.is_begun() => {
                return Failure::Answer(error.clone());
            }
            (400 | 404 | 405 | 406 | 415, _) => {}
            _ => return trouble.into(),
        }
        Trouble { kind: Kind::Era, sent: false, ..trouble }.into()
    }

    /// Whether the refusal of a request, `id`, says that the session is not known any more.
    pub(super) fn is_lost(&self, refusal: &Refusal, id: Option<u64>) -> bool {
        let says_session = || {
            let said = refusal
                .error
                .as_ref()
                .is_some_and(|(error, _)| error.message.to_lowercase().contains("session"));
            said || refusal.says("session")
        };
        self.id().is_some()
            && match refusal.status.as_u16() {
                404 => true,
                // Unknown sessions are 404 (MCP 2025-03-26, transports). Widely used servers answer 400 and say why. One
                // that answers the request knows the session: what it says of sessions is about something else.
                400 => !id.is_some_and(|id| refusal.names(id)) && says_session(),
                // Servers of early releases of the official Rust SDK.
                401 => refusal.says("session not found"),
                _ => false,
            }
    }
}

/// Whether a server that has no sessions says so: it wants the revision in a header, or in the envelope of a request.
fn is_of_another_era(error: &RpcError) -> bool {
    matches!(error.code, UNSUPPORTED_VERSION | HEADER_MISMATCH)
        || error.message.contains("io.modelcontextprotocol/")
}
