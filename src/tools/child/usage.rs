//! What children use, measured: for limits that no control group holds, and for the operator.
//!
//! One thread looks at `/proc` a few times a second while there are children. It is not one of the runtime's: the files
//! are short, but there may be thousands.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::sleep;

use tokio::time::Instant;

use super::confine::Confinement;
use super::error::LastLines;
use super::process::Group;
use crate::base::limits::{USAGE_PAUSE, USAGE_SHARE};

/// A child that is looked at.
#[derive(Debug)]
pub(super) struct Watched {
    server: Arc<str>,
    leader: i32,
    group: Arc<Group>,
    confinement: Confinement,
    /// Memory of all its processes when it was looked at last, bytes.
    memory_bytes: AtomicU64,
    /// What it did that no child may do.
    fault: OnceLock<String>,
}

/// What a process group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Pages in memory that its processes see, shared ones as often as they are seen.
    pages: u64,
    processes: u64,
    threads: u64,
}

impl Watched {
    /// Begins to look at a child.
    pub(super) fn start(
        server: Arc<str>,
        leader: i32,
        group: Arc<Group>,
        confinement: Confinement,
    ) -> Arc<Self> {
        let watched = Arc::new(Self {
            server,
            leader,
            group,
            confinement,
            memory_bytes: AtomicU64::new(0),
            fault: OnceLock::new(),
        });
        if let Some(all) = all() {
            all.lock().push(Arc::clone(&watched));
            all.more.notify_one();
        }
        watched
    }

    /// Why it was ended, if it was for what it used. To be asked when it has ended; `status`: how it did, `said`: the last
    /// lines of its stderr.
    pub(super) fn fault(&self, status: Option<&str>, said: &LastLines) -> Option<String> {
        let seconds = self.confinement.limits.cpu_seconds;
        if seconds != 0 && status.is_some_and(|status| status.contains("SIGXCPU")) {
            let setting = format!("servers.{}.limits.cpu_seconds = {seconds}", self.server);
            return Some(format!("it used all the processor time that it may ({setting})"));
        }
        let out_of_memory = || {
            let group = self.confinement.cgroup.as_ref().filter(|group| group.holds_memory)?;
            group.ran_out_of_memory().then(|| self.too_much_memory(self.confinement.limits.memory_bytes))
        };
        self.fault.get().cloned().or_else(out_of_memory).or_else(|| self.was_refused_memory(said))
    }

    /// A program that is quicker than the looks at it is refused more memory by the kernel. Runtimes then end themselves,
    /// and say why in words of their own.
    fn was_refused_memory(&self, said: &LastLines) -> Option<String> {
        let limit = self.confinement.limits.memory_bytes;
        let says = |line: &String| {
            let line = line.to_ascii_lowercase();
            ["memory allocation", "out of memory", "cannot allocate memory", "bad_alloc", "memoryerror"]
                .iter()
                .any(|words| line.contains(words))
        };
        (limit != 0 && said.0.iter().any(says)).then(|| {
            format!("it was refused more memory (servers.{}.limits.memory_bytes = {limit})", self.server)
        })
    }

    /// Looks at it; false when it is over.
    fn look(&self, usage: Usage) -> bool {
        if self.group.is_over() {
            return false;
        }
        let limits = &self.confinement.limits;
        let cgroup = self.confinement.cgroup.as_deref();
        let seen = usage.pages.saturating_mul(rustix::param::page_size() as u64);
        let counted = cgroup.and_then(|group| group.memory_bytes());
        let held = cgroup.is_some_and(|group| group.holds_memory);
        let mut memory = counted.unwrap_or(seen);
        if !held && limits.memory_bytes != 0 && memory > limits.memory_bytes {
            // Pages that several processes share were counted several times: counted once, it may be within its limit.
            if usage.processes > 1 {
                memory = proportional(self.leader).unwrap_or(memory);
            }
            if memory > limits.memory_bytes {
                self.end(self.too_much_memory(memory));
            }
        }
        self.memory_bytes.store(memory, Ordering::Relaxed);
        let held = cgroup.is_some_and(|group| group.holds_processes);
        if !held && limits.processes != 0 && usage.threads > limits.processes {
            self.end(format!(
                "it ran {} processes and threads, more than it may (servers.{}.limits.processes = {})",
                usage.threads, self.server, limits.processes
            ));
        }
        true
    }

