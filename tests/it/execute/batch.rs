//! Several calls in one request: over the bridge, and as a batch of JSON-RPC.

use serde_json::{Value, json};

use super::{file, hosting, place, runs};
use crate::support::mcp::{Session, call};
use crate::support::server::Server;

const JSON: (&str, &str) = ("Content-Type", "application/json");

async fn post(server: &Server, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let mut all = vec![JSON];
    all.extend(headers);
    let answer = server.exchange("POST", "/call-tool", &all, body.to_string().as_bytes()).await;
    (answer.status(), answer.json())
}

/// Places for two at a time: calls that ran one after another would be refused.
const SIDE_BY_SIDE: &str = "[servers.fix.tools.sleep]\nmax_concurrent = 1";

#[tokio::test]
async fn calls_of_a_batch_run_side_by_side_and_each_has_its_own_outcome_in_order() {
    let server = hosting("queue_seconds = 0", SIDE_BY_SIDE).await;
    let calls = json!([
        { "name": "sleep", "arguments": { "n": 1_500 } },
        { "name": "sleep", "arguments": { "n": 1_500 } },
        { "name": "typed", "arguments": { "n": "x" } },
        { "name": "nothing" },
        { "name": "fail" },
        7,
        { "name": "echo", "arguments": { "message": "m" } },
    ]);
    for body in [calls.clone(), json!({ "calls": calls })] {
        let (status, told) = post(&server, &[], &body).await;
        assert_eq!(status, 200, "{told}");
        let results = told["results"].as_array().unwrap();
        let codes: Vec<u64> = results.iter().map(|result| result["code"].as_u64().unwrap()).collect();
        // Of two that want the only place at the same time one is told to come later.
        let mut slept = codes[..2].to_vec();
        slept.sort_unstable();
        assert_eq!(slept, [200, 429], "{told}");
        assert_eq!(codes[2..4], [400, 404], "{told}");
        assert_eq!(codes[5..], [400, 200], "{told}");
        assert_eq!(results[6]["body"]["result"], "m", "{told}");
        assert!(results[2]["body"]["error"].as_str().unwrap().contains("/n: "), "{told}");
    }
    for odd in [json!([]), json!({ "calls": [] }), json!(vec![json!({}); 101])] {
        assert_eq!(post(&server, &[], &odd).await.0, 400);
    }
}

#[tokio::test]
async fn calls_of_a_batch_may_share_a_session_and_have_keys_of_their_own() {
    let server = Server::start_in(&place("", ""), &[], &[]).await;
    let init = server.exchange("POST", "/init", &[JSON], b"{}").await.json();
    let tally = |key: &str| json!({ "name": "tally", "arguments": { "message": file(&server), "n": 0 }, "idempotency_key": key });
    let body = json!({ "session_id": init["session_id"], "calls": [tally("a"), tally("a"), tally("b")] });
    for _ in 0..2 {
        let (_, told) = post(&server, &[], &body).await;
        let results: Vec<&Value> = (0..3).map(|at| &told["results"][at]["body"]["result"]).collect();
        assert_eq!(results[0], results[1], "{told}");
        assert_ne!(results[0], results[2], "{told}");
    }
    assert_eq!(runs(&file(&server)), 2);
    assert_eq!(post(&server, &[("Idempotency-Key", "x")], &body).await.0, 400);
}

#[tokio::test]
async fn a_call_of_the_bridge_takes_its_key_from_the_header() {
    let server = Server::start_in(&place("", ""), &[], &[]).await;
    let body = json!({ "name": "tally", "arguments": { "message": file(&server), "n": 0 } });
    for key in ["\"8e03\"", "8e03"] {
        let (status, told) = post(&server, &[("Idempotency-Key", key)], &body).await;
        assert_eq!((status, &told["result"]), (200, &json!(1)), "{told}");
    }
    let other = json!({ "name": "tally", "arguments": { "message": file(&server), "n": 1 } });
    let (status, told) = post(&server, &[("Idempotency-Key", "8e03")], &other).await;
    assert_eq!(status, 400, "{told}");
    assert!(told["error"].as_str().unwrap().contains("idempotencyKey"), "{told}");
    assert_eq!(runs(&file(&server)), 1);
    // A session whose values have changed since does not make it another call.
    let init = server.exchange("POST", "/init", &[JSON], br#"{"message":"/dev/null"}"#).await.json();
    let bare = json!({ "session_id": init["session_id"], "name": "tally", "arguments": { "message": file(&server) } });
    for _ in 0..2 {
        let (status, told) = post(&server, &[("Idempotency-Key", "s")], &bare).await;
        assert_eq!((status, &told["result"]), (200, &json!(2)), "{told}");
    }
}

#[tokio::test]
async fn calls_of_a_json_rpc_batch_run_side_by_side() {
    let server = hosting("queue_seconds = 0", SIDE_BY_SIDE).await;
    let session = Session::open(&server, "2025-03-26").await;
    let calls: Vec<Value> =
        (1..=2).map(|id| serde_json::from_str(&call(id, "sleep", json!({ "n": 1_500 }))).unwrap()).collect();
    let told = session.post(json!(calls).to_string()).await.json();
    let busy =
        told.as_array().unwrap().iter().filter(|answer| answer["error"]["data"]["reason"] == "busy").count();
    assert_eq!((busy, told.as_array().unwrap().len()), (1, 2), "{told}");
}
