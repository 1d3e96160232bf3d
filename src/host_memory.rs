//! How much memory the host has for this process. A system that overcommits ends the process later,
//! without a message: impossible requests are rejected beforehand.

use crate::error::{Error, Result};

/// Memory of the host, in bytes, within the limits of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostMemory {
    /// Total memory.
    pub(crate) total: usize,
    /// What may be used without swapping: pages of files that can be dropped count.
    pub(crate) available: usize,
    /// Swap space, used or not.
    pub(crate) swap: usize,
}

impl HostMemory {
    /// What the system reports; `None` on systems where this crate cannot ask.
    pub(crate) fn read() -> Option<Self> {
        if cfg!(target_os = "linux") {
            linux::read()
        } else {
            None
        }
    }
}

/// What is about to be allocated in host memory.
pub(crate) struct Request<'a> {
    /// Its name in errors.
    pub(crate) what: &'a str,
    /// Its bytes.
    pub(crate) bytes: usize,
    /// Bytes that this process already holds and will keep.
    pub(crate) held: usize,
    /// What would make it smaller.
    pub(crate) advice: &'a str,
}

/// Rejects what the host can never hold, and warns if there is no room for it at the moment: other
/// processes may still free memory, or there is swap space.
pub(crate) fn check(request: &Request<'_>) -> Result<()> {
    match HostMemory::read() {
        Some(memory) => check_against(memory, request),
        None => Ok(()),
    }
}

/// Whether the host can lock this number of bytes in memory; warns if not.
pub(crate) fn can_lock(bytes: usize) -> bool {
    let total = HostMemory::read().map_or(usize::MAX, |memory| memory.total);
    if bytes > total {
        tracing::warn!(
            "the weights are not locked in memory: they take {} MiB there, of {} MiB in all",
            mib(bytes),
            total >> 20
        );
    }
    bytes <= total
}

fn mib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

fn check_against(memory: HostMemory, request: &Request<'_>) -> Result<()> {
    let limit = memory.total.saturating_add(memory.swap);
    if request.bytes.saturating_add(request.held) > limit {
        let held = match request.held {
            0 => String::new(),
            held => format!(" beside {} MiB that are in use", mib(held)),
        };
        return Err(Error::OutOfMemory {
            what: request.what.into(),
            device: format!("the host{held}"),
            bytes: request.bytes,
            advice: format!(
                "it has {} MiB, of which {} are swap space; {}",
                limit >> 20,
                memory.swap >> 20,
                request.advice
            ),
        });
    }
    if request.bytes > memory.available {
        tracing::warn!(
            "{} takes {} MiB of host memory, of which {} MiB are available: the system may swap, or \
             end this process; {}",
            request.what,
            mib(request.bytes),
            memory.available >> 20,
            request.advice
        );
    }
    Ok(())
}

/// Linux' proc(5) and its control groups, of both versions.
mod linux {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::HostMemory;

    pub(super) fn read() -> Option<HostMemory> {
        let host = host(&fs::read_to_string("/proc/meminfo").ok()?)?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limits = directories(&groups)
            .into_iter()
            .filter_map(|dir| limit(&dir));
        Some(limits.fold(host, within))
    }

    /// The memory of the host from /proc/meminfo.
    pub(super) fn host(meminfo: &str) -> Option<HostMemory> {
        let field = |name: &str| {
            let mut lines = meminfo.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: usize = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(HostMemory {
            total: field("MemTotal")?,
            available: field("MemAvailable")?,
            swap: field("SwapTotal").unwrap_or(0),
        })
    }

    /// The limit of a control group.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Limit {
        pub(super) memory: usize,
        /// What the group holds and cannot drop.
        pub(super) used: usize,
        pub(super) swap: Option<usize>,
    }

    pub(super) fn within(host: HostMemory, limit: Limit) -> HostMemory {
        HostMemory {
            total: host.total.min(limit.memory),
            available: host.available.min(limit.memory.saturating_sub(limit.used)),
            swap: limit.swap.map_or(host.swap, |swap| host.swap.min(swap)),
        }
    }

