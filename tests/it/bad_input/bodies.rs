//! Bodies that are wrong in one way each.

use serde_json::json;

use crate::support::http::Answer;
use crate::support::mcp::{
    Session, call, claim, code, initialize, mirrors, post, request, server, server_with, text,
};
use crate::support::server::Server;

/// A valid request as the bytes that a test breaks.
const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;

/// That an answer is a refusal in JSON with a sentence, and its status and code.
fn refusal(answer: &Answer) -> (u16, i64) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}", answer.text());
    let said = answer.json();
    assert_eq!(said["jsonrpc"], "2.0", "{said}");
    let message = said["error"]["message"].as_str().unwrap_or_default();
    assert!((15..600).contains(&message.len()) && message.contains(' '), "{said}");
    (answer.status(), code(&said))
}

/// Sends a body outside of a session, inside of two, and as a modern request: it is refused before any of that matters.
async fn refused_everywhere(server: &Server, bodies: &[Vec<u8>], wanted: i64) {
    let batching = Session::open(server, "2025-03-26").await;
    let session = Session::open(server, "2025-11-25").await;
    let modern = mirrors("tools/list", None);
    for body in bodies {
        for headers in [&[][..], &batching.headers(), &session.headers(), &modern] {
            let answer = post(server, headers, body).await;
            assert_eq!(refusal(&answer), (400, wanted), "{}: {}", shown(body), answer.text());
        }
    }
    for session in [batching, session] {
        assert_eq!(session.ask(1, "ping", json!({})).await["result"], json!({}));
    }
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(100).collect()
}

#[tokio::test]
async fn what_is_not_json_is_a_parse_error() {
    let server = server().await;
    let with = |bytes: &[u8], place: &str| {
        let (before, after) = PING.split_once(place).unwrap();
        [before.as_bytes(), bytes, after.as_bytes()].concat()
    };
    let utf16 = |to_bytes: fn(u16) -> [u8; 2]| PING.encode_utf16().flat_map(to_bytes).collect::<Vec<u8>>();
    let mut bodies: Vec<Vec<u8>> = [
        "",
        " \r\n\t ",
        "{",
        "}",
        "[",
        "]",
        "nul",
        "True",
        "NaN",
        "undefined",
        "01",
        "+1",
        "1.",
        ".5",
        "0x10",
        "'x'",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping",}"#,
        r#"{'jsonrpc':'2.0','id':7,'method':'ping'}"#,
        r#"{jsonrpc:"2.0",id:7,method:"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping"}{"jsonrpc":"2.0","id":8,"method":"ping"}"#,
        "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}\n{\"jsonrpc\":\"2.0\",\"id\":8,\"method\":\"ping\"}",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping"} // why"#,
        r#"/* why */{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":07,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"pi\xng"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"pi\u00"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping""#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping"#,
        r#"{"jsonrpc":"2.0" "id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":1e}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":--1}}"#,
        r#"[{"jsonrpc":"2.0","id":7,"method":"ping"},]"#,
        r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
        "POST /mcp HTTP/1.1",
        "<?xml version=\"1.0\"?>",
        "id=7&method=ping",
        "data: {}\n\n",
    ]
    .iter()
    .map(|body| body.as_bytes().to_vec())
    .collect();
    bodies.extend([
        [b"\xef\xbb\xbf", PING.as_bytes()].concat(),
        utf16(u16::to_le_bytes),
        utf16(u16::to_be_bytes),
        with(b"pi\xff\xfeng", "ping"),
        with(b"pi\xc0\xafng", "ping"),
        with(b"pi\xed\xa0\x80ng", "ping"),
        with(b"pi\xf5\x80\x80\x80ng", "ping"),
        with(b"ping\xe2\x82", "ping"),
        with(b"pi\0ng", "ping"),
        with(b"pi\nng", "ping"),
        with(b"pi\tng", "ping"),
        with(b"\0", "{"),
        vec![0; 1_000],
        vec![b'['; 100_000],
        b"{\"a\":".repeat(50_000),
        [b"[".repeat(1_000), b"]".repeat(1_000)].concat(),
        [br#"{"jsonrpc":"2.0","id":7,"method":"ping","params":"#.to_vec(), deep(128), b"}".to_vec()].concat(),
        [b"[".to_vec(), deep(128), b"]".to_vec()].concat(),
    ]);
    refused_everywhere(&server, &bodies, -32700).await;
}

/// Objects this deep.
fn deep(levels: usize) -> Vec<u8> {
    [b"{\"a\":".repeat(levels), b"1".to_vec(), b"}".repeat(levels)].concat()
}

#[tokio::test]
async fn what_is_json_and_no_message_is_an_invalid_request() {
    let server = server().await;
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "i".repeat(10_000));
    let digits = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"ping"}}"#, "9".repeat(10_000));
    let bodies: Vec<Vec<u8>> = [
        "1",
        "-0.5e10",
        "\"ping\"",
        "null",
        "true",
        "{}",
        r#"{"id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#,
        r#"{"jsonrpc":2.0,"id":7,"method":"ping"}"#,
        r#"{"jsonrpc":null,"id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0 ","id":7,"method":"ping"}"#,
        r#"{"JSONRPC":"2.0","id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1e3,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":null}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":5}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":["ping"]}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"\ud800"}"#,
        r#"{"jsonrpc":"2.0","method":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":[{}]}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":"p"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":1}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":false}"#,
        r#"{"jsonrpc":"2.0","id":7,"id":8,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{},"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        long.as_str(),
        digits.as_str(),
    ]
    .iter()
    .map(|body| body.as_bytes().to_vec())
    .collect();
    refused_everywhere(&server, &bodies, -32600).await;
}

