//! Sessions that the operator makes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Client, sessions, start, stop};
use crate::support::server::Server;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw";

async fn made(server: &Server, body: &Value) -> (u16, Value) {
    let answer = server.admin_exchange("POST", "/admin/sessions", body.to_string().as_bytes()).await;
    (answer.status(), answer.json())
}

#[tokio::test]
async fn whoever_is_given_the_id_has_the_session_while_the_server_ran_or_not() {
    let mut server = start().await;
    let running = sessions(&server, &["create", "--json"]).well().json();
    stop(&mut server).await;
    let stopped = sessions(&server, &["create", "--json"]).well().json();
    sessions(&server, &["set", stopped["key"].as_str().unwrap(), "color", "blue"]).well();
    server.restart().await;
    for told in [&running, &stopped] {
        let client = Client {
            id: told["session_id"].as_str().unwrap().to_owned(),
            key: told["key"].as_str().unwrap().to_owned(),
        };
        assert_eq!(client.ping(&server).await, 200);
        assert_eq!(client.count(&server, 3).await, 3);
    }
    let color = sessions(&server, &["get", stopped["key"].as_str().unwrap(), "color"]).well();
    assert_eq!(color.text(), "blue");
}

#[tokio::test]
async fn of_many_who_make_one_session_at_once_one_has_made_it() {
    let server = start().await;
    let all = (0..24).map(|_| async { made(&server, &json!({ "key": KEY })).await });
    let told = futures_util::future::join_all(all).await;
    assert!(told.iter().all(|(status, told)| *status == 200 && told["key"] == KEY));
    let versions: BTreeSet<&str> = told.iter().filter_map(|(_, told)| told["version"].as_str()).collect();
    assert_eq!(versions.len(), 1);
    let (makers, others): (Vec<_>, Vec<_>) = told.iter().partition(|(_, told)| told["made"] == true);
    assert_eq!(makers.len(), 1);
    assert!(others.iter().all(|(_, told)| told.get("session_id").is_none()));

    let client = Client { id: makers[0].1["session_id"].as_str().unwrap().to_owned(), key: KEY.to_owned() };
    assert_eq!(client.ping(&server).await, 200);
    let again = sessions(&server, &["create", "--key", KEY]).well();
    assert!(again.text().contains("is there already"), "{}", again.text());
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_and_nothing_is_there() {
    let server = start().await;
    sessions(&server, &["create", "--principal", "nobody"]).failed(2, &["nobody", "want one of anonymous"]);
    sessions(&server, &["create", "--key", "short"]).failed(2, &["22 characters"]);
    // The log of broadcasts is stored under it.
    sessions(&server, &["create", "--key", "AAAAAAAAAAAAAAAAAAAAAA"]).failed(2, &["22 characters"]);
    assert_eq!(made(&server, &json!({ "owner": "x" })).await.0, 400);
    assert_eq!(sessions(&server, &["ls", "--json"]).well().json(), json!([]));

    sessions(&server, &["create", "--key", KEY]).well();
    sessions(&server, &["rm", KEY]).well();
    sessions(&server, &["create", "--key", KEY]).failed(1, &["was ended"]);
}
