//! What the tests share: the server as a process, and a client that shows bytes.

pub mod engine;
pub mod http;
pub mod mcp;
pub mod peer;
pub mod schema;
pub mod server;
pub mod session;

use std::time::Duration;

/// How long a test waits for something that must happen: far more than it takes, so that a slow machine fails none.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The result of `future`, which must come within [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing within {PATIENCE:?}"),
    }
}

/// Waits until `holds` says yes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
