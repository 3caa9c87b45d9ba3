//! Server-sent events as bytes: one writer, and one reader that takes any split of the bytes.
//!
//! The format is the `text/event-stream` of the WHATWG HTML standard, section 9.2.

/// A comment that keeps a silent stream alive: readers ignore it, proxies count it as traffic.
pub const KEEP_ALIVE: &[u8] = b":\n\n";

/// Appends one event to `out`.
///
/// `id` becomes the reader's `Last-Event-ID`; an id with a line break or a NUL cannot be carried and is left out.
/// `retry` is the reconnection time in milliseconds. Line breaks of `data` (CRLF, CR or LF) arrive as LF.
pub fn write_event(out: &mut Vec<u8>, id: Option<&str>, retry: Option<u64>, data: &[u8]) {
    out.reserve(data.len() + id.map_or(0, str::len) + 40);
    if let Some(id) = id.filter(|id| !id.contains(['\r', '\n', '\0'])) {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_bytes());
        out.push(b'\n');
    }
    if let Some(milliseconds) = retry {
        out.extend_from_slice(b"retry: ");
        out.extend_from_slice(milliseconds.to_string().as_bytes());
        out.push(b'\n');
    }
    let mut rest = data;
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = line_end(rest) else { break };
        let (line, tail) = rest.split_at(end);
        out.extend_from_slice(line);
        out.push(b'\n');
        rest = tail.strip_prefix(b"\r\n").or_else(|| tail.get(1..)).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\n\n");
}

/// Where the first line of `text` ends. JSON has no raw line breaks, so mostly nowhere: two plain scans find that out
/// faster than one that looks for either.
fn line_end(text: &[u8]) -> Option<usize> {
    if !text.contains(&b'\n') && !text.contains(&b'\r') {
        return None;
    }
    text.iter().position(|byte| matches!(byte, b'\r' | b'\n'))
}

/// One event that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The id that this event carried itself; see [`Reader::last_event_id`] for the one that is in force.
    pub id: Option<String>,
    /// Its type; none means `message`.
    pub event: Option<String>,
    /// Its data, lines joined by LF.
    pub data: Vec<u8>,
}

/// An event is longer than the reader takes. The stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {limit} bytes")]
pub struct TooLong {
    /// The most that was allowed, bytes.
    pub limit: usize,
}

/// Reads an event stream from pieces of any size.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    /// The line that has begun.
    line: Vec<u8>,
    /// The last byte was a CR, so that a LF now belongs to it.
    after_cr: bool,
    /// No line was complete yet: a byte order mark may stand in front.
    at_start: bool,
    failed: bool,
    /// The event that has begun; `data` is `None` before its first data line.
    id: Option<String>,
    event: Option<String>,
    data: Option<Vec<u8>>,
    last_event_id: Option<String>,
    retry: Option<u64>,
}

