//! One directory, or one disk, through many process starts: what is known of it from the history so far.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use outlast::base::ids::Origin;
use tempfile::TempDir;
use tokio::time::Instant;

use super::checker::{self, Floors, Settings, Summary, Verdict};
use super::faults::Fault;
use super::history::{self, Answer, Call, Record, What};
use super::mutants::Mutant;
use super::random::Random;
use super::workload::{self, JOB, Job, Plan, Twist};

/// How long a process may take for what is waited for, to begin or to end: far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Ended sessions that every start reads again; the last one reads all.
const ENDED: usize = 24;

/// A number that the environment may set.
pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// `CRASH_SEED`, or another one each time.
pub fn seed() -> u64 {
    setting("CRASH_SEED").unwrap_or_else(|| Origin::random().bits())
}

/// What the next process has to be told.
#[derive(Debug, Default)]
pub struct Known {
    live: BTreeSet<u32>,
    ended: Vec<u32>,
    next: u32,
    ahead_ms: u64,
}

/// So many records are enough for every session to have been in use.
const USED: usize = 300;

impl Known {
    pub fn learn(&mut self, records: &[Record]) {
        // Time passes quickly, so that uses are due to be written; but nothing is left alone for too long.
        if records.len() > USED {
            self.ahead_ms += 40_000;
        }
        let mut reads = std::collections::HashMap::new();
        for record in records {
            match &record.what {
                What::Invoke { call: Call::Create { s, .. }, .. } => {
                    self.live.insert(*s);
                    self.next = self.next.max(s + 1);
                }
                What::Invoke { call: Call::Terminate { s }, .. } => self.end(*s),
                What::Invoke { op, call: Call::Read { s } } => {
                    reads.insert(*op, *s);
                }
                What::Ok { op, answer } => match (reads.get(op), answer) {
                    (Some(s), Answer::Live { .. }) => {
                        self.ended.retain(|ended| ended != s);
                        self.live.insert(*s);
                    }
                    (Some(s), Answer::Unknown | Answer::Terminated) => self.end(*s),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    fn end(&mut self, s: u32) {
        if self.live.remove(&s) {
            self.ended.push(s);
        }
    }

    pub fn plan(&self, run: u32, random: &mut Random, read_only: bool) -> Plan {
        let mut ended = self.ended.clone();
        if !read_only && ended.len() > ENDED {
            let old = ended.len() - ENDED / 2;
            let some: Vec<u32> = (0..ENDED / 2).map(|_| ended[random.below(old as u64) as usize]).collect();
            ended.drain(..old);
            ended.extend(some);
        }
        Plan {
            run,
            seed: random.next(),
            live: self.live.iter().copied().collect(),
            ended,
            next: self.next,
            // A clock that is set back now and then.
            ahead_ms: self.ahead_ms + random.below(20_000),
            workers: 12,
            sessions: 6,
            read_only,
            twist: None,
        }
    }
}

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// So long after it was started, whatever it does then.
    AfterStart(Duration),
    /// So long after it began to work.
    AtWork(Duration),
}

/// One data directory.
pub struct Lane {
    pub name: String,
    pub seed: u64,
    pub random: Random,
    pub history: Vec<Record>,
    pub settings: Settings,
    pub ballast_bytes: u64,
    /// The next process makes sessions without end, and its data grows.
    pub grows: bool,
    pub fault: Option<Fault>,
    pub mutant: Option<Mutant>,
    pub twist: Option<Twist>,
    /// What the last process said on its standard error.
    pub last_words: String,
    /// The data directory.
    pub data: PathBuf,
    known: Known,
    run: u32,
    place: PathBuf,
    /// Removed in the end, unless there is something to look at.
    temp: Option<TempDir>,
}

/// A process at work.
pub struct Running {
    pub child: Child,
    job: Job,
    aside: usize,
}

impl Running {
    /// Whether the process runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What the process has said so far.
    pub fn history(&self) -> &Path {
        &self.job.history
    }

    /// The file that turns a fault on.
    pub fn switch(&self) -> PathBuf {
        self.job.switch()
    }
}

impl Lane {
    pub fn new(name: &str, seed: u64) -> Self {
        let temp = tempfile::Builder::new().prefix("outlast-crash-").tempdir().unwrap();
        let mut lane = Self::at(name, seed, temp.path());
        lane.temp = Some(temp);
        lane
    }

    /// Its data directory is in `place`, which belongs to the caller.
    pub fn at(name: &str, seed: u64, place: &Path) -> Self {
        Self {
            name: name.to_owned(),
            seed,
            random: Random::new(seed),
            history: Vec::new(),
            settings: Settings {
                touch_ms: workload::touch_ms(),
                reads_may_fail: false,
                writes_may_fail: false,
                may_be_set_aside: false,
            },
            ballast_bytes: 0,
            grows: false,
            fault: None,
            mutant: None,
            twist: None,
            last_words: String::new(),
            data: place.join("data"),
            known: Known::default(),
            run: 0,
            place: place.to_owned(),
            temp: None,
        }
    }

    pub fn start(&mut self, read_only: bool) -> Running {
        self.run += 1;
        let mut plan = self.known.plan(self.run, &mut self.random, read_only);
        plan.twist = self.twist;
        // Syncs of a real disk take their time: so much more is in each of them.
        (plan.workers, plan.sessions) = (32, if self.grows { usize::MAX } else { 8 });
        let job = Job {
            plan,
            dir: self.data.clone(),
            history: self.place.join(format!("history-{}", self.run)),
            ballast_bytes: self.ballast_bytes,
            fault: self.fault,
            mutant: self.mutant,
        };
        let child = self.spawn(&job, "stderr");
        Running { child, job, aside: workload::set_aside(&self.data) }
    }

    fn spawn(&self, job: &Job, stderr: &str) -> Child {
        let said = fs::File::create(self.place.join(stderr)).unwrap();
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workload::the_process_that_is_killed", "--nocapture"])
            .env(JOB, serde_json::to_string(job).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap()
    }

    /// Waits until the process works. False: it has ended instead.
    pub fn wait_for_work(&self, running: &mut Running) -> bool {
        let (ready, until) = (running.job.ready(), Instant::now() + PATIENCE);
        while !ready.exists() {
            if running.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < until, "{}: seed {}: no work within {PATIENCE:?}", self.name, self.seed);
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Starts a process and kills it. What it ended with if it ended before.
    pub fn run_and_kill(&mut self, when: Moment) -> Option<ExitStatus> {
        let mut running = self.start(false);
        match when {
            Moment::AfterStart(after) => std::thread::sleep(after),
            Moment::AtWork(after) => {
                if self.wait_for_work(&mut running) {
                    std::thread::sleep(after);
                }
            }
        }
        self.kill(running)
    }

    /// Kills a process, and takes in what it has said.
    pub fn kill(&mut self, mut running: Running) -> Option<ExitStatus> {
        let ended = running.child.try_wait().unwrap();
        let _ = running.child.kill();
        running.child.wait().unwrap();
        self.take_in(&running, if ended.is_some() { What::Ended } else { What::Killed });
        ended
    }

    /// Starts a process that reads everything and ends.
    pub fn read_all(&mut self) -> ExitStatus {
        let mut running = self.start(true);
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = running.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "{}: seed {}: reading takes for ever", self.name, self.seed);
            std::thread::sleep(Duration::from_millis(2));
        };
        self.take_in(&running, What::Ended);
        status
    }

    /// What a further process on the directory says while another one runs. It is no part of the history.
    pub fn second_process(&self, first: &Running) -> String {
        let history = self.place.join("history-second");
        let job = Job { history: history.clone(), ..first.job.clone() };
        self.spawn(&job, "stderr-second").wait().unwrap();
        let said = history::read(&history);
        let _ = fs::remove_file(&history);
        let refusal = said.iter().find_map(|record| match &record.what {
            What::Refused { text } => Some(text.clone()),
            _ => None,
        });
        refusal.unwrap_or_else(|| format!("not refused: {said:?}"))
    }

    /// What a process says that cannot open the directory. It is no part of the history.
    pub fn try_start(&mut self) -> String {
        let mut running = self.start(true);
        running.child.wait().unwrap();
        self.run -= 1;
        let said = history::read(&running.job.history);
        let _ = fs::remove_file(&running.job.history);
        match said.first().map(|record| &record.what) {
            Some(What::Refused { text }) => text.clone(),
            other => format!("not refused: {other:?}"),
        }
    }

    /// Whether the last process could not open the directory.
    pub fn was_refused(&self) -> bool {
        let mut last = self.history.iter().rev().take_while(|record| record.run == self.run);
        last.any(|record| matches!(record.what, What::Refused { .. }))
    }

    /// Notes what was done to the database.
    pub fn note_damage(&mut self, how: &str) {
        self.history.push(Record { run: self.run, n: 0, at: 0, what: What::Damaged { how: how.to_owned() } });
    }

    /// Whether the last process had a write acknowledged.
    pub fn last_run_wrote(&self) -> bool {
        self.history.iter().rev().take_while(|record| record.run == self.run).any(Record::is_written)
    }

    fn take_in(&mut self, running: &Running, how: What) {
        let records = history::read(&running.job.history);
        let _ = fs::remove_file(&running.job.history);
        let _ = fs::remove_file(running.job.ready());
        self.last_words = fs::read_to_string(self.place.join("stderr")).unwrap_or_default();
        let at = records.last().map_or(0, |record| record.at);
        let own = |what| Record { run: running.job.plan.run, n: 0, at, what };
        for _ in running.aside..workload::set_aside(&self.data) {
            let said = self.last_words.clone();
            self.history.push(own(What::Aside { said }));
        }
        self.known.learn(&records);
        self.history.extend(records);
        self.history.push(own(how));
    }

    pub fn check(&self, floors: &Floors) -> Verdict {
        checker::check(&self.history, self.settings, floors)
    }

    /// The verdict on all of it, which must be good. If it is not, the evidence stays.
    pub fn must_be_sound(&mut self, floors: &Floors) -> Summary {
        match self.check(floors) {
            Verdict::Sound(summary) => summary,
            verdict => self.fail(&verdict.to_string()),
        }
    }

    /// Fails the test and keeps what there is to see.
    pub fn fail(&mut self, why: &str) -> ! {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{}-{}", self.name, self.seed));
        let _ = fs::create_dir_all(&place);
        let lines: Vec<String> =
            self.history.iter().filter_map(|record| serde_json::to_string(record).ok()).collect();
        let _ = fs::write(place.join("history.jsonl"), lines.join("\n") + "\n");
        let data = self.temp.take().map_or_else(|| self.data.clone(), TempDir::keep);
        panic!(
            "{} (CRASH_SEED={}): {why}\nhistory: {}\ndata: {}\nthe last process said:\n{}",
            self.name,
            self.seed,
            place.join("history.jsonl").display(),
            data.display(),
            self.last_words
        );
    }
}
