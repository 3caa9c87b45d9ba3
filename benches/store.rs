//! Durable writes through the store beside the same writes in bare group commits of sled, redb and fjall, a read from
//! memory, and the start with many sessions.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use outlast::base::clock::SystemClock;
use outlast::base::ids::SessionKey;
use outlast::config;
use outlast::store::{Lookup, Store, StoreError};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const TASKS: u64 = 64;
const WRITES: u64 = 200;
const VALUE: usize = 1_024;
const GROUP: usize = 1_024;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

fn session(task: u64) -> SessionKey {
    SessionKey::from_bytes(u128::from(task + 1).to_be_bytes())
}

async fn reopen(dir: &Path, encryption: bool) -> Arc<Store> {
    let data_dir = dir.to_owned();
    let store = config::Store { data_dir, encryption, ballast_bytes: 0, ..config::Store::default() };
    let sessions = config::Sessions {
        max_total: usize::MAX,
        max_per_principal: usize::MAX,
        ..config::Sessions::default()
    };
    loop {
        let clock = Arc::new(SystemClock::default());
        match Store::open(Some(&store), &sessions, clock).await {
            Ok(store) => return store,
            Err(StoreError::InUse(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn open(dir: &Path, encryption: bool) -> Arc<Store> {
    let store = reopen(dir, encryption).await;
    for task in 0..TASKS {
        let fields = vec![("value".to_owned(), Some(Bytes::from(vec![0; VALUE])))];
        store.create(session(task), "bench", u64::MAX / 2, fields).await.unwrap();
    }
    store
}

fn random_value(seed: u64) -> Bytes {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_be_bytes()
    };
    std::iter::repeat_with(next).flatten().take(VALUE).collect::<Vec<_>>().into()
}

/// The argument: whether values are sealed.
#[divan::bench(args = [true, false], sample_count = 10, sample_size = 1)]
fn durable_updates_of_64_tasks(bencher: Bencher<'_, '_>, encryption: bool) {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = runtime.block_on(open(dir.path(), encryption));
    bencher.counter(ItemsCount::new(TASKS * WRITES)).bench_local(|| {
        runtime.block_on(async {
            let tasks = (0..TASKS).map(|task| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for write in 0..WRITES {
                        let fields = vec![("value".to_owned(), Some(random_value(task << 32 | write)))];
                        store.update(session(task), fields).await.unwrap();
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
        });
    });
    runtime.block_on(store.close()).unwrap();
}

type Row = (Vec<u8>, Bytes);

/// The same writes in a bare group commit: a thread takes what waits, hands it to `commit`, which returns when it is on
/// stable storage, and tells the tasks.
fn group_commit(bencher: Bencher<'_, '_>, mut commit: impl FnMut(&[Row]) + Send) {
    type Job = (Row, oneshot::Sender<()>);
    let runtime = Runtime::new().unwrap();
    let (sender, receiver) = flume::bounded::<Job>(GROUP);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(first) = receiver.recv() {
                let group = std::iter::once(first).chain(receiver.try_iter().take(GROUP - 1));
                let (rows, waiting): (Vec<Row>, Vec<_>) = group.unzip();
                commit(&rows);
                for told in waiting {
                    let _ = told.send(());
                }
            }
        });
        bencher.counter(ItemsCount::new(TASKS * WRITES)).bench_local(|| {
            runtime.block_on(async {
                let tasks = (0..TASKS).map(|task| {
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        for write in 0..WRITES {
                            let key = [session(task).as_bytes().as_slice(), b"\0value"].concat();
                            let (tell, told) = oneshot::channel();
                            let row = (key, random_value(task << 32 | write));
                            sender.send_async((row, tell)).await.unwrap();
                            told.await.unwrap();
                        }
                    })
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await.unwrap();
                }
            });
        });
        drop(sender);
    });
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn bare_group_commit_of_64_tasks_in_sled(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().unwrap();
    let db =
        sled::Config::new().path(dir.path()).segment_size(2 << 20).cache_capacity(64 << 20).open().unwrap();
    let file = File::options().write(true).open(dir.path().join("db")).unwrap();
    group_commit(bencher, move |rows| {
        for (key, value) in rows {
            db.insert(key, &value[..]).unwrap();
        }
        db.flush().unwrap();
        file.sync_data().unwrap();
    });
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn bare_group_commit_of_64_tasks_in_redb(bencher: Bencher<'_, '_>) {
    const TABLE: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("value");
    let dir = tempfile::tempdir().unwrap();
    let db = redb::Database::create(dir.path().join("db")).unwrap();
    group_commit(bencher, move |rows| {
        let write = db.begin_write().unwrap();
        let mut table = write.open_table(TABLE).unwrap();
        for (key, value) in rows {
            table.insert(&key[..], &value[..]).unwrap();
        }
        drop(table);
        write.commit().unwrap();
    });
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn bare_group_commit_of_64_tasks_in_fjall(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().unwrap();
    let db = fjall::Database::builder(dir.path()).open().unwrap();
    let values = db.keyspace("value", fjall::KeyspaceCreateOptions::default).unwrap();
    group_commit(bencher, move |rows| {
        for (key, value) in rows {
            values.insert(&key[..], &value[..]).unwrap();
        }
        db.persist(fjall::PersistMode::SyncData).unwrap();
    });
}

/// How many sessions a store is opened with: a million take minutes to make, so only when they are asked for.
fn session_counts() -> Vec<u64> {
    match std::env::var_os("OUTLAST_BENCH_MILLION") {
        Some(_) => vec![1_000_000],
        None => vec![100_000],
    }
}

/// What of this process is in memory, KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// Where the directory with many sessions stays, so that another process opens it: the memory of the one that made them is
/// no measure. None: it goes with the bench.
fn kept_dir() -> Option<std::path::PathBuf> {
    std::env::var_os("OUTLAST_BENCH_DIR").map(Into::into)
}

/// After a crash, when the sessions have to be counted.
#[divan::bench(sample_count = 3, sample_size = 1, args = session_counts())]
#[expect(clippy::print_stderr, reason = "a bench may say what it found")]
fn open_with_sessions(bencher: Bencher<'_, '_>, sessions: u64) {
    let runtime = Runtime::new().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let dir = kept_dir().unwrap_or_else(|| temp.path().to_owned());
    if !dir.join("db").exists() {
        runtime.block_on(fill(&dir, sessions));
    }
    bencher.bench_local(|| {
        runtime.block_on(async {
            // Without a close the directory is let go when the last holder of the store is gone.
            let store = reopen(&dir, true).await;
            assert!(store.sessions() as u64 >= sessions);
            eprintln!("{} KiB resident with {sessions} sessions", resident_kib());
        });
    });
}

async fn fill(dir: &Path, sessions: u64) {
    let store = open(dir, true).await;
    let tasks = (0..TASKS).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in (0..sessions).filter(|number| number % TASKS == task) {
                let fields = vec![("value".to_owned(), Some(random_value(number)))];
                store.create(session(number + TASKS), "bench", u64::MAX / 2, fields).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    store.close().await.unwrap();
}

#[divan::bench]
fn read_from_memory(bencher: Bencher<'_, '_>) {
    const READS: u64 = 10_000;
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = runtime.block_on(open(dir.path(), true));
    bencher.counter(ItemsCount::new(READS)).bench_local(|| {
        runtime.block_on(async {
            for read in 0..READS {
                let found = store.load(session(read % TASKS)).await.unwrap();
                assert!(matches!(found, Lookup::Live(_)));
            }
        });
    });
    runtime.block_on(store.close()).unwrap();
}
