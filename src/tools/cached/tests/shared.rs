//! Two caches and a tier that they share.

use super::*;

/// A shared tier in memory.
#[derive(Default)]
struct FakeShelf {
    down: AtomicBool,
    blind: AtomicBool,
    epoch: AtomicU64,
    values: Mutex<BTreeMap<String, Bytes>>,
    looks: AtomicUsize,
    voided: Mutex<Vec<Tag>>,
}

impl Shelf for FakeShelf {
    fn is_up(&self) -> bool {
        !self.down.load(Ordering::SeqCst)
    }

    fn vouches(&self) -> bool {
        !self.blind.load(Ordering::SeqCst)
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    fn mark(&self) -> Option<Mark> {
        self.is_up().then(|| Mark { counting: "c".into(), last: 0 })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<(Bytes, Duration)>> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let found = self.is_up().then(|| self.values.lock().unwrap().get(name).cloned()).flatten();
        Box::pin(std::future::ready(found.map(|value| (value, Duration::from_secs(5)))))
    }

    fn put(&self, name: String, value: Bytes, _: u64, _: Duration, _: Vec<Tag>, _: Mark) {
        self.values.lock().unwrap().insert(name, value);
    }

    fn void(&self, tags: &[Tag]) {
        self.voided.lock().unwrap().extend(tags);
    }
}

#[tokio::test]
async fn what_another_instance_made_is_found_and_what_it_changes_is_looked_for_again() {
    let (a, b, shelf) = (Bench::new(), Bench::new(), Arc::new(FakeShelf::default()));
    a.results.share(Arc::clone(&shelf) as _);
    b.results.share(Arc::clone(&shelf) as _);
    let rules = || rules_of(READ_ONLY, facts(60)).unwrap();
    let (of_a, of_b) = (rules(), rules());
    a.ask(&of_a, call_of("ann", "{}"), r#"{"n":1}"#).await;
    b.clock.advance(Duration::from_millis(700));
    let told = b.ask(&of_b, call_of("ann", "{}"), "{}").await;
    assert_eq!((told["n"].as_u64(), told["_meta"][CACHED]["ageMs"].as_u64()), (Some(1), Some(700)));
    let looks = shelf.looks.load(Ordering::SeqCst);
    b.ask(&of_b, call_of("ann", "{}"), "{}").await;
    assert_eq!(shelf.looks.load(Ordering::SeqCst), looks, "memory comes first");
    let stats = b.results.stats();
    assert_eq!((b.made(), stats.shared_hits, stats.memory_hits), (0, 1, 1));

    // A newer one is put by the first, and the second hears of it.
    a.ask(&of_a, Call { anew: true, ..call_of("ann", "{}") }, r#"{"n":2}"#).await;
    let name = shelf.values.lock().unwrap().keys().next().unwrap().clone();
    b.results.look_again(&name);
    b.results.look_again("no such name");
    let looks = shelf.looks.load(Ordering::SeqCst);
    assert_eq!(b.ask(&of_b, call_of("ann", "{}"), "{}").await["n"], 2);
    assert_eq!(shelf.looks.load(Ordering::SeqCst), looks + 1);
    // Nobody else's is found, not even where it is shared.
    assert_eq!(b.ask(&of_b, call_of("bob", "{}"), r#"{"n":3}"#).await["n"], 3);

    // Its own voice, of which it hears as well: what it holds is not lost, even where nobody can be asked.
    b.results.look_again(&name);
    shelf.down.store(true, Ordering::SeqCst);
    assert_eq!(b.ask(&of_b, call_of("ann", "{}"), "{}").await["n"], 2);
    shelf.down.store(false, Ordering::SeqCst);

    b.results.void(&[Tag::tool("t")]);
    assert_eq!(*shelf.voided.lock().unwrap(), [Tag::tool("t")]);
    a.results.void_here(&[Tag::tool("t")]);
    assert_eq!(shelf.voided.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn memory_answers_alone_while_the_shared_tier_is_away_and_not_while_it_is_blind() {
    let (bench, shelf) = (Bench::new(), Arc::new(FakeShelf::default()));
    bench.results.share(Arc::clone(&shelf) as _);
    let rules = rules_of(READ_ONLY, facts(60)).unwrap();
    bench.ask(&rules, call_of("ann", "{}"), r#"{"n":1}"#).await;
    shelf.values.lock().unwrap().clear();

    shelf.down.store(true, Ordering::SeqCst);
    shelf.epoch.store(1, Ordering::SeqCst);
    assert_eq!(bench.ask(&rules, call_of("ann", "{}"), "{}").await["n"], 1);
    bench.ask(&rules, call_of("ann", "{\"x\":1}"), "{}").await;
    assert!(shelf.values.lock().unwrap().is_empty(), "nothing is owed");

    // It is back, and pushes were missed: it is asked once whether it has a newer one.
    shelf.down.store(false, Ordering::SeqCst);
    shelf.epoch.store(2, Ordering::SeqCst);
    let looks = || shelf.looks.load(Ordering::SeqCst);
    let before = looks();
    for _ in 0..3 {
        assert_eq!(bench.ask(&rules, call_of("ann", "{}"), "{}").await["n"], 1);
    }
    assert_eq!(looks() - before, 1);

    shelf.blind.store(true, Ordering::SeqCst);
    assert_eq!(bench.ask(&rules, call_of("ann", "{}"), r#"{"n":9}"#).await["n"], 9);
}
