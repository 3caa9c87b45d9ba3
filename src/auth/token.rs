//! Static bearer tokens, known by their hash only.

use std::sync::Arc;

use super::{Authenticate, Denied, Principal};
use crate::base::seal::{equal, sha256};

/// A list of bearer tokens.
#[derive(Debug)]
pub struct Tokens(Vec<([u8; 32], Arc<Principal>)>);

impl Tokens {
    /// Tokens by the SHA-256 of each.
    #[must_use]
    pub fn new(tokens: impl IntoIterator<Item = ([u8; 32], String)>) -> Self {
        Self(tokens.into_iter().map(|(hash, name)| (hash, Arc::new(Principal::new(&name)))).collect())
    }
}

impl Authenticate for Tokens {
    fn authenticate(&self, authorization: Option<&str>) -> Result<Arc<Principal>, Denied> {
        let value = authorization.ok_or(Denied::Missing)?;
        let (scheme, token) = value.split_once(' ').ok_or(Denied::Invalid)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Invalid);
        }
        let hash = sha256(token.trim().as_bytes());
        self.0
            .iter()
            .find(|(known, _)| equal(known, &hash))
            .map(|(_, principal)| Arc::clone(principal))
            .ok_or(Denied::Invalid)
    }

    fn is_open(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_principal_and_no_other_is_let_in() {
        let tokens = Tokens::new([(sha256(b"a"), "alice".into()), (sha256(b"b"), "bob".into())]);
        assert_eq!(tokens.authenticate(Some("Bearer b")).unwrap().name.as_ref(), "bob");
        assert_eq!(tokens.authenticate(Some("bearer  a")).unwrap().name.as_ref(), "alice");
        assert_eq!(tokens.authenticate(Some("Bearer c")), Err(Denied::Invalid));
        assert_eq!(tokens.authenticate(Some("Basic a")), Err(Denied::Invalid));
        assert_eq!(tokens.authenticate(None), Err(Denied::Missing));
    }
}
