//! Directories that earlier formats left behind are opened; those of later ones are not.
//!
//! `tests/fixtures/format-N` is a data directory as the last program of format N left it: the file of the database
//! without the zeros at its end, and without the files that every start makes anew. It is made by
//! `cargo test --test state -- --ignored a_fixture_of_the_present_format`, once, before the format changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outlast::base::clock::ManualClock;
use outlast::base::ids::{Claims, Mode, Origin, PrincipalHash, SessionKey};
use outlast::config;
use outlast::state::log::{Cut, Kind, Log, StreamName};
use outlast::state::result::Outcome;
use outlast::store::boot::FORMAT;
use outlast::store::{Lookup, ResultId, Store, StoreError};
use tokio::sync::oneshot;

const NOW: u64 = 1_795_000_000_000;
const DEADLINE: u64 = NOW + 7 * 24 * 3_600_000;
const HOUR: Duration = Duration::from_secs(3_600);
/// sled makes its file longer by segments of this length.
const SEGMENT: u64 = 2 << 20;

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}"))
}

fn key(n: u8) -> SessionKey {
    SessionKey::from_bytes([n; 16])
}

fn long(n: u8) -> Bytes {
    Bytes::from(vec![n; 30_000])
}

/// Does not pack, and so takes several rows.
fn noise() -> Bytes {
    let mix = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(n | 1).to_be_bytes()[0];
    (0..30_000).map(mix).collect()
}

async fn open(dir: &Path) -> Result<Arc<Store>, StoreError> {
    let settings = config::Store { data_dir: dir.to_owned(), ballast_bytes: 0, ..config::Store::default() };
    Store::open(Some(&settings), &config::Sessions::default(), ManualClock::at(NOW)).await
}

fn claims() -> Claims {
    Claims {
        mode: Mode::Local,
        revision: 3,
        capabilities: 7,
        issued_ms: NOW,
        deadline_ms: DEADLINE,
        origin: Origin::from_bits(5),
        key: key(1),
        principal: PrincipalHash([9; 8]),
    }
}

fn result_id() -> ResultId {
    ResultId { session: key(1), name: "task".into() }
}

#[tokio::test]
#[ignore = "writes a fixture into the source tree"]
async fn a_fixture_of_the_present_format_is_made() {
    let to = fixture(FORMAT);
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    let field = |name: &str, value: Bytes| (name.to_owned(), Some(value));
    let fields =
        vec![field("short", Bytes::from_static(b"value")), field("long", long(1)), field("noise", noise())];
    store.create(key(1), "ann", DEADLINE, fields).await.unwrap();
    store.create(key(2), "bob", DEADLINE, vec![field("a", Bytes::new())]).await.unwrap();
    store.remove_field(key(2), "a").await.unwrap();
    store.terminate(key(3), DEADLINE).await.unwrap();
    let mut log = Log::default();
    let payload = |n: u8| if n == 2 { long(n) } else { Bytes::from(vec![n; 10]) };
    let entries = (1..=4)
        .map(|n| log.append(store.origin(), Kind::Message, StreamName::GET, payload(n), NOW))
        .collect();
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| {
        let _ = tell.send(result);
    });
    let cut = vec![Cut { origin: store.origin(), base: 2, get: 1 }];
    store.append(store.place().await.unwrap(), key(1), entries, cut, done);
    told.await.unwrap().unwrap();
    let outcome = Outcome { fence: 1, rev: 2, rank: 9, payload: long(5) };
    store.put_result(result_id(), outcome, 100 * HOUR).await.unwrap();
    store.lock("lock", 20 * HOUR, Some(key(1))).await.unwrap();
    let token = claims().sign(store.keys());
    store.close().await.unwrap();

    fs::create_dir_all(to.join("db")).unwrap();
    for name in ["format", "keys", "sealed", "db/conf"] {
        fs::copy(temp.path().join(name), to.join(name)).unwrap();
    }
    let mut database = fs::read(temp.path().join("db/db")).unwrap();
    let end = database.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    database.truncate(end);
    fs::write(to.join("db/db"), database).unwrap();
    fs::write(to.join("token"), token).unwrap();
}

/// A copy of a fixture, as the directory was.
fn unpack(format: u32) -> tempfile::TempDir {
    let (from, temp) = (fixture(format), tempfile::tempdir().unwrap());
    fs::create_dir(temp.path().join("db")).unwrap();
    // There was nothing that was sealed in format 1.
    let sealed = (format > 1).then_some("sealed");
    for name in ["format", "keys", "db/conf", "db/db"].into_iter().chain(sealed) {
        fs::copy(from.join(name), temp.path().join(name)).unwrap();
    }
    let database = fs::File::options().write(true).open(temp.path().join("db/db")).unwrap();
    database.set_len(database.metadata().unwrap().len().next_multiple_of(SEGMENT)).unwrap();
    temp
}

/// Everything is there; `values` of the second session, which every check adds one to.
async fn check(dir: &Path, format: u32, token: &str, values: usize) {
    let store = open(dir).await.unwrap();
    assert_eq!((store.sessions(), store.sessions_of("ann")), (2, 1));
    let Lookup::Live(doc) = store.load(key(1)).await.unwrap() else { panic!() };
    assert_eq!(doc.get("short"), Some(&Bytes::from_static(b"value")));
    assert_eq!(doc.get("long"), Some(&long(1)));
    assert_eq!(doc.get("noise"), Some(&noise()).filter(|_| format > 1));
    let Lookup::Live(doc) = store.load(key(2)).await.unwrap() else { panic!() };
    assert_eq!((doc.fields().count(), doc.version().0.is_some()), (values, true));
    assert!(matches!(store.load(key(3)).await.unwrap(), Lookup::Terminated));
    let log = store.log(key(1)).await.unwrap();
    let said: Vec<_> = log.entries().map(|entry| (entry.seq, entry.payload.len())).collect();
    assert_eq!(said, [(2, 30_000), (3, 10), (4, 10)]);
    let outcome = Outcome { fence: 1, rev: 2, rank: 9, payload: long(5) };
    assert_eq!(store.result(&result_id()).await.unwrap(), Some(outcome));
    assert!(matches!(store.lock("lock", HOUR, None).await, Err(StoreError::Held { .. })));
    assert_eq!(Claims::verify(token, store.keys()), Ok(claims()));
    store.update(key(2), vec![(format!("new{values}"), Some(Bytes::new()))]).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn directories_of_every_format_so_far_are_opened_and_again_after_that() {
    for format in 1..=FORMAT {
        let dir = unpack(format);
        let token = fs::read_to_string(fixture(format).join("token")).unwrap();
        check(dir.path(), format, &token, 0).await;
        check(dir.path(), format, &token, 1).await;
        let line = fs::read_to_string(dir.path().join("format")).unwrap();
        assert!(line.starts_with(&format!("format {FORMAT} by ")), "{line}");
    }
}

#[tokio::test]
async fn a_directory_of_a_newer_format_is_refused_and_nothing_in_it_is_changed() {
    let dir = unpack(FORMAT);
    let newer = format!("format {} by 99.0.0\n", FORMAT + 1);
    fs::write(dir.path().join("format"), &newer).unwrap();
    let before = fs::read(dir.path().join("db/db")).unwrap();
    let Err(StoreError::Unusable(text)) = open(dir.path()).await else { panic!() };
    assert!(text.contains("99.0.0") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    assert_eq!(fs::read_to_string(dir.path().join("format")).unwrap(), newer);
    assert!(fs::read(dir.path().join("db/db")).unwrap() == before);
}
