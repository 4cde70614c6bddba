//! How much memory the host has to spare, as the system tells it.

use std::fs;

/// What Linux tells of its memory.
const MEMINFO: &str = "/proc/meminfo";
/// Limit and use of this process's group (a container), in the second and the first form of control groups.
const GROUPS: [[&str; 2]; 2] = [
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"],
    ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"],
];

/// Bytes that this process may still take before the system gets short of memory; `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let of_host = available_in(&fs::read_to_string(MEMINFO).ok()?)?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // Without a limit there is no number in the file.
    let of_group = GROUPS.iter().filter_map(|[limit, used]| number(limit)?.checked_sub(number(used)?));
    Some(of_group.fold(of_host, u64::min))
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_new_programs_counts() {
        let text = "MemTotal:       24683656 kB\nMemFree:         4254088 kB\nMemAvailable:   19438984 kB\n";
        assert_eq!(available_in(text), Some(19_438_984 * 1024));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
        assert_eq!(available_in("MemAvailable: many kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_some() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
