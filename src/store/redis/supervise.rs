//! What keeps one link: two connections (commands; what changed), probes through both, and what the server says of
//! itself.
//!
//! A probe is a write over the first connection whose notice must come back over the second: it shows that writes are
//! taken and that changes are heard of, which a PING on either does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dial::{Asked, Pipe, Place, Whom};
use super::failure::{Class, Failure};
use super::instances;
use super::keys::CANARIES;
use super::line::{Line, send};
use super::shared::Shared;
use super::track::{self, Told};
use super::{answer, script};
use crate::base::backoff::Backoff;
use crate::base::clock::millis;
use crate::base::ids::Origin;
use crate::config::redis::RedisKind;
use crate::state::link::{Cause, LinkState, Probed};
use crate::state::stamp::Stamp;
use crate::store::remote::{DocPush, Event, SharedField};

/// How long the notice of a probe may take.
const ECHO: Duration = Duration::from_secs(1);
/// Between two looks at what the server says of itself.
const LOOK: Duration = Duration::from_secs(2);
/// Between two probes while the link is not up, and after one that failed.
const EAGER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(50));
/// Between two attempts to connect.
const ATTEMPTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// The document of a probe goes after this long, milliseconds.
const PROBE_TTL_MS: u64 = 60_000;
/// Canaries that are looked at per shard.
const LOOKED_AT: usize = 4;

/// What is remembered of the shard from one connection to the next.
#[derive(Default)]
struct Known {
    run_id: String,
    replid: String,
    address: String,
    canaries: BTreeMap<u16, String>,
}

/// Both connections.
struct Open {
    commands: Arc<Pipe>,
    /// Ends when it is dropped.
    _tracking: Pipe,
}

/// Keeps a link for ever.
pub(super) async fn supervise(shared: Arc<Shared>, line: Arc<Line>) {
    let mut place = line.place.subscribe();
    let mut known = Known::default();
    let mut backoff = Backoff::new(ATTEMPTS.0, ATTEMPTS.1);
    loop {
        let Some(to) = place.borrow_and_update().clone() else {
            line.note(&shared, |link, now_ms| link.failed(now_ms, Cause::ClusterDown));
            if place.changed().await.is_err() {
                return;
            }
            continue;
        };
        let pause = line.pause_left(&shared);
        if !pause.is_zero() {
            sleep(pause).await;
            continue;
        }
        match connect(&shared, &line, &to, &mut known).await {
            Ok(open) => {
                line.open(Arc::clone(&open.commands));
                live(&shared, &line, &open, &to, &mut place, &mut known).await;
                line.close();
                // Connections that break one after the other: nothing is heard meanwhile.
                line.note(&shared, |link, now_ms| link.tick(now_ms));
                if line.state() == LinkState::Up || line.state() == LinkState::ReadOnly {
                    // Anew at once: a connection that broke is not yet a server that is gone.
                    backoff.reset();
                    continue;
                }
            }
            Err(failure) => {
                line.problem(Arc::clone(&failure.text));
                line.note(&shared, |link, now_ms| link.failed(now_ms, failure.cause()));
            }
        }
        tokio::select! {
            () = sleep(backoff.wait()) => {}
            changed = place.changed() => if changed.is_err() { return },
        }
    }
}

/// Makes both connections and looks at who is there.
async fn connect(
    shared: &Arc<Shared>,
    line: &Arc<Line>,
    to: &Place,
    known: &mut Known,
) -> Result<Open, Failure> {
    if !holds_meta(shared, line) {
        agree(shared, line, None).await?;
    }
    // What broke before is over.
    let _ = timeout(Duration::ZERO, line.broken.notified()).await;
    let commands = dial(shared, line, to, false).await?;
    let tracking = dial(shared, line, to, true).await?;
    if commands.peer != tracking.peer {
        let text = format!(
            "{}:{} is {} and {}: two servers under one name",
            to.0, to.1, commands.peer, tracking.peer
        );
        return Err(Failure::new(Class::Hard(Cause::WrongPrimary), text));
    }
    let mut track = redis::cmd("CLIENT");
    track.arg("TRACKING").arg("ON").arg("BCAST");
    for prefix in shared.keys.tracked() {
        track.arg("PREFIX").arg(prefix);
    }
    let deadline = shared.deadline();
    tracking.ask(&track, deadline).await.map_err(|asked| asked.into_failure(deadline))?;
    look(shared, line, &commands, to).await?;
    agree(shared, line, Some(&commands)).await?;
    // What was written between the two connections was not heard of.
    shared.tell(Event::Lapsed(line.shard));
    if lineage(line, to, known) | lost_canary(shared, line, &commands, known, LOOKED_AT).await {
        tracing::warn!(
            shard = line.shard.0,
            "another Redis, or one that has lost data: all is offered again"
        );
        shared.tell(Event::Lineage(line.shard));
    }
    Ok(Open { commands: Arc::new(commands), _tracking: tracking })
}

