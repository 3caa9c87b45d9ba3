//! Sessions as files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::{Client, heard, sessions, start, stop};

#[tokio::test]
async fn an_exported_session_comes_back_and_its_client_goes_on_where_it_was() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    client.count(&server, 5).await;
    let mut stream = client.listen(&server, None).await;
    for n in 1..=3 {
        client.tell(&server, n).await;
    }
    let (first, seen) = heard(&mut stream).await;
    assert_eq!(first, 1);
    assert_eq!(heard(&mut stream).await.0, 2);
    drop(stream);

    let file = server.dir().join("s");
    sessions(&server, &["export", &client.key, "--output", "s"]).well();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    sessions(&server, &["export", &client.key, "--output", "s"]).failed(1, &["s exists"]);
    // Over stdout it is the same session.
    assert!(!sessions(&server, &["export", &client.key]).well().out.is_empty());

    sessions(&server, &["rm", &client.key]).well();
    assert_eq!(client.ping(&server).await, 404);
    sessions(&server, &["import", "s"]).failed(1, &["was ended here", "replace"]);
    sessions(&server, &["import", "s", "--replace"]).well();
    let mut stream = client.listen(&server, Some(&seen)).await;
    assert_eq!((heard(&mut stream).await.0, heard(&mut stream).await.0), (2, 3));
    assert_eq!(client.count(&server, 1).await, 6);
    client.tell(&server, 4).await;
    assert_eq!(heard(&mut stream).await.0, 4);
    drop(stream);

    // The same without a server.
    server.term().await;
    sessions(&server, &["export", &client.key, "--output", "t"]).well();
    sessions(&server, &["rm", &client.key]).well();
    sessions(&server, &["import", "t", "--replace"]).well();
    server.restart().await;
    assert_eq!(client.count(&server, 1).await, 7);
    let mut stream = client.listen(&server, Some(&seen)).await;
    for n in 2..=4 {
        assert_eq!(heard(&mut stream).await.0, n);
    }
    client.tell(&server, 5).await;
    assert_eq!(heard(&mut stream).await.0, 5);
}

#[tokio::test]
async fn a_session_that_comes_back_from_an_old_file_takes_no_new_message_for_one_that_was_seen() {
    let server = start().await;
    let client = Client::start(&server).await;
    client.tell(&server, 1).await;
    sessions(&server, &["export", &client.key, "--output", "s"]).well();
    let mut stream = client.listen(&server, None).await;
    client.tell(&server, 2).await;
    client.tell(&server, 3).await;
    heard(&mut stream).await;
    heard(&mut stream).await;
    let (last, seen) = heard(&mut stream).await;
    assert_eq!(last, 3);
    sessions(&server, &["rm", &client.key]).well();
    sessions(&server, &["import", "s", "--replace"]).well();
    let mut stream = client.listen(&server, Some(&seen)).await;
    client.tell(&server, 4).await;
    assert_eq!(heard(&mut stream).await.0, 4);
}

#[tokio::test]
async fn a_session_goes_on_in_another_data_directory_that_has_the_same_keys() {
    let (mut old, mut new) = (start().await, start().await);
    let client = Client::start(&old).await;
    client.count(&old, 5).await;
    client.tell(&old, 1).await;
    sessions(&old, &["export", &client.key, "--output", "s"]).well();
    stop(&mut old).await;
    stop(&mut new).await;
    for name in ["keys", "sealed"] {
        fs::copy(old.data_dir().join(name), new.data_dir().join(name)).unwrap();
    }
    let file = old.dir().join("s");
    sessions(&new, &["import", file.to_str().unwrap()]).well();
    new.restart().await;
    assert_eq!(client.count(&new, 1).await, 6);
    let mut stream = client.listen(&new, None).await;
    assert_eq!(heard(&mut stream).await.0, 1);
}

#[tokio::test]
async fn a_session_that_is_there_is_replaced_only_when_told_so() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    client.count(&server, 5).await;
    sessions(&server, &["export", &client.key, "--output", "s"]).well();
    client.count(&server, 5).await;
    let mut stream = client.listen(&server, None).await;
    sessions(&server, &["import", "s"]).failed(1, &[&client.key, "exists"]);
    client.tell(&server, 1).await;
    let (_, seen) = heard(&mut stream).await;
    assert_eq!(client.count(&server, 0).await, 10);

    sessions(&server, &["import", "s", "--replace"]).well();
    while stream.next_event().await.is_some() {}
    assert_eq!(client.count(&server, 0).await, 5);
    // What the client has seen since is not given out a second time, and what comes now is not taken for it.
    let mut stream = client.listen(&server, Some(&seen)).await;
    client.tell(&server, 2).await;
    assert_eq!(heard(&mut stream).await.0, 2);
    drop(stream);

    client.count(&server, 1).await;
    server.term().await;
    sessions(&server, &["import", "s"]).failed(1, &[&client.key, "exists"]);
    sessions(&server, &["import", "s", "--replace"]).well();
    server.restart().await;
    assert_eq!(client.count(&server, 0).await, 5);
}

#[tokio::test]
async fn a_file_that_is_not_a_whole_export_changes_nothing() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    client.count(&server, 5).await;
    let whole = sessions(&server, &["export", &client.key]).well().out;
    let path = server.dir().join("f");
    for _ in 0..2 {
        for cut in [whole.len() - 1, whole.len() / 2, 20] {
            fs::write(&path, &whole[..cut]).unwrap();
            sessions(&server, &["import", "f", "--replace"]).failed(1, &["truncated"]);
        }
        let mut altered = whole.clone();
        let last = altered.len() - 40;
        altered[last] ^= 1;
        fs::write(&path, &altered).unwrap();
        sessions(&server, &["import", "f", "--replace"]).failed(1, &["altered"]);
        for other in [&b""[..], b"{}", &[0; 100_000]] {
            fs::write(&path, other).unwrap();
            sessions(&server, &["import", "f", "--replace"]).failed(1, &["f: "]);
        }
        sessions(&server, &["import", "nothing"]).failed(1, &["nothing cannot be read"]);
        let listed = sessions(&server, &["ls", "--json"]).well().json();
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!(sessions(&server, &["get", &client.key, super::COUNTER]).well().out, b"5");
        stop(&mut server).await;
    }
}

#[tokio::test]
async fn a_failed_export_leaves_no_file() {
    let mut server = start().await;
    let nobody = outlast::base::ids::SessionKey::from_bytes([1; 16]).to_string();
    for _ in 0..2 {
        sessions(&server, &["export", &nobody, "--output", "s"]).failed(1, &["no such session"]);
        sessions(&server, &["export", &nobody, "--output", "no/s"]).failed(1, &["no/s cannot be written"]);
        assert!(!server.dir().join("s").exists());
        stop(&mut server).await;
    }
    assert_eq!(sessions(&server, &["ls", "--json"]).well().json(), json!([]));
}
