//! What a model and its sequences need in the memory of each device.

use std::fmt;

use crate::error::Error;
use crate::ggml::device::{BufferType, Device, DeviceKind};

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// All weights but those of experts.
    Dense,
    /// The weights of experts.
    Experts,
    /// Keys and values of a sequence.
    KvCache,
    /// Inputs, state and intermediate results of passes.
    Compute,
}

/// Bytes by device and purpose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    devices: Vec<(Device, Share)>,
}

/// One device's part of a [`Usage`], in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) dense: usize,
    pub(crate) experts: usize,
    pub(crate) kv_cache: usize,
    pub(crate) compute: usize,
    /// Weights that are used in the mapped file.
    pub(crate) mapped: usize,
}

impl Share {
    /// All that is allocated: the system may drop pages of a mapped file and read them again.
    pub(crate) fn allocated(&self) -> usize {
        self.dense + self.experts - self.mapped + self.kv_cache + self.compute
    }
}

impl Usage {
    /// Counts bytes in memory of this type.
    pub(crate) fn add(&mut self, memory: BufferType, purpose: Purpose, bytes: usize) {
        // ggml does not report a device for plain host memory.
        if let Some(device) = memory.device().or_else(|| Device::cpu().ok()) {
            self.add_on(device, purpose, bytes);
        }
    }

    /// Counts bytes in the memory of a device.
    pub(crate) fn add_on(&mut self, device: Device, purpose: Purpose, bytes: usize) {
        let share = self.share_mut(device);
        *match purpose {
            Purpose::Dense => &mut share.dense,
            Purpose::Experts => &mut share.experts,
            Purpose::KvCache => &mut share.kv_cache,
            Purpose::Compute => &mut share.compute,
        } += bytes;
    }

    /// Counts weights that are used in the mapped file.
    pub(crate) fn add_mapped(&mut self, device: Device, purpose: Purpose, bytes: usize) {
        self.add_on(device, purpose, bytes);
        self.share_mut(device).mapped += bytes;
    }

    /// Counts intermediate results.
    pub(crate) fn add_graphs(&mut self, sizes: impl IntoIterator<Item = (Device, usize)>) {
        for (device, bytes) in sizes {
            self.add_on(device, Purpose::Compute, bytes);
        }
    }

    /// Bytes of KV caches, and of graphs with their inputs and state, over all devices.
    pub(crate) fn of_sequences(&self) -> (usize, usize) {
        let shares = || self.devices.iter().map(|(_, share)| share);
        let kv_cache = shares().map(|share| share.kv_cache).sum();
        (kv_cache, shares().map(|share| share.compute).sum())
    }

    /// Adds another account.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (device, share) in &other.devices {
            let sum = self.share_mut(*device);
            sum.dense += share.dense;
            sum.experts += share.experts;
            sum.kv_cache += share.kv_cache;
            sum.compute += share.compute;
            sum.mapped += share.mapped;
        }
    }

    /// What is in the memory of a device.
    pub(crate) fn of(&self, device: Device) -> Share {
        let found = self.devices.iter().find(|(d, _)| *d == device);
        found.map_or_else(Share::default, |(_, share)| *share)
    }

    /// Bytes of weights: copied to devices, and used in the mapped file.
    pub(crate) fn weights(&self) -> (usize, usize) {
        let shares = || self.devices.iter().map(|(_, share)| share);
        let all: usize = shares().map(|share| share.dense + share.experts).sum();
        let mapped: usize = shares().map(|share| share.mapped).sum();
        (all - mapped, mapped)
    }

    /// Every device with its share.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (Device, Share)> {
        self.devices.iter().copied()
    }

    fn share_mut(&mut self, device: Device) -> &mut Share {
        let known = self.devices.iter().position(|(d, _)| *d == device);
        let index = known.unwrap_or_else(|| {
            self.devices.push((device, Share::default()));
            self.devices.len() - 1
        });
        &mut self.devices[index].1
    }

    /// Adds what this account knows of the device to an error about memory that was refused.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match error {
            Error::OutOfMemory {
                what,
                device,
                bytes,
                advice,
            } => {
                let named = |(d, _): &(Device, Share)| d.buffer_type().name() == device;
                let share = self.devices().find(named);
                let advice = match share {
                    Some((device, share)) => format!("{}; {advice}", arithmetic(device, &share)),
                    None => advice,
                };
                Error::OutOfMemory {
                    what,
                    device,
                    bytes,
                    advice,
                }
            }
            other => other,
        }
    }
}

/// Whole MiB, rounded up.
pub(crate) fn mib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

/// What a device would have to hold, term by term, and what it has.
pub(crate) fn arithmetic(device: Device, share: &Share) -> String {
    let terms = [
        ("weights", share.dense),
        ("experts", share.experts),
        ("KV cache", share.kv_cache),
        ("graphs", share.compute),
    ];
    let terms = terms.map(|(name, bytes)| (name, mib(bytes)));
    let given = terms.iter().filter(|(_, size)| *size > 0);
    let given: Vec<String> = given.map(|(name, size)| format!("{name} {size}")).collect();
    let all: usize = terms.iter().map(|(_, size)| size).sum();
    let mapped = share.mapped >> 20;
    let in_file = match mapped {
        0 => String::new(),
        mapped => format!(" - {mapped} in the mapped file"),
    };
    format!(
        "{} would hold {}{in_file} = {} MiB, and has {} MiB free",
        device.name(),
        given.join(" + "),
        all - mapped,
        device.memory().0 >> 20
    )
}

