//! What Linux counts of this process.

/// A value of `/proc/self/status` that is counted in KiB, such as `VmHWM`, in bytes.
pub fn status(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut values = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = values.find(|(name, _)| *name == key).unwrap();
    let kib = value.trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}