/// Whether what all instances agree on lies in a shard.
fn holds_meta(shared: &Shared, line: &Line) -> bool {
    shared.shard_of(&shared.keys.meta()) == line.shard
}

/// Whether this version may write; asked where that is written down, and remembered for the other shards.
async fn agree(shared: &Shared, line: &Line, pipe: Option<&Pipe>) -> Result<(), Failure> {
    if let Some(pipe) = pipe.filter(|_| holds_meta(shared, line)) {
        let agreed = instances::agree(shared, pipe).await;
        shared.refusal.store(agreed.err().map(Arc::new));
    }
    match shared.refusal.load_full() {
        Some(refusal) => Err(Failure::new(Class::Hard(Cause::Unfit), refusal.as_str())),
        None => Ok(()),
    }
}

async fn dial(shared: &Arc<Shared>, line: &Arc<Line>, to: &Place, tracking: bool) -> Result<Pipe, Failure> {
    let (on, to_line) = (Arc::clone(shared), Arc::clone(line));
    shared
        .dialer
        .dial(
            to,
            Whom::Server,
            Some(Box::new(move |push| {
                track::read(&on.keys, &push, |told| match told {
                    Told::Event(event) => on.tell(event),
                    Told::Probe(name) => {
                        if name.strip_prefix("probe-").is_some_and(|rest| rest.starts_with(&on.me)) {
                            to_line.echoes.fetch_add(1, Ordering::SeqCst);
                            to_line.echo.notify_one();
                        }
                    }
                    Told::Flushed => {
                        tracing::warn!(shard = to_line.shard.0, "Redis was emptied: all is offered again");
                        on.tell(Event::Lapsed(to_line.shard));
                        on.tell(Event::Lineage(to_line.shard));
                    }
                    Told::Ended => {
                        if tracking {
                            to_line.unlease();
                        }
                        to_line.broken.notify_one();
                    }
                });
            })),
        )
        .await
}

/// Probes and looks until the connections are of no use.
async fn live(
    shared: &Arc<Shared>,
    line: &Arc<Line>,
    open: &Open,
    to: &Place,
    place: &mut watch::Receiver<Option<Place>>,
    known: &mut Known,
) {
    let mut look_at = Instant::now() + LOOK;
    let mut probe_name = None;
    loop {
        let started = Instant::now();
        let mut work = std::pin::pin!(async {
            let probed = probe(shared, line, &open.commands, &mut probe_name).await;
            let mut go_on = judge(shared, line, &probed);
            if go_on && started >= look_at {
                look_at = started + LOOK;
                go_on = look_again(shared, line, open, to, known).await;
            }
            line.note(shared, |link, now_ms| link.tick(now_ms));
            (go_on, probed)
        });
        let probed = loop {
            tokio::select! {
                biased;
                () = line.broken.notified() => return,
                changed = place.changed() => {
                    if changed.is_err() || place.borrow().as_ref() != Some(to) {
                        return;
                    }
                }
                (go_on, probed) = &mut work => {
                    if !go_on {
                        return;
                    }
                    break probed;
                }
            }
        };
        let next = match (probed, line.state()) {
            (Outcome::Failed(_) | Outcome::Elsewhere, _) => Instant::now() + EAGER.1,
            (_, LinkState::Up) => started + Duration::from_millis(shared.settings.probe_ms),
            _ => started + EAGER.0,
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = line.broken.notified() => return,
        }
    }
}

/// How a probe went.
enum Outcome {
    Heard(u64),
    Deaf,
    Failed(Asked),
    /// The slot of the probe has moved.
    Elsewhere,
}

