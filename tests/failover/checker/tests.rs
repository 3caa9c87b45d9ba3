//! Small histories: one that is sound, and for every rule some that break it alone.

use super::super::history::{
    Answer, Call, FieldRead, Link, Record, Reported, Run, SharedDoc, SharedRun, Stop, What, Why,
};
use super::{Rule, Settings, Verdict, check};

const ORIGIN: u64 = 0xa1;

/// Writes a history line by line; time goes on by 10 ms with each.
#[derive(Default)]
struct Script {
    records: Vec<Record>,
    at: u64,
    ops: u64,
    link: Link,
}

impl Script {
    fn new() -> Self {
        let mut script = Self { at: 1_000_000, link: Link::Leased, ..Self::default() };
        script.note(What::Start { instance: 0, origin: ORIGIN });
        script.note(What::Start { instance: 1, origin: 0xb2 });
        script
    }

    fn note(&mut self, what: What) -> &mut Self {
        self.at += 10;
        self.records.push(Record { at: self.at, what });
        self
    }

    fn begin(&mut self, instance: u32, call: Call) -> u64 {
        self.ops += 1;
        let (op, link) = (self.ops, self.link);
        self.note(What::Invoke { op, instance, link, call });
        op
    }

    fn end(&mut self, op: u64, answer: Answer) -> &mut Self {
        let link = self.link;
        self.note(What::Ok { op, link, shared: link.is_up(), answer })
    }

    fn ok(&mut self, instance: u32, call: Call, answer: Answer) -> &mut Self {
        let op = self.begin(instance, call);
        self.end(op, answer)
    }

    fn refused(&mut self, instance: u32, call: Call, why: Why) -> &mut Self {
        let (op, link) = (self.begin(instance, call), self.link);
        self.note(What::Fail { op, link, why, text: String::new() })
    }

    fn unanswered(&mut self, instance: u32, call: Call) -> &mut Self {
        let op = self.begin(instance, call);
        self.note(What::Info { op, text: String::new() })
    }

    fn create(&mut self, s: u32) -> &mut Self {
        self.ok(0, Call::Create { s, fields: Vec::new() }, Answer::Done)
    }

    fn put(&mut self, instance: u32, value: u64, stamp: &str) -> &mut Self {
        let call = Call::Put { s: 1, field: "f".into(), value: Some(value), fence: None };
        self.ok(instance, call, Answer::Stamped(vec![("f".into(), stamp.into())]))
    }

    fn read(&mut self, instance: u32, held: Option<(u64, &str)>) -> &mut Self {
        self.ok(instance, Call::Read { s: 1 }, live(held))
    }

    fn say(&mut self, instance: u32, value: u64, origin: u64, seq: u64) -> &mut Self {
        self.ok(instance, append(value), Answer::Placed(origin, seq))
    }

    fn subscribed(&mut self) -> &mut Self {
        self.note(What::Subscribed { client: 7, s: 1, stream: "g".into() })
    }

    fn got(&mut self, value: u64, seq: u64) -> &mut Self {
        self.note(What::Delivered { client: 7, s: 1, origin: ORIGIN, seq, value })
    }

    fn quiet(&mut self) -> &mut Self {
        self.link = Link::Leased;
        self.note(What::Quiet);
        self.note(What::Owes { instance: 0, sessions: 0 }).note(What::Owes { instance: 1, sessions: 0 });
        self.note(What::Final)
    }

    /// The final read of session 1 by both, with one field and a log.
    fn finish(&mut self, held: Option<(u64, &str)>, seqs: &[u64]) -> &mut Self {
        self.quiet().read(0, held).read(1, held);
        self.shared(held, seqs)
    }

    fn shared(&mut self, held: Option<(u64, &str)>, seqs: &[u64]) -> &mut Self {
        let fields = held.iter().map(|(_, stamp)| ("f".to_owned(), (*stamp).to_owned())).collect();
        let run = SharedRun { origin: ORIGIN, mark: seqs.last().copied(), seqs: seqs.to_vec() };
        let log = if seqs.is_empty() { Vec::new() } else { vec![run] };
        self.note(What::Shared { s: 1, doc: SharedDoc::Live(fields), log })
    }

    fn is(&self, rule: Rule) {
        let verdict = check(&self.records, &Settings::default(), &[]);
        let rules = verdict.rules();
        assert!(!rules.is_empty() && rules.iter().all(|found| *found == rule), "want {rule:?}: {verdict}");
    }

