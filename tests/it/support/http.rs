//! A small HTTP/1.1 client over one connection: what goes out and what comes in are bytes that a test can look at.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::soon;

/// The beginning of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; of an event stream, the data of its last event.
    pub fn json(&self) -> serde_json::Value {
        let text = self.text();
        let data = match self.header("content-type") {
            Some(kind) if kind.starts_with("text/event-stream") => {
                text.lines().rev().find_map(|line| line.strip_prefix("data:")).unwrap_or_default().trim()
            }
            _ => text.as_str(),
        };
        serde_json::from_str(data).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
    }
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub event: Option<String>,
    pub retry: Option<u64>,
    /// Lines joined by newlines; none when the event has no `data` field.
    pub data: Option<String>,
    /// Lines that begin with a colon.
    pub comments: Vec<String>,
}

impl Event {
    pub fn json(&self) -> serde_json::Value {
        let data = self.data.as_deref().unwrap_or_default();
        serde_json::from_str(data).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

enum Framing {
    Length(usize),
    Chunked { left: usize, first: bool },
    ToEnd,
}

/// One connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
    framing: Framing,
    /// Bytes of the body that are not yet a whole event.
    pending: Vec<u8>,
    /// So many of them were looked through for the end of one.
    scanned: usize,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self::try_open(address).await.unwrap()
    }

