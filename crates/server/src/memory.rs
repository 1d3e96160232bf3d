//! Whether the machine has the memory that all slots need.

use llama_diffusion::{DeviceMemory, Error, MemoryReport, Result};

/// Checks whether more slots like the first one fit, and the caches of earlier prompts beside them.
/// `report` is that of the first slot. Returns warnings.
///
/// # Errors
/// The caches of the slots need more than a device has.
pub fn check(report: &MemoryReport, slots: usize, cache_ram: usize) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    // Devices that do not report their memory have a total of 0.
    for device in report.devices.iter().filter(|device| device.total > 0) {
        let more = slots.saturating_sub(1);
        let each = device.kv_cache + device.compute;
        if more.saturating_mul(device.kv_cache) > device.total {
            return Err(Error::Input {
                name: "-np".into(),
                problem: arithmetic(device, slots),
            });
        }
        if more.saturating_mul(each) > device.free {
            warnings.push(format!("-np: {}", arithmetic(device, slots)));
        }
    }
    // The host is the last one.
    if let Some(host) = report.devices.last().filter(|host| host.total > 0) {
        // Without a limit the user has decided.
        if cache_ram > host.total && cache_ram < usize::MAX {
            warnings.push(format!(
                "--cache-ram: caches of earlier prompts may take {} MiB, but {} has {} MiB in all: lower it",
                mib(cache_ram),
                host.device,
                host.total >> 20
            ));
        }
    }
    Ok(warnings)
}

/// What the slots need on a device, what it has, and what would fit.
fn arithmetic(device: &DeviceMemory, slots: usize) -> String {
    let each = device.kv_cache + device.compute;
    let fit = 1 + device.free / each.max(1);
    format!(
        "{slots} slots need {} MiB on {} besides the weights (KV cache {} + compute {} for each), of which \
         {} MiB are free beside the first one: lower -np, to at most {fit}, or -c",
        mib(slots * each),
        device.device,
        mib(device.kv_cache),
        mib(device.compute),
        device.free >> 20,
    )
}

fn mib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn report(device: &str, free: usize, total: usize) -> MemoryReport {
        MemoryReport {
            devices: vec![DeviceMemory {
                device: device.into(),
                weights: 100 * MIB,
                experts: 0,
                mapped: 0,
                kv_cache: 80 * MIB,
                compute: 20 * MIB,
                free: free * MIB,
                total: total * MIB,
            }],
        }
    }

    #[test]
    fn slots_that_do_not_fit_name_the_flag_and_what_fits() {
        let gpu = report("CUDA0", 300, 600);
        assert_eq!(check(&gpu, 4, 0).unwrap(), [""; 0]);
        let tight = check(&gpu, 5, 0).unwrap();
        assert_eq!(tight.len(), 1);
        for part in [
            "5 slots need 500 MiB on CUDA0",
            "300 MiB are free",
            "at most 4",
            "-c",
        ] {
            assert!(tight[0].contains(part), "{part}: {tight:?}");
        }
        let error = check(&gpu, 9, 0).unwrap_err().to_string();
        assert!(error.starts_with("-np: 9 slots need 900 MiB"), "{error}");
    }

    #[test]
    fn a_device_that_does_not_report_its_memory_is_no_reason() {
        assert_eq!(check(&report("RPC0", 0, 0), 100, 0).unwrap(), [""; 0]);
    }

    #[test]
    fn caches_on_the_host_fit_into_it() {
        let host = report("CPU", 3000, 4000);
        assert_eq!(check(&host, 1, 4000 * MIB).unwrap(), [""; 0]);
        assert_eq!(check(&host, 1, usize::MAX).unwrap(), [""; 0]);
        let warnings = check(&host, 1, 8192 * MIB).unwrap();
        assert!(warnings[0].starts_with("--cache-ram: "), "{warnings:?}");
    }
}
