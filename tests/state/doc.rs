//! The laws of the session document: any copies, joined in any order, any number of times, become equal.

use bytes::Bytes;
use outlast::base::ids::Origin;
use outlast::state::doc::Doc;
use outlast::state::stamp::Stamp;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Stamp, Option<u8>),
    Touch(Stamp),
    End(Stamp),
}

fn stamp() -> impl Strategy<Value = Stamp> {
    // Few values, so that equal stamps and near ones are common.
    (0_u64..6, 0_u16..2, 0_u64..3)
        .prop_map(|(ms, counter, bits)| Stamp::new(ms, counter, Origin::from_bits(bits)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0_u8..5, stamp(), proptest::option::of(0_u8..4)).prop_map(|(field, at, value)| Step::Put(field, at, value)),
        3 => stamp().prop_map(Step::Touch),
        1 => stamp().prop_map(Step::End),
    ]
}

fn doc() -> impl Strategy<Value = Doc> {
    (proptest::collection::vec(step(), 0..12), stamp(), 0_u64..3).prop_map(|(steps, born, deadline)| {
        let mut doc = Doc::new("ann", deadline, born);
        for step in steps {
            match step {
                Step::Put(field, at, value) => {
                    doc.put(&format!("f{field}"), at, value.map(|value| Bytes::from(vec![value])));
                }
                Step::Touch(at) => doc.touch(at),
                Step::End(at) => doc.end(at),
            }
        }
        doc
    })
}

fn joined(a: &Doc, b: &Doc) -> Doc {
    let mut all = a.clone();
    all.join(b);
    all
}

proptest! {
    #![proptest_config(super::cases(10_000))]

    #[test]
    fn join_is_commutative(a in doc(), b in doc()) {
        prop_assert_eq!(joined(&a, &b), joined(&b, &a));
    }

    #[test]
    fn join_is_associative(a in doc(), b in doc(), c in doc()) {
        prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
    }

    #[test]
    fn join_is_idempotent_and_says_whether_it_changed_anything(a in doc(), b in doc()) {
        let mut all = a.clone();
        prop_assert!(!all.join(&a));
        let changed = all.join(&b);
        prop_assert_eq!(changed, all != a);
        prop_assert!(!all.join(&b));
        prop_assert!(!all.join(&a));
    }

    #[test]
    fn the_end_absorbs_and_the_earliest_wins(docs in proptest::collection::vec(doc(), 1..6)) {
        let all = docs.iter().fold(docs[0].clone(), |all, doc| joined(&all, doc));
        let earliest = docs.iter().filter_map(Doc::ended).min();
        prop_assert_eq!(all.ended(), earliest);
        if earliest.is_some() {
            prop_assert_eq!(all.stamped().count(), 0);
            prop_assert_eq!(all.bytes(), 0);
        }
    }

    #[test]
    fn without_its_markers_a_document_keeps_its_values_and_its_version(a in doc()) {
        let mut pruned = a.clone();
        let names = pruned.drop_markers();
        prop_assert_eq!(names.len(), a.stamped().count() - a.fields().count());
        prop_assert!(pruned.fields().eq(a.fields()));
        prop_assert_eq!(pruned.version(), a.version());
        let size: usize = pruned.stamped().map(|(name, field)| name.len() + Stamp::LEN + field.value.as_ref().map_or(0, Bytes::len)).sum();
        prop_assert_eq!(pruned.bytes(), size);
        prop_assert!(pruned.drop_markers().is_empty());
    }

    #[test]
    fn nothing_newer_is_lost_and_the_size_is_right(a in doc(), b in doc()) {
        let all = joined(&a, &b);
        if all.ended().is_some() {
            return Ok(());
        }
        for doc in [&a, &b] {
            for (name, field) in doc.stamped() {
                prop_assert!(all.field(name).is_some_and(|held| held.stamp >= field.stamp));
            }
            prop_assert!(all.seen() >= doc.seen());
            prop_assert!(all.version() >= doc.version());
        }
        let size: usize = all
            .stamped()
            .map(|(name, field)| name.len() + Stamp::LEN + field.value.as_ref().map_or(0, Bytes::len))
            .sum();
        prop_assert_eq!(all.bytes(), size);
        prop_assert_eq!(all.fields().count(), all.stamped().filter(|(_, field)| field.value.is_some()).count());
    }
}
