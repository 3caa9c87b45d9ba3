//! The store on real files: locks, damage, failing disks.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outlast::base::clock::SystemClock;
use outlast::base::ids::{Claims, Mode, PrincipalHash, SessionKey};
use outlast::base::seal::Keys;
use outlast::config;
use outlast::state::log::{Kind, Log, StreamName};
use outlast::store::durable::{Durable, Row, Table, Write};
use outlast::store::memory::Memory;
use outlast::store::{Lookup, Store, StoreError};

const DIR: &str = "OUTLAST_TEST_DAMAGED_DIR";
const FOREVER: u64 = u64::MAX / 2;

fn key(n: u8) -> SessionKey {
    SessionKey::from_bytes([n; 16])
}

fn settings(dir: &Path) -> config::Store {
    config::Store { data_dir: dir.to_owned(), ballast_bytes: 0, ..config::Store::default() }
}

async fn open(dir: &Path) -> Result<Arc<Store>, StoreError> {
    let clock = Arc::new(SystemClock::default());
    Store::open(Some(&settings(dir)), &config::Sessions::default(), clock).await
}

async fn over(disk: Arc<dyn Durable>) -> Arc<Store> {
    let clock = Arc::new(SystemClock::default());
    Store::over(disk, Keys::generate(), 1 << 20, &config::Sessions::default(), clock).await.unwrap()
}

fn fields(value: &[u8]) -> Vec<(String, Option<Bytes>)> {
    vec![("a".into(), Some(Bytes::copy_from_slice(value)))]
}

#[tokio::test]
async fn a_restart_finds_keys_sessions_and_logs() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    let claims = Claims {
        mode: Mode::Local,
        revision: 3,
        capabilities: 0,
        issued_ms: 1,
        deadline_ms: FOREVER >> 20,
        origin: store.origin(),
        key: key(1),
        principal: PrincipalHash([0; 8]),
    };
    let id = claims.sign(store.keys());
    let big = vec![7; 200_000];
    store.create(key(1), "ann", FOREVER, fields(&big)).await.unwrap();
    store.terminate(key(2), FOREVER).await.unwrap();
    let mut log = Log::default();
    let entry = log.append(store.origin(), Kind::Message, StreamName::GET, big.clone().into(), 1);
    let (tell, told) = tokio::sync::oneshot::channel();
    let done = Box::new(move |result: Result<(), StoreError>| tell.send(result).unwrap());
    store.append(store.place().await.unwrap(), key(1), vec![entry.clone()], vec![], done);
    told.await.unwrap().unwrap();
    store.close().await.unwrap();

    let again = open(temp.path()).await.unwrap();
    assert_eq!(Claims::verify(&id, again.keys()), Ok(claims));
    assert_ne!(again.origin(), store.origin());
    let Lookup::Live(doc) = again.load(key(1)).await.unwrap() else { panic!() };
    assert_eq!(doc.get("a").map(|value| &value[..]), Some(&big[..]));
    assert!(matches!(again.load(key(2)).await.unwrap(), Lookup::Terminated));
    assert_eq!(again.log(key(1)).await.unwrap().entries().collect::<Vec<_>>(), [&entry]);
    assert_eq!(again.sessions(), 1);
    // The database keeps its rows short enough never to put them into files of their own.
    let blobs = fs::read_dir(temp.path().join("db/blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
    again.close().await.unwrap();
}

#[tokio::test]
async fn a_second_store_on_the_directory_is_refused_until_the_first_is_closed() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    match open(temp.path()).await {
        Err(StoreError::InUse(text)) => {
            assert!(text.contains(&temp.path().canonicalize().unwrap().display().to_string()), "{text}");
            assert!(text.contains(&std::process::id().to_string()), "{text}");
        }
        other => panic!("{other:?}"),
    }
    store.close().await.unwrap();
    open(temp.path()).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn with_too_little_room_writes_are_refused_but_reads_and_ends_go_on() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    store.create(key(1), "ann", FOREVER, fields(b"1")).await.unwrap();
    store.close().await.unwrap();
    let settings = config::Store { ballast_bytes: 1 << 60, ..settings(temp.path()) };
    let clock = Arc::new(SystemClock::default());
    let full = Store::open(Some(&settings), &config::Sessions::default(), clock).await.unwrap();
    assert!(matches!(full.trouble(), Some(StoreError::Full(_))));
    assert!(matches!(full.update(key(1), fields(b"2")).await, Err(StoreError::Full(_))));
    assert!(matches!(full.place().await, Err(StoreError::Full(_))));
    full.touch(key(1));
    assert!(matches!(full.load(key(1)).await.unwrap(), Lookup::Live(_)));
    full.terminate(key(1), FOREVER).await.unwrap();
    full.close().await.unwrap();
}