    fn is_sound(&self) {
        let verdict = check(&self.records, &Settings::default(), &[]);
        assert!(matches!(verdict, Verdict::Sound(_)), "{verdict}");
    }

    fn is_invalid(&self, floors: &[(&str, u64)]) -> String {
        match check(&self.records, &Settings::default(), floors) {
            Verdict::Invalid(why) => why,
            verdict => panic!("want invalid: {verdict}"),
        }
    }
}

fn live(held: Option<(u64, &str)>) -> Answer {
    let field =
        |(value, stamp): (u64, &str)| FieldRead { name: "f".into(), value: Some(value), stamp: stamp.into() };
    Answer::Live(held.map(field).into_iter().collect())
}

fn append(value: u64) -> Call {
    Call::Append { s: 1, stream: "g".into(), value, trims: Vec::new() }
}

const TERMINATE: Call = Call::Terminate { s: 1 };

/// Stamps that rise with the number, long before the time of the scripts.
fn stamp(number: u8) -> String {
    format!("{:012x}0000{:010x}", 1_000 + u64::from(number), ORIGIN)
}

#[test]
fn a_history_of_everything_is_sound() {
    let mut script = Script::new();
    script.create(1).subscribed().put(0, 1, &stamp(1)).say(0, 100, ORIGIN, 1).got(100, 1);
    script.link = Link::Down;
    script.put(1, 2, &stamp(2)).say(0, 101, ORIGIN, 2).unanswered(0, append(102));
    let result = |value| Call::Report { s: 1, name: "r".into(), fence: 1, rev: 1, terminal: true, value };
    script.ok(0, result(5), Answer::Reported(Reported::Ok));
    script.ok(0, result(6), Answer::Reported(Reported::Final));
    let read = Call::ReadResult { s: 1, name: "r".into() };
    script.ok(0, read, Answer::Outcome(Some((1, 1, true, 5))));
    script.link = Link::Leased;
    let lock = |holder| Call::Lock { lock: "l".into(), global: true, holder };
    script.ok(0, lock(1), Answer::Fence(10)).ok(0, lock(1), Answer::Fence(10)).ok(
        1,
        lock(2),
        Answer::Fence(11),
    );
    script.got(101, 2).got(102, 3);
    script.finish(Some((2, &stamp(2))), &[1, 2, 3]);
    script.note(What::Replayed { commands: 9 }).shared(Some((2, &stamp(2))), &[1, 2, 3]);
    script.is_sound();
}

#[test]
fn a_run_without_quiet_final_read_or_floors_proves_nothing() {
    let mut script = Script::new();
    script.create(1);
    assert!(script.is_invalid(&[]).contains("quiet"));
    script.quiet().read(0, None);
    assert!(script.is_invalid(&[]).contains("instance 1"));
    script.read(1, None);
    assert!(script.is_invalid(&[]).contains("shared store"));
    script.shared(None, &[]);
    script.is_sound();
    assert!(script.is_invalid(&[("append", 1)]).contains("append"));
    assert!(script.is_invalid(&[("create", 1), ("fault:cut", 1)]).contains("fault:cut"));
    script.note(What::Fault { kind: "cut".into(), instance: None, loses: false });
    assert!(script.is_invalid(&[]).contains("fault in the quiet"));
}

#[test]
fn i1_an_acknowledged_entry_that_is_not_there() {
    let mut script = Script::new();
    script.create(1).say(0, 100, ORIGIN, 1).say(0, 101, ORIGIN, 2).finish(None, &[1]);
    script.is(Rule::I1EntryLost);
    let mut script = Script::new();
    script.create(1).say(0, 100, ORIGIN, 1).say(0, 101, ORIGIN, 2).finish(None, &[2]);
    script.is(Rule::I1EntryLost);
}

#[test]
fn i1_what_was_cut_off_on_purpose_is_not_lost() {
    let mut script = Script::new();
    script.create(1).say(0, 100, ORIGIN, 1);
    let call = Call::Append { s: 1, stream: "g".into(), value: 101, trims: vec![(ORIGIN, 2)] };
    script.ok(0, call, Answer::Placed(ORIGIN, 2)).finish(None, &[2]);
    script.is_sound();
}

