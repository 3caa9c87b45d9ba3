//! Sister instances as witnesses: when Redis cannot be reached from here, do they reach it? If one does, it is this
//! instance that is cut off, and requests should go elsewhere.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::dial;
use super::shared::Shared;
use crate::base::backoff::Backoff;
use crate::base::limits::{PEER_ANSWER, PEER_ANSWER_BYTES, PEERS_ASKED};
use crate::config::redis::host_and_port;
use crate::state::link::LinkState;

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_secs(1);

/// Asks for ever, as long as a link is down.
pub(super) async fn ask_peers(shared: Arc<Shared>) {
    let mut clock = interval(ROUND);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let lines = shared.lines.load_full();
        let down: Vec<_> = lines
            .iter()
            .filter(|line| line.place.borrow().is_some() || line.shard.0 == 0)
            .filter(|line| matches!(line.state(), LinkState::Down | LinkState::Isolated))
            .collect();
        let peers = peers(&shared);
        if down.is_empty() || peers.is_empty() {
            continue;
        }
        let answers = join_all(peers.iter().map(|url| reaches(url))).await;
        let any_up = answers.into_iter().any(|up| up);
        for line in down {
            line.note(&shared, |link, now_ms| link.peers(now_ms, any_up));
        }
    }
}

/// Some of the others, other ones every time.
fn peers(shared: &Shared) -> Vec<String> {
    let mut all = shared.settings.peers.clone();
    let known = shared.instances.load();
    all.extend(known.iter().filter(|other| other.origin != shared.me).map(|other| other.url.clone()));
    all.retain(|url| !url.is_empty() && *url != shared.settings.advertise_url);
    all.sort();
    all.dedup();
    if let Some(last) = all.len().checked_sub(1).filter(|last| *last > 0) {
        let draw = Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).wait().subsec_nanos();
        all.rotate_left(usize::try_from(draw).unwrap_or(0) % (last + 1));
    }
    all.truncate(PEERS_ASKED);
    all
}

/// Whether the instance at `url` says that its links are up: the check `redis` of its `/health` is `ok`.
async fn reaches(url: &str) -> bool {
    match timeout(PEER_ANSWER, get(url)).await {
        Ok(Ok(answer)) => says_up(&answer),
        _ => false,
    }
}

fn says_up(answer: &[u8]) -> bool {
    let (Some(from), Some(to)) =
        (answer.iter().position(|byte| *byte == b'{'), answer.iter().rposition(|byte| *byte == b'}'))
    else {
        return false;
    };
    let body: Option<Value> = answer.get(from..=to).and_then(|body| serde_json::from_slice(body).ok());
    body.is_some_and(|body| body.pointer("/checks/redis").and_then(Value::as_str) == Some("ok"))
}

async fn get(url: &str) -> Result<Vec<u8>, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let (authority, base) = rest.split_once('/').unwrap_or((rest, ""));
    let tls = scheme == "https";
    let (host, port) = host_and_port(authority, if tls { 443 } else { 80 }).ok_or("no host")?;
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
    let base = base.trim_end_matches('/');
    let slash = if base.is_empty() { "" } else { "/" };
    let request =
        format!("GET {slash}{base}/health HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    if !tls {
        return exchange(tcp, &request).await;
    }
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let stream = dial::tls(std::path::Path::new(""))?.connect(name, tcp).await;
    exchange(stream.map_err(|error| error.to_string())?, &request).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<Vec<u8>, String> {
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let mut limited = stream.take(PEER_ANSWER_BYTES);
    // An end without a farewell is an end as well: what was read decides.
    let _ = limited.read_to_end(&mut answer).await;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_peer_that_says_so_is_up() {
        for (answer, up) in [
            ("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\",\"checks\":{\"redis\":\"ok\"}}", true),
            (
                "HTTP/1.1 503 X\r\n\r\n{\"status\":\"x\",\"checks\":{\"redis\":\"ok\",\"store\":\"failed\"}}",
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\",\"checks\":{\"redis\":\"failed\"}}", false),
            ("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\",\"checks\":{}}", false),
            ("HTTP/1.1 200 OK\r\n\r\n}{", false),
            ("", false),
        ] {
            assert_eq!(says_up(answer.as_bytes()), up, "{answer}");
        }
    }
}