#[tokio::test]
async fn a_database_under_suspicion_is_read_through_and_a_damaged_one_is_set_aside() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    store.create(key(1), "ann", FOREVER, fields(b"1")).await.unwrap();
    let mac = store.keys().sign(b"x");
    store.close().await.unwrap();
    for (note, lives) in [("verify", true), ("corrupt", false)] {
        fs::write(temp.path().join("suspect"), note).unwrap();
        let store = open(temp.path()).await.unwrap();
        assert_eq!(matches!(store.load(key(1)).await.unwrap(), Lookup::Live(_)), lives, "{note}");
        assert_eq!(store.sessions(), usize::from(lives));
        assert_eq!(store.keys().sign(b"x"), mac, "session ids stay valid");
        assert!(!temp.path().join("suspect").exists());
        store.close().await.unwrap();
    }
    let aside = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("corrupt-");
    assert_eq!(fs::read_dir(temp.path()).unwrap().filter(|entry| aside(entry.as_ref().unwrap())).count(), 1);
}

#[tokio::test]
async fn a_database_that_lost_writes_is_set_aside_and_a_removed_one_is_not() {
    let temp = tempfile::tempdir().unwrap();
    let old = temp.path().join("old");
    let dir = temp.path().join("dir");
    open(&dir).await.unwrap().close().await.unwrap();
    copy(&dir.join("db"), &old);
    let store = open(&dir).await.unwrap();
    store.create(key(1), "ann", FOREVER, fields(b"1")).await.unwrap();
    store.close().await.unwrap();
    fs::remove_dir_all(dir.join("db")).unwrap();
    copy(&old, &dir.join("db"));
    let names = || {
        let entries = fs::read_dir(&dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("corrupt-")).count()
    };
    open(&dir).await.unwrap().close().await.unwrap();
    assert_eq!(names(), 1);
    fs::remove_dir_all(dir.join("db")).unwrap();
    open(&dir).await.unwrap().close().await.unwrap();
    assert_eq!(names(), 1);
}

/// Not a test by itself: opens a damaged directory and reads all of it, in a process that may die of it.
#[test]
fn the_process_that_reads_damage() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = open(Path::new(&dir)).await.unwrap();
        let mut found = 0;
        for n in 1..=100 {
            if let Ok(Lookup::Live(doc)) = store.load(key(n)).await {
                let value = doc.get("a").unwrap();
                assert!(value.iter().all(|byte| *byte == n), "a value is not what was written");
                found += 1;
            }
        }
        if store.update(key(1), fields(&[1; 500])).await.is_err() {
            let _ = store.create(key(1), "ann", FOREVER, fields(&[1; 500])).await;
        }
        let _ = store.close().await;
        eprintln_found(found);
    });
}

#[expect(clippy::print_stderr, reason = "what the parent reads")]
fn eprintln_found(found: u32) {
    eprintln!("@found {found}");
}