    /// The directories of this process's groups and of their parents, from /proc/self/cgroup.
    /// Inside a container the paths may be those of the host: then the root of the mounted
    /// hierarchy is the container's group.
    pub(super) fn directories(groups: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':');
            let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let root = match controllers {
                "" => Path::new("/sys/fs/cgroup"),
                _ if controllers.split(',').any(|c| c == "memory") => {
                    Path::new("/sys/fs/cgroup/memory")
                }
                _ => continue,
            };
            let path = Path::new(path.trim_start_matches('/'));
            found.extend(path.ancestors().map(|group| root.join(group)));
        }
        found
    }

    /// The limit of the group in a directory, if it has one.
    pub(super) fn limit(dir: &Path) -> Option<Limit> {
        let text = |name: &str| fs::read_to_string(dir.join(name)).ok();
        let number = |name: &str| text(name)?.trim().parse::<usize>().ok();
        let memory = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
        let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
        // Pages of files, such as those of a mapped model, are dropped when the limit is reached.
        let stat = text("memory.stat").unwrap_or_default();
        let files: usize = ["inactive_file ", "active_file "]
            .iter()
            .filter_map(|name| stat.lines().find_map(|line| line.strip_prefix(name)))
            .filter_map(|value| value.trim().parse::<usize>().ok())
            .sum();
        Some(Limit {
            memory,
            used: used.saturating_sub(files),
            swap: number("memory.swap.max"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::linux::{Limit, directories, host, limit, within};
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_can_never_be_is_refused_with_the_arithmetic() {
        let memory = HostMemory {
            total: 100 * MIB,
            available: 60 * MIB,
            swap: 20 * MIB,
        };
        let check = |bytes, held| {
            let request = Request {
                what: "a test",
                bytes,
                held,
                advice: "buy some",
            };
            check_against(memory, &request)
        };
        // There is a warning, but others may free memory.
        check(120 * MIB, 0).unwrap();
        assert_eq!(
            check(91 * MIB, 30 * MIB).unwrap_err().to_string(),
            "out of memory: a test needs 91 MiB on the host beside 30 MiB that are in use: it has 120 \
             MiB, of which 20 are swap space; buy some"
        );
        assert!(check(usize::MAX, usize::MAX).is_err());
    }

    #[test]
    fn the_host_is_read_from_meminfo() {
        let text = "MemTotal:       16000 kB\nMemFree:  100 kB\nMemAvailable:    9000 kB\n\
                    SwapTotal:       2000 kB\n";
        let expected = HostMemory {
            total: 16_000 << 10,
            available: 9000 << 10,
            swap: 2000 << 10,
        };
        assert_eq!(host(text), Some(expected));
        assert_eq!(host("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn groups_and_those_around_them_are_looked_at() {
        let paths = |groups| directories(groups);
        let expected = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"];
        assert_eq!(paths("0::/a/b\n"), expected.map(PathBuf::from));
        assert_eq!(
            paths("4:cpu,cpuacct:/x\n3:memory:/y\n"),
            ["/sys/fs/cgroup/memory/y", "/sys/fs/cgroup/memory/"].map(PathBuf::from)
        );
    }

    #[test]
    fn the_limit_of_a_group_counts_files_as_available() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        write("memory.max", "max\n");
        write("memory.current", "5000\n");
        assert_eq!(limit(group.path()), None);
        write("memory.max", "8000\n");
        write(
            "memory.stat",
            "anon 1000\ninactive_file 2500\nactive_file 500\n",
        );
        write("memory.swap.max", "0\n");
        let found = limit(group.path()).unwrap();
        let expected = Limit {
            memory: 8000,
            used: 2000,
            swap: Some(0),
        };
        assert_eq!(found, expected);
        let host = HostMemory {
            total: 10_000,
            available: 9000,
            swap: 700,
        };
        let expected = HostMemory {
            total: 8000,
            available: 6000,
            swap: 0,
        };
        assert_eq!(within(host, found), expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_host_has_memory() {
        let memory = HostMemory::read().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total);
    }
}
