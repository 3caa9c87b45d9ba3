//! That repetition changes nothing, that what is owed is paid, and that nothing grows without end: I11, I13, I14.

use std::collections::BTreeMap;

use super::super::history::What;
use super::index::Index;
use super::{Finding, Rule, Settings};

/// What every heal may take besides the sessions it has to heal, milliseconds.
const HEAL_MS: u64 = 5_000;

pub(super) fn check(index: &Index<'_>, settings: &Settings, findings: &mut Vec<Finding>) {
    let replayed = index.history.iter().position(|record| matches!(record.what, What::Replayed { .. }));
    if let Some(replayed) = replayed {
        for after in index.shared.iter().filter(|shared| shared.at > replayed) {
            let before = index.shared.iter().rfind(|shared| shared.s == after.s && shared.at < replayed);
            if let Some(before) = before.filter(|before| before.at > index.end)
                && (before.doc, before.log) != (after.doc, after.log)
            {
                findings.push(Finding {
                    rule: Rule::I11NotIdempotent,
                    what: format!("session {}: what was executed again has changed it", after.s),
                    lines: vec![before.at, replayed, after.at],
                });
            }
        }
    }
    owed(index, settings, findings);
    for (at, record) in index.history.iter().enumerate() {
        if let What::Measure { instance, name, value, bound } = &record.what
            && value > bound
        {
            findings.push(Finding {
                rule: Rule::I14Unbounded,
                what: format!("{name} of instance {instance} is {value}, its bound {bound}"),
                lines: vec![at],
            });
        }
    }
}

fn owed(index: &Index<'_>, settings: &Settings, findings: &mut Vec<Finding>) {
    // It begins anew when a link was down in it.
    let Some(quiet) = index.history.iter().rposition(|record| record.what == What::Quiet) else { return };
    let began = index.history.get(quiet).map_or(0, |record| record.at);
    let mut first: BTreeMap<u32, u64> = BTreeMap::new();
    let mut last: BTreeMap<u32, (usize, u64, u64)> = BTreeMap::new();
    for (at, record) in index.history.iter().enumerate().skip(quiet) {
        if let What::Owes { instance, sessions } = record.what {
            first.entry(instance).or_insert(sessions);
            // The moment at which it was paid counts.
            let paid = last.get(&instance).is_some_and(|(_, _, sessions)| *sessions == 0);
            if !(paid && sessions == 0) {
                last.insert(instance, (at, record.at, sessions));
            }
        }
    }
    for instance in index.running() {
        let Some((line, at, sessions)) = last.get(&instance).copied() else {
            findings.push(Finding {
                rule: Rule::I13Stuck,
                what: format!("instance {instance} did not say what it owes in the quiet period"),
                lines: vec![quiet],
            });
            continue;
        };
        let owed = first.get(&instance).copied().unwrap_or(0);
        let within = owed * 1_000 / settings.heal_per_second.max(1) + HEAL_MS;
        let took = at.saturating_sub(began);
        if sessions > 0 || took > within {
            findings.push(Finding {
                rule: Rule::I13Stuck,
                what: format!(
                    "instance {instance} owed {owed} sessions, and {sessions} after {took} ms; {within} ms are enough"
                ),
                lines: vec![quiet, line],
            });
        }
    }
}
