//! The admin listener of a running server, over one connection per question: HTTP/1.1 as that listener speaks it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Ask, Lines, Trouble};
use crate::base::limits::{ADMIN_ANSWER_BYTES, HEADER_BYTES};

/// A listener on this machine, or near it.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer. A large export is read as a whole before its first byte comes.
const SILENCE: Duration = Duration::from_secs(120);

/// A running server.
pub(crate) struct Remote {
    pub(crate) address: SocketAddr,
    pub(crate) token: SecretString,
}

impl Ask for Remote {
    fn ask(&mut self, request: &Request<Bytes>) -> Result<Response<Bytes>, Trouble> {
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT).map_err(Trouble::Unreachable)?;
        self.send(&mut stream, request, "HTTP/1.1").map_err(Trouble::Broken)?;
        receive(&mut BufReader::new(stream)).map_err(Trouble::Broken)
    }

    fn stream(&mut self, request: &Request<Bytes>) -> Result<Response<Lines>, Trouble> {
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT).map_err(Trouble::Unreachable)?;
        // In this version a body without a length comes as it is, up to the end of the connection.
        self.send(&mut stream, request, "HTTP/1.0").map_err(Trouble::Broken)?;
        let mut from = BufReader::new(stream);
        let head = head(&mut from).map_err(Trouble::Broken)?;
        // Silence is no news, however long.
        from.get_ref().set_read_timeout(None).map_err(Trouble::Broken)?;
        Ok(head.map(|()| Box::new(from) as Lines))
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(self.address)
    }

    fn end(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Remote {
    fn send(&self, stream: &mut TcpStream, request: &Request<Bytes>, version: &str) -> io::Result<()> {
        // How long a call of a tool takes is for the server to bound.
        let is_call =
            request.method() == http::Method::POST && request.uri().path().starts_with("/admin/tools/");
        stream.set_read_timeout((!is_call).then_some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        stream.set_nodelay(true)?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let mut head = format!(
            "{} {path} {version}\r\n{HOST}: {}\r\n{AUTHORIZATION}: Bearer {}\r\n{CONNECTION}: close\r\n{CONTENT_LENGTH}: {}\r\n",
            request.method(),
            self.address,
            self.token.expose_secret(),
            request.body().len(),
        )
        .into_bytes();
        for (name, value) in request.headers() {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(request.body());
        match stream.write_all(&head) {
            // It may have refused the request before it was all sent: the answer says why.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe) => Ok(()),
            sent => sent,
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no answer of Outlast: {what}"))
}

/// Reads status and headers of an answer.
fn head(from: &mut impl io::BufRead) -> io::Result<Response<()>> {
    let mut head = from.by_ref().take(u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX));
    let mut line = String::new();
    let mut next = |line: &mut String| {
        line.clear();
        match head.read_line(line)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ if line.ends_with('\n') => Ok(()),
            _ => Err(bad("its head does not end")),
        }
    };
    next(&mut line)?;
    let rest = ["HTTP/1.1 ", "HTTP/1.0 "].iter().find_map(|version| line.strip_prefix(version));
    let status = rest.and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let status =
        status.and_then(|status| StatusCode::from_u16(status).ok()).ok_or_else(|| bad("no status"))?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    loop {
        next(&mut line)?;
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a name"))?;
        let name = HeaderName::try_from(name).map_err(|_| bad("the name of a header"))?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| bad("the value of a header"))?;
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

/// Reads one answer with a declared length: all answers of the admin listener that end by themselves have one.
fn receive(from: &mut impl io::BufRead) -> io::Result<Response<Bytes>> {
    let response = head(from)?;
    let status = response.status();
    let length = match response.headers().get(CONTENT_LENGTH) {
        Some(length) => length.to_str().ok().and_then(|text| text.parse().ok()),
        None if status == StatusCode::NO_CONTENT => Some(0),
        None => None,
    };
    let length: usize = length.ok_or_else(|| bad("no length"))?;
    if length > ADMIN_ANSWER_BYTES {
        return Err(bad(&format!("it has {length} bytes, more than {ADMIN_ANSWER_BYTES}")));
    }
    let mut body = Vec::new();
    let read = from.by_ref().take(u64::try_from(length).unwrap_or(u64::MAX)).read_to_end(&mut body)?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(response.map(|()| Bytes::from(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Response<Bytes>> {
        receive(&mut text.as_bytes())
    }

    #[test]
    fn an_answer_is_read_with_its_headers_and_no_further() {
        let answer = read("HTTP/1.1 409 Conflict\r\nEtag: x\r\ncontent-length: 2\r\n\r\n{}more").unwrap();
        assert_eq!((answer.status().as_u16(), &**answer.body()), (409, &b"{}"[..]));
        assert_eq!(answer.headers()["etag"], "x");
        assert!(read("HTTP/1.1 204 No Content\r\n\r\n").unwrap().body().is_empty());
    }

    #[test]
    fn what_breaks_off_or_is_no_answer_of_ours_is_an_error() {
        for text in [
            "",
            "HTTP/1.1",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(HEADER_BYTES));
        assert!(read(&endless).is_err());
    }
}
