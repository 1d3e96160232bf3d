//! Which device holds which part of the model: layers, experts, single tensors and the KV cache. Which of its
//! memories holds a tensor, or the mapped file, is chosen in `weights/choose_memory.rs`.

use regex::Regex;

use super::file::ModelFile;
use super::fit::UnitPlan;
use super::hparams::Hparams;
use super::params::ModelParams;
use crate::error::{Error, Result};
use crate::ggml::device::{BufferType, Device};
use crate::parameter::Parameter;

/// The limit of ggml's scheduler.
const MAX_DEVICES: usize = 16;

/// The decision, device by device.
pub(crate) struct Placement {
    cpu: Device,
    gpus: Vec<Device>,
    /// By index into `gpus`.
    plan: UnitPlan,
    kv_on_host: bool,
    op_offload: bool,
    overrides: Vec<(Regex, Device)>,
}

/// Assigns each of `units` parts (layers, then the output head) to one of the GPUs or to none: the
/// last `on_gpu` of them are distributed in order, by `shares`.
fn assign(units: usize, on_gpu: usize, shares: &[f32]) -> Vec<Option<usize>> {
    let total: f32 = shares.iter().sum();
    let first = units - on_gpu.min(units);
    (0..units)
        .map(|unit| {
            if unit < first || shares.is_empty() {
                return None;
            }
            let at = (unit - first) as f32 / (units - first) as f32 * total;
            let mut end = 0.0;
            let gpu = shares.iter().position(|share| {
                end += share;
                at < end
            });
            Some(gpu.unwrap_or(shares.len() - 1))
        })
        .collect()
}

fn check_shares(params: &ModelParams, gpus: &[Device]) -> Result<()> {
    if params.split.iter().any(|s| !s.is_finite() || *s < 0.0)
        || params.split.len() > gpus.len().max(1)
    {
        return Err(Error::parameter(
            Parameter::Split,
            format!(
                "give at most {} shares, one per GPU, none below 0",
                gpus.len()
            ),
        ));
    }
    Ok(())
}

/// The share of the layers for each GPU: as the user asked, or by free memory.
pub(super) fn shares(params: &ModelParams, gpus: &[Device]) -> Vec<f32> {
    if params.split.iter().any(|s| *s > 0.0) {
        let share = |i| params.split.get(i).copied().unwrap_or(0.0);
        return (0..gpus.len()).map(share).collect();
    }
    gpus.iter().map(|d| d.memory().0.max(1) as f32).collect()
}

/// The placement that the user asked for, regardless of memory.
pub(super) fn wanted(units: usize, params: &ModelParams, shares: &[f32]) -> UnitPlan {
    UnitPlan {
        owner: assign(units, params.gpu_layers.unwrap_or(units), shares),
        host_experts: (0..units).map(|l| l < params.cpu_moe_layers).collect(),
    }
}

impl Placement {
    /// Decides for a model.
    ///
    /// # Errors
    /// A device or memory that does not exist, or invalid shares.
    pub(crate) fn new(hparams: &Hparams, params: &ModelParams) -> Result<Self> {
        let cpu = Device::cpu()?;
        let gpus = Device::gpus(params.devices.as_deref())?;
        check_shares(params, &gpus)?;
        let plan = wanted(hparams.layers.len() + 1, params, &shares(params, &gpus));

        let known: Vec<Device> = gpus.iter().copied().chain([cpu]).collect();
        let overrides = params
            .overrides
            .iter()
            .map(|o| {
                let named = |d: &&Device| d.buffer_type().name().eq_ignore_ascii_case(&o.memory);
                let device = known.iter().find(named).ok_or_else(|| {
                    let names: Vec<String> = known.iter().map(|d| d.buffer_type().name()).collect();
                    let problem = format!(
                        "there is no memory '{}'; there are: {}",
                        o.memory,
                        names.join(", ")
                    );
                    Error::parameter(Parameter::Overrides, problem)
                })?;
                Ok((o.pattern.clone(), *device))
            })
            .collect::<Result<_>>()?;
        if known.len() > MAX_DEVICES {
            return Err(Error::parameter(
                Parameter::Devices,
                format!(
                    "{} devices are too many: name at most {}",
                    known.len(),
                    MAX_DEVICES - 1
                ),
            ));
        }
        Ok(Self {
            cpu,
            gpus,
            plan,
            kv_on_host: params.kv_on_host,
            op_offload: !params.no_op_offload,
            overrides,
        })
    }

    /// The GPUs that layers may lie on, in the order of their indices in plans.
    pub(super) fn gpus(&self) -> &[Device] {
        &self.gpus
    }