#[test]
fn flipped_bytes_end_in_a_working_store_within_few_starts() {
    let temp = tempfile::tempdir().unwrap();
    let whole = temp.path().join("whole");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = open(&whole).await.unwrap();
        for n in 1..=100 {
            store.create(key(n), "ann", FOREVER, fields(&vec![n; 3_000])).await.unwrap();
        }
        store.close().await.unwrap();
    });
    let mut aside = 0;
    for round in 0_u64..16 {
        let dir = temp.path().join(format!("round{round}"));
        copy(&whole, &dir);
        damage(&dir.join("db"), round);
        let mut found = None;
        for _ in 0..4 {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "files::the_process_that_reads_damage", "--nocapture"])
                .env(DIR, &dir)
                .stdout(Stdio::null())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!text.contains("not what was written"), "round {round}: {text}");
            if output.status.success() {
                found = text.split("@found ").nth(1).and_then(|rest| rest.trim().parse::<u32>().ok());
                break;
            }
        }
        assert!(found.is_some(), "round {round}: no start within four worked");
        assert!(
            matches!(found, Some(0 | 100)),
            "round {round}: only {found:?} of 100 sessions, and not a word of it"
        );
        aside += fs::read_dir(&dir)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("corrupt-"))
            .count();
    }
    assert!(aside > 0, "no damage was noticed");
}

/// Flips bytes of the data file, a few or many; in some rounds of the other files, or cuts the data file.
fn damage(db: &Path, round: u64) {
    let other = |prefix: &str| {
        let mut entries = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix))
    };
    let path = match round % 8 {
        6 => other("conf"),
        7 => other("snap"),
        _ => None,
    };
    let path = path.unwrap_or_else(|| db.join("db"));
    let mut bytes = fs::read(&path).unwrap();
    if round % 8 == 5 {
        bytes.truncate(bytes.len() / 3);
    }
    let flips = [1, 5, 50, 500][round as usize % 4];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round + 1);
    for _ in 0..flips {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // The beginning is where the data is: segments are mostly empty here.
        let span = bytes.len().min(if round.is_multiple_of(2) { 1 << 20 } else { usize::MAX });
        let at = random as usize % span;
        bytes[at] ^= 0x55;
    }
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A disk whose syncs or writes fail, or that panics, from some moment on.
#[derive(Default)]
struct Failing {
    inner: Memory,
    sync: AtomicBool,
    write: AtomicBool,
    panic: AtomicBool,
}

impl Durable for Failing {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.inner.scan(table, from, to, limit)
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        assert!(!self.panic.load(Ordering::SeqCst), "the disk panics");
        if self.write.load(Ordering::SeqCst) {
            return Err(StoreError::Io("the write failed".into()));
        }
        self.inner.write(writes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        match self.sync.load(Ordering::SeqCst) {
            true => Err(StoreError::Io("the sync failed".into())),
            false => self.inner.sync(),
        }
    }

    fn witness(&self, _tick: u64) {}

    fn check_space(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        self.inner.close()
    }
}

#[tokio::test]
async fn a_failure_of_the_disk_poisons_the_store_for_good_and_shows_nothing_that_failed() {
    for fault in 0..3 {
        let disk = Arc::new(Failing::default());
        let store = over(Arc::<Failing>::clone(&disk)).await;
        store.create(key(1), "ann", FOREVER, fields(b"before")).await.unwrap();
        let switch = [&disk.sync, &disk.write, &disk.panic][fault];
        switch.store(true, Ordering::SeqCst);
        let (first, second) =
            tokio::join!(store.update(key(1), fields(b"lost")), store.update(key(1), fields(b"lost too")));
        assert!(first.is_err() && second.is_err(), "fault {fault}: {first:?} {second:?}");
        switch.store(false, Ordering::SeqCst);

        assert!(matches!(store.trouble(), Some(StoreError::Poisoned(_))), "fault {fault}");
        let create = store.create(key(2), "ann", FOREVER, vec![]).await;
        assert!(matches!(create, Err(StoreError::Poisoned(_))), "fault {fault}: {create:?}");
        assert!(matches!(store.place().await, Err(StoreError::Poisoned(_))));
        assert!(matches!(store.terminate(key(1), FOREVER).await, Err(StoreError::Poisoned(_))));
        store.touch(key(1));
        let Lookup::Live(doc) = store.load(key(1)).await.unwrap() else { panic!() };
        assert_eq!(doc.get("a"), Some(&Bytes::from_static(b"before")), "fault {fault}");
        assert!(matches!(store.load(key(2)).await.unwrap(), Lookup::Unknown));
        assert!(store.close().await.is_err());
    }
}