/// What a model and a session need, device by device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// The devices that hold part of it, the host last.
    pub devices: Vec<DeviceMemory>,
}

/// The memory of a device, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Its name, such as `CPU` or `CUDA0`.
    pub device: String,
    /// All weights but those of experts.
    pub weights: usize,
    /// The weights of experts.
    pub experts: usize,
    /// The part of both that is used in the mapped file: the system may drop these pages and read
    /// them again.
    pub mapped: usize,
    /// The KV cache.
    pub kv_cache: usize,
    /// Inputs, state and intermediate results of passes at the full context. They are reserved by
    /// the first passes that need them.
    pub compute: usize,
    /// What remains free once all of this is reserved; 0 if the device does not report its memory.
    pub free: usize,
    /// The device's total memory; 0 if it does not report it.
    pub total: usize,
}

impl MemoryReport {
    /// `reserved` is what the compute buffers of `usage` have taken already.
    pub(crate) fn new(usage: &Usage, reserved: &Usage) -> Self {
        let row = |(device, share): (Device, Share)| {
            let (free, total) = device.memory();
            let missing = share.compute.saturating_sub(reserved.of(device).compute);
            DeviceMemory {
                device: device.name(),
                weights: share.dense,
                experts: share.experts,
                mapped: share.mapped,
                kv_cache: share.kv_cache,
                compute: share.compute,
                free: free.saturating_sub(missing),
                total,
            }
        };
        let mut rows: Vec<(Device, Share)> = usage.devices().collect();
        rows.sort_by_key(|(device, _)| device.kind() == DeviceKind::Cpu);
        Self {
            devices: rows.into_iter().map(row).collect(),
        }
    }
}

/// A table in MiB.
impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 8] = [
            "weights", "experts", "(mapped)", "KV cache", "compute", "sum", "free", "total",
        ];
        let name = |row: &DeviceMemory| row.device.chars().count();
        let width = self.devices.iter().map(name).max().unwrap_or(0).max(12);
        write!(f, "{:<width$}", "memory [MiB]")?;
        for head in HEAD {
            write!(f, " {head:>9}")?;
        }
        for row in &self.devices {
            write!(f, "\n{:<width$}", row.device)?;
            let sum = row.weights + row.experts + row.kv_cache + row.compute;
            for bytes in [
                row.weights,
                row.experts,
                row.mapped,
                row.kv_cache,
                row.compute,
                sum,
            ] {
                write!(f, " {:>9}", mib(bytes))?;
            }
            for bytes in [row.free, row.total] {
                write!(f, " {:>9}", bytes >> 20)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_adds_up_by_device_and_purpose() {
        let cpu = Device::cpu().unwrap();
        let mut usage = Usage::default();
        usage.add(cpu.buffer_type(), Purpose::Dense, 5 << 20);
        usage.add_mapped(cpu, Purpose::Experts, 7 << 20);
        let mut more = Usage::default();
        more.add_on(cpu, Purpose::KvCache, 2 << 20);
        more.add_on(cpu, Purpose::Compute, (1 << 20) + 1);
        usage.extend(&more);
        let share = usage.of(cpu);
        assert_eq!(
            [share.dense, share.experts, share.mapped, share.kv_cache],
            [5 << 20, 7 << 20, 7 << 20, 2 << 20]
        );
        assert_eq!(share.allocated(), (8 << 20) + 1);

        let refused = Error::OutOfMemory {
            what: "the weights".into(),
            device: cpu.buffer_type().name(),
            bytes: 1,
            advice: "buy some".into(),
        };
        let text = usage.explain(refused).to_string();
        let sum = "CPU would hold weights 5 + experts 7 + KV cache 2 + graphs 2 - 7 in the mapped \
                   file = 9 MiB, and has ";
        assert!(
            text.contains(sum) && text.ends_with(" MiB free; buy some"),
            "{text}"
        );
    }

    #[test]
    fn a_report_is_a_table() {
        let row = |device: &str, unit: usize| DeviceMemory {
            device: device.into(),
            weights: unit << 20,
            experts: (10 * unit) << 20,
            mapped: 0,
            kv_cache: (2 * unit) << 20,
            compute: 1,
            free: 100 << 20,
            total: 16_000 << 20,
        };
        let report = MemoryReport {
            devices: vec![row("CUDA0", 1), row("CPU", 2)],
        };
        assert_eq!(
            report.to_string(),
            "memory [MiB]   weights   experts  (mapped)  KV cache   compute       sum      free     total\n\
             CUDA0                1        10         0         2         1        14       100     16000\n\
             CPU                  2        20         0         4         1        27       100     16000"
        );
    }
}
