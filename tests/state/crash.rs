//! A process that writes is killed, again and again: nothing that it was told to be on the disk is missing.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use outlast::base::clock::SystemClock;
use outlast::base::ids::{Origin, SessionKey};
use outlast::config;
use outlast::state::log::{Kind, Log, Retention, StreamName};
use outlast::store::{Lookup, Store, StoreError};

const DIR: &str = "OUTLAST_TEST_CRASH_DIR";
const KILLS: u32 = 20;
const SESSIONS: u8 = 4;
const WRITERS: u8 = 4;
const KEEP: usize = 150;

fn key(n: u8) -> SessionKey {
    SessionKey::from_bytes([n + 1; 16])
}

async fn open(dir: &Path) -> Arc<Store> {
    let store = config::Store { data_dir: dir.to_owned(), ballast_bytes: 0, ..config::Store::default() };
    let clock = Arc::new(SystemClock::default());
    Store::open(Some(&store), &config::Sessions::default(), clock).await.unwrap()
}

/// Not a test by itself: the process that is killed. Says what it was told to be on the disk, a line for each.
#[test]
fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(write_for_ever(Path::new(&dir)));
}

async fn write_for_ever(dir: &Path) {
    let store = open(dir).await;
    say(&format!("o {}", store.origin().bits()));
    for n in 0..SESSIONS {
        store.create(key(n), "ann", u64::MAX / 2, vec![]).await.unwrap();
        let log = Arc::new(Mutex::new(store.log(key(n)).await.unwrap()));
        for writer in 0..WRITERS {
            tokio::spawn(write_values(Arc::clone(&store), n, writer));
        }
        tokio::spawn(write_entries(Arc::clone(&store), n, log));
    }
    // The killer is late by far: end all the same.
    tokio::time::sleep(Duration::from_secs(60)).await;
}

async fn write_values(store: Arc<Store>, n: u8, writer: u8) {
    let field = format!("w{writer}");
    loop {
        let add = |old: Option<&Bytes>| {
            let number = old.map_or(0, |old| read_number(old)) + 1;
            // Some are longer than a row.
            let len = if number.is_multiple_of(7) { 60_000 } else { 900 };
            Some(format!("{number} {}", "x".repeat(len)).into())
        };
        let written = store.change(key(n), &field, add).await.unwrap().unwrap();
        say(&format!("u {n} {writer} {}", read_number(&written)));
    }
}

async fn write_entries(store: Arc<Store>, n: u8, log: Arc<Mutex<Log>>) {
    loop {
        let place = store.place().await.unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let seq = {
            let mut log = log.lock().unwrap();
            let payload = Bytes::from(vec![b'p'; 500]);
            let entry = log.append(store.origin(), Kind::Message, StreamName::GET, payload, 1);
            let seq = entry.seq;
            let keep = Retention { entries: KEEP, bytes: usize::MAX, age_ms: u64::MAX / 2 };
            let trimmed = log.trim(keep, 1, None);
            let done = Box::new(move |result: Result<(), StoreError>| {
                let _ = tell.send(result);
            });
            store.append(place, key(n), vec![entry], trimmed, done);
            seq
        };
        told.await.unwrap().unwrap();
        say(&format!("l {n} {} {seq}", store.origin().bits()));
    }
}

fn say(line: &str) {
    // One write per line, so that a kill never leaves half of one that was acknowledged before.
    std::io::stdout().lock().write_all(format!("@{line}\n").as_bytes()).unwrap();
}

fn read_number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[derive(Default)]
struct Acknowledged {
    values: BTreeMap<(u8, u8), u64>,
    entries: BTreeMap<(u8, u64), u64>,
    lines: u64,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        // The test harness prints on the same stream.
        let Some((_, line)) = line.split_once('@') else { return };
        let parts: Vec<&str> = line.split(' ').collect();
        match parts[..] {
            ["u", n, writer, number] => {
                let of = (n.parse().unwrap(), writer.parse().unwrap());
                self.values.insert(of, number.parse().unwrap());
            }
            ["l", n, origin, seq] => {
                let of = (n.parse().unwrap(), origin.parse().unwrap());
                self.entries.insert(of, seq.parse().unwrap());
            }
            _ => return,
        }
        self.lines += 1;
    }
}

fn run_and_kill(dir: &Path, after: Duration, acknowledged: &mut Acknowledged) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::the_process_that_is_killed", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("@o ") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child ended: {:?}", child.wait_with_output());
    }
    // A pipe holds little: somebody has to read while the child writes.
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).unwrap_or(0) > 0 && line.ends_with(b"\n") {
            said.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
        said
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap().iter().for_each(|line| acknowledged.note(line));
}

#[test]
fn nothing_acknowledged_is_missing_after_kills() {
    let temp = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for kill in 0..KILLS {
        // Moments from within the first writes to well after.
        run_and_kill(temp.path(), Duration::from_millis(5 + u64::from(kill * 37 % 200)), &mut acknowledged);
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let store = open(temp.path()).await;
            for n in 0..SESSIONS {
                check(&store, n, &acknowledged, kill).await;
            }
            store.close().await.unwrap();
        });
    }
    assert!(acknowledged.lines > u64::from(KILLS) * 10, "only {} writes", acknowledged.lines);
    assert!(
        std::fs::read_dir(temp.path())
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with("corrupt-") })
    );
}

async fn check(store: &Store, n: u8, acknowledged: &Acknowledged, kill: u32) {
    let Lookup::Live(doc) = store.load(key(n)).await.unwrap() else {
        assert!(acknowledged.values.keys().all(|(of, _)| *of != n), "session {n} is gone after kill {kill}");
        return;
    };
    for ((_, writer), number) in acknowledged.values.iter().filter(|((of, _), _)| *of == n) {
        let held = doc.get(&format!("w{writer}")).map_or(0, |value| read_number(value));
        assert!(held >= *number, "after kill {kill} w{writer} of {n} is {held}, acknowledged was {number}");
    }
    let log = store.log(key(n)).await.unwrap();
    assert!(log.len() <= KEEP + 1);
    for ((_, origin), seq) in acknowledged.entries.iter().filter(|((of, _), _)| *of == n) {
        let origin = Origin::from_bits(*origin);
        let hw = log.high_water(origin);
        assert!(hw >= *seq, "after kill {kill} the log of {n} ends at {hw}, acknowledged was {seq}");
    }
    // What is retained of a run is contiguous up to its end; `Store::log` would have cut off what is below a hole.
    for (origin, base, hw) in log.marks() {
        let of_origin = log.entries().filter(|entry| entry.origin == origin);
        let seqs: Vec<u64> = of_origin.map(|entry| entry.seq).collect();
        assert_eq!(seqs, (base..=hw).collect::<Vec<_>>());
    }
}