async fn probe(shared: &Shared, line: &Line, pipe: &Pipe, name: &mut Option<String>) -> Outcome {
    let deadline = shared.deadline();
    let asked_ms = shared.clock.now_ms();
    let start = Instant::now();
    let time = match pipe.ask(&redis::cmd("TIME"), deadline).await {
        Ok(time) => time,
        Err(asked) => return Outcome::Failed(asked),
    };
    let trip = start.elapsed();
    let there_ms = time_ms(&time).unwrap_or(asked_ms);
    let here_ms = asked_ms.saturating_add(millis(trip) / 2);
    let offset_ms = there_ms.cast_signed().saturating_sub(here_ms.cast_signed());
    line.facts(|facts| {
        facts.offset_ms = Some(offset_ms);
        facts.round_trip_us = u64::try_from(trip.as_micros()).ok();
    });
    shared.metrics.clock_offset(line.shard.0, offset_ms as f64 / 1000.0);
    let Some(name) = named(shared, line, name) else { return Outcome::Elsewhere };
    let seen = line.echoes.load(Ordering::SeqCst);
    let last_ms = shared.probe_ms.fetch_max(there_ms, Ordering::SeqCst);
    let stamp = Stamp::new(there_ms.max(last_ms), 0, Origin::random());
    let push = DocPush {
        fields: vec![SharedField { name: "probe".into(), stamp, value: bytes::Bytes::new() }],
        idle_ms: PROBE_TTL_MS,
        deadline_ms: there_ms.saturating_add(PROBE_TTL_MS),
    };
    let call = script::push_doc(&shared.keys.probe(name), &push);
    let sent_ms = shared.clock.monotonic_ms();
    match timeout(deadline, send(pipe, &call, false)).await {
        Err(_) => return Outcome::Failed(Asked::Missed),
        Ok(Err(failure)) => match failure.class {
            Class::Moved(_) | Class::Ask(_) | Class::TryAgain => {
                shared.stale.notify_one();
                return Outcome::Elsewhere;
            }
            _ => return Outcome::Failed(Asked::Failed(failure)),
        },
        // Whatever it says, it was executed.
        Ok(Ok(_)) => {}
    }
    let heard = timeout(ECHO, async {
        while line.echoes.load(Ordering::SeqCst) == seen {
            line.echo.notified().await;
        }
    });
    match heard.await {
        Ok(()) => Outcome::Heard(sent_ms),
        Err(_) => Outcome::Deaf,
    }
}

/// The name of a probe's document that lies on the shard.
fn named<'a>(shared: &Shared, line: &Line, name: &'a mut Option<String>) -> Option<&'a str> {
    let here = |name: &String| shared.shard_of(&shared.keys.probe(name)) == line.shard;
    if !name.as_ref().is_some_and(here) {
        *name = (0..100_000_u32).map(|number| format!("probe-{}-{number}", shared.me)).find(here);
    }
    name.as_deref()
}

/// What follows from a probe; whether the connections are still of use.
fn judge(shared: &Shared, line: &Line, outcome: &Outcome) -> bool {
    let failure = match outcome {
        Outcome::Heard(at_ms) => {
            line.doubted.store(false, Ordering::SeqCst);
            line.lease(*at_ms);
            line.note(shared, |link, now_ms| link.probed(now_ms, Probed::Heard(*at_ms)));
            return true;
        }
        Outcome::Deaf => {
            line.problem("what is written is not heard of; a proxy that does not pass RESP3 pushes?");
            line.note(shared, |link, now_ms| link.probed(now_ms, Probed::Deaf));
            return true;
        }
        Outcome::Elsewhere => return true,
        Outcome::Failed(Asked::Missed) => {
            line.problem(format!("a probe was not answered within {} ms", shared.settings.deadline_ms));
            line.note(shared, |link, now_ms| link.probed(now_ms, Probed::Failed));
            return true;
        }
        Outcome::Failed(Asked::Failed(failure)) => failure,
    };
    line.problem(Arc::clone(&failure.text));
    match &failure.class {
        Class::RefusesWrites(cause) => {
            line.note(shared, |link, now_ms| link.probed(now_ms, Probed::Refused(*cause)));
            true
        }
        // Once it may be a connection to who was the primary before; twice it is so.
        Class::NotPrimary => {
            if !line.doubted.swap(true, Ordering::SeqCst) {
                return false;
            }
            line.note(shared, |link, now_ms| link.probed(now_ms, Probed::Refused(Cause::ReadOnly)));
            true
        }
        Class::Lost => false,
        _ => {
            line.note(shared, |link, now_ms| link.failed(now_ms, failure.cause()));
            false
        }
    }
}

/// What the server says of itself, again; whether the connections are still of use.
async fn look_again(
    shared: &Arc<Shared>,
    line: &Arc<Line>,
    open: &Open,
    to: &Place,
    known: &mut Known,
) -> bool {
    let looked = async {
        look(shared, line, &open.commands, to).await?;
        agree(shared, line, Some(&open.commands)).await
    };
    match looked.await {
        Ok(()) => {}
        Err(Failure { class: Class::Hard(cause @ (Cause::Unfit | Cause::WrongPrimary)), text }) => {
            line.problem(text);
            line.note(shared, |link, now_ms| link.failed(now_ms, cause));
            return false;
        }
        // Probes judge whether it answers.
        Err(_) => return true,
    }
    if lineage(line, to, known) | lost_canary(shared, line, &open.commands, known, 1).await {
        shared.tell(Event::Lapsed(line.shard));
        shared.tell(Event::Lineage(line.shard));
    }
    true
}

