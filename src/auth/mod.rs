//! Who is calling.

pub mod external;
pub mod token;

use std::sync::Arc;

use crate::base::ids::PrincipalHash;

/// A caller, after authentication. Sessions and handles belong to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name under which it is known.
    pub name: Arc<str>,
    /// What session ids carry of it.
    pub hash: PrincipalHash,
}

impl Principal {
    /// The principal of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), hash: PrincipalHash::of(name) }
    }
}

/// Why a caller is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No credentials came.
    Missing,
    /// They are not valid.
    Invalid,
}

/// Finds out who calls.
pub trait Authenticate: Send + Sync + 'static {
    /// The principal that the value of `Authorization` proves.
    ///
    /// # Errors
    /// [`Denied`]: to be answered 401.
    fn authenticate(&self, authorization: Option<&str>) -> Result<Arc<Principal>, Denied>;

    /// Whether everybody is let in.
    fn is_open(&self) -> bool;
}

/// Everybody is `anonymous`.
#[derive(Debug)]
pub struct Open(Arc<Principal>);

impl Default for Open {
    fn default() -> Self {
        Self(Arc::new(Principal::new("anonymous")))
    }
}

impl Authenticate for Open {
    fn authenticate(&self, _: Option<&str>) -> Result<Arc<Principal>, Denied> {
        Ok(Arc::clone(&self.0))
    }

    fn is_open(&self) -> bool {
        true
    }
}
