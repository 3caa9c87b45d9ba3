//! Requests broken at random. The seed is printed when one is answered as it must not be; `OUTLAST_TEST_SEED` runs it
//! again.

use std::hash::{BuildHasher as _, Hasher as _};

use serde_json::json;
use serde_json::value::RawValue;

use crate::support::http::Connection;
use crate::support::mcp::{
    BOTH, Session, call, claimed, initialize, mirrors, notification, request, send_on, server_with,
};
use crate::support::soon;

const ROUNDS: usize = 2_000;

/// Text that means something to a reader of JSON or of MCP.
const PIECES: &[&str] = &[
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "1e9999",
    "0.5",
    "\u{0}",
    "\n",
    "\u{feff}",
    "💾",
    "\\ud800",
    "\\u0000",
    "\"id\":1,",
    "\"id\":null,",
    "\"method\":\"ping\",",
    "\"params\":[],",
    "\"_meta\":{},",
    "\"jsonrpc\":\"2.0\",",
    "tools/list",
    "initialize",
    "server/discover",
    "logging/setLevel",
    "123456789012345678901234567890",
    "io.modelcontextprotocol/protocolVersion",
    "2026-07-28",
    "2025-03-26",
    "{}",
    "[]",
];

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % bound.max(1)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// One to four changes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                3 if self.below(8) == 0 => bytes.truncate(at),
                _ => drop(bytes.splice(at..at, self.pick(PIECES).bytes())),
            }
        }
    }

    /// A header value that can be sent: no line ends, no NUL.
    fn mutate_value(&mut self, value: &str) -> String {
        let mut bytes = value.as_bytes().to_vec();
        self.mutate(&mut bytes);
        String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).take(200).collect()
    }
}

fn seed() -> u64 {
    let given = std::env::var("OUTLAST_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    // Hashers of the standard library begin with a random key.
    given.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish()) | 1
}

#[tokio::test]
async fn whatever_is_sent_is_answered_and_is_never_the_servers_fault() {
    // On a busy machine, too, each answer is a whole one.
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "60000")]).await;
    let batching = Session::open(&server, "2025-03-26").await;
    let session = Session::open(&server, "2025-11-25").await;
    let owned = |headers: &[(&str, &str)]| -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let echo = json!({ "message": "m" });
    let cancelled = notification("notifications/cancelled", json!({ "requestId": 1 }));
    let alone = claimed(json!({ "name": "echo", "arguments": echo }));
    let originals: Vec<(Vec<(String, String)>, String)> = vec![
        (owned(&[]), initialize("2025-11-25", json!({ "elicitation": { "form": {} }, "roots": {} }))),
        (owned(&session.headers()), request("p", "ping", json!({ "_meta": { "progressToken": 1 } }))),
        (owned(&session.headers()), request(2, "tools/list", json!({ "cursor": "page-1" }))),
        (owned(&session.headers()), call(3, "echo", echo.clone())),
        (owned(&session.headers()), call(4, "counter", json!({ "by": 5 }))),
        (owned(&session.headers()), request(5, "logging/setLevel", json!({ "level": "info" }))),
        (owned(&session.headers()), cancelled.clone()),
        (owned(&session.headers()), r#"{"jsonrpc":"2.0","id":"ask-1","result":{"action":"accept"}}"#.into()),
        (owned(&batching.headers()), format!("[{},{cancelled}]", call(6, "echo", echo))),
        (owned(&mirrors("tools/list", None)), request(7, "tools/list", claimed(json!({})))),
        (owned(&mirrors("server/discover", None)), request(8, "server/discover", claimed(json!({})))),
        (owned(&mirrors("tools/call", Some("echo"))), request(9, "tools/call", alone)),
    ];

    let seed = seed();
    let mut random = Random(seed);
    let mut connection = server.connect().await;
    for round in 0..ROUNDS {
        let (headers, body) = random.pick(&originals);
        let (mut headers, mut body) = (headers.clone(), body.clone().into_bytes());
        if random.below(10) > 0 {
            random.mutate(&mut body);
        }
        if !headers.is_empty() && random.below(4) == 0 {
            let at = random.below(headers.len());
            headers[at].1 = random.mutate_value(&headers[at].1);
        }
        let what = || {
            format!("OUTLAST_TEST_SEED={seed}, round {round}: {headers:?} {}", String::from_utf8_lossy(&body))
        };
        let sent: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        send_on(&mut connection, &sent, &body).await;
        let Some(head) = connection.try_head().await else { panic!("no answer: {}", what()) };
        assert!(matches!(head.status, 200 | 202 | 400 | 404 | 405 | 406), "{head:?}: {}", what());
        let answer = connection.body().await;
        match head.header("content-type") {
            Some("application/json") => {
                // Not read into values: an id with half a character in it is echoed as it came.
                let said: &RawValue =
                    serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{error}: {}", what()));
                let refused =
                    said.get().contains(r#""error":{"code":-"#) && said.get().contains(r#""message":""#);
                assert!(head.status == 200 || refused, "{said}: {}", what());
            }
            _ => assert!(answer.is_empty(), "{head:?} {}: {}", String::from_utf8_lossy(&answer), what()),
        }
        if head.header("connection") == Some("close") {
            connection = server.connect().await;
        }
    }
    still_serves(&mut connection, &session).await;
}

async fn still_serves(connection: &mut Connection, session: &Session<'_>) {
    let mut headers = session.headers();
    headers.push(("Accept", BOTH));
    send_on(connection, &headers, call("last", "echo", json!({ "message": "still here" }))).await;
    assert_eq!(soon("an answer", connection.head()).await.status, 200);
    assert!(String::from_utf8_lossy(&connection.body().await).contains("still here"));
}
