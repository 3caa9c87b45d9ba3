//! What a child may use: limits of the kernel on each of its processes, a control group around all of them where this
//! process may make one, and a look at all of them now and then where it may not.

use std::io;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::cgroup::{self, Cgroup};
use crate::base::limits::CHILD_DATA_SLACK_BYTES;
use crate::config::ChildLimits;

/// How one child is confined.
#[derive(Debug)]
pub(super) struct Confinement {
    pub(super) limits: ChildLimits,
    /// Its control group; none where none can be made.
    pub(super) cgroup: Option<Arc<Cgroup>>,
}

impl Confinement {
    /// For a child that is about to start. Looks at the file system, so not for a runtime thread.
    pub(super) fn prepare(limits: ChildLimits) -> Self {
        Self { limits, cgroup: cgroup::make(&limits).map(Arc::new) }
    }

    /// The limits on each process, to be set in the child.
    pub(super) fn of_each_process(&self) -> [Option<(Resource, u64)>; 4] {
        let limits = &self.limits;
        let set = |value: u64| (value != 0).then_some(value);
        [
            set(limits.open_files).map(|files| (Resource::Nofile, files)),
            set(limits.cpu_seconds).map(|seconds| (Resource::Cpu, seconds)),
            // Not the address space, of which runtimes with a garbage collector reserve terabytes, but what is writable in
            // it. Stacks of threads count as a whole, hence the slack; what counts is what is used, which is measured.
            set(limits.memory_bytes)
                .map(|bytes| (Resource::Data, bytes.saturating_add(CHILD_DATA_SLACK_BYTES))),
            // A crash of a child is told by its last lines, not by a file of all its memory.
            Some((Resource::Core, 0)),
        ]
    }
}

/// Sets limits on this process: between fork and exec, so system calls only.
pub(super) fn limit_this_process(limits: &[Option<(Resource, u64)>]) -> io::Result<()> {
    for (resource, value) in limits.iter().flatten() {
        let most = getrlimit(*resource).maximum.map_or(*value, |most| most.min(*value));
        // The processor's limit is a signal first, which a program may take as a warning.
        let hard = if *resource == Resource::Cpu { most.saturating_add(5) } else { most };
        match setrlimit(*resource, Rlimit { current: Some(most), maximum: Some(hard) }) {
            // A sandbox that forbids to set limits has its own.
            Ok(()) | Err(rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_is_not_limited() {
        let none = ChildLimits { memory_bytes: 0, cpu_seconds: 0, open_files: 0, processes: 0 };
        let set = Confinement { limits: none, cgroup: None }.of_each_process();
        let set: Vec<_> = set.into_iter().flatten().collect();
        assert!(matches!(set[..], [(Resource::Core, 0)]));
        let all =
            Confinement { limits: ChildLimits { cpu_seconds: 7, ..ChildLimits::default() }, cgroup: None };
        let set = all.of_each_process();
        assert!(matches!(set[1], Some((Resource::Cpu, 7))));
        assert!(set.iter().all(Option::is_some));
    }
}
