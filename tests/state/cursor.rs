//! Event ids read back, and nothing that a client sends breaks the reader.

use outlast::base::ids::Origin;
use outlast::base::limits::{MAX_CURSOR_PAIRS, MAX_EVENT_ID_BYTES};
use outlast::state::cursor::{Cursor, EventId};
use outlast::state::log::{Log, Position, StreamName};
use proptest::prelude::*;

fn stream() -> impl Strategy<Value = StreamName> {
    "[a-z2-7]{1,10}".prop_map(|text| StreamName::parse(&text).unwrap())
}

fn pairs(max: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((0_u64..1 << 40, 1_u64..36_u64.pow(8)), 0..=max)
}

proptest! {
    #![proptest_config(super::cases(10_000))]

    #[test]
    fn an_event_id_reads_back(stream in stream(), pairs in pairs(MAX_CURSOR_PAIRS)) {
        let mut cursor = Cursor::default();
        for (bits, seq) in pairs {
            cursor.advance(Origin::from_bits(bits), seq);
        }
        let id = cursor.event_id(stream);
        prop_assert!(id.len() <= MAX_EVENT_ID_BYTES && id.bytes().all(|b| (0x21..=0x7e).contains(&b)), "{}", id);
        let read = EventId::parse(&id).unwrap();
        prop_assert_eq!(&read, &EventId { stream, cursor });
        prop_assert_eq!(read.to_string(), id);
    }

    #[test]
    fn with_more_origins_than_fit_those_that_moved_last_are_kept(pairs in pairs(20)) {
        let mut cursor = Cursor::default();
        let mut order: Vec<Origin> = Vec::new();
        for (bits, seq) in pairs {
            let origin = Origin::from_bits(bits % 12);
            if seq > cursor.seen(origin) {
                order.retain(|other| *other != origin);
                order.push(origin);
            }
            cursor.advance(origin, seq);
        }
        let read = EventId::parse(&cursor.event_id(StreamName::GET)).unwrap().cursor;
        let kept: Vec<Origin> = read.pairs().map(|(origin, _)| origin).collect();
        prop_assert_eq!(&kept[..], &order[order.len().saturating_sub(MAX_CURSOR_PAIRS)..]);
        prop_assert!(read.pairs().all(|(origin, seq)| cursor.seen(origin) == seq));
    }

    #[test]
    fn a_cursor_never_goes_back(steps in pairs(30)) {
        let mut cursor = Cursor::default();
        for (bits, seq) in steps {
            let origin = Origin::from_bits(bits % 4);
            let before = cursor.seen(origin);
            cursor.advance(origin, seq);
            prop_assert_eq!(cursor.seen(origin), before.max(seq));
        }
    }

    #[test]
    fn what_is_read_is_what_would_be_written(text in "v1\\.[a-z2-9]{0,3}\\.[0-9a-z~-]{0,60}(\\.[0-9a-z]{0,14})?") {
        if let Ok(read) = EventId::parse(&text) {
            prop_assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", origin in "[0-9a-z]{8}", seq in "[0-9a-z]{1,14}") {
        let _ = EventId::parse(&text);
        let _ = EventId::parse(&format!("v1.{text}"));
        if let Ok(read) = EventId::parse(&format!("v1.g.{origin}-{seq}")) {
            // The highest number there is must not break a log either.
            let cursor = read.cursor;
            let mut log = Log::default();
            for (origin, seq) in cursor.clone().pairs() {
                log.note_mark(origin, seq);
            }
            let mut shown = 0;
            let own = Origin::from_bits(1);
            let gap = log.visit_owed(StreamName::GET, &mut Position::at(cursor), own, 0, 10, |_, _| shown += 1);
            prop_assert!(shown == 0 && !gap);
        }
    }
}

#[test]
fn the_highest_number_of_all_is_seen_as_such() {
    let origin = Origin::from_bits(0);
    let read = EventId::parse("v1.g.00000000-3w5e11264sgsf").unwrap();
    assert_eq!(read.cursor.seen(origin), u64::MAX);
    let mut log = Log::default();
    log.append(origin, outlast::state::log::Kind::Message, StreamName::GET, bytes::Bytes::new(), 1);
    let mut at = Position::at(read.cursor);
    log.visit_owed(StreamName::GET, &mut at, origin, 1, 10, |entry, _| panic!("{entry:?} was seen"));
    assert!(EventId::parse("v1.g.00000000-01").is_err(), "a leading zero is never written");
    assert!(EventId::parse("v1.g.00000000-1~00000000-2").is_err(), "an origin twice");
}
