//! The laws of topics and filters, against a plain reading of what they mean.

use outlast::state::topic::{Filter, check_topic};
use proptest::prelude::*;

/// The meaning of a filter, level by level from the front.
fn picks(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => picks(filter, topic),
        ([name, filter @ ..], [other, topic @ ..]) => name == other && picks(filter, topic),
        _ => false,
    }
}

fn levels(extra: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    let names: Vec<&'static str> = ["a", "b", "mcp"].iter().chain(extra).copied().collect();
    proptest::collection::vec(proptest::sample::select(names), 1..5)
}

proptest! {
    #![proptest_config(super::cases(10_000))]
    #[test]
    fn a_filter_picks_what_it_says(filter in levels(&["+", "#"]), topic in levels(&[])) {
        let (text, name) = (filter.join("/"), topic.join("/"));
        prop_assert_eq!(check_topic(&name), Ok(()));
        let rest = filter.iter().position(|level| *level == "#");
        match Filter::parse(&text) {
            Ok(read) => {
                prop_assert!(rest.is_none_or(|at| at == filter.len() - 1));
                prop_assert_eq!(read.picks(&name), picks(&filter, &topic), "{} {}", text, name);
                prop_assert_eq!(read.as_str(), text);
            }
            Err(why) => {
                prop_assert!(rest.is_some_and(|at| at < filter.len() - 1));
                prop_assert!(why.contains("the last one"), "{}", why);
            }
        }
        // A topic is a filter of itself alone.
        prop_assert!(Filter::parse(&name).is_ok_and(|own| own.picks(&name)));
    }

    #[test]
    fn whatever_is_read_is_judged_without_fail(text in ".{0,40}", topic in ".{0,40}") {
        if let Ok(filter) = Filter::parse(&text) {
            let _ = filter.picks(&topic);
        }
        if check_topic(&topic).is_ok() {
            prop_assert!(Filter::parse(&topic).is_ok_and(|own| own.picks(&topic)));
            prop_assert!(Filter::parse("#").is_ok_and(|all| all.picks(&topic)));
        }
    }
}

#[test]
fn what_is_malformed_is_named() {
    for (text, why) in [
        ("", "1 to 256 bytes"),
        ("/a", "without a name"),
        ("a/", "without a name"),
        ("a//b", "without a name"),
        ("a b", "no blanks"),
        ("a/\u{0}", "no blanks"),
        ("a/#/b", "the last one"),
        ("a/b+", "whole levels"),
        ("a/#b", "whole levels"),
    ] {
        let said = Filter::parse(text).unwrap_err();
        assert!(said.contains(why), "{text:?}: {said}");
    }
    assert!(Filter::parse(&"x".repeat(257)).is_err());
    for (text, why) in
        [("a/+", "for filters"), ("#", "for filters"), ("a//b", "without a name"), ("", "1 to 256")]
    {
        let said = check_topic(text).unwrap_err();
        assert!(said.contains(why), "{text:?}: {said}");
    }
    let below = Filter::parse("a/#").unwrap();
    assert!(below.picks("a") && below.picks("a/b/c") && !below.picks("ab"));
}
