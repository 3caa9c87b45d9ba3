//! `requestState`: what a client carries between the rounds of a call, signed so that it can only be what was given to it.
//!
//! ```text
//! r1.<base64url of the number of the key, 1 byte, and JSON>.<base64url of the first 16 bytes of HMAC-SHA256 over "r1.<…>">
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::limits::REQUEST_STATE_BYTES;
use crate::base::seal::{Keys, hex, sha256};
use crate::mcp::input::Answers;

const PREFIX: &str = "r1.";
const MAC: usize = 16;

/// What a state says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// Whose call it is.
    #[serde(rename = "p")]
    principal: String,
    /// When it is over, milliseconds since the Unix epoch.
    #[serde(rename = "x")]
    pub(super) expires_ms: u64,
    /// Of the request.
    #[serde(rename = "d")]
    digest: String,
    /// The process start that holds the call.
    #[serde(rename = "o")]
    pub(super) origin: u64,
    /// The held call.
    #[serde(rename = "h")]
    pub(super) held: String,
    /// Answers that were given in earlier rounds, for a call that must be run again.
    #[serde(rename = "a", default, skip_serializing_if = "Answers::is_empty")]
    pub(super) answers: Answers,
}

impl State {
    pub(super) fn new(
        principal: &str,
        digest: &[u8; 32],
        expires_ms: u64,
        origin: u64,
        held: String,
        answers: Answers,
    ) -> Self {
        Self { principal: named(principal), expires_ms, digest: hex(digest), origin, held, answers }
    }

    /// Whether it belongs to this request of this principal.
    pub(super) fn is_for(&self, principal: &str, digest: &[u8; 32]) -> bool {
        self.principal == named(principal) && self.digest == hex(digest)
    }

    pub(super) fn seal(&self, keys: &Keys) -> String {
        let mut payload = vec![keys.current_id()];
        // Strings, numbers and text that is JSON already: this cannot fail, and a state of nothing is refused.
        payload.extend(serde_json::to_vec(self).unwrap_or_default());
        let mut text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(payload));
        let mac = keys.sign(text.as_bytes());
        text.push('.');
        text.push_str(&URL_SAFE_NO_PAD.encode(mac.get(..MAC).unwrap_or_default()));
        text
    }

    /// What a state says, if it was sealed here.
    pub(super) fn open(text: &str, keys: &Keys) -> Option<Self> {
        if text.len() > REQUEST_STATE_BYTES {
            return None;
        }
        let (signed, mac) = text.rsplit_once('.')?;
        let payload = URL_SAFE_NO_PAD.decode(signed.strip_prefix(PREFIX)?).ok()?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let (key, json) = payload.split_first()?;
        if mac.len() != MAC || !keys.verify(*key, signed.as_bytes(), &mac) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

/// The answers, if they are small enough to be carried along.
pub(super) fn portable(answers: &[(String, Box<RawValue>)]) -> Answers {
    let size: usize = answers.iter().map(|(key, answer)| key.len() + answer.get().len() + 6).sum();
    // Base64 makes four of three, and the rest of a state is short.
    if size > REQUEST_STATE_BYTES / 2 { Answers::new() } else { answers.iter().cloned().collect() }
}

fn named(principal: &str) -> String {
    hex(&sha256(principal.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_whole_and_any_change_of_it_is_noticed() {
        let keys = Keys::generate();
        let answers = [("k".to_owned(), RawValue::from_string(r#"{"n":1e400}"#.into()).unwrap())];
        let state = State::new("anna", &[7; 32], 99, 5, "id".into(), portable(&answers));
        let text = state.seal(&keys);
        let opened = State::open(&text, &keys).unwrap();
        assert!(opened.is_for("anna", &[7; 32]));
        assert!(!opened.is_for("bert", &[7; 32]) && !opened.is_for("anna", &[8; 32]));
        assert_eq!((opened.expires_ms, opened.origin, opened.held.as_str()), (99, 5, "id"));
        assert_eq!(opened.answers["k"].get(), r#"{"n":1e400}"#);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character of a Base64 text has bits that mean nothing, and must be as they were written.
            assert!(State::open(&changed, &keys).is_none(), "{at}: {changed}");
        }
        for bad in [
            "",
            ".",
            "r1.",
            "r1..",
            &text[..text.len() - 1],
            &format!("{text}-TAMPERED"),
            &format!("{text}A"),
        ] {
            assert!(State::open(bad, &keys).is_none(), "{bad}");
        }
        assert!(State::open(&text, &Keys::generate()).is_none());
    }

    #[test]
    fn answers_that_are_too_long_are_not_carried() {
        let long = RawValue::from_string(format!("\"{}\"", "x".repeat(REQUEST_STATE_BYTES))).unwrap();
        assert!(portable(&[("k".to_owned(), long)]).is_empty());
    }
}
