//! Lines with a cap, from a pipe that nobody vouches for.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A buffer that grew beyond this for one long line is given back.
const KEEP_BYTES: usize = 64 * 1024;

/// What a pipe gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line without its end.
    Whole(Bytes),
    /// The beginning of a line that is longer than the cap; its rest is dropped.
    Cut(Bytes),
}

/// Reads lines of at most `cap` bytes.
pub(super) struct Lines<R> {
    from: R,
    cap: usize,
    buffer: BytesMut,
    /// So much of the buffer holds no line end.
    scanned: usize,
    /// In the rest of a line that was cut.
    skipping: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(from: R, cap: usize) -> Self {
        Self { from, cap, buffer: BytesMut::new(), scanned: 0, skipping: false }
    }

    /// The next line; `None` at the end. May be dropped and called again without loss.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.buffered() {
                return Ok(Some(line));
            }
            if self.buffer.is_empty() && self.buffer.capacity() > KEEP_BYTES {
                self.buffer = BytesMut::new();
            }
            self.buffer.reserve(8 * 1024);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                self.scanned = 0;
                let rest = self.buffer.split().freeze();
                return Ok((!rest.is_empty() && !self.skipping).then_some(Line::Whole(rest)));
            }
        }
    }

    fn buffered(&mut self) -> Option<Line> {
        loop {
            let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
            let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.buffer.len();
                if self.skipping {
                    self.buffer.clear();
                    self.scanned = 0;
                    return None;
                }
                if self.buffer.len() <= self.cap {
                    return None;
                }
                self.skipping = true;
                self.scanned = 0;
                let mut beginning = self.buffer.split();
                beginning.truncate(self.cap);
                return Some(Line::Cut(beginning.freeze()));
            };
            let mut line = self.buffer.split_to(self.scanned + at + 1);
            self.scanned = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            line.truncate(line.len().saturating_sub(1));
            if line.last() == Some(&b'\r') {
                line.truncate(line.len().saturating_sub(1));
            }
            if line.len() > self.cap {
                line.truncate(self.cap);
                return Some(Line::Cut(line.freeze()));
            }
            return Some(Line::Whole(line.freeze()));
        }
    }
}

/// A JSON text on one line, as stdio framing wants it (MCP 2025-11-25, transports). Line ends stand only between the
/// tokens of a JSON text, never inside of one.
pub(super) fn on_one_line(mut json: String) -> String {
    if json.contains(['\n', '\r']) {
        json = json.replace(['\n', '\r'], " ");
    }
    json.push('\n');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    async fn all(input: &[u8], cap: usize, chunk: usize) -> Vec<Line> {
        let (mut to, from) = tokio::io::duplex(chunk);
        let input = input.to_vec();
        let writer = tokio::spawn(async move { to.write_all(&input).await });
        let mut lines = Lines::new(from, cap);
        let mut got = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            got.push(line);
        }
        writer.await.unwrap().unwrap();
        got
    }

    fn whole(text: &str) -> Line {
        Line::Whole(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn cut(text: &str) -> Line {
        Line::Cut(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[tokio::test]
    async fn lines_come_whole_however_the_pipe_cuts_them() {
        for chunk in [1, 2, 3, 7, 64] {
            let got = all(b"one\ntwo\r\n\nlast", 10, chunk).await;
            assert_eq!(got, [whole("one"), whole("two"), whole(""), whole("last")], "chunks of {chunk}");
        }
    }

    #[tokio::test]
    async fn a_line_over_the_cap_is_cut_and_the_next_one_is_whole() {
        for chunk in [1, 3, 64] {
            let got = all(b"0123456789abc\nnext\n0123\n", 4, chunk).await;
            assert_eq!(got, [cut("0123"), whole("next"), whole("0123")], "chunks of {chunk}");
        }
    }

    #[tokio::test]
    async fn the_rest_of_a_cut_line_at_the_end_is_dropped() {
        assert_eq!(all(b"0123456789", 4, 2).await, [cut("0123")]);
    }

    #[test]
    fn a_pretty_printed_text_becomes_one_line_of_the_same_meaning() {
        let pretty = "{\r\n  \"a\": \"line\\nend\",\n  \"b\": [1,\n 2]\n}";
        let line = on_one_line(pretty.into());
        assert_eq!(line.matches('\n').count(), 1);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&line), value(pretty));
    }
}
