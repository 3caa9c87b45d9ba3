//! Logs in the shared store.

use bytes::Bytes;

use super::pay::Unpaid;
use super::{Owed, Pledged, Sharing};
use crate::base::clock::millis;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{ANNOUNCEMENT_KEPT, PUSH_BYTES, PUSH_ENTRIES};
use crate::state::log::{Cut, Entry, Kind, Log, StreamName};
use crate::store::commit::Work;
use crate::store::remote::{Appended, Hint, LogPush, RemoteError};
use crate::store::{Done, Place, Store};

/// What the shared store has of a log.
#[derive(Clone, Debug, Default)]
pub struct Pulled {
    /// The highest number of every origin.
    pub marks: Vec<(Origin, u64)>,
    /// Entries, those of an origin in order. Some may be known.
    pub entries: Vec<Entry>,
    /// Where to go on.
    pub hint: Hint,
}

/// What became of something that sister instances were to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is where they find it.
    Yes,
    /// It was sent, and not known to have arrived: whoever reads on sees that numbers are missing, if it did not.
    Lost,
    /// It was not sent.
    Unsent,
}

impl Store {
    /// A log as the shared store has it, from `after` on; `None`: nothing is shared, or it is away.
    pub async fn pull_log(&self, key: SessionKey, after: Option<Hint>) -> Option<Pulled> {
        let sharing = self.sharing.get().filter(|sharing| sharing.is_agreed())?;
        let log = match sharing.remote.pull_log(key, after).await {
            Ok(log) => log,
            Err(error) => {
                tracing::debug!(session = %key, %error, "the log of a session is read here alone");
                return None;
            }
        };
        let mut entries = Vec::with_capacity(log.entries.len());
        for (origin, seq, stored) in log.entries {
            match sharing.form.read_entry(key, origin, seq, &stored) {
                Ok(entry) => entries.push(entry),
                // Those after it cannot be told from a gap: the reader will see one.
                Err(error) => {
                    tracing::error!(session = %key, %origin, seq, %error, "an entry in the shared store cannot be read")
                }
            }
        }
        Some(Pulled { marks: log.marks, entries, hint: log.hint })
    }

    /// Queues entries of other process starts for the disk, and with them `own` ones; see [`Store::append`].
    pub fn adopt(
        &self,
        place: Place,
        key: SessionKey,
        entries: Vec<Entry>,
        own: Vec<Entry>,
        trimmed: Vec<Cut>,
        done: Done,
    ) {
        self.append_as(place, key, &entries, &own, trimmed, done);
    }

    /// Notes that all that is held of a log is owed: the shared store was seen to have less of it.
    pub fn owe_log(&self, key: SessionKey) {
        self.owe_again(key, Owed::log());
    }

    /// Pays what a session owes of its log and else. Returns when it is paid, or cannot be paid now.
    pub async fn share(&self, key: SessionKey) {
        self.pay(key, None).await;
    }

    /// Tells sister instances something that is worth nothing later: it is not kept here, and not owed.
    pub async fn announce(&self, payload: Bytes) {
        let Some(sharing) = self.sharing.get() else { return };
        if self.tell(sharing, SessionKey::CHANGES, &sharing.announced, vec![payload]).await != Told::Yes {
            tracing::debug!("sister instances were not told of a change: they are when the link is up");
        }
    }

    /// Passes on to sister instances what somebody there listens to, on the same terms.
    pub async fn relay(&self, payloads: Vec<Bytes>) -> Told {
        match self.sharing.get() {
            Some(sharing) => self.tell(sharing, SessionKey::TOPICS, &sharing.relayed, payloads).await,
            None => Told::Unsent,
        }
    }