    fn too_much_memory(&self, bytes: u64) -> String {
        format!(
            "it used {bytes} bytes of memory, as much as it may or more (servers.{}.limits.memory_bytes = {})",
            self.server, self.confinement.limits.memory_bytes
        )
    }

    fn end(&self, why: String) {
        let _ = self.fault.set(why);
        self.group.kill();
    }
}

/// Memory of all processes of a server's children, bytes, as they were looked at last.
pub(super) fn memory_of(server: &str) -> u64 {
    let Some(all) = all() else { return 0 };
    let children = all.lock();
    let of_server = children.iter().filter(|child| &*child.server == server);
    of_server.map(|child| child.memory_bytes.load(Ordering::Relaxed)).sum()
}

/// The children that are looked at.
#[derive(Default)]
struct All {
    children: Mutex<Vec<Arc<Watched>>>,
    more: Condvar,
}

impl All {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn all() -> Option<&'static All> {
    static ALL: OnceLock<Option<&'static All>> = OnceLock::new();
    *ALL.get_or_init(|| {
        let all: &'static All = Box::leak(Box::default());
        let thread = std::thread::Builder::new().name("outlast-usage".into());
        match thread.spawn(move || keep_looking(all)) {
            Ok(_) => Some(all),
            Err(error) => {
                tracing::error!(%error, "no thread that watches the memory of children: their limits are not held");
                None
            }
        }
    })
}

fn keep_looking(all: &All) {
    loop {
        let children = {
            let mut children = all.lock();
            while children.is_empty() {
                children = all.more.wait(children).unwrap_or_else(PoisonError::into_inner);
            }
            children.clone()
        };
        let began = Instant::now();
        let used = by_group();
        let over: Vec<Arc<Watched>> = children
            .into_iter()
            .filter(|child| !child.look(used.get(&child.leader).copied().unwrap_or_default()))
            .collect();
        if !over.is_empty() {
            all.lock().retain(|child| !over.iter().any(|over| Arc::ptr_eq(over, child)));
        }
        drop(over);
        sleep(USAGE_PAUSE.max(began.elapsed() * USAGE_SHARE));
    }
}

/// What each process group of this machine uses.
fn by_group() -> HashMap<i32, Usage> {
    let mut used: HashMap<i32, Usage> = HashMap::new();
    for (_, group, usage) in processes() {
        let sum = used.entry(group).or_default();
        sum.pages = sum.pages.saturating_add(usage.pages);
        sum.processes += usage.processes;
        sum.threads = sum.threads.saturating_add(usage.threads);
    }
    used
}

/// Every process: its id, its group, what it uses.
fn processes() -> impl Iterator<Item = (u32, i32, Usage)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        // One that ends meanwhile uses nothing.
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (group, usage) = read_stat(&stat)?;
        Some((pid, group, usage))
    })
}

/// `/proc/PID/stat` (proc(5)): the name in parentheses may hold anything, so fields are counted behind it.
fn read_stat(stat: &str) -> Option<(i32, Usage)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let group = fields.nth(2)?.parse().ok()?;
    let threads = fields.nth(14)?.parse().ok()?;
    let pages = fields.nth(3)?.parse().ok()?;
    Some((group, Usage { pages, processes: 1, threads }))
}

/// Memory of a process group, bytes, each shared page counted once in all.
fn proportional(leader: i32) -> Option<u64> {
    let mut kib: u64 = 0;
    for (pid, group, _) in processes() {
        if group == leader {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            kib = kib.saturating_add(line.split_ascii_whitespace().next()?.parse().ok()?);
        }
    }
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_program_is_called() {
        let stat = "4711 (a) b) (c) S 1 77 78 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 12 0 100 9000000 345 18446744073709551615";
        assert_eq!(read_stat(stat), Some((77, Usage { pages: 345, processes: 1, threads: 12 })));
        assert_eq!(read_stat("4711 (x) S 1"), None);
        assert_eq!(read_stat(""), None);
    }

    #[test]
    fn this_process_is_seen_with_what_it_uses() {
        let own = std::process::id();
        let (_, group, usage) = processes().find(|(pid, ..)| *pid == own).unwrap();
        assert!(usage.pages > 0 && usage.threads > 0);
        assert!(by_group()[&group].pages >= usage.pages);
    }
}
