//! A control group (version 2) around each child, where this process may make one: as root, or in a group that was
//! delegated to it (`Delegate=memory pids` in the unit). The kernel then holds the child's limits, and what the child
//! starts cannot leave: ending the group ends all of it.
//!
//! Controllers can be given to groups below this process's own only while no process is in that one itself (cgroup-v2,
//! "No Internal Process Constraint"), so this process moves into a leaf first, and only if it is alone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::config::ChildLimits;

/// The leaf into which this process moves.
const OWN_LEAF: &str = "outlast-server";
/// Tries to remove a group whose last process is still being taken down, and the pause between two of them.
const REMOVALS: (u32, Duration) = (20, Duration::from_millis(5));

/// The group of one child. Dropping it ends what is in it and removes it.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    /// The kernel holds the limit on memory.
    pub(super) holds_memory: bool,
    /// The kernel holds the limit on processes.
    pub(super) holds_processes: bool,
}

/// Where groups of children are made.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    memory: bool,
    pids: bool,
}

/// A group with these limits; none where none can be made.
pub(super) fn make(limits: &ChildLimits) -> Option<Cgroup> {
    static PLACE: OnceLock<Option<Place>> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let place = PLACE.get_or_init(Place::find).as_ref()?;
    let name = format!("outlast-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    match place.make(&name, limits) {
        Ok(group) => Some(group),
        Err(error) => {
            tracing::debug!(%error, "a child has no control group: its limits are watched instead");
            None
        }
    }
}

impl Place {
    fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own_path(&mounts, &own)?;
        let place = Self::at(path).inspect_err(|error| {
            tracing::debug!(%error, "no control groups for children: their limits are watched instead");
        });
        let place = place.ok()?;
        tracing::debug!(path = %place.path.display(), memory = place.memory, pids = place.pids, "control groups for children");
        Some(place)
    }

    /// A place at the group of this process.
    fn at(path: PathBuf) -> io::Result<Self> {
        remove_left_behind(&path);
        // Says whether groups can be made here at all, before anything is moved.
        let probe = path.join(format!("outlast-{}-0", std::process::id()));
        fs::create_dir(&probe)?;
        let kills = probe.join("cgroup.kill").exists();
        fs::remove_dir(&probe)?;
        if !kills {
            return Err(io::Error::other("this kernel cannot end a control group"));
        }
        let offered = words(&path.join("cgroup.controllers"));
        let wanted: Vec<&str> =
            ["memory", "pids"].into_iter().filter(|name| offered.iter().any(|it| it == name)).collect();
        let given = |path: &Path| {
            let given = words(&path.join("cgroup.subtree_control"));
            ["memory", "pids"].map(|name| given.iter().any(|it| it == name))
        };
        if !wanted.is_empty() && given(&path) != [true, true] {
            if is_alone(&path) {
                move_to_leaf(&path.join(OWN_LEAF))?;
            }
            for name in &wanted {
                // One that cannot be given is watched instead.
                let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{name}"));
            }
        }
        let [memory, pids] = given(&path);
        Ok(Self { path, memory, pids })
    }

    fn make(&self, name: &str, limits: &ChildLimits) -> io::Result<Cgroup> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        let mut group = Cgroup { path, holds_memory: false, holds_processes: false };
        if self.memory && limits.memory_bytes != 0 {
            group.write("memory.max", &limits.memory_bytes.to_string())?;
            // Else the limit would only move the memory elsewhere. Without swap there is no such file.
            let _ = group.write("memory.swap.max", "0");
            // All of a child goes, not the one of its processes that the kernel picks.
            group.write("memory.oom.group", "1")?;
            group.holds_memory = true;
        }
        if self.pids && limits.processes != 0 {
            group.write("pids.max", &limits.processes.to_string())?;
            group.holds_processes = true;
        }
        Ok(group)
    }
}

