//! The process of a child: started in its own group, watched, ended with the whole group, always reaped.
//!
//! A process that leaves its group (`setsid`) is ended by its control group, where there is one ([`super::cgroup`]); else
//! it is out of reach here, and under systemd the service's control group ends it with the service.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{
    Pid, Resource, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group,
    set_parent_process_death_signal, waitid,
};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cgroup::Cgroup;
use super::confine::{Confinement, limit_this_process};
use super::error::{LastLines, StartError};
use super::launch::Launch;
use super::lines::{Line, Lines};
use super::usage::Watched;
use crate::base::limits::{
    CHILD_LAST_WORDS, CHILD_STDERR_LINE_BYTES, CHILD_STDERR_LINES, CHILD_STOP_STEP, SPAWN_QUEUE,
};
use crate::tools::hosted::messages::excerpt;

/// A running child. Dropping it kills its whole group at once; it is reaped in the background.
#[derive(Debug)]
pub(super) struct Process {
    watch: Watch,
}

/// A look at a child's process that does not keep it alive.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    group: Arc<Group>,
    /// How it ended; `Some` once it is reaped.
    end: watch::Receiver<Option<String>>,
    stderr: Arc<Stderr>,
    used: Arc<Watched>,
    /// Its process id, for logs.
    pub(super) pid: i32,
}

/// The pipes of a new child.
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
}

impl Process {
    /// Starts a child. `place` is given back when it is reaped.
    pub(super) async fn spawn(
        launch: Arc<Launch>,
        place: OwnedSemaphorePermit,
    ) -> Result<(Self, Pipes), StartError> {
        let failed = |launch: &Launch, source| StartError::Spawn {
            server: Arc::clone(&launch.server),
            command: launch.name_of_command(),
            source,
        };
        let runtime = Handle::current();
        let (answer, started) = oneshot::channel();
        let job: Job = {
            let launch = Arc::clone(&launch);
            Box::new(move || {
                let _runtime = runtime.enter();
                let process = launch.command().and_then(|command| {
                    start(command, &launch, place).map_err(|source| failed(&launch, source))
                });
                // Nobody waits any more: dropping the process ends it.
                let _ = answer.send(process);
            })
        };
        let gone = || io::Error::other("the thread that starts children is gone");
        let Some(spawner) = spawner() else { return Err(failed(&launch, gone())) };
        spawner.send_async(job).await.map_err(|_| failed(&launch, gone()))?;
        started.await.map_err(|_| failed(&launch, gone()))?
    }

    pub(super) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Ends the child in steps; its stdin has been closed. Done when it is reaped.
    pub(super) async fn stop(&self) {
        for signal in [Signal::TERM, Signal::KILL] {
            if timeout(CHILD_STOP_STEP, self.watch.ended()).await.is_ok() {
                return;
            }
            match signal {
                Signal::KILL => self.watch.kill(),
                polite => self.watch.group.signal(polite),
            }
        }
        // A process that the kernel cannot end is reaped whenever it does.
        let _ = timeout(CHILD_STOP_STEP, self.watch.ended()).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.watch.kill();
    }
}

impl Watch {
    /// Resolves when the child is reaped and its group was killed.
    pub(super) async fn ended(&self) {
        // An error means that its supervisor is gone with the runtime.
        let _ = self.end.clone().wait_for(Option::is_some).await;
    }

    /// Kills the whole group.
    pub(super) fn kill(&self) {
        self.group.kill();
    }

    /// How the child ended, and its last words: to be asked when it has ended.
    pub(super) async fn last_words(&self) -> (Option<String>, LastLines) {
        let _ = timeout(CHILD_STOP_STEP, self.ended()).await;
        let _ = timeout(CHILD_LAST_WORDS, self.stderr.complete.cancelled()).await;
        let status = self.end.borrow().clone();
        (status, self.stderr.last_lines())
    }

    /// Why it was ended, if it was for what it used: to be asked when it has ended, with how it did and its last words.
    pub(super) fn overuse(&self, status: Option<&str>, said: &LastLines) -> Option<String> {
        self.used.fault(status, said)
    }

    /// What it has printed on its stderr so far.
    pub(super) fn last_lines(&self) -> LastLines {
        self.stderr.last_lines()
    }
}

/// A process group that is known by its leader's id, for as long as that id cannot belong to another process.
#[derive(Debug)]
pub(super) struct Group {
    leader: Mutex<Option<Pid>>,
    /// Holds what has left the process group, too.
    cgroup: Option<Arc<Cgroup>>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        // Under the lock, so that the leader is not reaped, and its id given to another process, in between.
        if let Some(leader) = *self.lock() {
            // Its only failure here is that nobody is left.
            let _ = kill_process_group(leader, signal);
        }
    }

    /// Kills all of it.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    /// Whether it was ended and forgotten.
    pub(super) fn is_over(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the leader has ended. Does not reap it: its id stays taken, so the group can still be killed.
    fn leader_has_ended(&self) -> bool {
        let Some(leader) = *self.lock() else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(leader), options), Ok(None) | Err(rustix::io::Errno::INTR))
    }

    /// Kills what is left of the group and forgets it: its leader may be reaped now.
    fn finish(&self) {
        self.kill();
        self.lock().take();
    }
}

