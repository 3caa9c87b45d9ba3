//! What seeds meet seldom, step by step.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outlast::base::ids::SessionKey;
use outlast::base::seal::Keys;
use outlast::config;
use outlast::state::doc::Doc;
use outlast::state::log::{Entry, Kind, StreamName};
use outlast::state::result::{Outcome, Reported, TERMINAL};
use outlast::store::share::Conflicted;
use outlast::store::{Lookup, ResultId, Store};
use tokio::sync::oneshot;

use super::disk::Disk;
use super::remote::SimLink;
use super::run::{START_MS, SimClock};
use super::world::{World, shard_of};

const HOUR: Duration = Duration::from_secs(3_600);
const DEADLINE: u64 = START_MS + 86_400_000;

/// Instances of one world, each with what its clock is off by.
struct Bed {
    world: Arc<World>,
    stores: Vec<(Arc<Store>, Arc<AtomicI64>)>,
    key: SessionKey,
}

impl Bed {
    /// Two that share one session.
    async fn two() -> Self {
        let (world, keys) = (World::new(1, START_MS, None), Keys::generate());
        let mut stores = Vec::new();
        for number in 0..2 {
            let off_ms = Arc::<AtomicI64>::default();
            let clock = Arc::new(SimClock { world: Arc::clone(&world), off_ms: Arc::clone(&off_ms) });
            let sessions = config::Sessions::default();
            let disk = Arc::new(Disk::empty(None));
            let store = Store::over(disk, keys.clone(), 1 << 20, &sessions, clock).await.unwrap();
            world.join(number);
            world.set_origin(number, store.origin().bits());
            store.attach(SimLink::new(&world, number), false).await.unwrap();
            stores.push((store, off_ms));
        }
        let bed = Self { world, stores, key: SessionKey::random() };
        bed.pass().await;
        bed.store(0).create(bed.key, "ann", DEADLINE, vec![]).await.unwrap();
        assert!(matches!(bed.store(1).load(bed.key).await.unwrap(), Lookup::Live(_)));
        bed
    }

    fn store(&self, at: usize) -> &Arc<Store> {
        &self.stores[at].0
    }

    /// Long enough for links to come up.
    async fn pass(&self) {
        for _ in 0..40 {
            self.world.tick(250);
            for (store, _) in &self.stores {
                let _ = store.agree().await;
            }
        }
    }

    async fn doc(&self, at: usize) -> Arc<Doc> {
        match self.store(at).load(self.key).await.unwrap() {
            Lookup::Live(doc) => doc,
            other => panic!("{other:?}"),
        }
    }

    async fn say(&self, at: usize, seq: u64) {
        let store = self.store(at);
        let entry = Entry {
            origin: store.origin(),
            seq,
            at_ms: self.world.now_ms(),
            kind: Kind::Message,
            stream: StreamName::GET,
            payload: Bytes::from_static(b"{}"),
        };
        let (tell, told) = oneshot::channel();
        let place = store.place().await.unwrap();
        store.append(place, self.key, vec![entry], vec![], Box::new(move |done| drop(tell.send(done))));
        told.await.unwrap().unwrap();
        store.share(self.key).await;
    }
}

fn outcome(fence: u64, rev: u64, rank: u8) -> Outcome {
    Outcome { fence, rev, rank, payload: Bytes::from(format!("{fence}.{rev}")) }
}

#[tokio::test]
async fn a_final_result_stands_after_the_shared_store_has_lost_it() {
    let bed = Bed::two().await;
    let id = ResultId { session: bed.key, name: "r".into() };
    let put = |at: usize, outcome| bed.store(at).put_result(id.clone(), outcome, HOUR);
    assert_eq!(put(0, outcome(1, 3, TERMINAL)).await.unwrap(), Reported::Ok);
    bed.world.empty(shard_of(bed.key), false);
    // One that knows nothing of it may report before it is put back.
    assert_eq!(put(1, outcome(2, 1, 1)).await.unwrap(), Reported::Ok);
    for late in [outcome(3, 1, 1), outcome(4, 1, TERMINAL)] {
        assert_eq!(put(0, late).await.unwrap(), Reported::Final { fence: 1, rev: 3 });
    }
    assert_eq!(put(1, outcome(5, 1, TERMINAL)).await.unwrap(), Reported::Final { fence: 1, rev: 3 });
    for at in 0..2 {
        assert_eq!(bed.store(at).result(&id).await.unwrap(), Some(outcome(1, 3, TERMINAL)), "instance {at}");
    }
}

#[tokio::test]
async fn a_final_result_that_was_shown_stays_where_it_was_shown() {
    let bed = Bed::two().await;
    let id = ResultId { session: bed.key, name: "r".into() };
    let put = |at: usize, outcome| bed.store(at).put_result(id.clone(), outcome, HOUR);
    assert_eq!(put(0, outcome(1, 3, TERMINAL)).await.unwrap(), Reported::Ok);
    assert_eq!(bed.store(1).result(&id).await.unwrap(), Some(outcome(1, 3, TERMINAL)));
    // Whoever showed it cannot ask any more.
    bed.world.cut(1, shard_of(bed.key), true);
    assert_eq!(bed.store(1).result(&id).await.unwrap(), Some(outcome(1, 3, TERMINAL)));
    assert_eq!(put(1, outcome(9, 7, TERMINAL)).await.unwrap(), Reported::Final { fence: 1, rev: 3 });
}

