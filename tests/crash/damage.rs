//! Bytes of the database that change while nobody looks. Such a database may be set aside, all of it, with a word;
//! it may never serve what was not written, nor lose a part in silence.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::checker::{Floors, Rule, Verdict};
use super::history::{self, Record};
use super::lane::{Lane, Moment, Running, seed, setting};
use super::random::Random;

/// Starts within which a damaged directory has to work again.
const STARTS: u32 = 5;

/// The end of the data is missing, or one of the small files is not what it was.
fn loss_or_small_files(db: &Path, random: &mut Random) -> String {
    let data = db.join("db");
    let other = |prefix: &str| {
        let mut entries = fs::read_dir(db).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_it =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        entries.find(|path| is_it(path))
    };
    match random.below(4) {
        0 => torn_end(&data, random),
        1 => {
            let file = fs::File::options().write(true).open(&data).unwrap();
            let length = file.metadata().unwrap().len();
            let keep = random.below(length);
            file.set_len(keep).unwrap();
            format!("cut to {keep} of {length} bytes")
        }
        2 => flip(&other("snap").unwrap_or(data), random, 2, 4),
        _ => flip(&other("conf").unwrap_or(data), random, 1, 1),
    }
}

/// Bytes of the data are not what they were.
fn flips(db: &Path, random: &mut Random) -> String {
    let (count, bytes) = [(1, 1), (20, 1), (200, 1), (3, 512)][random.below(4) as usize];
    flip(&db.join("db"), random, count, bytes)
}

/// Changes `count` stretches of so many bytes, where something was written.
fn flip(path: &Path, random: &mut Random, count: u64, bytes: usize) -> String {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let mut places = Vec::new();
    for _ in 0..count {
        let mut stretch = vec![0; bytes];
        // Most of a segment is empty, and what is there does not matter.
        for _ in 0..10_000 {
            let at = random.below(length);
            let read = file.read_at(&mut stretch, at).unwrap();
            if stretch[..read].iter().any(|byte| *byte != 0) {
                stretch[..read].iter_mut().for_each(|byte| *byte ^= 0x55);
                file.write_all_at(&stretch[..read], at).unwrap();
                places.push(at);
                break;
            }
        }
    }
    places.truncate(5);
    format!("{count} times {bytes} bytes flipped of {} at {places:?}", path.display())
}

/// The last stretch that was written becomes zeros from some byte on, as if a sector had not made it.
fn torn_end(path: &Path, random: &mut Random) -> String {
    const BLOCK: u64 = 4_096;
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut end = file.metadata().unwrap().len();
    let mut block = vec![0; BLOCK as usize];
    while end > 0 {
        let read = file.read_at(&mut block, end.saturating_sub(BLOCK)).unwrap();
        if let Some(last) = block[..read].iter().rposition(|byte| *byte != 0) {
            end = end.saturating_sub(BLOCK) + last as u64 + 1;
            break;
        }
        end = end.saturating_sub(BLOCK);
    }
    let from = end.saturating_sub(1 + random.below(BLOCK));
    file.write_all_at(&vec![0; (end - from) as usize], from).unwrap();
    format!("zeros from {from} to {end}")
}

/// Kills and damages a directory in turn; in the end everything is read.
fn damage_again_and_again(name: &str, rounds: u64, damage: fn(&Path, &mut Random) -> String) -> Lane {
    let mut lane = Lane::new(name, seed());
    lane.settings.reads_may_fail = true;
    lane.settings.writes_may_fail = true;
    lane.settings.may_be_set_aside = true;
    for round in 0..rounds {
        for _ in 0..2 {
            let ms = 30 + lane.random.below(60);
            lane.run_and_kill(Moment::AtWork(Duration::from_millis(ms)));
        }
        let what = damage(&lane.data.join("db"), &mut lane.random);
        lane.note_damage(&what);
        let works = (0..STARTS).any(|_| {
            let mut running = lane.start(false);
            let works = lane.wait_for_work(&mut running);
            // Some more of them, once one has got through; where nothing does, another start may help.
            let wrote = |running: &Running| history::read(running.history()).iter().any(Record::is_written);
            for _ in 0..500 {
                if !works || !running.is_alive() || wrote(&running) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(50));
            lane.kill(running);
            works && lane.last_run_wrote()
        });
        if !works {
            lane.fail(&format!("round {round}: {what}: no start of {STARTS} worked"));
        }
    }
    let status = lane.read_all();
    if !status.success() {
        lane.fail(&format!("the last process failed: {status}"));
    }
    lane
}

fn rounds() -> u64 {
    setting("CRASH_DAMAGES").unwrap_or(12)
}

#[test]
fn what_the_database_lost_is_told_and_nothing_false_is_served() {
    let mut lane = damage_again_and_again("lost", rounds(), loss_or_small_files);
    let rounds = rounds() as usize;
    let summary = lane.must_be_sound(&Floors { kills: 2 * rounds, puts: rounds, ..Floors::default() });
    assert!(summary.aside > 0, "no damage was noticed in {rounds} rounds");
}

/// What sled loses without a word: where its recovery meets a message that it cannot read in a segment before the
/// last, it passes over the rest of that segment (`pagecache/iterator.rs`, `LogIter::next`) and goes on behind it. So
/// a page may be what it was earlier. Nothing that was read there can be false beyond that.
const SILENT: [Rule; 13] = [
    Rule::SessionLost,
    Rule::SessionFromNowhere,
    Rule::Revived,
    Rule::FalselyGone,
    Rule::HalfCreate,
    Rule::FieldOrder,
    Rule::CountLost,
    Rule::CountTwice,
    Rule::EntryLost,
    Rule::TrimmedTooMuch,
    Rule::Untrimmed,
    Rule::OriginReused,
    Rule::UseLost,
];

#[test]
#[expect(clippy::print_stderr, reason = "how much is lost without a word is worth knowing")]
fn flipped_bytes_never_make_up_what_nobody_wrote() {
    let mut lane = damage_again_and_again("flipped", rounds(), flips);
    let verdict = lane.check(&Floors::default());
    match &verdict {
        Verdict::Sound(summary) => assert!(summary.aside > 0, "no damage was noticed"),
        Verdict::Broken(findings, _) if findings.iter().all(|finding| SILENT.contains(&finding.rule)) => {
            eprintln!("CRASH_SEED={}: lost without a word: {verdict}", lane.seed);
        }
        _ => lane.fail(&verdict.to_string()),
    }
}

/// What a start leaves that is killed while sled writes its snapshot.
#[test]
fn an_unfinished_snapshot_is_passed_over() {
    let mut lane = Lane::new("snapshot", seed());
    for _ in 0..3 {
        lane.run_and_kill(Moment::AtWork(Duration::from_millis(100)));
        let database = lane.data.join("db");
        fs::write(database.join("snap.7FFFFFFFFFFFFFFF.generating"), "half a snapshot").unwrap();
    }
    let status = lane.read_all();
    if !status.success() {
        lane.fail(&format!("the last process failed: {status}"));
    }
    lane.must_be_sound(&Floors { kills: 3, puts: 3, ..Floors::default() });
}
