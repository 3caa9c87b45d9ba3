//! Sentinels: who the primary is, by a majority of them.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use redis::Value;

use super::answer::text;
use super::dial::{Asked, Dialer, Pipe, Place, Whom};
use super::failure::{Class, Failure};
use crate::state::link::Cause;

/// The sentinels of a primary, each with the connection that was made to it.
pub(super) struct Sentinels {
    places: Vec<(Place, Option<Pipe>)>,
    name: String,
}

impl Sentinels {
    pub(super) fn new(places: &[Place], name: &str) -> Self {
        Self { places: places.iter().map(|place| (place.clone(), None)).collect(), name: name.to_owned() }
    }

    /// The primary that more than half of all configured sentinels name.
    ///
    /// # Errors
    /// What the sentinels say instead.
    pub(super) async fn primary(&mut self, dialer: &Dialer) -> Result<Place, Failure> {
        let all = self.places.len();
        let name = self.name.as_str();
        let answers =
            join_all(self.places.iter_mut().map(|(place, pipe)| ask(dialer, place, pipe, name))).await;
        let mut named: BTreeMap<Place, usize> = BTreeMap::new();
        let mut problems = Vec::new();
        for (answer, (place, _)) in answers.into_iter().zip(&self.places) {
            match answer {
                Ok(primary) => *named.entry(primary).or_default() += 1,
                Err(failure) => problems.push(format!("{}:{}: {failure}", place.0, place.1)),
            }
        }
        if let Some((primary, _)) = named.iter().find(|(_, votes)| **votes * 2 > all) {
            return Ok(primary.clone());
        }
        let said: Vec<String> =
            named.iter().map(|((host, port), votes)| format!("{votes} say {host}:{port}")).collect();
        let text = format!(
            "no majority of the {all} sentinels names a primary `{name}`: {}",
            said.into_iter().chain(problems).collect::<Vec<_>>().join("; ")
        );
        Err(Failure::new(Class::Hard(Cause::WrongPrimary), text))
    }
}

async fn ask(dialer: &Dialer, place: &Place, pipe: &mut Option<Pipe>, name: &str) -> Result<Place, Failure> {
    let open = match pipe.take() {
        Some(open) => open,
        None => dialer.dial(place, Whom::Sentinel, None).await?,
    };
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer = match open.ask(&command, dialer.deadline).await {
        Ok(answer) => answer,
        Err(asked @ Asked::Missed) => return Err(asked.into_failure(dialer.deadline)),
        Err(Asked::Failed(failure)) => return Err(failure),
    };
    *pipe = Some(open);
    let unknown = || {
        let text = format!("knows no primary `{name}`; check redis.master");
        Failure::new(Class::Hard(Cause::WrongPrimary), text)
    };
    let Value::Array(parts) = answer else { return Err(unknown()) };
    let mut parts = parts.into_iter().filter_map(|part| text(part).ok());
    match (parts.next(), parts.next().and_then(|port| port.parse().ok())) {
        (Some(host), Some(port)) => Ok((host, port)),
        _ => Err(unknown()),
    }
}