    async fn tell(
        &self,
        sharing: &Sharing,
        key: SessionKey,
        last: &tokio::sync::Mutex<u64>,
        payloads: Vec<Bytes>,
    ) -> Told {
        if !sharing.is_up(key) {
            return Told::Unsent;
        }
        let mut last = last.lock().await;
        let (first, at_ms) = (*last + 1, self.clock.now_ms());
        let forms: Result<Vec<Bytes>, _> = (first..)
            .zip(payloads)
            .map(|(seq, payload)| {
                let (origin, kind, stream) = (self.origin, Kind::Message, StreamName::GET);
                sharing.form.entry(key, &Entry { origin, seq, at_ms, kind, stream, payload })
            })
            .collect();
        let Ok(entries) = forms else { return Told::Unsent };
        // Used up once they are sent: where the reply is lost, they may have been taken.
        *last += entries.len() as u64;
        let expires_ms = at_ms.saturating_add(millis(ANNOUNCEMENT_KEPT));
        // Nothing older could be supplied: a hole is none.
        let push = LogPush { origin: self.origin, first, base: first, expires_ms, entries };
        match sharing.remote.push_log(key, push).await {
            Ok(_) => Told::Yes,
            Err(error) => {
                tracing::debug!(%error, "sister instances were not told of something");
                Told::Lost
            }
        }
    }

    /// What appending these entries makes owed.
    pub(in crate::store) fn pledge_entries(
        &self,
        key: SessionKey,
        entries: &[Entry],
        work: &mut Work,
    ) -> Option<Pledged> {
        let (sharing, first) = (self.sharing.get()?, entries.first()?);
        let forms: Result<Vec<Bytes>, _> =
            entries.iter().map(|entry| sharing.form.entry(key, entry)).collect();
        let same = entries.iter().all(|entry| entry.origin == first.origin);
        let owed = match forms {
            Ok(forms) if same => Owed::run(first.origin, first.seq, forms),
            _ => Owed::log(),
        };
        self.pledge(key, owed, work)
    }

    /// Pays a run whose entries are at hand.
    pub(super) async fn push_run(
        &self,
        sharing: &Sharing,
        key: SessionKey,
        origin: Origin,
        first: u64,
        entries: Vec<Bytes>,
        expires_ms: u64,
    ) -> Result<(), Unpaid> {
        // Claims to have everything: if something is missing there, it is told, and read from the disk.
        let push = LogPush { origin, first, base: 1, expires_ms, entries };
        match sharing.remote.push_log(key, push).await {
            Ok(Appended::Ok(_) | Appended::Known(_)) => Ok(()),
            Ok(Appended::Gap(_)) => {
                let log = self.log(key).await.map_err(|error| Unpaid::Here(error.to_string()))?;
                self.push_run_of(sharing, key, &log, origin, expires_ms).await
            }
            Err(error) => self.log_refused(sharing, key, origin, error),
        }
    }

    /// Pays what is missing of a run.
    pub(super) async fn push_run_of(
        &self,
        sharing: &Sharing,
        key: SessionKey,
        log: &Log,
        origin: Origin,
        expires_ms: u64,
    ) -> Result<(), Unpaid> {
        let (base, hw) = (log.base(origin), log.high_water(origin));
        if base > hw {
            return Ok(());
        }
        // The end of the run first: mostly that is all that is missing, or nothing is.
        let mut from = base.max((hw + 1).saturating_sub(PUSH_ENTRIES as u64));
        let mut steps = 0;
        while from <= hw {
            let mut entries = Vec::new();
            let mut bytes = 0;
            for entry in log.run_from(origin, from).take(PUSH_ENTRIES) {
                let form = sharing.form.entry(key, entry).map_err(|error| Unpaid::Here(error.to_string()))?;
                bytes += form.len();
                entries.push(form);
                if bytes >= PUSH_BYTES {
                    break;
                }
            }
            let count = entries.len() as u64;
            let push = LogPush { origin, first: from, base, expires_ms, entries };
            from = match sharing.remote.push_log(key, push).await {
                Ok(Appended::Ok(_) | Appended::Known(_)) => from + count,
                Ok(Appended::Gap(there)) => base.max(there + 1),
                Err(error) => return self.log_refused(sharing, key, origin, error),
            };
            steps += 1;
            if steps > 2 * (hw - base + 2) {
                // Others take away what is put there as fast as it is put: later.
                return Err(Unpaid::Away);
            }
        }
        Ok(())
    }

    fn log_refused(
        &self,
        sharing: &Sharing,
        key: SessionKey,
        origin: Origin,
        error: RemoteError,
    ) -> Result<(), Unpaid> {
        match error {
            RemoteError::Fork { .. } => {
                sharing.counts.forks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tracing::error!(session = %key, %origin, "another process writes under the name of this process start: \
                    this machine or its memory was cloned; restart this instance");
                Ok(())
            }
            error => Err(error.into()),
        }
    }
}
