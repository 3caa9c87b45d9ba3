//! Small histories, each with one thing wrong in it; the store's own mistakes are in `mutants`.

use super::super::history::{Answer, Call, Record, What, Why};
use super::{Floors, Rule, Settings, Verdict, check};

const STRICT: Settings =
    Settings { touch_ms: 100, reads_may_fail: false, writes_may_fail: false, may_be_set_aside: false };

/// A history that is written line by line.
#[derive(Default)]
struct Story {
    records: Vec<Record>,
    run: u32,
    n: u64,
    op: u64,
}

impl Story {
    /// A session with the field `a` = 1.
    fn begun() -> Self {
        let mut story = Self::default();
        story.start();
        story.done(Call::Create { s: 1, fields: vec![("a".into(), 1)] }, Answer::Done);
        story
    }

    fn say(&mut self, what: What) {
        self.n += 1;
        self.records.push(Record { run: self.run, n: self.n, at: 0, what });
    }

    fn start(&mut self) {
        self.run += 1;
        self.n = 0;
        self.say(What::Start { origin: u64::from(self.run) });
    }

    fn killed(&mut self) {
        self.records.push(Record { run: self.run, n: 0, at: 0, what: What::Killed });
        self.start();
    }

    fn invoke(&mut self, call: Call) -> u64 {
        self.op += 1;
        self.say(What::Invoke { op: self.op, call });
        self.op
    }

    fn done(&mut self, call: Call, answer: Answer) {
        let op = self.invoke(call);
        self.say(What::Ok { op, answer });
    }

    fn put(&mut self, value: u64) {
        self.done(Call::Put { s: 1, field: "a".into(), value }, Answer::Done);
    }

    fn reads(&mut self, value: u64) {
        self.read(Answer::Live { fields: vec![("a".into(), value)], counters: vec![], seen: None });
    }

    fn read(&mut self, answer: Answer) {
        self.done(Call::Read { s: 1 }, answer);
    }

    fn verdict(mut self) -> Verdict {
        self.say(What::Final);
        check(&self.records, STRICT, &Floors::default())
    }

    fn stands(self) {
        let verdict = self.verdict();
        assert!(matches!(verdict, Verdict::Sound(_)), "{verdict}");
    }

    fn breaks(self, rule: Rule) {
        let verdict = self.verdict();
        assert!(verdict.rules().contains(&rule), "{rule:?}: {verdict}");
    }
}

#[test]
fn an_update_of_several_fields_is_found_as_a_whole_or_not_at_all() {
    let told = |held: &[(&str, u64)]| {
        let mut story = Story::begun();
        story.invoke(Call::PutAll { s: 1, fields: vec![("t0".into(), 7), ("t1".into(), 8)] });
        story.killed();
        let held = [&[("a", 1)], held].concat();
        let fields = held.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        story.read(Answer::Live { fields, counters: vec![], seen: None });
        story
    };
    told(&[]).stands();
    told(&[("t0", 7), ("t1", 8)]).stands();
    told(&[("t0", 7)]).breaks(Rule::HalfUpdate);
    told(&[("t1", 8)]).breaks(Rule::HalfUpdate);
}

#[test]
fn a_write_in_flight_at_a_kill_may_have_happened_but_not_later_than_that() {
    for seen in [1, 2] {
        let mut story = Story::begun();
        story.invoke(Call::Put { s: 1, field: "a".into(), value: 2 });
        story.killed();
        story.reads(seen);
        story.stands();
    }
    let mut story = Story::begun();
    story.invoke(Call::Put { s: 1, field: "a".into(), value: 2 });
    story.killed();
    story.reads(1);
    story.reads(2);
    story.breaks(Rule::FieldOrder);
}

#[test]
fn an_earlier_value_after_a_later_one_is_out_of_order() {
    let mut story = Story::begun();
    story.put(2);
    story.reads(1);
    story.breaks(Rule::FieldOrder);
    // Two writes at once have no order until somebody reads.
    let mut story = Story::begun();
    let first = story.invoke(Call::Put { s: 1, field: "a".into(), value: 2 });
    story.put(3);
    story.say(What::Ok { op: first, answer: Answer::Done });
    story.reads(2);
    story.stands();
}

#[test]
fn what_nobody_wrote_or_a_refused_write_is_from_nowhere() {
    let mut story = Story::begun();
    story.reads(9);
    story.breaks(Rule::ValueFromNowhere);
    let mut story = Story::begun();
    story.done(Call::Terminate { s: 1 }, Answer::Done);
    let op = story.invoke(Call::Put { s: 1, field: "a".into(), value: 2 });
    story.say(What::Fail { op, why: Why::Gone, text: String::new() });
    story.reads(2);
    story.breaks(Rule::ValueFromNowhere);
}

