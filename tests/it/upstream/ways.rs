//! How remote servers are reached: through proxies, and over TLS.

use serde_json::json;

use super::{LATEST, fronting, place, run, said, status, url_of};
use crate::support::mcp::Session;
use crate::support::peer::Peer;
use crate::support::server::Server;
use crate::support::until;
use crate::tls::Tls;

/// Where nothing is.
const NOWHERE: &str = "http://upstream.invalid";

async fn behind() -> Server {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    Server::start_in(&dir, &["--ephemeral", "--diagnostics"], &[]).await
}

/// A proxy that takes every address for that of `server`.
async fn proxy_to(server: &Server) -> Peer {
    let address = server.address();
    Peer::start(move |mut request, caller| async move {
        let path = request
            .path
            .strip_prefix("http://")
            .and_then(|rest| rest.find('/').map(|at| rest[at..].to_owned()));
        match path {
            Some(path) => {
                request.path = path;
                caller.pass_to(address, &request).await;
            }
            None => caller.answer(400, &[], "a proxy wants the whole address").await,
        }
    })
    .await
}

async fn echoes(server: &Server) {
    let session = Session::open(server, LATEST).await;
    assert_eq!(said(&run(&session, "echo", json!({ "message": "m" })).await), "m");
}

#[tokio::test]
async fn a_server_is_reached_through_the_proxy_that_it_names() {
    let behind = behind().await;
    let proxy = proxy_to(&behind).await;
    let server = fronting(&format!("{NOWHERE}/mcp"), &format!("proxy = \"http://{}\"", proxy.address)).await;
    echoes(&server).await;
    assert!(proxy.requests().iter().all(|request| request.path.starts_with(NOWHERE)));
}

#[tokio::test]
async fn proxies_of_the_environment_count_only_where_that_is_said() {
    let behind = behind().await;
    let proxy = proxy_to(&behind).await;
    let named = format!("http://{}", proxy.address);
    let environment = [("HTTP_PROXY", named.as_str())];
    let direct = Server::start_in(&place(&url_of(&behind), ""), &["--ephemeral"], &environment).await;
    echoes(&direct).await;
    assert_eq!(proxy.requests().len(), 0);
    let through = place(&format!("{NOWHERE}/mcp"), "proxy = \"environment\"");
    let through = Server::start_in(&through, &["--ephemeral"], &environment).await;
    echoes(&through).await;
    assert!(!proxy.requests().is_empty());
}

#[tokio::test]
async fn a_server_over_tls_is_called_if_its_authority_is_trusted_and_named_if_not() {
    let behind = behind().await;
    let tls = Tls::before(behind.address()).await;
    let url = format!("https://localhost:{}/mcp", tls.address.port());
    // Whom the machine trusts is for its administrator to say.
    let authority = tls.authority();
    let trusting = [("SSL_CERT_FILE", authority.to_str().unwrap())];
    let server = Server::start_in(&place(&url, ""), &["--ephemeral"], &trusting).await;
    echoes(&server).await;
    let server = fronting(&url, "").await;
    until("it says why", || async {
        status(&server).await.to_string().to_lowercase().contains("certificate")
    })
    .await;
}
