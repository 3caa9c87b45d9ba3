//! Where the next page begins: opaque to the caller, and bound to what it belongs to.
//!
//! ```text
//! base64url of: version 1 | key id 1 | offset 4 | snapshot 8 | first 16 bytes of the HMAC
//! ```
//! The signature covers the tool and its arguments too, so a cursor with other arguments is refused, not misread.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::AnalysisError;
use crate::base::seal::{Keys, hex};

const VERSION: u8 = 1;
const CLAIMS: usize = 14;
const MAC: usize = 16;

/// What a cursor belongs to.
pub struct Binding<'a> {
    /// The keys that sign.
    pub keys: &'a Keys,
    /// The tool.
    pub tool: &'a str,
    /// The arguments without those that may differ from page to page.
    pub arguments: &'a str,
}

/// A cursor that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first row of the page.
    pub offset: usize,
    /// The snapshot that the rows are of, 16 hex digits.
    pub snapshot: String,
}

impl Binding<'_> {
    /// The cursor of a page.
    #[must_use]
    pub fn write(&self, offset: usize, snapshot: &str) -> String {
        let signer = self.keys.signer();
        let mut raw = Vec::with_capacity(CLAIMS + MAC);
        raw.extend([VERSION, signer.id()]);
        raw.extend(u32::try_from(offset).unwrap_or(u32::MAX).to_be_bytes());
        raw.extend(u64::from_str_radix(snapshot, 16).unwrap_or(0).to_be_bytes());
        let mac = signer.sign(&self.signed(&raw));
        raw.extend(mac.iter().take(MAC));
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// Reads a cursor.
    ///
    /// # Errors
    /// [`AnalysisError::InvalidCursor`]
    pub fn read(&self, cursor: &str) -> Result<Place, AnalysisError> {
        let raw = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| AnalysisError::InvalidCursor)?;
        let (claims, mac) = raw.split_first_chunk::<CLAIMS>().ok_or(AnalysisError::InvalidCursor)?;
        let [version, key, a, b, c, d, snapshot @ ..] = claims;
        let proven = mac.len() == MAC && self.keys.verify(*key, &self.signed(claims), mac);
        if *version != VERSION || !proven {
            return Err(AnalysisError::InvalidCursor);
        }
        let offset = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        Ok(Place { offset, snapshot: hex(snapshot) })
    }

    fn signed(&self, claims: &[u8]) -> Vec<u8> {
        let mut data = b"analysis cursor\0".to_vec();
        data.extend(self.tool.as_bytes());
        data.push(0);
        data.extend(blake3::hash(self.arguments.as_bytes()).as_bytes());
        data.extend(claims);
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_tool_and_arguments_only() {
        let keys = Keys::generate();
        let binding = Binding { keys: &keys, tool: "t", arguments: "a" };
        let cursor = binding.write(7, "0123456789abcdef");
        assert_eq!(binding.read(&cursor), Ok(Place { offset: 7, snapshot: "0123456789abcdef".into() }));
        let other = Keys::generate();
        for binding in [
            Binding { keys: &keys, tool: "u", arguments: "a" },
            Binding { keys: &keys, tool: "t", arguments: "b" },
            Binding { keys: &other, tool: "t", arguments: "a" },
        ] {
            assert_eq!(binding.read(&cursor), Err(AnalysisError::InvalidCursor));
        }
        for broken in ["", "x", "AAAA", &cursor[1..], &format!("{cursor}AAAA")] {
            assert_eq!(binding.read(broken), Err(AnalysisError::InvalidCursor));
        }
    }
}
