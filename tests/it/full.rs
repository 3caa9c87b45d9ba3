//! A database that has all the room it may have.

use serde_json::json;

use crate::support::server::Server;
use crate::support::session::{Session, number_of, server_with, silent_call};
use crate::support::soon;

/// More than sled packs, different each time.
fn noise(seed: u64) -> Vec<u8> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_be_bytes()
    };
    std::iter::repeat_with(next).flatten().take(1 << 20).collect()
}

/// Writes values until there is no room for another one.
async fn fill(server: &Server, session: &str) {
    for n in 0..400 {
        let path = format!("/admin/sessions/{session}/values/v{}", n % 40);
        let answer = server.admin_exchange("PUT", &path, &noise(n)).await;
        if answer.status() == 507 {
            assert!(answer.text().contains("store.max_bytes"), "{}", answer.text());
            return;
        }
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    panic!("there was room for all");
}

#[tokio::test]
async fn a_call_that_runs_goes_on_and_whoever_reads_is_told_what_it_says() {
    let config = "[store]\nmax_bytes = 67108864\n[sessions]\nmax_bytes = 268435456\n";
    let server = server_with(config).await;
    let session = Session::open(&server).await;
    let filler = Session::open(&server).await;
    let mut stream = session.start(&json!(1), "emit", json!({ "count": 60_000, "interval_ms": 1 })).await;
    stream.take(1).await;
    fill(&server, &filler.id).await;
    let mut last = 0;
    let unstored = soon("a message without an id", async {
        loop {
            let (event, message) = stream.message().await.expect("the call goes on");
            let number = number_of(&message).unwrap_or_else(|| panic!("{message}"));
            assert!(number > last, "{number} after {last}");
            last = number;
            if event.id.is_none() {
                return number;
            }
        }
    });
    assert!(unstored.await > 1);
    // What takes room is refused by name, and what frees it is not.
    let refused = session.post(&silent_call(&json!(2), "counter", json!({}))).await;
    assert!(refused.text().contains("store.max_bytes"), "{}", refused.text());
    assert_eq!(filler.end().await.status(), 200);
    let stored = soon("a message with an id again", async {
        loop {
            let (event, message) = stream.message().await.expect("the call goes on");
            if event.id.is_some() {
                return number_of(&message);
            }
        }
    });
    assert!(stored.await.is_some_and(|number| number > last));
}