#[test]
fn an_ended_session_stays_ended_and_one_that_is_not_is_not_gone() {
    let mut story = Story::begun();
    story.done(Call::Terminate { s: 1 }, Answer::Done);
    story.killed();
    story.reads(1);
    story.breaks(Rule::Revived);
    let mut story = Story::begun();
    story.invoke(Call::Terminate { s: 1 });
    story.killed();
    story.read(Answer::Terminated);
    story.reads(1);
    story.breaks(Rule::Revived);
    let mut story = Story::begun();
    let op = story.invoke(Call::Put { s: 1, field: "a".into(), value: 2 });
    story.say(What::Fail { op, why: Why::Gone, text: String::new() });
    story.reads(1);
    story.breaks(Rule::FalselyGone);
}

#[test]
fn a_database_that_was_set_aside_loses_all_or_the_history_is_broken() {
    let aside = |may: bool, answer: Answer| {
        let mut story = Story::begun();
        story.records.push(Record { run: 1, n: 0, at: 0, what: What::Killed });
        story.records.push(Record { run: 2, n: 0, at: 0, what: What::Aside { said: String::new() } });
        story.start();
        story.read(answer);
        story.say(What::Final);
        check(&story.records, Settings { may_be_set_aside: may, ..STRICT }, &Floors::default())
    };
    let live = || Answer::Live { fields: vec![("a".into(), 1)], counters: vec![], seen: None };
    assert!(matches!(aside(true, Answer::Unknown), Verdict::Sound(_)));
    assert_eq!(aside(false, Answer::Unknown).rules(), [Rule::FailedWithoutCause]);
    assert_eq!(aside(true, live()).rules(), [Rule::SessionFromNowhere]);
    let mut story = Story::begun();
    story.killed();
    story.read(Answer::Unknown);
    story.breaks(Rule::SessionLost);
}

#[test]
fn nothing_is_acknowledged_by_a_store_that_has_stopped() {
    let mut story = Story::begun();
    let op = story.invoke(Call::Put { s: 1, field: "a".into(), value: 2 });
    story.say(What::Fail { op, why: Why::Poisoned, text: String::new() });
    story.put(3);
    story.reads(3);
    story.breaks(Rule::AckAfterPoison);
}

#[test]
fn a_use_before_an_acknowledged_write_is_known_unless_the_store_took_no_writes() {
    let used = |taken: bool, seen: u64, written_after: bool| {
        let mut story = Story::begun();
        story.say(What::Touch { s: 1, used: 500, taken });
        (0..40).for_each(|_| story.reads(1));
        if written_after {
            story.put(2);
        }
        story.killed();
        let fields = vec![("a".into(), if written_after { 2 } else { 1 })];
        story.read(Answer::Live { fields, counters: vec![], seen: Some(seen) });
        story.say(What::Final);
        check(&story.records, Settings { writes_may_fail: true, ..STRICT }, &Floors::default())
    };
    assert_eq!(used(true, 399, true).rules(), [Rule::UseLost]);
    for (taken, seen, written_after) in [(true, 400, true), (false, 399, true), (true, 399, false)] {
        let verdict = used(taken, seen, written_after);
        assert!(matches!(verdict, Verdict::Sound(_)), "{verdict}");
    }
    // On a disk to which nothing was done there is no such time.
    let mut story = Story::begun();
    story.say(What::Touch { s: 1, used: 500, taken: false });
    story.breaks(Rule::FailedWithoutCause);
}

#[test]
fn messages_come_once_in_order_and_all() {
    let sent = |told: &[u64]| {
        let mut story = Story::begun();
        for value in [1, 2] {
            story.done(Call::Send { s: 1, value }, Answer::Done);
        }
        told.iter().for_each(|value| story.say(What::Told { s: 1, value: *value }));
        story.reads(1);
        story
    };
    sent(&[1, 2]).stands();
    sent(&[1]).breaks(Rule::MessageLost);
    for told in [&[2, 1][..], &[1, 1, 2], &[1, 2, 3]] {
        sent(told).breaks(Rule::MessageOrder);
    }
}

#[test]
fn a_history_that_proves_nothing_is_invalid() {
    let invalid = |records: &[Record], floors: &Floors| match check(records, STRICT, floors) {
        Verdict::Invalid(why) => why,
        verdict => panic!("{verdict}"),
    };
    let mut story = Story::begun();
    assert!(invalid(&story.records, &Floors::default()).contains("no final read"));
    story.say(What::Final);
    assert!(invalid(&story.records, &Floors::default()).contains("session 1 is missing"));
    let mut story = Story::begun();
    story.reads(1);
    story.say(What::Final);
    assert!(invalid(&story.records, &Floors { puts: 1, ..Floors::default() }).contains("0 puts"));
    story.records.remove(2);
    assert!(invalid(&story.records, &Floors::default()).contains("lost lines"));
}

#[test]
fn the_excerpt_has_the_lines_that_show_it_and_no_others() {
    let mut story = Story::begun();
    story.put(2);
    story.reads(1);
    let Verdict::Broken(_, excerpt) = story.verdict() else { panic!() };
    assert_eq!(excerpt.lines().count(), 1 + 6, "{excerpt}");
}
