//! A pass over the model: an allocated graph with its inputs, reused while its shape stays the
//! same.

use std::ops::Range;

use super::Model;
use super::graph::{CacheInputs, Extent, KeyCounts, NodeChoice, PassInputs};
use super::hparams::LayerKind;
use super::kv_cache::KvCache;
use super::kv_type::SLOT_UNIT;
use super::mask::KeyLayout;
use super::memory::{Purpose, Usage};
use crate::error::Result;
use crate::ggml::buffer::Allocation;
use crate::ggml::context::Context;
use crate::ggml::tensor::Tensor;

/// What to do if there is no memory for a graph.
pub(super) const ADVICE: &str =
    "lower `context` or `batch`, or put fewer layers on this device (`gpu_layers`)";

/// A graph that an executor holds, as the host sees it.
pub(super) struct Pass {
    pub(super) inputs: PassInputs,
    pub(super) logits: Option<Tensor>,
    /// The memory of the inputs.
    pub(super) usage: Usage,
}

/// Allocates the inputs of a pass; `usage` counts them.
pub(super) fn allocate_inputs(
    model: &Model,
    extents: &[Extent],
    allocation: Allocation,
    usage: &mut Usage,
) -> Result<PassInputs> {
    let context = Context::new(PassInputs::tensors(extents.len()))?;
    let inputs = PassInputs::new(&context, extents)?;
    let memory = model.placement.devices()[0].buffer_type();
    let buffer = context.place(allocation, memory, "the inputs of a pass", ADVICE)?;
    usage.add(memory, Purpose::Compute, buffer.size());
    Ok(inputs)
}

/// Whether hidden keys cost next to nothing and change no bit of a result: fused attention on the
/// CPU skips them.
fn skips_hidden_keys(model: &Model, choice: NodeChoice) -> bool {
    choice.flash && model.placement.is_cpu_only()
}

/// The number of keys per attention call is a multiple of this for up to `end` positions. Where
/// hidden keys are skipped, a power of two serves a prefix that grows to twice its length. Other
/// CPU kernels accept any number, and each key costs time. GPU kernels need multiples of 256: there
/// one graph serves a prefix that grows by up to an eighth, because each new graph has to be
/// captured again.
fn key_unit(model: &Model, choice: NodeChoice, end: usize) -> usize {
    let power = end.next_power_of_two();
    if skips_hidden_keys(model, choice) {
        SLOT_UNIT.max(power)
    } else if model.placement.is_cpu_only() {
        32
    } else {
        SLOT_UNIT.max(power / 16)
    }
}

/// Keys that a pass reads if it stores `tokens` tokens after the cached ones.
pub(super) fn keys(model: &Model, choice: NodeChoice, cache: &KvCache, tokens: usize) -> KeyCounts {
    keys_up_to(model, choice, cache, cache.tokens().len() + tokens)
}

/// Keys that a pass reads if its last token is before position `end`.
pub(super) fn keys_up_to(
    model: &Model,
    choice: NodeChoice,
    cache: &KvCache,
    end: usize,
) -> KeyCounts {
    let unit = key_unit(model, choice, end);
    KeyCounts {
        full: cache.layout(LayerKind::Full).used(end, unit),
        sliding: cache.layout(LayerKind::Sliding).used(end, unit),
    }
}

/// Whether a pass that was built for `built` keys also serves `needed` ones. Of the keys that are
/// skipped, masks still take memory and time to read.
pub(super) fn serves(
    model: &Model,
    choice: NodeChoice,
    built: KeyCounts,
    needed: KeyCounts,
) -> bool {
    let within = |built: usize, needed: usize| (needed..=4 * needed).contains(&built);
    built == needed
        || skips_hidden_keys(model, choice)
            && within(built.full, needed.full)
            && within(built.sliding, needed.sliding)
}

impl Pass {
    /// Writes the positions of the next tokens of a sequence and what they see; `mask` makes the
    /// mask of a layout over this number of keys. After each `run` tokens the positions begin again.
    /// This stays the same for all steps of a canvas.
    pub(super) fn upload_positions(
        &self,
        sequence: usize,
        cache: &KvCache,
        run: usize,
        mask: impl Fn(KeyLayout, usize) -> Vec<u16>,
    ) -> Result<()> {
        let start = cache.tokens().len();
        let inputs = &self.inputs.sequences[sequence];
        let range = start..start + inputs.tokens;
        let position = |index: usize| (start + index % run) as i32;
        let positions: Vec<i32> = (0..inputs.tokens).map(position).collect();
        self.inputs
            .positions
            .write(inputs.first * size_of::<i32>(), &positions)?;
        for (kind, inputs) in [
            (LayerKind::Full, &inputs.full),
            (LayerKind::Sliding, &inputs.sliding),
        ] {
            upload_keys(inputs, cache.layout(kind), range.clone(), &mask)?;
        }
        Ok(())
    }
}

fn upload_keys(
    inputs: &CacheInputs,
    layout: KeyLayout,
    positions: Range<usize>,
    mask: impl Fn(KeyLayout, usize) -> Vec<u16>,
) -> Result<()> {
    let rows: Vec<i64> = positions.map(|p| layout.slot(p) as i64).collect();
    inputs.rows.write(0, &rows)?;
    inputs.mask.write(0, &mask(layout, inputs.keys))
}
