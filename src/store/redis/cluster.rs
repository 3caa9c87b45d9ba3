//! A cluster: which node has which slot, and one link per node that has any.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::sleep;

use super::answer::{text, whole};
use super::dial::{Asked, Pipe, Place, Whom};
use super::failure::{Class, Failure};
use super::keys::SLOTS;
use super::line::Line;
use super::shared::Shared;
use crate::base::limits::SHARDS;
use crate::state::link::{Cause, LinkState};
use crate::store::remote::{Event, Shard};

/// Between two looks at the map, and the least between two that were asked for.
const REFRESH: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(100));

/// Which slots a master has.
type Map = BTreeMap<Place, Vec<(u16, u16)>>;

/// Keeps the map of slots for ever; `start` is called for the link of every shard that is new.
pub(super) async fn keep_map(shared: Arc<Shared>, start: impl Fn(Arc<Line>)) {
    let mut own: Option<(Place, Pipe)> = None;
    loop {
        match ask(&shared, &mut own).await {
            Ok(map) => apply(&shared, &map, &start),
            Err(failure) => {
                if let Some(first) = shared.line(Shard(0)).filter(|line| line.state() == LinkState::Down) {
                    first.problem(format!("no node of the cluster says which one has what: {failure}"));
                }
            }
        }
        sleep(REFRESH.1).await;
        tokio::select! {
            () = sleep(REFRESH.0) => {}
            () = shared.stale.notified() => {}
        }
    }
}