#[tokio::test]
async fn entries_are_told_done_once_and_in_their_order() {
    let store = over(Arc::new(Memory::default())).await;
    store.create(key(1), "ann", FOREVER, vec![]).await.unwrap();
    let mut log = Log::default();
    let (tell, told) = flume::bounded(300);
    for _ in 0..300 {
        let entry = log.append(store.origin(), Kind::Message, StreamName::GET, Bytes::new(), 1);
        let (tell, seq) = (tell.clone(), entry.seq);
        let done = Box::new(move |result: Result<(), StoreError>| {
            result.unwrap();
            tell.send(seq).unwrap();
        });
        store.append(store.place().await.unwrap(), key(1), vec![entry], vec![], done);
    }
    drop(tell);
    store.close().await.unwrap();
    assert!(told.drain().eq(1..=300));
}

#[tokio::test]
async fn the_file_that_is_synced_is_the_one_that_holds_the_data() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    // Names of principals are not sealed.
    store.create(key(1), "a needle that is found again", FOREVER, fields(b"x")).await.unwrap();
    let data = fs::read(temp.path().join("db/db")).unwrap();
    assert!(data.windows(28).any(|window| window == b"a needle that is found again"));
    // The process holds it twice: the database, and the handle for syncs.
    let file = temp.path().join("db/db").canonicalize().unwrap();
    let handles =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    assert_eq!(handles.filter(|path| *path == file).count(), 2);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_at_its_bound_takes_sessions_and_writes_again_when_others_have_ended() {
    let temp = tempfile::tempdir().unwrap();
    let bounded = config::Store {
        durability: config::Durability::Relaxed,
        max_bytes: 48 << 20,
        ..settings(temp.path())
    };
    let store = Store::open(Some(&bounded), &config::Sessions::default(), Arc::new(SystemClock::default()))
        .await
        .unwrap();
    let value = |n: u64| {
        let mut random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_be_bytes()
        };
        Bytes::from(std::iter::repeat_with(next).flatten().take(20_000).collect::<Vec<_>>())
    };
    let key = |n: u64| SessionKey::from_bytes(u128::from(n + 1).to_be_bytes());
    let fill = async |from: u64| {
        for n in from..10_000 {
            let fields = vec![("v".to_owned(), Some(value(n)))];
            if let Err(error) = store.create(key(n), "ann", u64::MAX / 2, fields).await {
                let text = error.to_string();
                assert!(
                    matches!(error, StoreError::Full(_)) && text.contains("sessions are refused"),
                    "{text}"
                );
                return n;
            }
        }
        panic!("there was room for all");
    };
    let made = fill(0).await;
    for n in 0..made {
        store.terminate(key(n), 1).await.unwrap();
    }
    store.sweep().await.unwrap();
    for _ in 0..100 {
        if store.create(key(100_000), "ann", u64::MAX / 2, vec![]).await.is_ok() {
            let again = fill(made).await - made;
            // How many were made at first is up to how densely sled packs a new file. Afterwards the data counts with
            // three times its length and 8 MiB, new sessions are refused from 80 % on, and ended ones leave a little.
            let promised = (bounded.max_bytes * 75 / 100 - (8 << 20)) / (3 * 20_200);
            assert!(again >= promised, "{again}, not {promised}, after {made}");
            assert!(fs::metadata(temp.path().join("db/db")).unwrap().len() <= bounded.max_bytes);
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("there is room again, and it was not seen");
}