#[test]
fn i2_entries_twice_out_of_order_with_a_hole_or_from_nowhere() {
    for seqs in [&[1, 2, 2][..], &[2, 1], &[1, 3]] {
        let mut script = Script::new();
        script.create(1).say(0, 100, ORIGIN, 1).say(0, 101, ORIGIN, 2).unanswered(0, append(103));
        script.finish(None, &[1, 2, 3]);
        script.is_sound();
        let last = script.records.pop().unwrap();
        let What::Shared { s, doc, .. } = last.what else { panic!() };
        let run = SharedRun { origin: ORIGIN, mark: seqs.last().copied(), seqs: seqs.to_vec() };
        script.note(What::Shared { s, doc, log: vec![run] });
        let rules = check(&script.records, &Settings::default(), &[]).rules();
        assert!(rules.contains(&Rule::I2LogBroken), "{seqs:?}: {rules:?}");
    }
    let mut script = Script::new();
    script.create(1).say(0, 100, ORIGIN, 1).say(1, 101, ORIGIN, 1).finish(None, &[1]);
    script.is(Rule::I2LogBroken);
    let mut script = Script::new();
    script.create(1);
    let run = Run { origin: ORIGIN, base: 1, hw: 1, entries: vec![(1, "g".into(), 55)] };
    script.ok(0, Call::ReadLog { s: 1 }, Answer::Log(vec![run])).finish(None, &[]);
    script.is(Rule::I2LogBroken);
}

#[test]
fn i3_a_client_that_gets_something_twice_or_out_of_order_or_not_at_all() {
    let said = || {
        let mut script = Script::new();
        script.create(1).subscribed().say(0, 100, ORIGIN, 1).say(0, 101, ORIGIN, 2);
        script
    };
    let mut script = said();
    script.got(100, 1).got(101, 2).got(101, 2).finish(None, &[1, 2]);
    script.is(Rule::I3Delivery);
    let mut script = said();
    script.got(101, 2).got(100, 1).finish(None, &[1, 2]);
    script.is(Rule::I3Delivery);
    let mut script = said();
    script.got(101, 2).finish(None, &[1, 2]);
    script.is(Rule::I3Delivery);
    let mut script = said();
    script.note(What::Gap { client: 7, upto: vec![(ORIGIN, 1)] }).got(101, 2).finish(None, &[1, 2]);
    script.is_sound();
    let mut script = said();
    script.got(100, 1).got(101, 2).got(77, 3).finish(None, &[1, 2]);
    script.is(Rule::I3Delivery);
}

#[test]
fn i3_a_broadcast_reaches_every_client() {
    let mut script = Script::new();
    script.create(1).subscribed().ok(1, Call::Broadcast { value: 500 }, Answer::Done).finish(None, &[]);
    script.is(Rule::I3Delivery);
    let mut script = Script::new();
    script.create(1).subscribed().ok(1, Call::Broadcast { value: 500 }, Answer::Done);
    script.note(What::Delivered { client: 7, s: u32::MAX, origin: 0xcc, seq: 1, value: 500 });
    script.finish(None, &[]);
    script.is_sound();
}

#[test]
fn i4_documents_that_differ_or_have_lost_a_write() {
    let mut script = Script::new();
    script.create(1).put(0, 1, &stamp(1)).put(0, 2, &stamp(2)).finish(Some((1, &stamp(1))), &[]);
    script.is(Rule::I4Diverged);
    let mut script = Script::new();
    script.create(1).put(0, 1, &stamp(1)).finish(None, &[]);
    script.is(Rule::I4Diverged);
    let mut script = Script::new();
    script.create(1).put(0, 1, &stamp(1)).quiet();
    script.unanswered(1, Call::Put { s: 1, field: "f".into(), value: Some(3), fence: None });
    script.read(0, Some((1, &stamp(1)))).read(1, Some((3, &stamp(9)))).shared(Some((1, &stamp(1))), &[]);
    script.is(Rule::I4Diverged);
    let mut script = Script::new();
    script.create(1).put(0, 1, &stamp(1)).quiet().read(0, Some((1, &stamp(1)))).read(1, Some((1, &stamp(1))));
    script.shared(None, &[]);
    script.is(Rule::I4Diverged);
    let mut script = Script::new();
    script.create(1).finish(Some((9, &stamp(1))), &[]);
    script.is(Rule::I4Diverged);
}

