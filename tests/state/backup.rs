//! Copies of the sessions beside the database, and the start that needs one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use outlast::base::clock::SystemClock;
use outlast::base::ids::SessionKey;
use outlast::config;
use outlast::store::{Lookup, Store};

const FOREVER: u64 = u64::MAX / 2;
const SECRET: &[u8] =
    b"not for others to read, and long enough to be packed if it can be: not for others to read";

fn key(n: u8) -> SessionKey {
    SessionKey::from_bytes([n; 16])
}

async fn open_as(dir: &Path, shared: bool) -> Arc<Store> {
    let store =
        config::Store { data_dir: dir.to_owned(), ballast_bytes: 0, shared, ..config::Store::default() };
    Store::open(Some(&store), &config::Sessions::default(), Arc::new(SystemClock::default())).await.unwrap()
}

async fn open(dir: &Path) -> Arc<Store> {
    open_as(dir, false).await
}

/// As a start finds it whose database cannot be read.
fn damage(dir: &Path) {
    fs::write(dir.join("suspect"), "corrupt").unwrap();
}

async fn create(store: &Store, n: u8, value: &[u8]) {
    let fields = vec![("a".to_owned(), Some(Bytes::copy_from_slice(value)))];
    store.create(key(n), "ann", FOREVER, fields).await.unwrap();
}

async fn value(store: &Store, n: u8) -> Option<Bytes> {
    match store.load(key(n)).await.unwrap() {
        Lookup::Live(doc) => doc.get("a").cloned(),
        _ => None,
    }
}

async fn set(store: &Store, n: u8, value: &[u8]) {
    store.update(key(n), vec![("a".to_owned(), Some(Bytes::copy_from_slice(value)))]).await.unwrap();
}

#[tokio::test]
async fn a_start_that_finds_the_database_damaged_has_the_sessions_of_the_last_copy() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await;
    create(&store, 1, SECRET).await;
    // More than are read and put in at a time, and one that is as long as they get.
    for n in 0..600_u128 {
        let key = SessionKey::from_bytes((n + 1).to_be_bytes());
        store.create(key, "bob", FOREVER, vec![("n".to_owned(), Some(n.to_string().into()))]).await.unwrap();
    }
    create(&store, 2, &vec![7; 700_000]).await;
    create(&store, 3, b"ended").await;
    store.terminate(key(3), FOREVER).await.unwrap();
    assert_eq!(store.back_up().await.unwrap(), 602);
    let copy = fs::read(temp.path().join("backup")).unwrap();
    assert!(!copy.windows(20).any(|part| part == &SECRET[..20]), "it is sealed as the database is");
    // What comes after it is not in it.
    set(&store, 1, b"later").await;
    create(&store, 4, b"later").await;
    store.close().await.unwrap();

    damage(temp.path());
    let store = open(temp.path()).await;
    assert_eq!(store.sessions(), 602);
    assert!(!temp.path().join("restore").exists(), "all of it was read");
    assert_eq!(value(&store, 1).await.as_deref(), Some(SECRET));
    assert_eq!(value(&store, 2).await.unwrap().len(), 700_000);
    assert_eq!((value(&store, 3).await, value(&store, 4).await), (None, None));
    let Lookup::Live(last) = store.load(SessionKey::from_bytes(600_u128.to_be_bytes())).await.unwrap() else {
        panic!("the last one is lost")
    };
    assert_eq!(last.get("n").unwrap().as_ref(), b"599");
    // Once: what ends from now on stays ended.
    set(&store, 1, b"newer").await;
    store.terminate(key(2), FOREVER).await.unwrap();
    store.close().await.unwrap();
    let store = open(temp.path()).await;
    assert_eq!((value(&store, 1).await.as_deref(), value(&store, 2).await), (Some(&b"newer"[..]), None));
    store.close().await.unwrap();
}

#[tokio::test]
async fn of_a_copy_that_is_damaged_the_one_before_counts_and_without_one_the_store_is_empty() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await;
    create(&store, 1, b"first").await;
    assert_eq!(store.back_up().await.unwrap(), 1);
    set(&store, 1, b"second").await;
    assert_eq!(store.back_up().await.unwrap(), 1);
    store.close().await.unwrap();
    let newest = temp.path().join("backup");
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, &bytes).unwrap();
    damage(temp.path());
    let store = open(temp.path()).await;
    assert_eq!(value(&store, 1).await.as_deref(), Some(&b"first"[..]));
    store.close().await.unwrap();

    for name in ["backup", "backup.old"] {
        fs::write(temp.path().join(name), b"").unwrap();
    }
    damage(temp.path());
    let store = open(temp.path()).await;
    assert_eq!(store.sessions(), 0);
    create(&store, 1, b"anew").await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_instance_that_shares_what_it_holds_takes_nothing_from_a_copy() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await;
    create(&store, 1, b"old").await;
    assert_eq!(store.back_up().await.unwrap(), 1);
    store.close().await.unwrap();
    damage(temp.path());
    let store = open_as(temp.path(), true).await;
    assert_eq!(value(&store, 1).await, None, "its sisters have newer ones");
    store.close().await.unwrap();
}