impl Cgroup {
    /// What a new child writes "0" to in order to enter.
    pub(super) fn entrance(&self) -> io::Result<OwnedFd> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs")).map(File::into)
    }

    /// Kills everything in it.
    pub(super) fn kill(&self) {
        // Its only failure is that the group is gone.
        let _ = self.write("cgroup.kill", "1");
    }

    /// Whether the kernel killed it for its memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Its memory, bytes, where the kernel counts it.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.path.join("memory.current")).ok()?.trim().parse().ok()
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        // Not `fs::write`, which would make files where there is no control group.
        let mut file = OpenOptions::new().write(true).open(self.path.join(file))?;
        io::Write::write_all(&mut file, text.as_bytes())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        let path = std::mem::take(&mut self.path);
        if fs::remove_dir(&path).is_ok() {
            return;
        }
        // Its last processes are still being taken down. This is not waited for: it can happen on a runtime's thread.
        let remove = move || {
            for _ in 0..REMOVALS.0 {
                sleep(REMOVALS.1);
                if fs::remove_dir(&path).is_ok() {
                    return;
                }
            }
        };
        // What stays is empty and is removed by the next server.
        let _ = std::thread::Builder::new().name("outlast-cgroup".into()).spawn(remove);
    }
}

/// The directory of this process's own group, by `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn own_path(mounts: &str, own: &str) -> Option<PathBuf> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, at) = mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut fields = head.split(' ').skip(3);
        (tail.split(' ').next() == Some("cgroup2")).then_some((fields.next()?, fields.next()?))
    })?;
    // A container sees a part of the hierarchy.
    let below = group
        .strip_prefix(root.trim_end_matches('/'))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    Some(Path::new(at).join(below.trim_start_matches('/')))
}

fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn move_to_leaf(leaf: &Path) -> io::Result<()> {
    match fs::create_dir(leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::write(leaf.join("cgroup.procs"), std::process::id().to_string()),
    }
}

/// Whether this process is the only one in the group.
fn is_alone(path: &Path) -> bool {
    let all = words(&path.join("cgroup.procs"));
    all.iter().all(|pid| *pid == std::process::id().to_string())
}

/// Removes groups of servers that were killed. Those of living ones are not empty, or about to be used.
fn remove_left_behind(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix("outlast-")?.split_once('-')).map(|(pid, _)| pid);
        if let Some(owner) = owner
            && owner.bytes().all(|byte| byte.is_ascii_digit())
            && !Path::new("/proc").join(owner).exists()
        {
            let group = entry.path();
            let _ = OpenOptions::new()
                .write(true)
                .open(group.join("cgroup.kill"))
                .and_then(|mut file| io::Write::write_all(&mut file, b"1"));
            let _ = fs::remove_dir(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_the_hierarchy_that_is_seen() {
        let mounts = "25 1 0:22 / /sys rw - sysfs sysfs rw\n30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let own = "0::/system.slice/outlast.service\n";
        assert_eq!(own_path(mounts, own), Some("/sys/fs/cgroup/system.slice/outlast.service".into()));
        assert_eq!(own_path(mounts, "0::/\n"), Some("/sys/fs/cgroup/".into()));
        let part = "30 25 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_path(part, "0::/docker/x/sub\n"), Some("/sys/fs/cgroup/sub".into()));
        assert_eq!(own_path(part, "0::/docker/xy\n"), None);
        assert_eq!(own_path("", own), None);
        assert_eq!(own_path(mounts, "4:memory:/x\n"), None);
    }

    /// A directory that has the files of a group: what is written to them is what the kernel would be told.
    #[test]
    fn limits_are_written_where_the_kernel_holds_them_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let limits = ChildLimits { memory_bytes: 7 << 20, processes: 9, ..ChildLimits::default() };
        let place = Place { path: dir.path().to_owned(), memory: false, pids: false };
        let group = place.make("a", &limits).unwrap();
        assert!(!group.holds_memory && !group.holds_processes);
        drop(group);
        assert!(!dir.path().join("a").exists());
        // Controllers that are said to be there and are not: no group, rather than one without its limit.
        let place = Place { memory: true, pids: true, ..place };
        assert!(place.make("b", &limits).is_err());
    }

    #[test]
    fn groups_of_dead_servers_are_removed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let living = format!("outlast-{}-1", std::process::id());
        for name in ["outlast-999999999-3", &living, "other-999999999-3", "outlast-server"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        remove_left_behind(dir.path());
        assert!(!dir.path().join("outlast-999999999-3").exists());
        for name in [living.as_str(), "other-999999999-3", "outlast-server"] {
            assert!(dir.path().join(name).exists(), "{name}");
        }
    }
}