#[test]
fn i4_a_counter_that_counts_too_little_or_twice() {
    for (found, sound) in [(1, false), (2, true), (3, true), (4, false)] {
        let mut script = Script::new();
        script.create(1).ok(0, Call::Count { s: 1 }, Answer::Count(1)).ok(
            0,
            Call::Count { s: 1 },
            Answer::Count(2),
        );
        script.unanswered(0, Call::Count { s: 1 }).finish(None, &[]);
        script.ok(1, Call::ReadCount { s: 1 }, Answer::Count(found));
        if sound { script.is_sound() } else { script.is(Rule::I4Diverged) }
    }
    let mut script = Script::new();
    script.create(1).ok(0, Call::Count { s: 1 }, Answer::Count(1)).ok(
        0,
        Call::Count { s: 1 },
        Answer::Count(1),
    );
    script.finish(None, &[]);
    script.is(Rule::I4Diverged);
}

#[test]
fn i5_a_session_that_is_served_after_its_end() {
    let mut script = Script::new();
    script.create(1).ok(0, TERMINATE, Answer::Done).read(0, None).quiet();
    script.ok(0, Call::Read { s: 1 }, Answer::Ended).ok(1, Call::Read { s: 1 }, Answer::Ended);
    script.note(What::Shared { s: 1, doc: SharedDoc::Ended, log: Vec::new() });
    script.is(Rule::I5Revived);
    let mut script = Script::new();
    // Another instance may not know it before the healing.
    script.create(1).ok(0, TERMINATE, Answer::Done).read(1, None).quiet();
    script.ok(0, Call::Read { s: 1 }, Answer::Ended).ok(1, Call::Read { s: 1 }, Answer::Ended);
    script.note(What::Shared { s: 1, doc: SharedDoc::Ended, log: Vec::new() });
    script.is_sound();
    script.read(1, None);
    script.is(Rule::I5Revived);
}

#[test]
fn i6_a_session_that_is_said_not_to_be_there() {
    let mut script = Script::new();
    script.create(1).ok(1, Call::Read { s: 1 }, Answer::NotFound).finish(None, &[]);
    script.is(Rule::I6FalseNotFound);
    let mut script = Script::new();
    script.create(1).refused(1, append(100), Why::Gone).finish(None, &[]);
    script.is(Rule::I6FalseNotFound);
    let mut script = Script::new();
    // Somebody may have ended it.
    script.create(1).unanswered(0, TERMINATE).ok(1, Call::Read { s: 1 }, Answer::NotFound);
    script.finish(None, &[]);
    script.is_sound();
}

#[test]
fn i7_what_only_a_power_cut_can_have_lost() {
    let mut script = Script::new();
    script.create(1);
    script.link = Link::Down;
    script.put(0, 1, &stamp(1)).say(0, 100, ORIGIN, 1);
    script
        .note(What::Stop { instance: 0, how: Stop::PowerCut })
        .note(What::Start { instance: 0, origin: 0xd4 });
    script.finish(None, &[]);
    script.is(Rule::I7NotDurable);
}

#[test]
fn i8_a_terminal_result_that_changes_or_goes() {
    let report = |value| Call::Report { s: 1, name: "r".into(), fence: 2, rev: value, terminal: true, value };
    let read = || Call::ReadResult { s: 1, name: "r".into() };
    let shows = |value| Answer::Outcome(Some((2, value, true, value)));
    let mut script = Script::new();
    script.create(1).ok(0, report(5), Answer::Reported(Reported::Ok)).ok(0, read(), shows(5));
    script.ok(1, read(), shows(6)).finish(None, &[]);
    script.is(Rule::I8ResultChanged);
    let mut script = Script::new();
    script.create(1).ok(0, report(5), Answer::Reported(Reported::Ok)).ok(0, read(), shows(5));
    script.ok(0, report(6), Answer::Reported(Reported::Ok)).finish(None, &[]);
    script.is(Rule::I8ResultChanged);
    let mut script = Script::new();
    script.create(1).ok(0, report(5), Answer::Reported(Reported::Ok)).finish(None, &[]);
    script.ok(1, read(), Answer::Outcome(None));
    script.is(Rule::I8ResultChanged);
}

#[test]
fn i9_a_fence_that_does_not_rise_or_does_not_guard() {
    let lock = |holder| Call::Lock { lock: "l".into(), global: true, holder };
    for (first, second) in [(10, 9), (10, 10)] {
        let mut script = Script::new();
        script.create(1).ok(0, lock(1), Answer::Fence(first)).ok(1, lock(2), Answer::Fence(second));
        script.finish(None, &[]);
        script.is(Rule::I9Fence);
    }
    let mut script = Script::new();
    script.create(1).ok(0, lock(1), Answer::Fence(10)).ok(0, lock(2), Answer::Fence(11));
    let fence = Some(("l".to_owned(), 10));
    let put = Call::Put { s: 1, field: "f".into(), value: Some(4), fence };
    script.ok(0, put, Answer::Stamped(vec![("f".into(), stamp(4))])).finish(Some((4, &stamp(4))), &[]);
    script.is(Rule::I9Fence);
}

