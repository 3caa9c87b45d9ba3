//! Commands on the directory of an instance that shares what it holds, while it does not run.

use std::sync::Arc;

use super::{COUNTER, Client, sessions};
use crate::redis::Redis;
use crate::shared::until_mode;
use crate::support::server::Server;
use crate::support::until;

#[tokio::test]
async fn what_a_command_writes_while_the_server_is_away_is_owed_and_what_it_removes_stays_away() {
    let redis = Redis::start();
    let url = redis.url();
    let start = async || {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Server::start_in(&dir, &["--diagnostics", "--redis", &url], &[]).await
    };
    let (mut a, b) = tokio::join!(start(), start());
    until_mode(&a, "redis").await;
    until_mode(&b, "redis").await;
    let client = Client::start(&a).await;
    assert_eq!((client.count(&a, 5).await, client.count(&b, 1).await), (5, 6));
    until("the one hears of the other", || async { client.count(&a, 0).await == 6 }).await;
    a.term().await;
    sessions(&a, &["rm", &client.key, COUNTER]).well();
    sessions(&a, &["set", &client.key, "more", "41"]).well();
    a.restart().await;
    until("nothing owed", || async {
        let status = a.admin_exchange("GET", "/admin/status", b"").await.json();
        let sharing = &status["redis"]["sharing"];
        status["mode"] == "redis" && sharing["dirty_sessions"] == 0 && sharing["auditing"] == false
    })
    .await;
    until("the value is gone everywhere", || async { client.count(&b, 0).await == 0 }).await;
    assert_eq!(client.count(&b, 1).await, 1);
    assert_eq!(sessions(&b, &["get", &client.key, "more"]).well().text().trim(), "41");
}
