//! What the machine allows: the defaults that depend on where the gateway runs.

use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

const MAX_CONNECTIONS: usize = 16_384;
const MIN_CONNECTIONS: usize = 64;
/// Open files that are not connections.
const OTHER_FILES: usize = 128;
/// Memory for a client connection, with room for some with unread responses (measured, docs/hardening.md).
const BYTES_PER_CONNECTION: u64 = 50 * 1024;

/// A client connection may need one to iMIS beside it, and a quarter of the memory is for other things. The gateway
/// raises its soft limit of open files to the hard one when it starts.
pub(super) fn max_connections() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE);
    let files = files.map_or(1024, |(_, hard)| usize::try_from(hard).unwrap_or(usize::MAX));
    fitting(files, memory())
}

fn fitting(files: usize, memory: Option<u64>) -> usize {
    let by_files = files.saturating_sub(OTHER_FILES) / 2;
    let by_memory =
        memory.map(|bytes| usize::try_from(bytes / 4 * 3 / BYTES_PER_CONNECTION).unwrap_or(usize::MAX));
    by_files.min(by_memory.unwrap_or(usize::MAX)).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS)
}

/// Bytes: the installed memory, or the lowest limit for this process. `None` if all are unknown.
fn memory() -> Option<u64> {
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let installed = text("/proc/meminfo").and_then(|text| installed(&text));
    let groups = text("/proc/self/cgroup").and_then(|text| group_limit(Path::new("/sys/fs/cgroup"), &text));
    let own =
        [Resource::RLIMIT_DATA, Resource::RLIMIT_AS].into_iter().filter_map(|kind| getrlimit(kind).ok());
    let own = own.map(|(soft, _)| soft).filter(|limit| *limit != RLIM_INFINITY);
    own.chain(installed).chain(groups).min()
}

/// `MemTotal` of `/proc/meminfo` (proc(5)), which is in KiB.
fn installed(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest `memory.max` or `memory.high` of the control group and its parents (cgroup v2).
fn group_limit(root: &Path, own_groups: &str) -> Option<u64> {
    let own = own_groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = root.join(own);
    let limits = group.ancestors().take_while(|folder| folder.starts_with(root)).flat_map(|folder| {
        ["memory.max", "memory.high"].map(|name| std::fs::read_to_string(folder.join(name)).ok())
    });
    // `max` is no limit.
    limits.flatten().filter_map(|text| text.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_files_and_memory() {
        const GIB: u64 = 1 << 30;
        assert_eq!(fitting(1 << 20, Some(64 * GIB)), 16_384);
        assert_eq!(fitting(1 << 20, None), 16_384);
        assert_eq!(fitting(1024, Some(64 * GIB)), 448);
        assert_eq!(fitting(1 << 20, Some(GIB / 2)), 7_864);
        assert_eq!(fitting(1 << 20, Some(40_000_000)), 585);
        assert_eq!(fitting(1 << 20, Some(1 << 20)), 64);
    }

    #[test]
    fn the_least_limit_of_the_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("system.slice/imis-gateway.service");
        std::fs::create_dir_all(&service).unwrap();
        let limit = || group_limit(root.path(), "1:name=systemd:/x\n0::/system.slice/imis-gateway.service\n");
        assert_eq!(limit(), None);
        std::fs::write(service.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit(), None);
        std::fs::write(root.path().join("system.slice/memory.max"), "3000000\n").unwrap();
        assert_eq!(limit(), Some(3_000_000));
        std::fs::write(service.join("memory.high"), "2000000\n").unwrap();
        assert_eq!(limit(), Some(2_000_000));
        assert_eq!(installed("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
    }
}
