//! Where libllama puts the weights of a masked model.

use std::ffi::CString;

use super::super::file::ModelFile;
use super::super::fit::{Unit, UnitPlan, search};
use super::super::keys::{self, TOKEN_EMBD};
use super::super::params::ModelParams;
use super::super::placement::{shares, wanted};
use super::super::placing::{budgets, report};
use crate::error::{Error, Result};
use crate::ggml::device::Device;
use crate::llama::bidirectional::LoadParams;
use crate::parameter::Parameter;

/// The experts of one layer, or of all, as libllama matches names of tensors.
fn experts_of(layer: Option<usize>) -> String {
    let experts = r"ffn_(up|down|gate|gate_up)_exps";
    layer.map_or(experts.into(), |l| format!(r"blk\.{l}\.{experts}"))
}

fn pattern(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::parameter(Parameter::Overrides, "has a zero byte"))
}

/// Tensors whose memory the user chose.
fn overrides(params: &ModelParams, cpu: Device) -> Result<Vec<(CString, Device)>> {
    let mut overrides = Vec::new();
    for chosen in &params.overrides {
        let all = Device::all();
        let named = |d: &&Device| d.buffer_type().name().eq_ignore_ascii_case(&chosen.memory);
        let device = all.iter().find(named).ok_or_else(|| {
            let problem = format!("there is no memory '{}'", chosen.memory);
            Error::parameter(Parameter::Overrides, problem)
        })?;
        overrides.push((pattern(chosen.pattern.as_str())?, *device));
    }
    let host_experts: Vec<Option<usize>> = match params.cpu_moe_layers {
        usize::MAX => vec![None],
        count => (0..count).map(Some).collect(),
    };
    for layer in host_experts {
        overrides.push((pattern(&experts_of(layer))?, cpu));
    }
    Ok(overrides)
}

/// What is passed to libllama.
///
/// # Errors
/// A device or memory that does not exist, or shares that cannot be used.
pub(super) fn load_params(
    file: &ModelFile,
    layers: usize,
    params: &ModelParams,
) -> Result<LoadParams> {
    let cpu = Device::cpu()?;
    let gpus = Device::gpus(params.devices.as_deref())?;
    let mut places = LoadParams {
        gpu_layers: match params.gpu_layers {
            _ if gpus.is_empty() => 0,
            Some(layers) => i32::try_from(layers).unwrap_or(i32::MAX),
            None => -1,
        },
        devices: gpus.clone(),
        split: params.split.clone(),
        overrides: overrides(params, cpu)?,
        op_offload: !params.no_op_offload,
        no_mmap: params.no_mmap,
        lock: params.lock,
        check_tensors: params.check_tensors,
        metadata: params.metadata.clone(),
    };
    if let Some(plan) = fitting(file, layers, params, &gpus)? {
        let count = |gpu| {
            plan.owner
                .iter()
                .filter(|owner| **owner == Some(gpu))
                .count()
        };
        let counts: Vec<usize> = (0..gpus.len()).map(count).collect();
        places.gpu_layers = i32::try_from(counts.iter().sum::<usize>()).unwrap_or(i32::MAX);
        places.split = counts.iter().map(|count| *count as f32).collect();
        for layer in (0..layers).filter(|layer| plan.host_experts[*layer]) {
            places
                .overrides
                .push((pattern(&experts_of(Some(layer)))?, cpu));
        }
    }
    Ok(places)
}

/// Tokens of the text that memory is planned for: libllama's default for a pass.
const TEXT: usize = 512;

/// A plan that fits; `None` if everything fits or the user chose.
fn fitting(
    file: &ModelFile,
    layers: usize,
    params: &ModelParams,
    gpus: &[Device],
) -> Result<Option<UnitPlan>> {
    let Some(fit) = &params.fit else {
        return Ok(None);
    };
    if gpus.is_empty() || params.gpu_layers.is_some() || !params.split.is_empty() {
        return Ok(None);
    }
    let units = units(file, layers, params);
    let vocab = file.tensor(TOKEN_EMBD).map_or(0, |(_, t)| t.info.shape[1]);
    // libllama does not report what its graphs need before the weights are loaded. The logits need
    // by far the most, once computed and once in their input.
    let graph = 2 * TEXT * vocab * size_of::<f32>();
    let budgets = budgets(gpus, fit);
    let wanted = wanted(units.len(), params, &shares(params, gpus));
    let plan = search(&units, &budgets, &wanted, |plan| {
        let held = plan.sums(&units, gpus.len()).into_iter().enumerate();
        let used = |gpu| plan.owner.contains(&Some(gpu));
        Ok(held
            .map(|(gpu, sum)| sum + if used(gpu) { graph } else { 0 })
            .collect())
    })?;
    if plan == wanted {
        return Ok(None);
    }
    report(&plan, gpus, &budgets);
    Ok(Some(plan))
}

/// What each layer and the output head need. Embeddings are looked up on the host.
fn units(file: &ModelFile, layers: usize, params: &ModelParams) -> Vec<Unit> {
    let mut units = vec![Unit::default(); layers + 1];
    let is_tied = file.tensor(&keys::weight(keys::OUTPUT)).is_none();
    for (_, tensor) in file.tensors() {
        let (name, bytes) = (&tensor.info.name, tensor.info.range.len());
        let is_elsewhere = params.overrides.iter().any(|o| o.pattern.is_match(name));
        if is_elsewhere || (name == TOKEN_EMBD && !is_tied) {
            continue;
        }
        let layer = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split('.').next());
        let unit = layer.and_then(|layer| layer.parse().ok()).unwrap_or(layers);
        let Some(unit_bytes) = units.get_mut(unit) else {
            continue;
        };
        match name.contains(keys::EXPERTS) {
            // The user chose which experts stay on the host.
            true if params.cpu_moe_layers > unit => {}
            true if params.cpu_moe_layers == 0 => unit_bytes.experts += bytes,
            _ => unit_bytes.fixed += bytes,
        }
    }
    units
}
