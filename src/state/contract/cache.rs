//! `cache_put` and `cache_void`: kept results of calls, and which of them count.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Slot;

/// A cached value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// When it was made, in milliseconds since the epoch: what was made last stands.
    pub made_ms: u64,
    /// What it is.
    pub value: Bytes,
}

/// A value that is offered to the cache, or what was made up to then is forgotten (`cache_put`). Whether anything was
/// done. An empty value is none.
pub fn cache_put(
    slot: &mut Slot<Cached>,
    now_ms: u64,
    offer: Option<Cached>,
    made_ms: u64,
    until_ms: u64,
) -> bool {
    let standing = slot.at(now_ms).map(|held| held.made_ms);
    match offer {
        None => {
            let goes = standing.is_some_and(|standing| standing <= made_ms);
            if goes {
                slot.clear();
            }
            goes
        }
        Some(_) if standing.is_some_and(|standing| standing >= made_ms) || until_ms <= now_ms => false,
        Some(offer) => {
            slot.put(offer, until_ms, now_ms);
            true
        }
    }
}

/// What was voided of the cache, and when, in numbers of a counting of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voided {
    /// Which counting this is: numbers of two countings say nothing of each other.
    pub counting: Bytes,
    /// The last number.
    pub last: u64,
    /// Up to this one all tags count as voided.
    pub floor: u64,
    /// The number of each tag's last voiding.
    pub tags: BTreeMap<Bytes, u64>,
}

/// Tags that are voided (`cache_void`); of none, only that a counting begins unless there is one.
#[derive(Clone, Debug)]
pub struct Voiding {
    /// The name of the counting, if one begins now.
    pub counting: Bytes,
    /// So many tags are remembered.
    pub most: usize,
    /// For so long, milliseconds.
    pub ttl_ms: u64,
    /// Which.
    pub tags: Vec<Bytes>,
}

/// Voids. The counting and its last number.
pub fn cache_void(slot: &mut Slot<Voided>, now_ms: u64, voiding: &Voiding) -> (Bytes, u64) {
    let begins = || Voided { counting: voiding.counting.clone(), ..Voided::default() };
    let mut next = slot.at(now_ms).cloned().unwrap_or_else(begins);
    if !voiding.tags.is_empty() {
        next.last += 1;
        next.tags.extend(voiding.tags.iter().map(|tag| (tag.clone(), next.last)));
        if next.tags.len() > voiding.most {
            next.tags.clear();
            next.floor = next.last;
        }
    }
    let answer = (next.counting.clone(), next.last);
    slot.put(next, now_ms.saturating_add(voiding.ttl_ms), now_ms);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    #[test]
    fn of_two_cached_values_the_later_one_stands_whatever_comes_first() {
        let cached = |made_ms: u64| Cached { made_ms, value: Bytes::from(format!("v{made_ms}")) };
        for order in [[5, 7], [7, 5]] {
            let mut slot = Slot::default();
            for made_ms in order {
                cache_put(&mut slot, NOW, Some(cached(made_ms)), made_ms, NOW + 10);
            }
            assert_eq!(slot.at(NOW), Some(&mut cached(7)));
            assert!(!cache_put(&mut slot, NOW, None, 6, 0));
            assert!(!cache_put(&mut slot, NOW, Some(cached(9)), 9, NOW));
            assert!(cache_put(&mut slot, NOW, None, 7, 0));
            assert_eq!(slot.at(NOW), None);
        }
    }

    #[test]
    fn what_is_known_of_voided_tags_is_bounded_and_errs_towards_voided() {
        let mut slot = Slot::default();
        let voiding = |tags: &[&'static str]| Voiding {
            counting: Bytes::from_static(b"c"),
            most: 2,
            ttl_ms: 1_000,
            tags: tags.iter().map(|tag| Bytes::from_static(tag.as_bytes())).collect(),
        };
        assert_eq!(cache_void(&mut slot, NOW, &voiding(&[])), ("c".into(), 0));
        assert_eq!(cache_void(&mut slot, NOW, &voiding(&["a", "b"])), ("c".into(), 1));
        assert_eq!(cache_void(&mut slot, NOW, &voiding(&["a"])), ("c".into(), 2));
        assert_eq!(slot.at(NOW).unwrap().tags, BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
        assert_eq!(cache_void(&mut slot, NOW, &voiding(&["x"])), ("c".into(), 3));
        let held = slot.at(NOW).unwrap();
        assert_eq!((held.floor, held.tags.len()), (3, 0));
    }
}
