//! What the products for benchmarks share.

use std::sync::Arc;

use crate::error::Result;
use crate::ggml::compute::Executor;
use crate::ggml::context::Context;
use crate::ggml::device::Device;
use crate::ggml::tensor::Tensor;

pub(super) const WHAT: &str = "measuring a product";
pub(super) const ADVICE: &str = "free some memory";
/// Room for the nodes of a product.
pub(super) const NODES: usize = 8;

/// Computes the product that `describe` makes, on the CPU.
pub(super) fn executor(
    threads: usize,
    describe: impl Fn(&Context) -> Result<Tensor>,
) -> Result<Executor> {
    let backends = Arc::new(vec![Device::cpu()?.backend(threads)?].into());
    let mut executor = Executor::new(&backends, NODES, "measurement")?;
    executor.load(
        |graph| {
            graph.add(&describe(graph.context())?);
            Ok(())
        },
        ADVICE,
    )?;
    Ok(executor)
}