    /// [`Connection::open`], or why nobody answers there.
    pub async fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = soon("connect", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            framing: Framing::Length(0),
            pending: Vec::new(),
            scanned: 0,
        })
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        soon("send", self.stream.get_mut().write_all(bytes)).await
    }

    /// Sends a request. `Host` and `Content-Length` are added.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.try_request(method, path, headers, body).await.unwrap();
    }

    async fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<()> {
        let host = self.stream.get_ref().peer_addr()?;
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes).await
    }

    /// Reads status and headers of the next answer.
    pub async fn head(&mut self) -> Head {
        self.try_head().await.expect("an answer")
    }

    /// [`Connection::head`]; none when the connection ended instead.
    pub async fn try_head(&mut self) -> Option<Head> {
        let status_line = self.line().await?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let head = Head { status, headers };
        self.pending.clear();
        self.scanned = 0;
        self.framing = if head.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            Framing::Chunked { left: 0, first: true }
        } else if let Some(length) = head.header("content-length") {
            Framing::Length(length.parse().unwrap())
        } else if matches!(status, 100..200 | 204 | 304) {
            Framing::Length(0)
        } else {
            Framing::ToEnd
        };
        Some(head)
    }

    /// The rest of the body.
    pub async fn body(&mut self) -> Vec<u8> {
        let mut body = std::mem::take(&mut self.pending);
        while let Some(part) = self.part().await {
            body.extend_from_slice(&part);
        }
        body
    }

    /// Sends a request and reads its whole answer.
    pub async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.request(method, path, headers, body).await;
        let head = self.head().await;
        let body = if method == "HEAD" { Vec::new() } else { self.body().await };
        Answer { head, body }
    }

    /// [`Connection::exchange`] on a connection of its own, with a server that may die at any moment; none when it did
    /// before it had answered.
    pub async fn try_exchange(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let mut connection = Self::try_open(address).await.ok()?;
        connection.try_request(method, path, headers, body).await.ok()?;
        let head = connection.try_head().await?;
        let body = connection.body().await;
        let whole = head.header("content-length").is_none_or(|length| length == body.len().to_string());
        whole.then_some(Answer { head, body })
    }

    /// The next event of a stream, comments included; none when the stream has ended or the connection was cut.
    pub async fn next_event(&mut self) -> Option<Event> {
        loop {
            let fresh = &self.pending[self.scanned..];
            if let Some(end) = fresh.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.pending.drain(..self.scanned + end + 2).collect();
                self.scanned = 0;
                return Some(parse_event(&String::from_utf8_lossy(&block)));
            }
            self.scanned = self.pending.len().saturating_sub(1);
            let part = self.part().await?;
            self.pending.extend(part.iter().filter(|byte| **byte != b'\r'));
        }
    }

    /// The next event that carries data.
    pub async fn next_message(&mut self) -> Option<Event> {
        loop {
            let event = self.next_event().await?;
            if event.data.as_deref().is_some_and(|data| !data.is_empty()) {
                return Some(event);
            }
        }
    }

    /// Some bytes of the body; none at its end.
    async fn part(&mut self) -> Option<Vec<u8>> {
        let at_most = match &mut self.framing {
            Framing::Length(left) => *left,
            Framing::ToEnd => 16 * 1024,
            Framing::Chunked { left: 0, .. } => return Box::pin(self.next_chunk()).await,
            Framing::Chunked { left, .. } => *left,
        };
        if at_most == 0 {
            return None;
        }
        let mut buffer = vec![0; at_most.min(16 * 1024)];
        let read = soon("body", self.stream.read(&mut buffer)).await.unwrap_or(0);
        if read == 0 {
            self.framing = Framing::Length(0);
            return None;
        }
        buffer.truncate(read);
        if let Framing::Length(left) | Framing::Chunked { left, .. } = &mut self.framing {
            *left -= read;
        }
        Some(buffer)
    }

    async fn next_chunk(&mut self) -> Option<Vec<u8>> {
        if !matches!(self.framing, Framing::Chunked { first: true, .. }) {
            self.line().await?;
        }
        let size = self.line().await?;
        let left = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).ok()?;
        if left == 0 {
            self.line().await;
            self.framing = Framing::Length(0);
            return None;
        }
        self.framing = Framing::Chunked { left, first: false };
        self.part().await
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = soon("line", self.stream.read_line(&mut line)).await.unwrap_or(0);
        (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn parse_event(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines().filter(|line| !line.is_empty()) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => event.comments.push(value.to_owned()),
            "id" => event.id = Some(value.to_owned()),
            "event" => event.event = Some(value.to_owned()),
            "retry" => event.retry = value.parse().ok(),
            "data" => match &mut event.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => event.data = Some(value.to_owned()),
            },
            _ => panic!("unknown field in {block:?}"),
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A connection to someone who answers with these bytes, piece by piece, and leaves.
    async fn scripted(pieces: Vec<Vec<u8>>) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for piece in pieces {
                stream.write_all(&piece).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        Connection::open(address).await
    }

    #[tokio::test]
    async fn an_event_stream_is_read_however_it_is_cut() {
        let events =
            ": ping\n\nid: a\nretry: 5\ndata:\n\nevent: message\r\nid: b\r\ndata: {\"x\":\ndata: 1}\n\n";
        let mut text =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_vec();
        for chunk in events.as_bytes().chunks(7) {
            text.extend(
                format!("{:x}\r\n", chunk.len()).bytes().chain(chunk.iter().copied()).chain(*b"\r\n"),
            );
        }
        text.extend(*b"0\r\n\r\n");
        for size in [1, 3, 1000] {
            let mut connection = scripted(text.chunks(size).map(<[u8]>::to_vec).collect()).await;
            let head = connection.head().await;
            assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
            assert_eq!(connection.next_event().await.unwrap().comments, ["ping"]);
            let primer = connection.next_event().await.unwrap();
            assert_eq!(
                (primer.id.as_deref(), primer.retry, primer.data.as_deref()),
                (Some("a"), Some(5), Some(""))
            );
            let message = connection.next_message().await.unwrap();
            assert_eq!((message.id.as_deref(), &message.json()["x"]), (Some("b"), &serde_json::json!(1)));
            assert_eq!(message.event.as_deref(), Some("message"));
            assert_eq!(connection.next_event().await, None);
        }
    }

    #[tokio::test]
    async fn answers_of_known_length_follow_each_other_on_a_connection() {
        let text = b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\nX-A:  b \r\n\r\n{\"a\": 1}HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
        let mut connection = scripted(text.chunks(5).map(<[u8]>::to_vec).collect()).await;
        let answer = connection.exchange("GET", "/", &[], b"").await;
        assert_eq!((answer.status(), answer.header("x-a"), answer.body.len()), (404, Some("b"), 8));
        assert_eq!(answer.json()["a"], 1);
        assert_eq!((connection.head().await.status, connection.body().await.len()), (202, 0));
        assert!(connection.try_head().await.is_none());
    }
}
