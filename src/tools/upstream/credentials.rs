//! The headers with which a remote server is called: common ones, and those of single principals over them.
//!
//! The headers of a client's own request are never passed on: they are meant for this server.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};

use crate::base::ids::PrincipalHash;
use crate::config::HostedServer;

/// The headers of one who calls.
#[derive(Debug)]
pub(super) struct Credential {
    /// Whose they are, if not everybody's.
    pub(super) principal: Option<Arc<str>>,
    /// Where they stand in the configuration.
    pub(super) whose: String,
    headers: HeaderMap,
}

/// The headers of all who call one server.
#[derive(Debug)]
pub(super) struct Credentials {
    server: String,
    common: Arc<Credential>,
    by_principal: BTreeMap<String, Arc<Credential>>,
}

impl Credential {
    /// A copy to which more is added.
    pub(super) fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }
}

impl Credentials {
    pub(super) fn new(server: &str, settings: &HostedServer) -> Self {
        let common = map(&settings.headers);
        let by_principal = settings.headers_by_principal.iter().map(|(principal, own)| {
            let mut headers = common.clone();
            for (name, value) in map(own) {
                if let Some(name) = name {
                    headers.insert(name, value);
                }
            }
            let own = Credential {
                principal: Some(Arc::from(principal.as_str())),
                whose: format!("servers.{server}.headers_by_principal.{principal}"),
                headers,
            };
            (principal.clone(), Arc::new(own))
        });
        Self {
            server: server.to_owned(),
            by_principal: by_principal.collect(),
            common: Arc::new(Credential {
                principal: None,
                whose: format!("servers.{server}.headers"),
                headers: common,
            }),
        }
    }

    /// Those with which the server is asked what it has.
    pub(super) fn common(&self) -> &Arc<Credential> {
        &self.common
    }

    /// Those of a principal. Where principals have their own and nobody has common ones, one without is refused.
    pub(super) fn of(&self, principal: &str) -> Result<Arc<Credential>, String> {
        if let Some(own) = self.by_principal.get(principal) {
            return Ok(Arc::clone(own));
        }
        if !self.by_principal.is_empty() && self.common.headers.is_empty() {
            return Err(format!(
                "server {:?}: there are no credentials for {principal:?}; add them to \
                 servers.{}.headers_by_principal, or common ones to servers.{}.headers",
                self.server, self.server, self.server
            ));
        }
        Ok(Arc::clone(&self.common))
    }

    /// As [`Credentials::of`], where only the hash of the name is known.
    pub(super) fn of_hash(&self, hash: PrincipalHash) -> Result<Arc<Credential>, String> {
        let name = self.by_principal.keys().find(|name| PrincipalHash::of(name) == hash);
        self.of(name.map_or("", String::as_str))
    }

    /// Whether there is no secret among them.
    pub(super) fn is_empty(&self) -> bool {
        self.by_principal.is_empty() && self.common.headers.is_empty()
    }
}

/// What was checked with the configuration.
fn map(headers: &BTreeMap<String, SecretString>) -> HeaderMap {
    let one = |(name, value): (&String, &SecretString)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let mut value = HeaderValue::from_str(value.expose_secret().trim()).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    headers.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(common: &[(&str, &str)], anna: &[(&str, &str)]) -> Credentials {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
        };
        let by_principal =
            if anna.is_empty() { BTreeMap::new() } else { BTreeMap::from([("anna".to_owned(), map(anna))]) };
        let settings = HostedServer {
            headers: map(common),
            headers_by_principal: by_principal,
            ..HostedServer::default()
        };
        Credentials::new("s", &settings)
    }

    #[test]
    fn a_principal_has_its_own_headers_over_the_common_ones() {
        let all =
            credentials(&[("Authorization", "Bearer c"), ("X-Team", "t")], &[("authorization", "Bearer a")]);
        let anna = all.of("anna").unwrap();
        assert_eq!(
            (&anna.headers["authorization"], &anna.headers["x-team"]),
            (&"Bearer a".parse().unwrap(), &"t".parse().unwrap())
        );
        let bert = all.of("bert").unwrap();
        assert_eq!(bert.headers["authorization"], "Bearer c");
        assert!(!format!("{anna:?} {all:?}").contains("Bearer"), "a secret is shown");
    }

    #[test]
    fn who_has_no_headers_where_each_has_its_own_is_refused() {
        let all = credentials(&[], &[("Authorization", "Bearer a")]);
        assert!(all.of("anna").is_ok());
        assert!(all.of("bert").unwrap_err().contains("servers.s.headers_by_principal"));
        assert!(credentials(&[], &[]).of("bert").is_ok());
    }
}
