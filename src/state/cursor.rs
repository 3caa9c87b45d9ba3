//! Event ids: what a client has seen of a stream.
//!
//! ```text
//! event-id = "v1." stream "." [ pair *63("~" pair) ] [ "." moment ]
//! stream   = 1*10 base32                ; "g" for the GET stream
//! pair     = origin8 "-" seq36          ; 40-bit origin and sequence number, both in base 36
//! moment   = milliseconds since the epoch in base 36
//! ```
//! It means: "of each origin named, this client has seen every entry of this stream up to that number; of the others
//! what was said up to that moment, or was told that it is gone". So it stays true on any instance and after any
//! restart, and nothing has to be looked up to read it (docs/sessions.md).

use std::fmt::{self, Write as _};

use super::log::StreamName;
use crate::base::ids::{Origin, base36_digit, parse_base36};
use crate::base::limits::{MAX_CURSOR_PAIRS, MAX_EVENT_ID_BYTES};

/// Later than any moment of an entry, milliseconds since the epoch.
const MAX_MOMENT: u64 = 1 << 52;

/// The highest number seen of each origin. Rarely more than two pairs, so a plain vector.
///
/// There is room for [`MAX_CURSOR_PAIRS`] of them, more than logs retain entries of. What is left away then is kept in
/// mind as a moment: up to it everything of an origin that is not named counts as seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The one that moved last comes last.
    pairs: Vec<(Origin, u64)>,
    /// Milliseconds since the epoch; 0: nothing was left away.
    others_ms: u64,
}

impl Cursor {
    /// The highest number seen of `origin`; 0 for none.
    #[must_use]
    pub fn seen(&self, origin: Origin) -> u64 {
        self.pairs.iter().find(|(known, _)| *known == origin).map_or(0, |(_, seq)| *seq)
    }

    /// Of origins that are not named everything that was said up to this moment was seen, milliseconds since the epoch; 0:
    /// all that were met are named.
    #[must_use]
    pub fn others_ms(&self) -> u64 {
        self.others_ms
    }

    /// As [`Cursor::advance`], of an entry of this moment; the first origin is left away if there is no room.
    pub fn advance_at(&mut self, origin: Origin, seq: u64, at_ms: u64) {
        self.advance(origin, seq);
        // Who is left away has moved before this one.
        self.leave_away(MAX_CURSOR_PAIRS, |_, _| at_ms);
    }

    /// Leaves the first origins away until so many are named; `last_ms` says when the last word of one was said that was
    /// seen up to a number.
    pub fn leave_away(&mut self, room: usize, mut last_ms: impl FnMut(Origin, u64) -> u64) {
        let more = self.pairs.len().saturating_sub(room);
        for (origin, seq) in self.pairs.drain(..more) {
            self.others_ms = self.others_ms.max(last_ms(origin, seq)).min(MAX_MOMENT);
        }
    }

    /// Notes that everything of `origin` up to `seq` was seen. Never goes back.
    pub fn advance(&mut self, origin: Origin, seq: u64) {
        match self.pairs.iter().position(|(known, _)| *known == origin) {
            Some(at) => {
                if let Some((_, seen)) = self.pairs.get_mut(at).filter(|(_, seen)| *seen < seq) {
                    *seen = seq;
                    if let Some(moved) = self.pairs.get_mut(at..) {
                        moved.rotate_left(1);
                    }
                }
            }
            None if seq == 0 => {}
            None => self.pairs.push((origin, seq)),
        }
    }

    /// Notes that everything `other` has seen was seen.
    pub fn join(&mut self, other: &Self) {
        for (origin, seq) in other.pairs() {
            self.advance(origin, seq);
        }
        self.others_ms = self.others_ms.max(other.others_ms);
    }

    /// Whether everything that `other` has seen was seen.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.others_ms >= other.others_ms && other.pairs().all(|(origin, seq)| self.seen(origin) >= seq)
    }

    /// Puts the origins in the order of how much they matter, those of one rank in the order in which they moved: the
    /// first are left away when there is no room for all.
    pub fn prefer<R: Ord>(&mut self, rank: impl Fn(Origin, u64) -> R) {
        self.pairs.sort_by_cached_key(|(origin, seq)| rank(*origin, *seq));
    }

    /// How many origins are named.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.others_ms == 0
    }

    /// The pairs; the one that moved last comes last.
    pub fn pairs(&self) -> impl Iterator<Item = (Origin, u64)> {
        self.pairs.iter().copied()
    }

    /// The event id that says this of `stream`.
    #[must_use]
    pub fn event_id(&self, stream: StreamName) -> String {
        let mut text = String::with_capacity(32);
        self.write_event_id(stream, &mut text);
        text
    }

    /// Appends the event id to `out`.
    pub fn write_event_id(&self, stream: StreamName, out: &mut String) {
        out.push_str("v1.");
        out.push_str(stream.as_str());
        out.push('.');
        let no_room = self.pairs.len().saturating_sub(MAX_CURSOR_PAIRS);
        for (at, (origin, seq)) in self.pairs.iter().skip(no_room).enumerate() {
            if at > 0 {
                out.push('~');
            }
            let _ = write!(out, "{origin}-");
            push_base36(*seq, out);
        }
        if self.others_ms > 0 {
            out.push('.');
            push_base36(self.others_ms, out);
        }
    }
}

/// An event id that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The stream it belongs to.
    pub stream: StreamName,
    /// What was seen of it.
    pub cursor: Cursor,
}

/// Not an event id of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event id of this server")]
pub struct BadEventId;

impl EventId {
    /// Reads an event id.
    ///
    /// # Errors
    /// [`BadEventId`] for anything that [`Cursor::event_id`] would not write.
    pub fn parse(text: &str) -> Result<Self, BadEventId> {
        if text.len() > MAX_EVENT_ID_BYTES {
            return Err(BadEventId);
        }
        let rest = text.strip_prefix("v1.").ok_or(BadEventId)?;
        let (stream, pairs) = rest.split_once('.').ok_or(BadEventId)?;
        let stream = StreamName::parse(stream).ok_or(BadEventId)?;
        let mut cursor = Cursor::default();
        let pairs = match pairs.split_once('.') {
            Some((pairs, moment)) => {
                let ms = parse_base36(moment)
                    .filter(|ms| (1..=MAX_MOMENT).contains(ms) && !moment.starts_with('0'));
                cursor.others_ms = ms.ok_or(BadEventId)?;
                pairs
            }
            None => pairs,
        };
        if !pairs.is_empty() {
            for (at, pair) in pairs.split('~').enumerate() {
                let (origin, seq) = pair.split_once('-').ok_or(BadEventId)?;
                let bits = (origin.len() == Origin::TEXT).then(|| parse_base36(origin)).flatten();
                let bits = bits.filter(|bits| *bits < 1 << 40).ok_or(BadEventId)?;
                let seq = parse_base36(seq).filter(|_| !seq.starts_with('0')).ok_or(BadEventId)?;
                let origin = Origin::from_bits(bits);
                if at >= MAX_CURSOR_PAIRS || cursor.seen(origin) != 0 {
                    return Err(BadEventId);
                }
                cursor.advance(origin, seq);
            }
        }
        Ok(Self { stream, cursor })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cursor.event_id(self.stream))
    }
}

fn push_base36(value: u64, out: &mut String) {
    let mut digits = [0_u8; 13];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        if let Some(slot) = digits.get_mut(at) {
            *slot = base36_digit(rest % 36);
        }
        rest /= 36;
        if rest == 0 {
            break;
        }
    }
    out.push_str(digits.get(at..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or("0"));
}
