//! Which addresses are listened on.

use outlast::auth::Open;
use outlast::auth::token::Tokens;
use outlast::config;
use outlast::edge::{EdgeError, http};

fn settings(listen: &str) -> config::Server {
    config::Server { listen: listen.into(), ..config::Server::default() }
}

#[tokio::test]
async fn an_open_server_stays_on_loopback_unless_told_otherwise() {
    let open = Open::default();
    for wide in ["0.0.0.0:0", "[::]:0"] {
        let refused = http::bind(&settings(wide), &open, None).await.unwrap_err();
        assert!(matches!(refused, EdgeError::Open { .. }));
        let text = refused.to_string();
        assert!(text.contains("auth.tokens") && text.contains("server.allow_open"), "{text}");
    }
    let allowed = config::Server { allow_open: true, ..settings("0.0.0.0:0") };
    assert!(http::bind(&allowed, &open, None).await.is_ok());
    assert!(http::bind(&settings("0.0.0.0:0"), &Tokens::new([]), None).await.is_ok());
    assert!(http::bind(&settings("localhost:0"), &open, None).await.is_ok());
}

#[tokio::test]
async fn an_inherited_socket_is_used_and_held_to_the_same_rule() {
    let inherited = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = inherited.local_addr().unwrap();
    let bound = http::bind(&settings("127.0.0.1:1"), &Open::default(), Some(inherited)).await.unwrap();
    assert_eq!(bound.local_addr(), address);
    let wide = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let refused = http::bind(&settings("127.0.0.1:1"), &Open::default(), Some(wide)).await;
    assert!(matches!(refused, Err(EdgeError::Open { .. })));
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_explained() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = http::bind(&settings(&address), &Open::default(), None).await.unwrap_err().to_string();
    assert!(text.contains(&address) && text.contains("another process"), "{text}");
    let text = http::bind(&settings("8808"), &Open::default(), None).await.unwrap_err().to_string();
    assert!(text.contains("server.listen") && text.contains("HOST:PORT"), "{text}");
}
