//! Looking at sessions.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::{COUNTER, Client, heard, outlast, sessions, start, stop, timeless};
use crate::support::server::Server;

#[tokio::test]
async fn a_session_is_told_alike_while_its_server_runs_and_after() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    client.count(&server, 5).await;
    client.tell(&server, 1).await;
    let questions: &[&[&str]] = &[
        &["ls", "--json"],
        &["ls", "--principal", "anonymous", "--json"],
        &["ls", "--principal", "somebody", "--json"],
        &["ls", "--idle-over", "1h", "--json"],
        &["show", &client.key, "--json"],
        &["show", &client.id, "--json"],
        &["get", &client.key, COUNTER, "--json"],
        &["get", &client.key, "session.capabilities", "--json"],
        &["ttl", &client.key, "--json"],
    ];
    fn ask(server: &Server, questions: &[&[&str]]) -> Vec<Value> {
        questions.iter().map(|args| timeless(sessions(server, args).well().json())).collect()
    }
    let running = ask(&server, questions);
    assert_eq!(server.term().await.code(), Some(0));
    let stopped = ask(&server, questions);
    assert_eq!(running, stopped);

    assert_eq!(running[0].as_array().unwrap().len(), 1);
    assert_eq!(running[0][0]["key"], client.key.as_str());
    assert_eq!(running[0][0]["principal_name"], "anonymous");
    assert_eq!((&running[1], &running[2]), (&running[0], &Value::Array(Vec::new())));
    assert_eq!(running[3], Value::Array(Vec::new()));
    let shown = &running[4];
    assert_eq!((&shown["kind"], &running[5]), (&"session".into(), shown));
    assert_eq!(shown["values"][0]["name"], COUNTER);
    assert_eq!(shown["streams"][0]["name"], "g");
    let names: Vec<&str> =
        shown["fields"].as_array().unwrap().iter().filter_map(|field| field["name"].as_str()).collect();
    assert!(
        names.contains(&"session.capabilities") && names.iter().all(|name| name.starts_with("session.")),
        "{names:?}"
    );
    assert_eq!((&running[6]["text"], &running[6]["read_only"]), (&"5".into(), &false.into()));
    assert_eq!(
        (&running[7]["text"], &running[7]["read_only"]),
        (&r#"{"experimental":{"x":{}}}"#.into(), &true.into())
    );
}

#[tokio::test]
async fn people_get_tables_and_nobody_gets_a_session_id() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    client.count(&server, 5).await;
    for _ in 0..2 {
        let listed = sessions(&server, &["ls"]).well().text();
        assert!(
            listed.starts_with("KEY") && listed.contains(&client.key) && listed.contains("anonymous"),
            "{listed}"
        );
        let shown = sessions(&server, &["show", &client.id]).well().text();
        assert!(shown.contains(COUNTER) && shown.contains("session.capabilities"), "{shown}");
        assert_eq!(sessions(&server, &["get", &client.key, COUNTER]).well().out, b"5");
        assert!(sessions(&server, &["ttl", &client.key]).well().text().contains("deadline"));
        for text in [&listed, &shown] {
            assert!(!text.contains(&client.id), "{text}");
        }
        stop(&mut server).await;
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    let nobody = outlast::base::ids::SessionKey::from_bytes([0xff; 16]).to_string();
    let forged = format!("{}x", &client.id[..client.id.len() - 1]);
    for _ in 0..2 {
        for command in ["show", "ttl", "rm", "export"] {
            sessions(&server, &[command, &nobody]).failed(1, &["there is no such session"]);
            sessions(&server, &[command, "nonsense"]).failed(2, &["neither the key of a session"]);
            sessions(&server, &[command, &forged]).failed(2, &["nor a session id of this server"]);
        }
        sessions(&server, &["get", &nobody, "a"]).failed(1, &["there is no such session"]);
        sessions(&server, &["get", &client.key, "nothing"]).failed(1, &["has no value \"nothing\""]);
        sessions(&server, &["rm", &client.key, "nothing"]).failed(1, &["has no value \"nothing\""]);
        sessions(&server, &["ls", "--after", "x"]).failed(2, &["after: want the key"]);
        sessions(&server, &["ls", "--idle-over", "soon"]).failed(2, &["want a time such as 90s"]);
        sessions(&server, &["ls", "--limit", "0"]).failed(2, &["--limit"]);
        stop(&mut server).await;
    }
}

#[tokio::test]
async fn a_list_of_many_sessions_has_each_of_them_once() {
    let mut server = start().await;
    let clients = futures_util::future::join_all((0..230).map(|_| Client::start(&server))).await;
    let all: BTreeSet<String> = clients.into_iter().map(|client| client.key).collect();
    assert_eq!(all.len(), 230);
    for _ in 0..2 {
        let listed = sessions(&server, &["ls", "--json"]).well().json();
        assert_eq!(listed.as_array().unwrap().len(), 230);

        let mut paged = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut args = vec!["ls", "--json", "--limit", "100"];
            args.extend(after.iter().flat_map(|after| ["--after", after.as_str()]));
            let page = sessions(&server, &args).well().json();
            let keys: Vec<String> =
                page.as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect();
            let Some(last) = keys.last() else { break };
            after = Some(last.clone());
            paged.extend(keys);
        }
        assert_eq!(paged.len(), 230);
        assert_eq!(paged.iter().cloned().collect::<BTreeSet<_>>(), all);

        let text = sessions(&server, &["ls"]).well().text();
        assert_eq!(text.lines().count(), 231, "one heading");
        stop(&mut server).await;
    }
}

#[tokio::test]
async fn status_tells_how_the_server_is_and_whether_there_is_one() {
    let mut server = start().await;
    Client::start(&server).await;
    let told = outlast(&server, &["status", "--json"]).well().json();
    assert_eq!(
        (&told["running"], &told["ready"], &told["mode"]),
        (&true.into(), &true.into(), &"local".into())
    );
    assert_eq!(told["engine"]["sessions"], 1);
    assert_eq!(told["admin"], format!("http://{}", server.admin()));
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    let text = outlast(&server, &["status"]).well().text();
    assert!(text.contains("status      ok") && text.contains("sessions    1"), "{text}");

    server.term().await;
    let told = outlast(&server, &["status", "--json"]).failed(1, &["no server runs on"]).json();
    assert_eq!((&told["running"], &told["status"]), (&false.into(), &"stopped".into()));
    assert_eq!(told["engine"]["sessions"], 1);
}

#[tokio::test]
async fn whoever_looks_at_a_stopped_server_tells_its_clients_nothing() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    let mut stream = client.listen(&server, None).await;
    client.tell(&server, 1).await;
    let (_, last) = heard(&mut stream).await;
    stop(&mut server).await;
    for _ in 0..3 {
        sessions(&server, &["ls"]).well();
    }
    server.restart().await;
    let mut stream = client.listen(&server, Some(&last)).await;
    // Its lists are what they were; else a start says so soon after.
    for number in [2, 3] {
        client.tell(&server, number).await;
        assert_eq!(heard(&mut stream).await.0, number);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