#[test]
fn i10_a_lock_among_all_that_is_taken_alone() {
    let mut script = Script::new();
    script.create(1);
    script.link = Link::Down;
    script
        .ok(0, Call::Lock { lock: "l".into(), global: true, holder: 1 }, Answer::Fence(1))
        .finish(None, &[]);
    script.is(Rule::I10GlobalAlone);
    let mut script = Script::new();
    script.create(1);
    script.link = Link::Down;
    script
        .ok(0, Call::Lock { lock: "l".into(), global: false, holder: 1 }, Answer::Fence(1))
        .finish(None, &[]);
    script.is_sound();
}

#[test]
fn i11_a_repetition_that_changes_something() {
    let mut script = Script::new();
    script.create(1).say(0, 100, ORIGIN, 1).put(0, 1, &stamp(1)).finish(Some((1, &stamp(1))), &[1]);
    script.note(What::Replayed { commands: 2 });
    let run = SharedRun { origin: ORIGIN, mark: Some(2), seqs: vec![1, 2] };
    let doc = SharedDoc::Live(vec![("f".into(), stamp(1))]);
    script.note(What::Shared { s: 1, doc, log: vec![run] });
    script.is(Rule::I11NotIdempotent);
}

#[test]
fn i12_a_read_under_a_lease_that_is_older_than_what_was_told() {
    let build = |wait: u64, loses: bool, link: Link| {
        let mut script = Script::new();
        script.create(1).put(0, 1, &stamp(1)).put(0, 2, &stamp(2));
        if loses {
            script.note(What::Fault { kind: "flushall".into(), instance: None, loses });
        }
        script.at += wait;
        script.link = link;
        script.read(1, Some((1, &stamp(1)))).finish(Some((2, &stamp(2))), &[]);
        script
    };
    build(1_001, false, Link::Leased).is(Rule::I12Stale);
    build(900, false, Link::Leased).is_sound();
    build(1_001, true, Link::Leased).is_sound();
    build(1_001, false, Link::Up).is_sound();
}

#[test]
fn i13_something_that_stays_owed() {
    let mut script = Script::new();
    script.create(1).note(What::Quiet).note(What::Owes { instance: 0, sessions: 3 });
    script.note(What::Owes { instance: 1, sessions: 0 });
    script.at += 4_000;
    script.note(What::Owes { instance: 0, sessions: 1 }).note(What::Final).read(0, None).read(1, None);
    script.shared(None, &[]);
    script.is(Rule::I13Stuck);
    let mut script = Script::new();
    script.create(1).note(What::Quiet).note(What::Owes { instance: 0, sessions: 3 });
    script.note(What::Owes { instance: 1, sessions: 0 });
    script.at += 6_000;
    script.note(What::Owes { instance: 0, sessions: 0 }).note(What::Final).read(0, None).read(1, None);
    script.shared(None, &[]);
    script.is(Rule::I13Stuck);
}

#[test]
fn i14_something_that_grows_past_its_bound() {
    let mut script = Script::new();
    script.create(1);
    script
        .note(What::Measure { instance: 0, name: "event id".into(), value: 161, bound: 160 })
        .finish(None, &[]);
    script.is(Rule::I14Unbounded);
}

#[test]
fn a_history_reads_back_as_it_was_written() {
    let mut script = Script::new();
    script.create(1).subscribed().put(0, 1, &stamp(1)).say(0, 100, ORIGIN, 1).refused(
        0,
        append(7),
        Why::Away,
    );
    script.got(100, 1).note(What::Gap { client: 7, upto: vec![(1, 2)] }).finish(Some((1, &stamp(1))), &[1]);
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("history.jsonl");
    super::super::history::keep(&path, &script.records);
    assert_eq!(super::super::history::read(&path), script.records);
}

#[test]
fn every_rule_has_a_name_of_its_own_invariant() {
    for (at, rule) in Rule::ALL.iter().enumerate() {
        assert!(format!("{rule:?}").starts_with(&format!("I{}", at + 1)), "{rule:?}");
    }
}