#[tokio::test]
async fn only_what_is_too_far_ahead_for_the_shared_store_is_stamped_anew() {
    let bed = Bed::two().await;
    let ahead = |ms| bed.stores[0].1.store(ms, Ordering::SeqCst);
    let write = |name: &str| {
        let fields = vec![(name.to_owned(), Some(Bytes::copy_from_slice(name.as_bytes())))];
        bed.store(0).update(bed.key, fields)
    };
    ahead(30_000);
    let near = write("near").await.unwrap().field("near").unwrap().stamp;
    ahead(120_000);
    let far = write("far").await.unwrap().field("far").unwrap().stamp;
    let now = bed.world.now_ms();
    bed.pass().await;
    assert!(near.ms() > now && far.ms() > now + 60_000);
    for at in 0..2 {
        let doc = bed.doc(at).await;
        let stamp = |name: &str| doc.field(name).unwrap().stamp;
        assert_eq!(stamp("near"), near, "instance {at}");
        assert!(stamp("far").ms() <= bed.world.now_ms(), "instance {at}: {}", stamp("far"));
    }
    // A later write of it is later still.
    ahead(0);
    let again = write("near").await.unwrap().field("near").unwrap().stamp;
    assert!(again > near, "{again} after {near}");
}

#[tokio::test]
async fn the_log_of_an_ended_session_goes_and_nothing_late_brings_it_back() {
    let bed = Bed::two().await;
    for seq in 1..=3 {
        bed.say(0, seq).await;
    }
    bed.say(1, 1).await;
    assert_eq!(bed.world.log_length(bed.key), 4);
    bed.world.cut(1, shard_of(bed.key), true);
    bed.say(1, 2).await;
    bed.store(0).terminate(bed.key, DEADLINE).await.unwrap();
    assert_eq!(bed.world.log_length(bed.key), 0);
    // The other one owes an entry, and does not know yet.
    bed.world.cut(1, shard_of(bed.key), false);
    bed.pass().await;
    assert!(bed.store(1).owed() > 0);
    bed.store(1).share(bed.key).await;
    assert_eq!((bed.world.log_length(bed.key), bed.store(1).owed()), (0, 0));
    assert!(matches!(bed.store(1).load(bed.key).await.unwrap(), Lookup::Terminated));
    bed.store(1).share(bed.key).await;
    assert!(bed.world.replay() > 0);
    assert_eq!(bed.world.log_length(bed.key), 0);
}

impl Bed {
    async fn write(&self, at: usize, value: &'static str) {
        let fields = vec![("a".to_owned(), Some(Bytes::from_static(value.as_bytes())))];
        self.store(at).update(self.key, fields).await.unwrap();
    }

    /// This one reaches the shared store again, and pays and offers all that it has.
    async fn mend(&self, at: usize) {
        self.world.cut(u32::try_from(at).unwrap(), shard_of(self.key), false);
        self.pass().await;
        self.store(at).heal_some(10).await.unwrap();
        self.store(at).audit_some(10).await.unwrap();
        self.doc(at).await;
    }

    /// What lost, on each instance. It is noted by tasks of their own: they get some time.
    async fn lost(&self) -> [Vec<Conflicted>; 2] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut lost = [Vec::new(), Vec::new()];
        for (at, lost) in lost.iter_mut().enumerate() {
            let (found, more) = self.store(at).conflicts(0, 10).await.unwrap();
            assert!(!more && found.len() as u64 == self.store(at).sharing_status().unwrap().conflicts);
            assert!(found.iter().all(|it| it.session == self.key && it.field == "a"), "{found:?}");
            lost.extend(found.into_iter().map(|it| it.lost));
        }
        lost
    }
}

#[tokio::test]
async fn a_write_that_loses_is_noted_once_whoever_pays_first_and_whatever_was_lost() {
    let shard = |bed: &Bed| shard_of(bed.key);
    for (first, emptied) in [(0, false), (1, false), (0, true), (1, true)] {
        let bed = Bed::two().await;
        bed.write(0, "of both").await;
        bed.doc(1).await;
        (0..2).for_each(|number| bed.world.cut(number, shard(&bed), true));
        bed.pass().await;
        bed.write(0, "early").await;
        bed.world.tick(250);
        bed.write(1, "late").await;
        if emptied {
            bed.world.empty(shard(&bed), true);
        }
        for at in [first, 1 - first, first] {
            bed.mend(at).await;
        }
        for at in 0..2 {
            assert_eq!(bed.doc(at).await.get("a"), Some(&Bytes::from_static(b"late")), "instance {at}");
        }
        let lost = [vec![Conflicted::Value(Bytes::from_static(b"early"))], vec![]];
        assert_eq!(bed.lost().await, lost, "first {first}, emptied {emptied}");
        // Those who see what they replace lose nothing.
        for (at, value) in [(0, "next"), (1, "after"), (0, "last")] {
            bed.pass().await;
            bed.doc(at).await;
            bed.write(at, value).await;
        }
        for at in [0, 1, 0] {
            bed.mend(at).await;
        }
        assert_eq!(bed.lost().await, lost, "first {first}, emptied {emptied}");
    }
}

#[tokio::test]
async fn what_was_written_without_the_shared_store_and_then_seen_is_not_lost() {
    let bed = Bed::two().await;
    (0..2).for_each(|number| bed.world.cut(number, shard_of(bed.key), true));
    bed.pass().await;
    bed.write(0, "early").await;
    for at in [0, 1] {
        bed.mend(at).await;
    }
    assert_eq!(bed.doc(1).await.get("a"), Some(&Bytes::from_static(b"early")));
    bed.write(1, "late").await;
    bed.pass().await;
    assert_eq!(bed.doc(0).await.get("a"), Some(&Bytes::from_static(b"late")));
    assert_eq!(bed.lost().await, [vec![], vec![]]);
}
