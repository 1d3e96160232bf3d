//! Self-conditioning's product: rows of a table of embeddings, mixed with the weights of tokens.
//! `dense` multiplies all rows, `sparse` those of the tokens that matter.

mod dense;
mod sparse;
#[cfg(test)]
mod tests;

use super::super::tensor::Tensor;
use super::stored::is_readable;
use crate::error::{Error, Result};
use crate::gguf::TensorType;

#[cfg(test)]
pub(super) use sparse::for_each_above;

/// The shape `[d, positions]` of a mixture of the rows of `table [d, vocab]`, of any type, by F32
/// `weights [vocab, positions]`.
///
/// # Errors
/// The kernel `name` cannot mix them.
fn shape(name: &str, table: &Tensor, weights: &Tensor) -> Result<[usize; 2]> {
    let ([d, vocab, ..], [width, positions, ..]) = (table.ne(), weights.ne());
    let plain = weights.is(TensorType::F32) && weights.is_contiguous();
    let readable = table.ty().is_some_and(is_readable);
    if !plain || !readable || !table.is_contiguous() || width != vocab {
        return Err(Error::Ggml(format!(
            "{name}: {} and {} do not fit",
            table.label(),
            weights.label()
        )));
    }
    Ok([d, positions])
}