#[tokio::test]
async fn an_id_that_can_be_read_is_echoed_though_the_rest_cannot() {
    let server = server().await;
    for body in [
        r#"{"id":"mine","method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":"mine","method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":"mine","method":5}"#,
        r#"{"jsonrpc":"2.0","id":"mine"}"#,
        r#"{"jsonrpc":"2.0","id":"mine","method":"ping","params":[1]}"#,
    ] {
        let answer = post(&server, &[], body).await;
        assert_eq!((refusal(&answer), &answer.json()["id"]), ((400, -32600), &json!("mine")), "{body}");
    }
    for body in ["", "{", r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#] {
        let answer = post(&server, &[], body).await;
        assert_eq!(answer.json()["id"], json!(null), "{body}");
    }
}

#[tokio::test]
async fn what_is_odd_and_valid_is_served() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for body in [
        "\r\n\t {\"jsonrpc\" : \"2.0\" ,\n\"id\":7, \"method\":\"ping\"} \n".to_owned(),
        r#"{"jsonrpc":"2.0","id":7,"method":"\u0070ing"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","":1,"\u0000":2,"x":1e999999,"y":-0.0}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":1,"a":2}}"#.to_owned(),
        format!(r#"{{"jsonrpc":"2.0","id":7,"method":"ping","params":{{"n":{}}}}}"#, "9".repeat(20_000)),
        // Brackets in strings are no nesting.
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"ping","params":{{"s":"{}\"[["}}}}"#,
            "[{".repeat(5_000)
        ),
        // As deep as may be: the message itself, its params and what is in them.
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"ping","params":{{"a":{}}}}}"#,
            String::from_utf8(deep(126)).unwrap()
        ),
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"ping","params":{{"a":[{}]}}}}"#,
            "[],".repeat(9_999) + "[]"
        ),
    ] {
        let answer = session.post(&body).await;
        assert_eq!(
            (answer.status(), &answer.json()["result"]),
            (200, &json!({})),
            "{}",
            shown(body.as_bytes())
        );
    }
    let longest = "i".repeat(254);
    assert_eq!(session.ask(longest.as_str(), "ping", json!({})).await["id"], longest);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_413_and_one_that_just_fits_is_served() {
    let server = server_with(&[("OUTLAST_SERVER__MAX_BODY_BYTES", "5000")]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let sized = |bytes: usize| {
        let shell = call(1, "echo", json!({ "message": "" })).len();
        call(1, "echo", json!({ "message": "m".repeat(bytes - shell) }))
    };
    assert_eq!(session.post(sized(5_000)).await.status(), 200);
    let answer = session.post(sized(5_001)).await;
    assert_eq!(refusal(&answer).0, 413);
    assert!(answer.text().contains("5000"), "{}", answer.text());

    // Its length not told before.
    let mut connection = server.connect().await;
    let mut head =
        String::from("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    for (name, value) in session.headers() {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("Transfer-Encoding: chunked\r\n\r\n");
    connection.send(head.as_bytes()).await.unwrap();
    for _ in 0..3 {
        // The server may refuse before the last of it is sent.
        let _ = connection.send(format!("7d0\r\n{}\r\n", " ".repeat(2_000)).as_bytes()).await;
    }
    assert_eq!(connection.head().await.status, 413);
    assert_eq!(session.ask(1, "ping", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn a_long_message_comes_back_whole() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let message = "0123456789".repeat(200_000);
    let said = session.post(call(1, "echo", json!({ "message": message }))).await.json();
    assert!(text(&said) == message);
}

#[tokio::test]
async fn what_is_no_post_of_json_to_the_endpoint_is_told_what_is() {
    let server = server().await;
    let ping = request(1, "ping", json!({}));
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "", "json"] {
        let answer = server.exchange("POST", "/mcp", &[("Content-Type", kind)], ping.as_bytes()).await;
        assert_eq!(refusal(&answer).0, 415, "{kind}");
        assert!(answer.text().contains("application/json"), "{}", answer.text());
    }
    let none = server.exchange("POST", "/mcp", &[], ping.as_bytes()).await;
    assert_eq!(refusal(&none).0, 415);
    let json = [("Content-Type", "application/json; charset=utf-8")];
    for path in ["/", "/mcp/", "/sse/", "/MCP", "/mcp/x"] {
        let answer = server.exchange("POST", path, &json, ping.as_bytes()).await;
        assert_eq!(refusal(&answer).0, 404, "{path}");
        assert!(answer.text().contains("/mcp"), "{}", answer.text());
    }
    let query =
        server.exchange("POST", "/mcp?x=1", &json, initialize("2025-11-25", json!({})).as_bytes()).await;
    assert_eq!(query.status(), 200);
}

#[tokio::test]
async fn headers_that_are_no_text_are_refused() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let ping = request(1, "ping", json!({}));
    for headers in [
        vec![("Mcp-Session-Id", "caf\u{e9}")],
        vec![("Mcp-Session-Id", session.id.as_str()), ("MCP-Protocol-Version", "\u{1f4be}")],
    ] {
        let answer = post(&server, &headers, &ping).await;
        assert_eq!(refusal(&answer).0, 400, "{headers:?}");
    }
    let body = request(1, "tools/list", json!({ "_meta": claim(json!({})) }));
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/l\u{ef}st")];
    let answer = post(&server, &headers, &body).await;
    assert_eq!(refusal(&answer), (400, -32020));
    assert_eq!(session.ask(1, "ping", json!({})).await["result"], json!({}));
}
