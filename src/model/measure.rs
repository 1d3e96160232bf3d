//! What a sequence needs at the full context, computed without allocating it.

use super::Model;
use super::graph::{self, Extent, Network, NodeChoice, Predicted};
use super::memory::Usage;
use super::params::DenoiserParams;
use super::pass::{allocate_inputs, keys_up_to};
use super::sequence::{SOFTENER_NODES, allocate_cache, allocate_state, mixtures};
use crate::error::Result;
use crate::ggml::buffer::Allocation;
use crate::ggml::compute::{Backends, Graph, measure};

/// The KV cache, the canvas, and the graphs with their inputs. The model's weights need a
/// placement, but no memory.
pub(super) fn sequence(
    model: &Model,
    params: &DenoiserParams,
    backends: &Backends,
    choice: NodeChoice,
) -> Result<Usage> {
    let hparams = model.hparams();
    let cache = allocate_cache(model, params, Allocation::Measured)?;
    let mut usage = cache.usage().clone();
    let state = allocate_state(model, Allocation::Measured, &mut usage)?;
    for mixture in mixtures(choice.kernels) {
        let describe =
            |graph: &Graph| graph::soften(graph, hparams, &model.weights, &state, *mixture);
        usage.add_graphs(measure(backends, SOFTENER_NODES, describe)?);
    }

    let keys = keys_up_to(model, choice, &cache, params.context);
    for (tokens, is_prefill) in [(params.pass(), true), (hparams.canvas_length, false)] {
        let extent = Extent { tokens, keys };
        let inputs = allocate_inputs(model, &[extent], Allocation::Measured, &mut usage)?;
        let describe = |graph: &Graph| {
            let network = Network {
                graph,
                hparams,
                weights: &model.weights,
                caches: &[&cache],
                inputs: &inputs,
                choice,
            };
            match is_prefill {
                true => network.encode(Predicted::None).map(drop),
                false => network.denoise(&[&state]).map(drop),
            }
        };
        usage.add_graphs(measure(backends, graph::capacity(hparams, 1), describe)?);
    }
    Ok(usage)
}
