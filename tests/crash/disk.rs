//! Disks that are slow, full, failing, read-only, or in use by another process.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::checker::Floors;
use super::faults::Fault;
use super::history::{self, Call, Record, What, Why};
use super::lane::{Lane, Moment, PATIENCE, Running, seed};

/// Where the tests that need a filesystem of their own run, in a mount namespace of their own.
const SMALL: &str = "OUTLAST_TEST_CRASH_MOUNT";
const MIB: u64 = 1 << 20;

/// Waits until the process has said something of the kind; false when it ended, or when nothing came for long.
fn wait_for(running: &mut Running, said: impl Fn(&What) -> bool) -> bool {
    wait_until(running, |history| history.iter().any(|record| said(&record.what)))
}

fn wait_until(running: &mut Running, enough: impl Fn(&[Record]) -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        // Looked at first: a process may say what is waited for, and end, while its history is read.
        let ended = running.child.try_wait().unwrap().is_some();
        if enough(&history::read(running.history())) {
            return true;
        }
        if ended {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn failed(why: Why) -> impl Fn(&What) -> bool {
    move |what| matches!(what, What::Fail { why: because, .. } if *because == why)
}

/// How many operations of a kind began after the line and were acknowledged.
fn done_after(history: &[Record], line: usize, of: impl Fn(&Call) -> bool) -> usize {
    let after = history.get(line..).unwrap_or_default();
    let begun = after.iter().filter_map(|record| match &record.what {
        What::Invoke { op, call } if of(call) => Some(*op),
        _ => None,
    });
    let begun: HashSet<u64> = begun.collect();
    after.iter().filter(|record| matches!(&record.what, What::Ok { op, .. } if begun.contains(op))).count()
}

fn is_create(call: &Call) -> bool {
    matches!(call, Call::Create { .. })
}

fn is_put(call: &Call) -> bool {
    matches!(call, Call::Put { .. })
}

/// A start after which writes are acknowledged, and a kill.
fn run_until_written(lane: &mut Lane) {
    let mut running = lane.start(false);
    let written = wait_until(&mut running, |history| done_after(history, 0, is_put) > 0);
    lane.kill(running);
    if !written {
        lane.fail("no write was acknowledged");
    }
}

fn finish(lane: &mut Lane, floors: &Floors) {
    lane.fault = None;
    let status = lane.read_all();
    if !status.success() {
        lane.fail(&format!("the last process failed: {status}"));
    }
    lane.must_be_sound(floors);
}

#[test]
fn a_slow_disk_breaks_no_promise() {
    let mut lane = Lane::new("slow", seed());
    lane.fault = Some(Fault::SlowSync(15));
    for _ in 0..4 {
        lane.run_and_kill(Moment::AtWork(Duration::from_millis(200)));
    }
    finish(&mut lane, &Floors { kills: 4, kills_in_flight: 2, puts: 10, ..Floors::default() });
}

#[test]
fn after_a_failed_sync_or_write_nothing_is_acknowledged_until_a_restart() {
    let mut lane = Lane::new("failing", seed());
    lane.settings.writes_may_fail = true;
    for round in 0..6 {
        let after = 2 + lane.random.below(10);
        lane.fault =
            Some(if round % 2 == 0 { Fault::FailingSync(after) } else { Fault::FailingWrite(4 * after) });
        let mut running = lane.start(false);
        // The start itself writes and syncs, so it may be refused.
        let poisoned = wait_for(&mut running, failed(Why::Poisoned));
        std::thread::sleep(Duration::from_millis(20));
        lane.kill(running);
        assert!(poisoned || lane.was_refused(), "seed {}: the fault was not noticed", lane.seed);
        lane.fault = None;
        lane.run_and_kill(Moment::AtWork(Duration::from_millis(50)));
    }
    lane.settings.reads_may_fail = true;
    finish(&mut lane, &Floors { puts: 10, ..Floors::default() });
}

#[test]
fn while_the_disk_counts_as_full_reads_and_ends_go_on_and_then_writes_again() {
    let mut lane = Lane::new("full", seed());
    lane.settings.writes_may_fail = true;
    lane.fault = Some(Fault::Full);
    for _ in 0..2 {
        let mut running = lane.start(false);
        assert!(lane.wait_for_work(&mut running));
        fs::write(running.switch(), "").unwrap();
        let full = |history: &[Record]| history.iter().position(|record| failed(Why::Full)(&record.what));
        let went_on = |history: &[Record]| {
            let done = |of: fn(&Call) -> bool| full(history).map_or(0, |line| done_after(history, line, of));
            done(Call::is_read) > 0 && done(|call| matches!(call, Call::Terminate { .. })) > 0
        };
        assert!(wait_until(&mut running, went_on), "seed {}: reads or ends did not go on", lane.seed);
        fs::remove_file(running.switch()).unwrap();
        let line = history::read(running.history()).len();
        let writes = wait_until(&mut running, |history| done_after(history, line, is_create) > 0);
        assert!(writes, "seed {}: writes did not go on", lane.seed);
        lane.kill(running);
    }
    finish(&mut lane, &Floors { kills: 2, puts: 10, terminates: 2, ..Floors::default() });
}

#[test]
fn a_second_process_on_the_directory_is_refused_and_the_first_goes_on() {
    let mut lane = Lane::new("two", seed());
    for _ in 0..3 {
        let mut first = lane.start(false);
        assert!(lane.wait_for_work(&mut first));
        for _ in 0..3 {
            let refusal = lane.second_process(&first);
            assert!(
                refusal.contains("in use by process") && refusal.contains(&first.child.id().to_string()),
                "{refusal}"
            );
        }
        let line = history::read(first.history()).len();
        let goes_on = wait_until(&mut first, |history| done_after(history, line, is_put) > 0);
        if lane.kill(first).is_some() || !goes_on {
            lane.fail("the first process was disturbed");
        }
    }
    finish(&mut lane, &Floors { kills: 3, puts: 3, ..Floors::default() });
}

/// Runs one test of this file again where it may mount what it likes. False: that is not allowed here.
fn in_a_namespace(test: &str) -> bool {
    let temp = tempfile::tempdir().unwrap();
    // As root, or as an ordinary user who is root in a namespace of users.
    for user in [&["-m"][..], &["-r", "-m"]] {
        let probe = Command::new("unshare")
            .args(user)
            .args(["mount", "-t", "tmpfs", "tmpfs"])
            .arg(temp.path())
            .output();
        if !probe.is_ok_and(|probe| probe.status.success()) {
            continue;
        }
        let output = Command::new("unshare")
            .args(user)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(SMALL, temp.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        return true;
    }
    false
}

fn mount(arguments: &[&str], at: &Path) {
    let output = Command::new("mount").args(arguments).arg(at).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Takes room until no more than so much is left, also when others take some of it at the same time.
fn fill(at: &Path, leave: u64) {
    let file = fs::File::options().append(true).create(true).open(at.join("filler")).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let stat = rustix::fs::statvfs(at).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        if free <= leave {
            return;
        }
        assert!(Instant::now() < until, "{free} bytes are free, not {leave}");
        let (begin, more) = (file.metadata().unwrap().len(), free - leave);
        // All of it or nothing: what is not there any more is left out the next time.
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), begin, more) {
            Ok(()) | Err(rustix::io::Errno::NOSPC | rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that could not run says so")]
fn a_filesystem_that_runs_full_loses_nothing() {
    if !in_a_namespace("disk::the_inside_of_a_small_filesystem") {
        eprintln!("not run: mounts are not allowed here; a disk that counts as full is tested all the same");
    }
}

/// Not a test by itself: runs in a namespace of its own.
#[test]
fn the_inside_of_a_small_filesystem() {
    let Some(at) = std::env::var_os(SMALL) else { return };
    let at = Path::new(&at);
    mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], at);
    // With the reserve: the disk is called full in time. Without: sled meets the end of the disk.
    for (ballast_bytes, leave) in [(8 * MIB, 4 * MIB), (8 * MIB, 0), (0, 0)] {
        let mut lane = Lane::new("small", seed());
        lane.data = at.join("data");
        lane.ballast_bytes = ballast_bytes;
        // Reads too: a page that leaves the cache of sled for another one is written first.
        lane.settings.writes_may_fail = true;
        lane.settings.reads_may_fail = true;
        lane.run_and_kill(Moment::AtWork(Duration::from_millis(100)));
        for _ in 0..2 {
            // A database that does not grow may go on for ever in the room that its file has.
            lane.grows = true;
            let mut running = lane.start(false);
            lane.grows = false;
            assert!(lane.wait_for_work(&mut running), "seed {}: {}", lane.seed, lane.last_words);
            fill(at, leave);
            let noticed = |what: &What| matches!(what, What::Fail { why, .. } if *why != Why::Gone);
            let full = wait_for(&mut running, noticed);
            std::thread::sleep(Duration::from_millis(200));
            lane.kill(running);
            assert!(full, "seed {}: the end of the disk was not noticed\n{}", lane.seed, lane.last_words);
            // A start on a full disk works, or says why not.
            lane.run_and_kill(Moment::AtWork(Duration::from_millis(100)));
            fs::remove_file(at.join("filler")).unwrap();
            run_until_written(&mut lane);
        }
        finish(&mut lane, &Floors { puts: 3, ..Floors::default() });
        fs::remove_dir_all(at.join("data")).unwrap();
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that could not run says so")]
fn a_read_only_directory_is_refused_and_nothing_is_changed() {
    if !in_a_namespace("disk::the_inside_of_a_read_only_filesystem") {
        eprintln!("not run: mounts are not allowed here");
    }
}

/// Not a test by itself: runs in a namespace of its own.
#[test]
fn the_inside_of_a_read_only_filesystem() {
    let Some(at) = std::env::var_os(SMALL) else { return };
    let at = Path::new(&at);
    mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], at);
    let mut lane = Lane::new("read-only", seed());
    lane.data = at.join("data");
    lane.run_and_kill(Moment::AtWork(Duration::from_millis(100)));
    for _ in 0..3 {
        mount(&["-o", "remount,ro"], at);
        let refusal = lane.try_start();
        assert!(refusal.contains("is not writable"), "{refusal}");
        mount(&["-o", "remount,rw"], at);
        run_until_written(&mut lane);
    }
    finish(&mut lane, &Floors { kills: 4, puts: 3, ..Floors::default() });
}