/// Asks a node for the map: over the connection that is there, else the nodes that are known, else those configured.
async fn ask(shared: &Shared, own: &mut Option<(Place, Pipe)>) -> Result<Map, Failure> {
    let mut last = Failure::new(Class::Lost, "no node is known");
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    if let Some((place, pipe)) = own.take() {
        match slots(shared, &pipe, &command, &place).await {
            Ok(map) => {
                *own = Some((place, pipe));
                return Ok(map);
            }
            Err(failure) => last = failure,
        }
    }
    // Those that are up first.
    let lines = shared.lines.load_full();
    let (up, rest): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.state() == LinkState::Up);
    let known = up.into_iter().chain(rest).filter_map(|line| line.place.borrow().clone());
    let mut tried = Vec::new();
    for place in known.chain(shared.dialer.target.hosts.iter().cloned()) {
        if tried.contains(&place) {
            continue;
        }
        tried.push(place.clone());
        let asked = async {
            let pipe = shared.dialer.dial(&place, Whom::Server, None).await?;
            let map = slots(shared, &pipe, &command, &place).await?;
            Ok((map, pipe))
        };
        match asked.await {
            Ok((map, pipe)) => {
                *own = Some((place, pipe));
                return Ok(map);
            }
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

async fn slots(shared: &Shared, pipe: &Pipe, command: &redis::Cmd, from: &Place) -> Result<Map, Failure> {
    let value = pipe.ask(command, shared.deadline()).await.map_err(|asked| match asked {
        Asked::Failed(failure) if failure.class == Class::Bug => {
            let text = format!("{failure}; is it a cluster? If not, say redis.cluster = false");
            Failure::new(Class::Hard(Cause::Unfit), text)
        }
        asked => asked.into_failure(shared.deadline()),
    })?;
    let map = read(value, from);
    if map.is_empty() {
        return Err(Failure::new(Class::Hard(Cause::ClusterDown), "no node has any slots"));
    }
    Ok(map)
}

/// Reads `CLUSTER SLOTS`; a node that does not name its own host is the one that was asked.
fn read(value: Value, from: &Place) -> Map {
    let mut map = Map::new();
    let Value::Array(ranges) = value else { return map };
    for range in ranges {
        let Value::Array(parts) = range else { continue };
        let mut parts = parts.into_iter();
        let (Some(first), Some(last), Some(Value::Array(master))) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let mut master = master.into_iter();
        let host =
            master.next().and_then(|host| text(host).ok()).filter(|host| !host.is_empty() && host != "?");
        let port = master.next().and_then(|port| whole(&port).ok()).and_then(|port| u16::try_from(port).ok());
        let number =
            |value| whole(value).ok().and_then(|slot| u16::try_from(slot).ok()).filter(|slot| *slot < SLOTS);
        if let (Some(first), Some(last), Some(port)) = (number(&first), number(&last), port) {
            let place = (host.unwrap_or_else(|| from.0.clone()), port);
            map.entry(place).or_default().push((first, last));
        }
    }
    map
}

/// Makes the map the one that counts.
fn apply(shared: &Arc<Shared>, map: &Map, start: &impl Fn(Arc<Line>)) {
    let before = shared.slots.load_full();
    let mut lines: Vec<Arc<Line>> = shared.lines.load_full().to_vec();
    let mut taken: BTreeMap<usize, &Place> = BTreeMap::new();
    let mut homeless: Vec<(&Place, &Vec<(u16, u16)>)> = Vec::new();
    for (place, ranges) in map {
        match lines.iter().position(|line| line.place.borrow().as_ref() == Some(place)) {
            Some(at) => drop(taken.insert(at, place)),
            None => homeless.push((place, ranges)),
        }
    }
    let mut fresh = Vec::new();
    for (place, ranges) in homeless {
        // A replica that was promoted has the slots of the shard that it continues.
        let mut overlap: BTreeMap<usize, usize> = BTreeMap::new();
        for slot in ranges.iter().flat_map(|(first, last)| *first..=*last) {
            if let Some(shard) = before.get(usize::from(slot)) {
                *overlap.entry(usize::from(*shard)).or_default() += 1;
            }
        }
        let heir =
            overlap.into_iter().filter(|(at, _)| !taken.contains_key(at)).max_by_key(|(_, slots)| *slots);
        let unused = || {
            let free = |at: &usize| {
                !taken.contains_key(at) && lines.get(*at).is_some_and(|line| line.place.borrow().is_none())
            };
            (0..lines.len()).find(free)
        };
        let at = match heir.map(|(at, _)| at).or_else(unused) {
            Some(at) => at,
            None if lines.len() < SHARDS => {
                let shard = Shard(u16::try_from(lines.len()).unwrap_or(u16::MAX));
                let line = Arc::new(Line::new(shared, shard, None));
                lines.push(Arc::clone(&line));
                fresh.push(line);
                lines.len() - 1
            }
            None => continue,
        };
        taken.insert(at, place);
    }
    let mut slots = if before.is_empty() { vec![0; usize::from(SLOTS)] } else { before.to_vec() };
    for (at, place) in &taken {
        for slot in map.get(*place).into_iter().flatten().flat_map(|(first, last)| *first..=*last) {
            if let (Some(shard), Ok(at)) = (slots.get_mut(usize::from(slot)), u16::try_from(*at)) {
                *shard = at;
            }
        }
    }
    let moved: Vec<u16> = slots
        .iter()
        .zip(before.iter())
        .filter(|(after, before)| after != before)
        .flat_map(|(after, before)| [*after, *before])
        .collect();
    shared.lines.store(Arc::new(lines.clone()));
    if *before != slots {
        shared.slots.store(Arc::new(slots));
    }
    for (at, line) in lines.iter().enumerate() {
        let place = taken.get(&at).map(|place| (*place).clone());
        let changed = line.place.send_if_modified(|known| {
            let changed = *known != place;
            known.clone_from(&place);
            changed
        });
        if changed && place.is_none() {
            shared.metrics.forget(line.shard.0, line.state().name());
        }
    }
    for line in fresh {
        start(line);
    }
    let mut told = std::collections::BTreeSet::new();
    for shard in moved {
        if told.insert(shard) {
            // What moved was written elsewhere for a moment.
            shared.tell(Event::Lapsed(Shard(shard)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_read_and_a_nameless_node_is_the_one_asked() {
        let node =
            |host: Value, port| Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        let range = |first, last, node| Value::Array(vec![Value::Int(first), Value::Int(last), node]);
        let answer = Value::Array(vec![
            range(0, 5, node(Value::BulkString(b"a".to_vec()), 1)),
            range(6, 9, node(Value::Nil, 2)),
            range(10, 16_383, node(Value::BulkString(b"a".to_vec()), 1)),
            range(1, 70_000, node(Value::BulkString(b"a".to_vec()), 1)),
            Value::Nil,
        ]);
        let map = read(answer, &("asked".into(), 7));
        let expected = Map::from([
            (("a".to_owned(), 1), vec![(0, 5), (10, 16_383)]),
            (("asked".to_owned(), 2), vec![(6, 9)]),
        ]);
        assert_eq!(map, expected);
    }
}
