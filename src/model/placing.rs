//! Checks whether the GPUs can hold what they are assigned, and moves what does not fit to the
//! host.

use super::Model;
use super::denoiser::{choose_nodes, start_backends};
use super::fit::{Unit, UnitPlan, search};
use super::measure;
use super::memory::{Usage, arithmetic};
use super::params::{DenoiserParams, Fit, ModelParams};
use super::sequence::allocate_cache;
use super::tensors::{Located, TensorTable};
use super::weights::{Source, Weights, is_expert, transposed_type};
use crate::error::{Error, Result};
use crate::ggml::buffer::Allocation;
use crate::ggml::device::Device;

/// The default free memory of a GPU, and the part of a smaller GPU's memory.
const TARGET: usize = 1 << 30;
const TARGET_SHARE: usize = 8;

/// Places a model whose weights are only described. Returns what it will need together with the
/// session that memory is planned for; `None` if no plan was requested, or nothing is on a GPU.
///
/// # Errors
/// A graph cannot be built, or a device cannot be started.
pub(super) fn place(
    model: &mut Model,
    located: &TensorTable<Located>,
    params: &ModelParams,
) -> Result<Option<Usage>> {
    let Some(fit) = &params.fit else {
        return Ok(None);
    };
    let session = fit.session.resolve(&model.hparams, 1);
    // Errors about the session are reported when it is made.
    if model.placement.is_cpu_only() || session.check(&model.hparams).is_err() {
        return Ok(None);
    }
    let gpus = model.placement.gpus().to_vec();
    let budgets = budgets(&gpus, fit);
    let wanted = model.placement.plan().clone();
    let is_fixed = params.gpu_layers.is_some() || !params.split.is_empty();
    if is_fixed {
        let usage = whole(model, &session)?;
        warn_of_too_much(&gpus, &usage);
        return Ok(Some(usage));
    }
    let units = units(model, located, &session, params)?;
    let mut usage = Usage::default();
    let plan = search(&units, &budgets, &wanted, |plan| {
        follow(model, located, params, &wanted, plan)?;
        usage = whole(model, &session)?;
        Ok(gpus.iter().map(|gpu| usage.of(*gpu).allocated()).collect())
    })?;
    if plan != *model.placement.plan() {
        follow(model, located, params, &wanted, &plan)?;
        usage = whole(model, &session)?;
    }
    if plan != wanted {
        report(&plan, &gpus, &budgets);
    }
    Ok(Some(usage))
}

/// Describes the model for a plan. If the user chose which experts stay on the host, they stay
/// there.
fn follow(
    model: &mut Model,
    located: &TensorTable<Located>,
    params: &ModelParams,
    wanted: &UnitPlan,
    plan: &UnitPlan,
) -> Result<()> {
    let mut plan = plan.clone();
    if params.cpu_moe_layers > 0 {
        plan.host_experts.clone_from(&wanted.host_experts);
    }
    model.placement.follow(plan);
    model.weights = Weights::describe(&Source {
        file: &model.file,
        hparams: &model.hparams,
        located,
        placement: &model.placement,
        params,
    })?;
    Ok(())
}

/// What the model and a session need.
fn whole(model: &Model, session: &DenoiserParams) -> Result<Usage> {
    let backends = start_backends(model, session.threads)?;
    let choice = choose_nodes(model, session)?;
    let mut usage = measure::sequence(model, session, &backends, choice)?;
    usage.extend(&model.weights.usage);
    Ok(usage)
}

/// What may be used on each GPU. One that does not report its memory is assumed to have enough.
pub(super) fn budgets(gpus: &[Device], fit: &Fit) -> Vec<usize> {
    let budget = |(i, gpu): (usize, &Device)| {
        let (free, total) = gpu.memory();
        let target = match fit.target.as_slice() {
            [target] => Some(*target),
            targets => targets.get(i).copied(),
        };
        match total {
            0 => usize::MAX,
            _ => free.saturating_sub(target.unwrap_or(TARGET.min(total / TARGET_SHARE))),
        }
    };
    gpus.iter().enumerate().map(budget).collect()
}

/// What each layer and the output head need on the device that computes them.
fn units(
    model: &Model,
    located: &TensorTable<Located>,
    session: &DenoiserParams,
    params: &ModelParams,
) -> Result<Vec<Unit>> {
    let (hparams, placement) = (&model.hparams, &model.placement);
    let mut units = vec![Unit::default(); hparams.layers.len() + 1];
    let head = units.len() - 1;
    located.clone().try_map(&mut |tensor| {
        // A tensor that the user placed does not move with its layer.
        if placement.overridden(&tensor.info.name).is_none() {
            let layer = tensor.layer.unwrap_or(head);
            let bytes = tensor.info.range.len();
            match is_expert(&tensor) {
                // The user chose which experts stay on the host.
                true if params.cpu_moe_layers > layer => {}
                true if params.cpu_moe_layers == 0 => units[layer].experts += bytes,
                _ => units[layer].fixed += bytes,
            }
        }
        Ok::<_, Error>(())
    })?;
    if !placement.kv_on_host() {
        let cache = allocate_cache(model, session, Allocation::Measured)?;
        for (unit, layer) in units.iter_mut().zip(&cache.layers) {
            unit.fixed += layer.k.nbytes() + layer.v.nbytes();
        }
    }
    let ty = transposed_type(located.token_embd.info.ty);
    let (row, canvas) = (hparams.vocab_size, hparams.canvas_length);
    // Self-conditioning's table, the logits, and the distributions of a canvas.
    units[head].fixed += row * hparams.d * ty.block_bytes() / ty.block_len() + 8 * row * canvas;
    Ok(units)
}

/// The user chose what is on GPUs: it may fit in spite of what is reported.
fn warn_of_too_much(gpus: &[Device], usage: &Usage) {
    for gpu in gpus {
        let (share, (free, total)) = (usage.of(*gpu), gpu.memory());
        if total > 0 && share.allocated() > free {
            tracing::warn!(
                "{}: it may not fit. Without a number of GPU layers and shares of GPUs, what does \
                 not fit is left to the host",
                arithmetic(*gpu, &share)
            );
        }
    }
}

/// Reports what stays on the host.
pub(super) fn report(plan: &UnitPlan, gpus: &[Device], budgets: &[usize]) {
    let layers = plan.owner.len() - 1;
    let on_gpu = |unit: usize| plan.owner[unit].is_some();
    let placed = (0..layers).filter(|layer| on_gpu(*layer)).count();
    let with_experts = |layer: &usize| on_gpu(*layer) && !plan.host_experts[*layer];
    let experts = (0..layers).filter(with_experts).count();
    let head = if on_gpu(layers) { "" } else { "not " };
    let rooms: Vec<String> = (gpus.iter().zip(budgets))
        .map(|(gpu, budget)| format!("{} MiB of {}", budget >> 20, gpu.name()))
        .collect();
    tracing::info!(
        "for {}: {placed} of {layers} layers, the experts of {experts} and {head}the output head \
         are on GPUs, the rest stays with the host",
        rooms.join(", ")
    );
}
