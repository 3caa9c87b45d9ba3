//! What names a request in every log line: the correlation id, and the caller's trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::base::ids::base36_digit;
use crate::base::limits::CORRELATION_BYTES;
use crate::base::seal::random;

/// `X-Request-Id`: taken from the client where it is fit to be logged, always returned.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Makes correlation ids: five random characters for the process, a dash, a counter.
#[derive(Debug)]
pub(crate) struct Correlations {
    process: u32,
    next: AtomicU64,
}

/// The id of one request.
#[derive(Debug)]
pub(crate) struct Correlation {
    pub text: Arc<str>,
    pub header: HeaderValue,
}

impl Default for Correlations {
    fn default() -> Self {
        Self { process: u32::from_be_bytes(random()), next: AtomicU64::new(0) }
    }
}

impl Correlations {
    /// The client's id if it is visible ASCII of at most [`CORRELATION_BYTES`], else a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Correlation {
        let sent = headers.get(X_REQUEST_ID).and_then(|value| Some((value, value.to_str().ok()?)));
        match sent {
            Some((value, text))
                if !text.is_empty()
                    && text.len() <= CORRELATION_BYTES
                    && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Correlation { text: text.into(), header: value.clone() }
            }
            _ => self.make(),
        }
    }

    fn make(&self) -> Correlation {
        let mut text = [0_u8; 20];
        let mut at = text.len();
        let mut put = |byte| {
            at -= 1;
            if let Some(slot) = text.get_mut(at) {
                *slot = byte;
            }
        };
        // 13 digits of base 36 hold any 64 bits.
        let mut rest = self.next.fetch_add(1, Ordering::Relaxed);
        loop {
            put(base36_digit(rest % 36));
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        put(b'-');
        let mut process = u64::from(self.process);
        for _ in 0..5 {
            put(base36_digit(process % 36));
            process /= 36;
        }
        let text = text.get(at..).unwrap_or_default();
        Correlation {
            text: std::str::from_utf8(text).unwrap_or_default().into(),
            header: HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("-")),
        }
    }
}

/// The caller's trace and span, from `traceparent` (W3C Trace Context), as they were sent.
#[must_use]
pub fn trace_parent(headers: &HeaderMap) -> Option<(&str, &str)> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zeros = |text: &str| text.bytes().all(|byte| byte == b'0');
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    let fits = hex(trace, 32) && hex(span, 16) && hex(flags, 2) && !zeros(trace) && !zeros(span);
    (known && fits).then_some((trace, span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_clients_id_is_taken_over_only_where_it_is_fit_for_a_log() {
        let ids = Correlations::default();
        let taken = ids.of(&headers("x-request-id", "abc/1"));
        assert_eq!((&*taken.text, taken.header.as_bytes()), ("abc/1", b"abc/1".as_slice()));
        for unfit in ["", "two words", &"x".repeat(65)] {
            assert_ne!(&*ids.of(&headers("x-request-id", unfit)).text, unfit);
        }
    }

    #[test]
    fn ids_that_are_made_differ_and_stay_short() {
        let ids = Correlations { process: u32::MAX, next: AtomicU64::new(u64::MAX) };
        let (a, b) = (ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
        assert_ne!(a.text, b.text);
        assert_eq!(a.text.as_bytes(), a.header.as_bytes());
        assert_eq!((a.text.len(), b.text.len()), (19, 7));
    }

    #[test]
    fn a_trace_parent_is_read_as_the_standard_says() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let read = |value: &str| {
            trace_parent(&headers("traceparent", value)).map(|(t, s)| (t.to_owned(), s.to_owned()))
        };
        assert_eq!(read(&format!("00-{trace}-{span}-01")), Some((trace.into(), span.into())));
        assert_eq!(read(&format!("01-{trace}-{span}-01-later")), Some((trace.into(), span.into())));
        for bad in [
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