/// A child's stderr, as far as it is kept.
#[derive(Debug, Default)]
struct Stderr {
    lines: Mutex<VecDeque<String>>,
    /// All of it has been read.
    complete: CancellationToken,
}

impl Stderr {
    fn last_lines(&self) -> LastLines {
        LastLines(self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect())
    }

    async fn read(self: Arc<Self>, server: Arc<str>, pid: i32, from: ChildStderr) {
        let _complete = self.complete.clone().drop_guard();
        let mut lines = Lines::new(from, CHILD_STDERR_LINE_BYTES);
        while let Ok(Some(Line::Whole(line) | Line::Cut(line))) = lines.next().await {
            let line = excerpt(&line, CHILD_STDERR_LINE_BYTES);
            tracing::debug!(%server, pid, stderr = line);
            let mut kept = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == CHILD_STDERR_LINES {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread that starts all children. The kernel's parent-death signal is bound to the thread that forked, not to
/// the process: a child started on a thread of a pool would be killed when that thread ends.
fn spawner() -> Option<&'static flume::Sender<Job>> {
    static SPAWNER: OnceLock<Option<flume::Sender<Job>>> = OnceLock::new();
    SPAWNER
        .get_or_init(|| {
            let (to, jobs) = flume::bounded::<Job>(SPAWN_QUEUE);
            let thread = std::thread::Builder::new().name("outlast-spawn".into());
            thread.spawn(move || jobs.into_iter().for_each(|job| job())).ok().map(|_| to)
        })
        .as_ref()
}

/// On the spawner's thread, within the runtime.
fn start(mut command: Command, launch: &Launch, place: OwnedSemaphorePermit) -> io::Result<(Process, Pipes)> {
    // Registered before the child exists, so that its end is not missed.
    let ends = signal(SignalKind::child())?;
    let confinement = Confinement::prepare(launch.limits);
    let entrance = confinement.cgroup.as_ref().map(|group| group.entrance()).transpose()?;
    command.process_group(0);
    bind(&mut command, entrance, confinement.of_each_process());
    let mut child = command.spawn()?;
    let missing = || io::Error::other("the system gave no pipe");
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let leader = id.and_then(Pid::from_raw).ok_or_else(missing)?;
    let pipes = Pipes {
        stdin: child.stdin.take().ok_or_else(missing)?,
        stdout: child.stdout.take().ok_or_else(missing)?,
    };
    let stderr = child.stderr.take().ok_or_else(missing)?;

    let pid = leader.as_raw_nonzero().get();
    let group = Arc::new(Group { leader: Mutex::new(Some(leader)), cgroup: confinement.cgroup.clone() });
    let used = Watched::start(Arc::clone(&launch.server), pid, Arc::clone(&group), confinement);
    let (told, end) = watch::channel(None);
    let kept = Arc::new(Stderr::default());
    tokio::spawn(Arc::clone(&kept).read(Arc::clone(&launch.server), pid, stderr));
    tokio::spawn(supervise(child, Supervised(Arc::clone(&group)), ends, told, place));
    Ok((Process { watch: Watch { group, end, stderr: kept, used, pid } }, pipes))
}

/// The kernel kills the child when this process dies, however it dies; and the child has its limits before it runs
/// anything. `entrance`: into its control group.
fn bind(command: &mut Command, entrance: Option<OwnedFd>, limits: [Option<(Resource, u64)>; 4]) {
    let this = getpid();
    let bind = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It died between fork and the line above: nothing would ever end the child.
        if getppid() != Some(this) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        if let Some(entrance) = &entrance {
            rustix::io::write(entrance, b"0")?;
        }
        limit_this_process(&limits)
    };
    #[expect(
        unsafe_code,
        reason = "a parent-death signal can only be set in the child, between fork and exec"
    )]
    // SAFETY: the closure makes system calls and builds errors from numbers: it neither allocates, nor takes a lock, nor
    // touches memory that another thread may have been changing at the fork.
    unsafe {
        command.pre_exec(bind);
    }
}

/// Ends the group when its supervisor goes, which is before its time only when the runtime ends.
struct Supervised(Arc<Group>);

impl Drop for Supervised {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Waits for the end of the leader, kills what is left of its group, reaps the leader.
async fn supervise(
    mut child: Child,
    group: Supervised,
    mut ends: Signals,
    told: watch::Sender<Option<String>>,
    place: OwnedSemaphorePermit,
) {
    while !group.0.leader_has_ended() {
        if ends.recv().await.is_none() {
            sleep(CHILD_LAST_WORDS).await;
        }
    }
    group.0.finish();
    told.send_replace(Some(match child.wait().await {
        Ok(status) => status.to_string(),
        Err(error) => format!("its status is not known: {error}"),
    }));
    drop(place);
}
