//! Finds where answers of Redis (RESP2 and RESP3) begin and end in a stream of bytes.

#[derive(Default)]
pub struct Frames {
    pending: Vec<u8>,
}

impl Frames {
    pub fn take_in(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole answer or push.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let end = end_of(&self.pending, 0)?;
        Some(self.pending.drain(..end).collect())
    }
}

/// Where the value that begins at `at` ends; none when it is not all there.
fn end_of(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    let mut left = 1_u64;
    while left > 0 {
        left -= 1;
        let rest = bytes.get(at..)?;
        let line = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let kind = *rest.first()?;
        let number = || std::str::from_utf8(rest.get(1..line)?).ok()?.parse::<i64>().ok();
        at += line + 2;
        match kind {
            b'$' | b'=' | b'!' => {
                if let Some(length) = number().and_then(|length| usize::try_from(length).ok()) {
                    at += length + 2;
                    bytes.get(..at)?;
                }
            }
            b'*' | b'~' | b'>' => left += number().and_then(|count| u64::try_from(count).ok()).unwrap_or(0),
            // An attribute stands before the value that it belongs to.
            b'%' => left += 2 * number().and_then(|count| u64::try_from(count).ok()).unwrap_or(0),
            b'|' => left += 1 + 2 * number().and_then(|count| u64::try_from(count).ok()).unwrap_or(0),
            _ => {}
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_however_they_are_cut() {
        let all = [
            "+OK\r\n",
            "$-1\r\n",
            "$3\r\na\r\n\r\n",
            "*2\r\n*1\r\n:5\r\n$0\r\n\r\n",
            ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
            "%1\r\n+a\r\n#t\r\n",
            "_\r\n",
            "*-1\r\n",
            "-ERR no\r\n",
        ];
        let text = all.concat();
        for size in 1..text.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                frames.take_in(piece);
                while let Some(frame) = frames.next() {
                    found.push(String::from_utf8(frame).unwrap());
                }
            }
            assert_eq!(found, all);
        }
    }
}
