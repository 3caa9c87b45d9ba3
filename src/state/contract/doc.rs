//! `doc_merge`: the document of a session.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{Reply, Slot};
use crate::state::stamp::Stamp;

/// The field that ends a document: absorbing, the earliest stands.
pub const END: &[u8] = b"~t";
/// The field that says when a document was last used: its stamp's time counts.
pub const SEEN: &[u8] = b"~s";
/// A document is kept so long beyond its time, milliseconds: clocks of instances may differ.
pub const DOC_GRACE_MS: u64 = 60_000;

/// A field that is offered to a document, as it is sent.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name.
    pub name: Bytes,
    /// The text of its stamp.
    pub stamp: Bytes,
    /// Its value.
    pub value: Bytes,
}

impl Offer {
    /// A field with a stamp.
    #[must_use]
    pub fn new(name: impl Into<Bytes>, stamp: Stamp, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), stamp: Bytes::from(stamp.to_string()), value: value.into() }
    }
}

/// Fields that are offered together (`doc_merge`).
#[derive(Clone, Debug)]
pub struct DocOffer {
    /// The fields.
    pub fields: Vec<Offer>,
    /// How far a stamp may be ahead of the shared clock, milliseconds.
    pub ahead_ms: u64,
    /// The document goes after so long without use, milliseconds.
    pub idle_ms: u64,
    /// It goes then in any case, milliseconds since the epoch.
    pub deadline_ms: u64,
}

/// What became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocAnswer {
    /// Joined.
    Merged {
        /// The document is ended.
        ended: bool,
        /// How many fields were news.
        news: u64,
        /// All of it, by name: the text of the stamp, then the value.
        fields: Vec<(Bytes, Bytes)>,
    },
    /// A stamp is too far ahead of this time.
    Skew(u64),
    /// This field has the same stamp with another value.
    Fork(Bytes),
    /// The stamp of this field is none.
    BadStamp(Bytes),
}

impl DocAnswer {
    /// As Redis says it, fields by name.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let pair = |word: &'static str, what: Bytes| Reply::List(vec![Reply::text(word), Reply::Text(what)]);
        match self {
            Self::Merged { ended, news, fields } => Reply::List(vec![
                Reply::text(if *ended { "DEAD" } else { "OK" }),
                Reply::number(*news),
                Reply::List(
                    fields.iter().flat_map(|(name, kept)| [name, kept]).cloned().map(Reply::Text).collect(),
                ),
            ]),
            Self::Skew(now_ms) => pair("SKEW", now_ms.to_string().into()),
            Self::Fork(name) => pair("FORK", name.clone()),
            Self::BadStamp(name) => pair("BADSTAMP", name.clone()),
        }
    }
}

/// A document: by name the text of the stamp, then the value.
pub type DocHash = BTreeMap<Bytes, Bytes>;

