//! `/init` with an external API that knows credentials.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{API, JWT, SANDSIV, credentials, post, refused, server};
use crate::support::server::Server;

const TOKEN: &str = "[[auth.tokens]]\nprincipal = \"alice\"\nsha256 = \"2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\"";
const ALICE: (&str, &str) = ("Authorization", "Bearer alice");

/// An API that answers everything with this; what it was asked.
struct Api {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<Option<String>>>,
}

impl Api {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
        let (heard, say) = (Arc::clone(&asked), Arc::<Mutex<Option<String>>>::clone(&answer));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (heard, say) = (Arc::clone(&heard), Arc::clone(&say));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    let mut part = [0; 4096];
                    // The request is one object.
                    while !request.ends_with(b"}") {
                        let read = stream.read(&mut part).await.unwrap();
                        if read == 0 {
                            return;
                        }
                        request.extend_from_slice(&part[..read]);
                    }
                    heard.lock().unwrap().push(String::from_utf8(request).unwrap());
                    let said = say.lock().unwrap().clone();
                    match said {
                        Some(said) => stream.write_all(said.as_bytes()).await.unwrap(),
                        // Never.
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, asked, answer }
    }

    fn says(&self, status: u16, body: &Value) {
        let body = body.to_string();
        let text = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        *self.answer.lock().unwrap() = Some(text);
    }

    async fn server(&self) -> Server {
        let url = format!("http://{}/settings/validate", self.address);
        server(&format!("[bridge]\nvalidate_url = \"{url}\"\nvalidate_timeout_seconds = 1")).await
    }
}

#[tokio::test]
async fn credentials_are_good_when_the_api_says_so_and_nothing_is_made_otherwise() {
    let api = Api::start().await;
    let server = api.server().await;
    for (status, body, default, sandsiv) in [
        (200, json!({ "status": "error", "error": "Token expired" }), 401, 401),
        (200, json!({ "status": "error", "error": "account closed" }), 401, 500),
        (403, json!({}), 401, 401),
        (400, json!({ "error": "bad apiUrl" }), 401, 500),
        (500, json!({}), 503, 500),
        (200, json!({ "hello": 1 }), 503, 500),
        (302, json!({}), 503, 500),
    ] {
        api.says(status, &body);
        let told = post(&server, "/init", &[], &credentials("a")).await;
        refused(&told, default);
        assert_eq!(told.header("retry-after").is_some(), default == 503);
        refused(&post(&server, "/init", &[SANDSIV], &credentials("a")).await, sandsiv);
    }
    refused(&post(&server, "/tools", &[], &json!({ "session_id": "a" })).await, 404);
    assert_eq!(server.admin_exchange("GET", "/admin/sessions", b"").await.json()["sessions"], json!([]));

    api.says(200, &json!({ "status": "success" }));
    let body = json!({ "session_id": "a", "apiUrl": API, "jwtToken": JWT, "question": "not for the API" });
    assert_eq!(post(&server, "/init", &[SANDSIV], &body).await.status(), 200);
    let asked = api.asked.lock().unwrap().last().unwrap().clone();
    assert!(asked.starts_with("POST /settings/validate HTTP/1.1\r\n"), "{asked}");
    let sent: Value = serde_json::from_str(asked.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(sent, json!({ "apiUrl": API, "jwtToken": JWT }));
    // Who has the session already is not asked about again.
    let before = api.asked.lock().unwrap().len();
    assert_eq!(post(&server, "/init", &[], &credentials("a")).await.status(), 200);
    assert_eq!(api.asked.lock().unwrap().len(), before);
}

#[tokio::test]
async fn renewed_credentials_are_asked_about_as_those_of_a_new_session() {
    let api = Api::start().await;
    let config = format!("{TOKEN}\n[bridge]\nvalidate_url = \"http://{}/validate\"", api.address);
    let server = server(&config).await;
    api.says(200, &json!({ "status": "success" }));
    assert_eq!(post(&server, "/init", &[ALICE], &credentials("a")).await.status(), 200);
    let renewed = json!({ "session_id": "a", "apiUrl": API, "jwtToken": "new.jwt.token" });
    api.says(403, &json!({}));
    refused(&post(&server, "/init", &[ALICE], &renewed).await, 401);
    // The earlier ones are still there, and nobody has to be asked about them.
    assert_eq!(post(&server, "/init", &[ALICE], &credentials("a")).await.status(), 200);
    api.says(200, &json!({ "status": "success" }));
    assert_eq!(post(&server, "/init", &[ALICE], &renewed).await.status(), 200);
    api.says(403, &json!({}));
    assert_eq!(post(&server, "/init", &[ALICE], &renewed).await.status(), 200);
    refused(&post(&server, "/init", &[ALICE], &credentials("a")).await, 401);
}

#[tokio::test]
async fn an_api_that_does_not_answer_is_not_waited_for_and_says_nothing_of_credentials() {
    let api = Api::start().await;
    let server = api.server().await;
    let told = post(&server, "/init", &[], &credentials("a")).await;
    assert_eq!(refused(&told, 503), "Validation request timed out after 1 s");
    assert!(told.header("retry-after").is_some());
    let told = post(&server, "/init", &[SANDSIV], &credentials("a")).await;
    assert_eq!(refused(&told, 500), "Validation request timed out after 1 s");
}

#[tokio::test]
async fn the_form_of_credentials_is_looked_at_first_as_the_flask_bridge_does() {
    let api = Api::start().await;
    let server = api.server().await;
    for (url, token, status, words) in [
        ("no address", JWT, 500, "Invalid API URL format"),
        ("ftp://h", JWT, 500, "Invalid API URL format"),
        (API, "no-jwt", 401, "Invalid JWT token format"),
    ] {
        let body = json!({ "session_id": "a", "apiUrl": url, "jwtToken": token });
        assert_eq!(refused(&post(&server, "/init", &[SANDSIV], &body).await, status), words);
    }
    assert!(api.asked.lock().unwrap().is_empty());
}
