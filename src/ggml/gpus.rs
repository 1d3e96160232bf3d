//! GPUs among the devices: which ones are software, and which ones a model uses.

use super::device::{Device, DeviceKind};
use crate::error::Result;

/// Names of devices whose drivers compute on the host's processor: Mesa's lavapipe, Google's
/// SwiftShader, and Microsoft's WARP as Mesa's Dozen shows it. Vulkan has a device type for them,
/// but ggml reports every Vulkan device as a GPU, so the name is the only indication.
const SOFTWARE: [&str; 3] = ["llvmpipe", "SwiftShader", "Microsoft Basic Render Driver"];

fn is_software(description: &str) -> bool {
    SOFTWARE.iter().any(|name| description.contains(name))
}

impl Device {
    /// Whether it can hold layers: a GPU, with memory of its own or the host's.
    pub fn is_gpu(&self) -> bool {
        matches!(self.kind(), DeviceKind::Gpu | DeviceKind::IntegratedGpu)
    }

    /// Whether it is a GPU in name only: a driver such as Mesa's llvmpipe computes on the host's
    /// processor, more slowly than the `CPU` device. Useful for testing a backend without its
    /// hardware.
    pub fn is_software(&self) -> bool {
        self.is_gpu() && is_software(&self.description())
    }

    /// The GPUs that a model uses if its parameters name no device, those of RPC servers first:
    /// then the output head, where tokens are drawn, is near the host. Software devices are left
    /// out, and so are integrated GPUs next to a discrete one; a GPU that two backends report
    /// counts once.
    pub fn default_gpus() -> Vec<Self> {
        let gpus: Vec<Self> = Self::all().into_iter().filter(Self::is_gpu).collect();
        let traits: Vec<Traits> = gpus.iter().map(Traits::of).collect();
        let mut chosen: Vec<Self> = defaults(&traits).into_iter().map(|i| gpus[i]).collect();
        chosen.sort_by_key(|device| !device.is_remote());
        chosen
    }

    /// The GPUs among the devices with these names; without a list, those of
    /// [`default_gpus`](Self::default_gpus).
    ///
    /// # Errors
    /// No device has one of the names.
    pub(crate) fn gpus(names: Option<&[String]>) -> Result<Vec<Self>> {
        let Some(names) = names else {
            return Ok(Self::default_gpus());
        };
        let mut gpus = names
            .iter()
            .map(|name| Self::by_name(name))
            .collect::<Result<Vec<_>>>()?;
        gpus.retain(Self::is_gpu);
        for device in gpus.iter().filter(|device| device.is_software()) {
            tracing::warn!(
                "{device:?} is a software device ({}): it computes on this machine's processor, \
                 more slowly than the CPU device does",
                device.description()
            );
        }
        Ok(gpus)
    }
}

/// What the choice of GPUs depends on.
#[derive(Clone, Debug)]
struct Traits {
    is_integrated: bool,
    is_software: bool,
    /// The same for the devices of two backends that drive one GPU.
    id: Option<String>,
}

impl Traits {
    fn of(device: &Device) -> Self {
        Self {
            is_integrated: device.kind() == DeviceKind::IntegratedGpu,
            is_software: device.is_software(),
            id: device.id(),
        }
    }
}

/// Which of the GPUs are used if none is named.
fn defaults(gpus: &[Traits]) -> Vec<usize> {
    let is_twin = |i: usize| gpus[i].id.is_some() && gpus[..i].iter().any(|g| g.id == gpus[i].id);
    let mut chosen: Vec<usize> = (0..gpus.len())
        .filter(|i| !gpus[*i].is_software && !is_twin(*i))
        .collect();
    // Integrated GPUs share the host's memory: next to a discrete one they only slow things down.
    if chosen.iter().any(|i| !gpus[*i].is_integrated) {
        chosen.retain(|i| !gpus[*i].is_integrated);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::{Traits, defaults, is_software};

    const DISCRETE: Traits = Traits {
        is_integrated: false,
        is_software: false,
        id: None,
    };
    const SOFTWARE: Traits = Traits {
        is_software: true,
        ..DISCRETE
    };
    const INTEGRATED: Traits = Traits {
        is_integrated: true,
        ..DISCRETE
    };

    #[test]
    fn software_devices_are_known_by_their_drivers_names() {
        for name in [
            "llvmpipe (LLVM 19.1.7, 256 bits)",
            "SwiftShader Device (Subzero)",
            "Microsoft Direct3D12 (Microsoft Basic Render Driver)",
        ] {
            assert!(is_software(name), "{name}");
        }
        for name in [
            "NVIDIA GeForce RTX 4090",
            "AMD Radeon RX 7900 XTX (RADV NAVI31)",
            "Intel(R) Arc(tm) A770 Graphics (DG2)",
            "Microsoft Direct3D12 (NVIDIA GeForce RTX 3060)",
            "Apple M2 Max",
        ] {
            assert!(!is_software(name), "{name}");
        }
    }

    #[test]
    fn software_devices_are_never_chosen_by_default() {
        assert_eq!(defaults(&[SOFTWARE]), [0; 0]);
        assert_eq!(defaults(&[SOFTWARE, DISCRETE]), [1]);
        assert_eq!(defaults(&[SOFTWARE, INTEGRATED]), [1]);
    }

    #[test]
    fn integrated_gpus_are_chosen_only_without_others() {
        assert_eq!(defaults(&[INTEGRATED, DISCRETE, DISCRETE]), [1, 2]);
        assert_eq!(defaults(&[INTEGRATED, INTEGRATED]), [0, 1]);
    }

    #[test]
    fn a_gpu_that_two_backends_show_counts_once() {
        let at = |id: &str| Traits {
            id: Some(id.into()),
            ..DISCRETE
        };
        let (first, second) = (at("0000:01:00.0"), at("0000:02:00.0"));
        let all = [first.clone(), second.clone(), first, second, DISCRETE];
        assert_eq!(defaults(&all), [0, 1, 4]);
    }
}
