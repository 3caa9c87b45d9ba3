//! The sessions that the Flask bridge keeps in its Redis: strings under `PREFIX:ID`, each with a time to live.
//!
//! Reads only. Keys are found by `SCAN`, which lets Redis serve others meanwhile and finds every key that is there from
//! the beginning of the walk to its end; one that moves in between may be found twice.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, cmd, pipe};
use secrecy::{ExposeSecret as _, SecretString};

use crate::base::limits::{FLASK_SESSION_BYTES, TAKE_OVER_SESSIONS};
use crate::store::StoreError;

/// What is stored under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The session's id: the key without its prefix.
    pub name: String,
    /// How long it has, milliseconds; none: for ever.
    pub left_ms: Option<u64>,
    /// Its content, or why there is none.
    pub content: Result<String, String>,
}

/// A walk over all sessions.
pub struct Walk {
    connection: MultiplexedConnection,
    prefix: String,
    /// Where `SCAN` goes on; none: it was everywhere.
    cursor: Option<u64>,
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Walk {
    /// Connects to `redis://…` or `rediss://…`, within `connect`; each command has to be answered within `answer`.
    ///
    /// # Errors
    /// [`StoreError::Unusable`]: no such address, nobody answers, or the login is refused.
    pub async fn open(
        url: &SecretString,
        prefix: &str,
        connect: Duration,
        answer: Duration,
    ) -> Result<Self, StoreError> {
        // Not the error's own words: they may repeat the address, and with it the password.
        let client = Client::open(url.expose_secret()).map_err(|_| {
            StoreError::Unusable("the address of Redis: want redis://[:PASSWORD@]HOST[:PORT][/DB]".into())
        })?;
        let address = client.get_connection_info().addr().to_string();
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(Some(answer));
        let connection = client
            .get_multiplexed_async_connection_with_config(&settings)
            .await
            .map_err(|error| StoreError::Unusable(format!("Redis at {address} cannot be used: {error}")))?;
        Ok(Self { connection, prefix: format!("{prefix}:"), cursor: Some(0) })
    }

    /// The sessions of some more keys, which may be none; `None` at the end.
    ///
    /// # Errors
    /// [`StoreError::Io`]: Redis does not answer any more.
    pub async fn next(&mut self) -> Result<Option<Vec<Stored>>, StoreError> {
        let Some(cursor) = self.cursor else { return Ok(None) };
        let (next, keys): (u64, Vec<Vec<u8>>) = cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{}*", escaped(&self.prefix)))
            .arg("COUNT")
            .arg(TAKE_OVER_SESSIONS)
            .query_async(&mut self.connection)
            .await
            .map_err(broken)?;
        self.cursor = (next != 0).then_some(next);
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.extend(self.read(&key).await.map_err(broken)?);
        }
        Ok(Some(found))
    }

    /// What is under a key; none: it went.
    async fn read(&mut self, key: &[u8]) -> RedisResult<Option<Stored>> {
        let (kind, left): (String, i64) =
            pipe().cmd("TYPE").arg(key).cmd("PTTL").arg(key).query_async(&mut self.connection).await?;
        let left_ms = match left {
            -1 => None,
            // -2: it is not there.
            left => match u64::try_from(left) {
                Ok(left) => Some(left),
                Err(_) => return Ok(None),
            },
        };
        let content = match kind.as_str() {
            "none" => return Ok(None),
            "string" => {
                let bytes: usize = cmd("STRLEN").arg(key).query_async(&mut self.connection).await?;
                if bytes > FLASK_SESSION_BYTES {
                    Err(format!("it has {bytes} bytes; {FLASK_SESSION_BYTES} are read"))
                } else {
                    let read: Option<Vec<u8>> = cmd("GET").arg(key).query_async(&mut self.connection).await?;
                    let Some(read) = read else { return Ok(None) };
                    String::from_utf8(read).map_err(|_| "its content is not UTF-8".to_owned())
                }
            }
            other => Err(format!("it is a {other}, not a string")),
        };
        let name = String::from_utf8_lossy(key.get(self.prefix.len()..).unwrap_or_default()).into_owned();
        let content = match std::str::from_utf8(key) {
            Ok(_) => content,
            Err(_) => Err("its id is not UTF-8".to_owned()),
        };
        Ok(Some(Stored { name, left_ms, content }))
    }
}

fn broken(error: RedisError) -> StoreError {
    StoreError::Io(format!("Redis: {error}; run this again: what was imported stays"))
}

/// A text as a pattern that only it fits.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(escaped("mcp_session:"), "mcp_session:");
        assert_eq!(escaped("a*[b]?\\"), "a\\*\\[b\\]\\?\\\\");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_without_repeating_it() {
        let second = Duration::from_secs(1);
        for url in ["http://:hush@h", "hush"] {
            let error =
                Walk::open(&url.to_owned().into(), "p", second, second).await.unwrap_err().to_string();
            assert!(error.contains("redis://") && !error.contains("hush"), "{error}");
        }
    }
}
