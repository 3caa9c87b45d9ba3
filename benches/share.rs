//! What sharing costs: messages through one link to a real Redis, beside the same messages on the disk alone, and the
//! healing of sessions that owe something. Needs `redis-server`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use outlast::base::clock::{Clock as _, SystemClock};
use outlast::base::ids::SessionKey;
use outlast::config;
use outlast::state::log::{Entry, Kind, StreamName};
use outlast::store::redis::Links;
use outlast::store::remote::LinkState;
use outlast::store::{Store, StoreError};
use outlast::telemetry::metrics;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/support/redis.rs"]
mod redis;

/// Streams that are said something at a time, and how many messages each is sent.
const STREAMS: u64 = 256;
const MESSAGES: u64 = 100;
const MESSAGE: usize = 100;
const LOG_ENTRIES: usize = 512;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

fn session(number: u64) -> SessionKey {
    SessionKey::from_bytes(u128::from(number + 1).to_be_bytes())
}

/// A store with a link, or with none.
async fn open(dir: &tempfile::TempDir, redis: Option<&redis::Redis>, sessions: u64) -> Arc<Store> {
    let settings =
        config::Store { data_dir: dir.path().to_owned(), ballast_bytes: 0, ..config::Store::default() };
    let caps = config::Sessions {
        max_total: usize::MAX,
        max_per_principal: usize::MAX,
        ..config::Sessions::default()
    };
    let clock = Arc::new(SystemClock::default());
    let deadline_ms = clock.now_ms() + 86_400_000;
    let store = Store::open(Some(&settings), &caps, Arc::<SystemClock>::clone(&clock) as _).await.unwrap();
    if let Some(redis) = redis {
        let settings = config::Redis { url: redis.url().into(), ..config::Redis::default() };
        let metrics = metrics::of_process().links.clone();
        let links = Links::new(&settings, store.origin(), LOG_ENTRIES, clock, metrics).unwrap();
        store.attach(Arc::new(links), true).await.unwrap();
        tokio::spawn(Arc::clone(&store).run_sharing());
        until(&store, LinkState::Up).await;
    }
    let tasks = (0..64).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in (0..sessions).filter(|number| number % 64 == task) {
                let value = vec![("value".to_owned(), Some(Bytes::from_static(b"1")))];
                store.create(session(number), "bench", deadline_ms, value).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    store
}

async fn until(store: &Store, state: LinkState) {
    while store.link(session(0)) != Some(state) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Says something on a stream, and waits until it is acknowledged: on the disk, and in Redis if there is one.
async fn say(store: &Store, number: u64, seq: u64) -> Result<(), StoreError> {
    let key = session(number);
    let entry = Entry {
        origin: store.origin(),
        seq,
        at_ms: 0,
        kind: Kind::Message,
        stream: StreamName::GET,
        payload: Bytes::from(vec![b'x'; MESSAGE]),
    };
    let (tell, told) = oneshot::channel();
    store.append(store.place().await?, key, vec![entry], Vec::new(), Box::new(|done| drop(tell.send(done))));
    told.await.unwrap_or(Err(StoreError::Closed))?;
    store.share(key).await;
    Ok(())
}

/// The argument: whether there is a link. One thread works, as one core would; the disk and Redis have theirs.
#[divan::bench(args = [false, true], sample_count = 5, sample_size = 1)]
fn messages_of_256_streams(bencher: Bencher<'_, '_>, linked: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let redis = linked.then(redis::Redis::start);
    let store = runtime.block_on(open(&dir, redis.as_ref(), STREAMS));
    let mut said = 0;
    bencher.counter(ItemsCount::new(STREAMS * MESSAGES)).bench_local(|| {
        runtime.block_on(async {
            let streams = (0..STREAMS).map(|number| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for message in 1..=MESSAGES {
                        say(&store, number, said + message).await.unwrap();
                    }
                })
            });
            for stream in streams.collect::<Vec<_>>() {
                stream.await.unwrap();
            }
        });
        said += MESSAGES;
        assert!(store.owed() == 0 || !linked, "{} sessions owe something", store.owed());
    });
    runtime.block_on(store.close()).unwrap();
}

/// Whether anything is owed, as far as memory knows or the disk.
fn is_owing(store: &Store) -> bool {
    store.owed() > 0 || store.sharing_status().is_some_and(|status| status.more_on_disk)
}

/// From the moment at which the link is there again until nothing is owed.
#[divan::bench(args = [10_000, 100_000], sample_count = 1, sample_size = 1)]
fn heal_sessions_after_an_outage(bencher: Bencher<'_, '_>, sessions: u64) {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut redis = redis::Redis::start();
    let store = runtime.block_on(async {
        let store = open(&dir, Some(&redis), 1).await;
        redis.kill();
        until(&store, LinkState::Down).await;
        for number in 1..=sessions / 64 + 1 {
            let one = |at: u64| {
                let (store, number) = (Arc::clone(&store), number * 64 + at);
                tokio::spawn(async move {
                    let deadline_ms = SystemClock::default().now_ms() + 86_400_000;
                    let value = vec![("value".to_owned(), Some(Bytes::from(vec![b'x'; 1_024])))];
                    store.create(session(number), "bench", deadline_ms, value).await.unwrap();
                })
            };
            for made in (0..64).map(one).collect::<Vec<_>>() {
                made.await.unwrap();
            }
        }
        assert!(is_owing(&store));
        redis.restart();
        until(&store, LinkState::Up).await;
        store
    });
    bencher.counter(ItemsCount::new(sessions)).bench_local(|| {
        runtime.block_on(async {
            while is_owing(&store) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    });
    runtime.block_on(store.close()).unwrap();
}