/// `doc_merge`: joins fields into a document.
pub fn doc_merge(slot: &mut Slot<DocHash>, now_ms: u64, offer: &DocOffer) -> DocAnswer {
    for field in &offer.fields {
        match stamp_ms(&field.stamp) {
            None => return DocAnswer::BadStamp(field.name.clone()),
            Some(ms) if ms > now_ms.saturating_add(offer.ahead_ms) => return DocAnswer::Skew(now_ms),
            Some(_) => {}
        }
    }
    let mut doc = slot.at(now_ms).map(|doc| doc.clone()).unwrap_or_default();
    let mut dead = doc.get(END).cloned();
    let (mut killed, mut new) = (false, DocHash::new());
    for Offer { name, stamp, value } in &offer.fields {
        let joined = || {
            let mut bytes = BytesMut::with_capacity(stamp.len() + value.len());
            bytes.extend_from_slice(stamp);
            bytes.extend_from_slice(value);
            bytes.freeze()
        };
        if name.as_ref() == END {
            if dead.as_ref().is_none_or(|dead| stamp.as_ref() < stamp_of(dead)) {
                dead = Some(joined());
                killed = true;
            }
        } else if dead.is_none() {
            let current = new.get(name).or_else(|| doc.get(name));
            match current {
                Some(kept) if stamp.as_ref() < stamp_of(kept) => {}
                Some(kept) if stamp.as_ref() == stamp_of(kept) => {
                    if kept.get(Stamp::TEXT..) != Some(value.as_ref()) {
                        return DocAnswer::Fork(name.clone());
                    }
                }
                _ => drop(new.insert(name.clone(), joined())),
            }
        }
    }
    let mut goes_ms = offer.deadline_ms;
    let (ended, news) = match dead {
        Some(dead) => {
            doc = DocHash::from([(Bytes::from_static(END), dead)]);
            (true, u64::from(killed))
        }
        None => {
            let news = new.len() as u64;
            doc.append(&mut new);
            let seen_ms = doc.get(SEEN).and_then(|seen| stamp_ms(stamp_of(seen))).unwrap_or(now_ms);
            goes_ms = goes_ms.min(seen_ms.saturating_add(offer.idle_ms));
            (false, news)
        }
    };
    let fields = doc.iter().map(|(name, kept)| (name.clone(), kept.clone())).collect();
    if doc.is_empty() {
        slot.clear();
    } else {
        slot.put(doc, goes_ms.saturating_add(DOC_GRACE_MS), now_ms);
    }
    DocAnswer::Merged { ended, news, fields }
}

fn stamp_of(kept: &[u8]) -> &[u8] {
    kept.get(..Stamp::TEXT).unwrap_or(kept)
}

fn stamp_ms(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().and_then(Stamp::parse).map(Stamp::ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::ids::Origin;

    const NOW: u64 = 1_000_000_000_000;

    fn offers() -> impl Strategy<Value = Vec<DocOffer>> {
        let field = (0_u8..5, 0_u64..4, 0_u16..2, 0_u64..3).prop_map(|(name, ms, counter, who)| {
            let name = [&b"a"[..], b"b", b"c", SEEN, END][usize::from(name)];
            let stamp = Stamp::new(NOW + ms, counter, Origin::from_bits(who));
            // One stamp has one value, as with writers that were not cloned.
            Offer::new(name, stamp, format!("{stamp}{}", String::from_utf8_lossy(name)))
        });
        let offer = proptest::collection::vec(field, 0..6).prop_map(|fields| DocOffer {
            fields,
            ahead_ms: 60_000,
            idle_ms: 1_000_000,
            deadline_ms: NOW + 10_000_000,
        });
        proptest::collection::vec(offer, 0..6)
    }

    fn all(offers: &[DocOffer], order: impl Iterator<Item = usize>) -> DocHash {
        let mut slot = Slot::default();
        for at in order {
            doc_merge(&mut slot, NOW, &offers[at]);
        }
        slot.at(NOW).cloned().unwrap_or_default()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn documents_are_the_same_whatever_the_order_and_repetition(offers in offers()) {
            let forward = all(&offers, 0..offers.len());
            prop_assert_eq!(&forward, &all(&offers, (0..offers.len()).rev()));
            prop_assert_eq!(&forward, &all(&offers, (0..offers.len()).chain(0..offers.len())));
        }
    }

    #[test]
    fn a_cloned_writer_is_found_out() {
        let stamp = Stamp::new(NOW, 0, Origin::from_bits(1));
        let offer = |value: &'static str| DocOffer {
            fields: vec![Offer::new("a", stamp, value)],
            ahead_ms: 0,
            idle_ms: 1000,
            deadline_ms: NOW + 1000,
        };
        let mut slot = Slot::default();
        assert!(matches!(doc_merge(&mut slot, NOW, &offer("x")), DocAnswer::Merged { news: 1, .. }));
        assert_eq!(doc_merge(&mut slot, NOW, &offer("y")), DocAnswer::Fork("a".into()));
    }
}
