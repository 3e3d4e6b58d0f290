//! What this machine has: memory, as far as its control group allows, and free disk space.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Control groups, where they are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Memory of this machine, bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineMemory {
    /// What this process may use at most.
    pub limit_bytes: u64,
    /// What of it is free now.
    pub free_bytes: u64,
    /// Where the limit comes from: `control group` or `machine`.
    pub limited_by: &'static str,
}

impl MachineMemory {
    /// Reads the memory of this machine; `None` where the kernel does not say.
    #[must_use]
    pub fn read() -> Option<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        let group = own_group().map(|group| group_memory(Path::new(CGROUP_ROOT), &group)).unwrap_or_default();
        Self::of(&meminfo, group)
    }

    /// Combines the machine's memory with limits of control groups, each with what is used of it.
    fn of(meminfo: &str, groups: Vec<(u64, u64)>) -> Option<Self> {
        let field = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
        };
        let mut memory = Self {
            limit_bytes: field("MemTotal")?,
            free_bytes: field("MemAvailable")?,
            limited_by: "machine",
        };
        for (limit, used) in groups {
            if limit < memory.limit_bytes {
                (memory.limit_bytes, memory.limited_by) = (limit, "control group");
            }
            memory.free_bytes = memory.free_bytes.min(limit.saturating_sub(used));
        }
        Some(memory)
    }
}

/// Returns the path of this process's control group: of version 2, or else of version 1's memory controller.
fn own_group() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path_of = |controller: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?;
            let found = if controller.is_empty() {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|name| name == controller)
            };
            found.then(|| path.to_owned())
        })
    };
    path_of("").or_else(|| path_of("memory"))
}

/// Returns the memory limits of a control group and of those around it, each with what is used of it. File caches, which the
/// kernel gives back, do not count as used.
fn group_memory(root: &Path, group: &str) -> Vec<(u64, u64)> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let cache = |path: PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("inactive_file "))?;
        line.trim().parse::<u64>().ok()
    };
    let mut found = Vec::new();
    // In a container the group's own path need not exist below the mount.
    let inner = Path::new(group.trim_start_matches('/'));
    for folder in inner.ancestors() {
        for (base, limit, used) in [
            (root.join(folder), "memory.max", "memory.current"),
            (root.join("memory").join(folder), "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ] {
            let Some(limit) = number(base.join(limit)) else { continue };
            let used = number(base.join(used)).unwrap_or(0);
            found.push((limit, used.saturating_sub(cache(base.join("memory.stat")).unwrap_or(0))));
        }
    }
    found
}

/// Returns the free bytes of the file system that holds a path, or would.
pub(super) fn free_disk(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let disk = rustix::fs::statvfs(existing).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    600 kB\n";

    #[test]
    fn the_smallest_limit_counts() {
        let memory = MachineMemory::of(MEMINFO, Vec::new()).expect("numbers");
        assert_eq!(
            (memory.limit_bytes, memory.free_bytes, memory.limited_by),
            (1_024_000, 614_400, "machine")
        );
        let memory = MachineMemory::of(MEMINFO, vec![(500_000, 100_000), (u64::MAX, 0)]).expect("numbers");
        let group = (500_000, 400_000, "control group");
        assert_eq!((memory.limit_bytes, memory.free_bytes, memory.limited_by), group);
        assert_eq!(MachineMemory::of("", Vec::new()), None);
        assert!(MachineMemory::read().is_some_and(|memory| memory.limit_bytes > 0));
    }

    #[test]
    fn limits_of_all_enclosing_groups_are_read() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, text).expect("a file");
        };
        write("a/memory.max", "4096\n");
        write("a/memory.current", "1000\n");
        write("a/memory.stat", "anon 3\ninactive_file 200\n");
        write("a/b/memory.max", "max\n");
        write("memory/memory.limit_in_bytes", "9000\n");
        assert_eq!(group_memory(root.path(), "/a/b"), [(4096, 800), (9000, 0)]);
    }

    #[test]
    fn disks_of_places_to_come_have_free_space() {
        assert!(free_disk(Path::new("/no/such/folder")).is_some_and(|bytes| bytes > 0));
    }
}