/// Asks the server what it is.
async fn look(shared: &Shared, line: &Line, pipe: &Pipe, to: &Place) -> Result<(), Failure> {
    let deadline = shared.deadline();
    let sections = ["server", "replication", "memory"].map(|section| {
        let mut info = redis::cmd("INFO");
        info.arg(section);
        info
    });
    for answer in join_all(sections.iter().map(|info| pipe.ask(info, deadline))).await {
        match answer {
            Ok(value) => {
                if let Ok(text) = answer::text(value) {
                    line.facts(|facts| facts.read(&text));
                }
            }
            // A user without the right to INFO is served, with less to show.
            Err(Asked::Failed(failure)) if failure.text.contains("NOPERM") => {}
            Err(asked) => return Err(asked.into_failure(deadline)),
        }
    }
    let (unfit, role) = line.facts(|facts| {
        facts.address = pipe.peer.to_string();
        (facts.unfit(shared.settings.allow_eviction), facts.role.clone())
    });
    if let Some(text) = unfit {
        return Err(Failure::new(Class::Hard(Cause::Unfit), text));
    }
    if role == "slave" && shared.dialer.target.kind != RedisKind::Single {
        shared.stale.notify_one();
        let text = format!("{}:{} is a replica, not the primary", to.0, to.1);
        return Err(Failure::new(Class::Hard(Cause::WrongPrimary), text));
    }
    Ok(())
}

/// Whether another server, or the same one after a restart or a failover, stands there now.
fn lineage(line: &Line, to: &Place, known: &mut Known) -> bool {
    let address = format!("{}:{}", to.0, to.1);
    let (run_id, replid) = line.facts(|facts| (facts.run_id.clone(), facts.replid.clone()));
    let changed = known.address != address || known.run_id != run_id || known.replid != replid;
    (known.address, known.run_id, known.replid) = (address, run_id, replid);
    changed
}

/// Whether a canary of this shard has died. Those that are not there are set.
async fn lost_canary(shared: &Shared, line: &Line, pipe: &Pipe, known: &mut Known, most: usize) -> bool {
    let mine = |number: &u16| shared.shard_of(&shared.keys.canary(*number)) == line.shard;
    let numbers: Vec<u16> = (0..CANARIES).filter(mine).take(most).collect();
    known.canaries.retain(|number, _| mine(number));
    let token = Origin::random().to_string();
    let calls: Vec<_> =
        numbers.iter().map(|number| script::canary(&shared.keys.canary(*number), &token)).collect();
    let answers =
        join_all(calls.iter().map(|call| timeout(shared.deadline(), send(pipe, call, false)))).await;
    let mut lost = false;
    for (number, answer) in numbers.into_iter().zip(answers) {
        let Ok(Ok(value)) = answer else { continue };
        let Ok((_, stands)) = script::canaried(value) else { continue };
        let before = known.canaries.insert(number, stands.clone());
        lost |= before.is_some_and(|before| before != stands);
    }
    lost
}

/// Hears of a new primary from the sentinels, for ever.
pub(super) async fn watch_sentinels(shared: Arc<Shared>, line: Arc<Line>, name: String) {
    let mut sentinels = super::sentinel::Sentinels::new(&shared.dialer.target.hosts, &name);
    loop {
        let wait = match sentinels.primary(&shared.dialer).await {
            Ok(primary) => {
                line.place.send_if_modified(|place| {
                    let other = place.as_ref() != Some(&primary);
                    if other {
                        tracing::info!(host = primary.0, port = primary.1, "the sentinels name the primary");
                        *place = Some(primary);
                    }
                    other
                });
                Duration::from_secs(1)
            }
            Err(failure) => {
                // Who is connected to a primary stays so: no sentinel says that it is another.
                if line.state() != LinkState::Up {
                    line.problem(Arc::clone(&failure.text));
                }
                Duration::from_millis(500)
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = shared.stale.notified() => sleep(EAGER.1).await,
        }
    }
}

fn time_ms(value: &Value) -> Option<u64> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.iter().map(answer::whole);
    let (seconds, micros) = (parts.next()?.ok()?, parts.next()?.ok()?);
    u64::try_from(seconds.checked_mul(1000)?.checked_add(micros / 1000)?).ok()
}