    /// What is placed on which GPU.
    pub(super) fn plan(&self) -> &UnitPlan {
        &self.plan
    }

    /// Changes what is placed on which GPU. The plan has the same number of layers and GPUs.
    pub(super) fn follow(&mut self, plan: UnitPlan) {
        self.plan = plan;
    }

    /// Whether keys and values stay in host memory.
    pub(super) fn kv_on_host(&self) -> bool {
        self.kv_on_host
    }

    /// Whether GPUs compute large products of matrices in host memory.
    pub(super) fn op_offload(&self) -> bool {
        self.op_offload
    }

    /// Whether a GPU may compute products of weights in host memory.
    pub(super) fn may_offload(&self) -> bool {
        self.op_offload && !self.is_cpu_only()
    }

    fn device(&self, unit: usize) -> Device {
        self.plan.owner[unit].map_or(self.cpu, |gpu| self.gpus[gpu])
    }

    /// Every device that takes part, the CPU last.
    pub(crate) fn devices(&self) -> Vec<Device> {
        let used = |(gpu, device): &(usize, &Device)| {
            self.plan.owner.contains(&Some(*gpu))
                || self.overrides.iter().any(|(_, chosen)| chosen == *device)
        };
        let used = self.gpus.iter().enumerate().filter(used);
        used.map(|(_, device)| *device).chain([self.cpu]).collect()
    }

    /// Whether only the CPU takes part.
    pub(crate) fn is_cpu_only(&self) -> bool {
        self.devices().len() == 1
    }

    /// The host's processor.
    pub(crate) fn cpu(&self) -> Device {
        self.cpu
    }

    /// The device of the output head, and of everything that belongs to the vocabulary.
    pub(crate) fn output(&self) -> Device {
        self.device(self.plan.owner.len() - 1)
    }

    /// Where a tensor's operations run: its layer's device, or the output head's.
    pub(crate) fn device_of(&self, layer: Option<usize>, is_expert: bool) -> Device {
        match layer {
            Some(l) if is_expert && self.plan.host_experts[l] => self.cpu,
            Some(l) => self.device(l),
            None => self.output(),
        }
    }

    /// The device in whose memory the user placed a tensor.
    pub(crate) fn overridden(&self, name: &str) -> Option<Device> {
        self.overrides
            .iter()
            .find(|(pattern, _)| pattern.is_match(name))
            .map(|(_, device)| *device)
    }

    /// Layers grouped by the memory of their KV cache.
    pub(crate) fn layers_by_memory(&self) -> Vec<(BufferType, Vec<usize>)> {
        let mut groups: Vec<(BufferType, Vec<usize>)> = Vec::new();
        for l in 0..self.plan.owner.len() - 1 {
            let device = if self.kv_on_host {
                self.cpu
            } else {
                self.device(l)
            };
            let memory = device.buffer_type();
            match groups.iter_mut().find(|(m, _)| *m == memory) {
                Some((_, members)) => members.push(l),
                None => groups.push((memory, vec![l])),
            }
        }
        groups
    }
}

/// Warns about parameters that match nothing in the file. This excludes a number of GPU layers
/// above the model's: a large number is the usual way to ask for all.
pub(super) fn warn_of_unmatched(params: &ModelParams, file: &ModelFile, layers: usize) {
    let path = file.metadata().path().display();
    for chosen in &params.overrides {
        let mut names = file.tensors().map(|(_, tensor)| &tensor.info.name);
        if !names.any(|name| chosen.pattern.is_match(name)) {
            tracing::warn!(
                "tensor override '{}={}': no tensor of {path} has a name that matches",
                chosen.pattern,
                chosen.memory
            );
        }
    }
    let count = params.cpu_moe_layers;
    if count > layers && count < usize::MAX {
        tracing::warn!(
            "the experts of {count} layers are to stay in host memory, but {path} has {layers} layers"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::assign;

    #[test]
    fn the_last_layers_and_the_head_go_first_to_the_gpus() {
        assert_eq!(assign(4, 0, &[1.0]), [None; 4]);
        assert_eq!(assign(4, 1, &[1.0]), [None, None, None, Some(0)]);
        assert_eq!(assign(4, 99, &[1.0]), [Some(0); 4]);
        assert_eq!(assign(4, 4, &[]), [None; 4]);
    }

    #[test]
    fn shares_are_kept() {
        let owner = assign(8, 8, &[3.0, 1.0]);
        assert_eq!(owner.iter().filter(|o| **o == Some(0)).count(), 6);
        assert_eq!(owner[7], Some(1));
        assert_eq!(
            assign(5, 4, &[1.0, 0.0, 1.0]),
            [None, Some(0), Some(0), Some(2), Some(2)]
        );
    }
}