impl Reader {
    /// A reader that takes events of at most `limit` bytes, a line being counted with the data before it.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            failed: false,
            id: None,
            event: None,
            data: None,
            last_event_id: None,
            retry: None,
        }
    }

    /// Reads a piece, and appends the events that it completes.
    ///
    /// # Errors
    /// [`TooLong`], now and for every later piece. Events before the one that is too long are in `events`.
    pub fn push(&mut self, piece: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        let mut rest = piece;
        while !self.failed {
            if self.after_cr && !rest.is_empty() {
                self.after_cr = false;
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
                self.extend_line(rest);
                break;
            };
            let (head, tail) = rest.split_at(end);
            self.extend_line(head);
            self.after_cr = tail.first() == Some(&b'\r');
            rest = tail.get(1..).unwrap_or_default();
            if !self.failed {
                self.end_line(events);
            }
        }
        if self.failed { Err(TooLong { limit: self.limit }) } else { Ok(()) }
    }

    /// The id to reconnect with.
    #[must_use]
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// How long the server wants a reader to wait before it reconnects, milliseconds.
    #[must_use]
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
        if held.saturating_add(bytes.len()) > self.limit {
            self.failed = true;
            self.line = Vec::new();
            self.data = None;
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.at_start) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            self.dispatch(events);
        } else {
            self.field(&line);
        }
        line.clear();
        self.line = line;
    }

    /// A blank line ends the event. Without data nothing happened, except that an id was set.
    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let (id, event) = (self.id.take(), self.event.take());
        if let Some(id) = &id {
            self.last_event_id = Some(id.clone());
        }
        if let Some(data) = self.data.take() {
            events.push(Event { id, event, data });
        }
    }

    fn field(&mut self, line: &[u8]) {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => {
                let (name, value) = line.split_at(colon);
                let value = value.get(1..).unwrap_or_default();
                (name, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[] as &[u8]),
        };
        match name {
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            },
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"event" => {
                self.event = (!value.is_empty()).then(|| String::from_utf8_lossy(value).into_owned());
            }
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                if let Some(milliseconds) = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok())
                {
                    self.retry = Some(milliseconds);
                }
            }
            // A comment has an empty name; unknown fields are ignored by the standard.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<Event> {
        let (mut reader, mut events) = (Reader::new(1 << 20), Vec::new());
        for piece in pieces {
            reader.push(piece, &mut events).unwrap();
        }
        events
    }

    fn written(id: Option<&str>, retry: Option<u64>, data: &[u8]) -> String {
        let mut out = Vec::new();
        write_event(&mut out, id, retry, data);
        String::from_utf8(out).unwrap()
    }

    fn data(text: &str) -> Event {
        Event { data: text.as_bytes().to_vec(), ..Event::default() }
    }

    #[test]
    fn the_bytes_of_an_event_are_as_clients_expect_them() {
        assert_eq!(written(None, None, b"{}"), "data: {}\n\n");
        assert_eq!(written(Some("a1"), Some(3000), b""), "id: a1\nretry: 3000\ndata: \n\n");
        assert_eq!(written(None, None, b"a\r\nb\rc\nd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
    }

    #[test]
    fn an_id_that_would_break_the_framing_is_left_out() {
        assert_eq!(written(Some("a\ndata: forged"), None, b"x"), "data: x\n\n");
    }

    #[test]
    fn an_event_without_data_is_none_but_sets_id_and_retry() {
        let (mut reader, mut events) = (Reader::new(100), Vec::new());
        reader.push(b"id: 7\nretry: 12\n\n:\n\nevent: x\n\n", &mut events).unwrap();
        assert_eq!(events, []);
        assert_eq!((reader.last_event_id(), reader.retry()), (Some("7"), Some(12)));
    }

    #[test]
    fn an_empty_data_line_is_an_event() {
        assert_eq!(read(&[b"data: \n\n", b"data\n\n"]), [data(""), data("")]);
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let text = b"\xef\xbb\xbfevent: e\nid:  two\ndata:a\ndata:  b\nunknown: x\nretry: 1x\n: c\n\ndata: last, cut";
        let event = Event { id: Some(" two".into()), event: Some("e".into()), data: b"a\n b".to_vec() };
        assert_eq!(read(&[text]), [event]);
        assert_eq!(read(&[b"id: a\0b\ndata: x\n\n"]), [data("x")]);
    }

    #[test]
    fn a_too_long_event_ends_the_reading_and_keeps_what_was_before() {
        let (mut reader, mut events) = (Reader::new(10), Vec::new());
        assert_eq!(reader.push(b"data: a\n\ndata: 12345678", &mut events), Err(TooLong { limit: 10 }));
        assert_eq!(events, [data("a")]);
        assert_eq!(reader.push(b"\n\n", &mut events), Err(TooLong { limit: 10 }));
        let mut many_lines = Reader::new(10);
        let piece = b"data: abcd\ndata: efgh\n";
        assert_eq!(many_lines.push(piece, &mut events), Err(TooLong { limit: 10 }));
    }

    fn lines_joined_by_lf(data: &[u8]) -> Vec<u8> {
        String::from_utf8_lossy(data).replace("\r\n", "\n").replace('\r', "\n").into_bytes()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_whatever_the_split(
            events in prop::collection::vec(
                (prop::option::of("[a-z0-9.-]{1,20}"), prop::option::of(0_u64..100_000), "[a-c:\r\n é]{0,30}"),
                0..8,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            line_break in prop::sample::select(vec!["\n", "\r", "\r\n"]),
        ) {
            let mut text = Vec::new();
            for (id, retry, data) in &events {
                write_event(&mut text, id.as_deref(), *retry, data.as_bytes());
                text.extend_from_slice(KEEP_ALIVE);
            }
            let text = String::from_utf8(text).unwrap().replace('\n', line_break).into_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let (mut reader, mut read) = (Reader::new(1 << 16), Vec::new());
            for pair in at.windows(2) {
                reader.push(&text[pair[0]..pair[1]], &mut read).unwrap();
            }
            let expected: Vec<Event> = events
                .iter()
                .map(|(id, _, data)| Event { id: id.clone(), event: None, data: lines_joined_by_lf(data.as_bytes()) })
                .collect();
            prop_assert_eq!(read, expected);
            prop_assert_eq!(reader.retry(), events.iter().rev().find_map(|(_, retry, _)| *retry));
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_hold_more_than_its_limit(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
        ) {
            let (mut reader, mut events) = (Reader::new(64), Vec::new());
            for piece in &pieces {
                let _ = reader.push(piece, &mut events);
                prop_assert!(reader.line.len() + reader.data.as_ref().map_or(0, Vec::len) <= 128);
            }
        }
    }
}
