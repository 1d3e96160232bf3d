//! Tensors that are not in the file but are computed from it.

use half::bf16;

use super::super::file::ModelFile;
use super::super::hparams::{LayerHparams, LayerKind};
use super::super::memory::{Purpose, Usage};
use super::super::tensors::Located;
use super::Source;
use super::choose_memory::Memory;
use crate::error::Result;
use crate::ggml::buffer::Allocation;
use crate::ggml::context::Context;
use crate::ggml::convert::to_f32;
use crate::ggml::device::BufferType;
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;
use crate::parallel;

/// Tensors that are not in the file but are computed from it.
pub(crate) struct Derived {
    /// The embeddings with the vocabulary along rows, `[vocab, d]`, which self-conditioning
    /// multiplies by probabilities: F32 if the embeddings are, else BF16. `None` where our kernel
    /// multiplies the embeddings themselves.
    pub(crate) embd_transposed: Option<Tensor>,
    /// Layer by layer.
    pub(crate) layers: Vec<DerivedLayer>,
}

/// Those of a layer.
pub(crate) struct DerivedLayer {
    /// F32 `[rope_dims / 2]`: divisors of the positions.
    pub(crate) rope_divisors: Tensor,
    /// F32 `[d]`: the scale of the router's input times its constant `1 / sqrt(d)`.
    pub(crate) router_scale: Tensor,
}

impl Derived {
    /// Places them, with memory and values on request; `usage` counts them. `embd_memory` holds the
    /// embeddings.
    pub(super) fn new(
        source: &Source<'_>,
        embd_memory: Memory,
        allocation: Allocation,
        usage: &mut Usage,
    ) -> Result<Self> {
        let (file, hparams, placement) = (source.file, source.hparams, source.placement);
        let located = source.located;
        let mut place = |context: &Context, memory: BufferType, what: &str| -> Result<()> {
            let buffer = context.place(allocation, memory, what, ADVICE)?;
            buffer.mark_weights();
            usage.add(memory, Purpose::Dense, buffer.size());
            Ok(())
        };
        let embd = &located.token_embd;
        let mut embd_transposed = None;
        let on_host = placement.output() == placement.cpu() && embd_memory.is_host();
        // Models in F32 are references: their results stay those of ggml to the last bit.
        if !on_host || embd.info.ty == TensorType::F32 {
            let context = Context::new(1)?;
            let shape = [hparams.vocab_size, hparams.d];
            let table = context.tensor(transposed_type(embd.info.ty), &shape, "embd_transposed")?;
            let memory = placement.output().buffer_type();
            place(&context, memory, "the transposed embeddings")?;
            if allocation == Allocation::Real {
                transpose(file, embd, &table)?;
            }
            embd_transposed = Some(table);
        }

        let freqs = located.rope_freqs.as_ref();
        let freqs = freqs.map(|freqs| values(file, freqs)).transpose()?;
        let mut layers = Vec::new();
        for (l, (layer, tensors)) in hparams.layers.iter().zip(&located.layers).enumerate() {
            let context = Context::new(2)?;
            let derived = DerivedLayer::describe(&context, layer, hparams.d)?;
            let memory = placement.device_of(Some(l), false).buffer_type();
            place(&context, memory, "the weights")?;
            if allocation == Allocation::Real {
                let scale = values(file, &tensors.router_scale)?;
                derived.fill(layer, freqs.as_deref(), scale)?;
            }
            layers.push(derived);
        }
        Ok(Self {
            embd_transposed,
            layers,
        })
    }
}

impl DerivedLayer {
    fn describe(context: &Context, layer: &LayerHparams, d: usize) -> Result<Self> {
        let pairs = [layer.rope_dims / 2];
        Ok(Self {
            rope_divisors: context.tensor(TensorType::F32, &pairs, "rope_divisors")?,
            router_scale: context.tensor(TensorType::F32, &[d], "router_scale")?,
        })
    }

    /// `freqs` are the file's factors, `scale [d]` is that of the router's input.
    fn fill(&self, layer: &LayerHparams, freqs: Option<&[f32]>, mut scale: Vec<f32>) -> Result<()> {
        let (base, dims) = (layer.rope_base, layer.rope_dims);
        let divisors = rope_divisors_of(base, dims, layer.kind, freqs);
        self.rope_divisors.write(0, &divisors)?;
        let root = (scale.len() as f32).sqrt();
        scale.iter_mut().for_each(|s| *s /= root);
        self.router_scale.write(0, &scale)
    }
}

/// What to do if there is no memory for them.
const ADVICE: &str = "use a smaller quantization, or lower `gpu_layers`";

/// The type of the transposed embeddings. GPUs may sum products with F16 in F16, which is too
/// imprecise for a sum over the vocabulary; BF16 they sum in F32, and the reference multiplies BF16.
pub(crate) fn transposed_type(embd: TensorType) -> TensorType {
    match embd {
        TensorType::F32 => TensorType::F32,
        _ => TensorType::BF16,
    }
}

/// The values of a tensor of the file.
fn values(file: &ModelFile, located: &Located) -> Result<Vec<f32>> {
    let info = &located.info;
    let mut values = vec![0.0; info.shape.iter().product()];
    to_f32(info.ty, &file.parts()[located.part].data(info), &mut values)?;
    Ok(values)
}

/// `base^(2i / dims)` for every pair i, times the file's factors on full layers.
fn rope_divisors_of(base: f32, dims: usize, kind: LayerKind, factors: Option<&[f32]>) -> Vec<f32> {
    (0..dims / 2)
        .map(|i| {
            let divisor = f64::from(base).powf(2.0 * i as f64 / dims as f64);
            let factor = match (kind, factors) {
                (LayerKind::Sliding, _) => 1.0,
                (LayerKind::Full, Some(factors)) => {
                    f64::from(factors.get(i).copied().unwrap_or(1.0))
                }
                // The reference rotates the first quarter of the pairs ("proportional" rotary
                // embedding).
                (LayerKind::Full, None) if i < dims / 8 => 1.0,
                (LayerKind::Full, None) => f64::INFINITY,
            };
            (divisor * factor).min(f64::from(f32::MAX)) as f32
        })
        .collect()
}

/// Number of tokens that are transposed together.
const PANEL: usize = 1024;

/// Fills `to [vocab, d]` with the transposed embeddings.
fn transpose(file: &ModelFile, embd: &Located, to: &Tensor) -> Result<()> {
    let bytes = file.parts()[embd.part].data(&embd.info);
    let [d, vocab, ..] = embd.info.shape;
    let row = bytes.len() / vocab;
    let starts: Vec<usize> = (0..vocab).step_by(PANEL).collect();
    // Each thread holds two panels; a few threads saturate the memory.
    let threads = parallel::cores().min(8);
    let panel = |start: usize| -> Result<Vec<f32>> {
        let count = PANEL.min(vocab - start);
        let mut rows = vec![0.0; count * d];
        to_f32(
            embd.info.ty,
            &bytes[start * row..(start + count) * row],
            &mut rows,
        )?;
        let mut columns = vec![0.0; count * d];
        for (t, row) in rows.chunks_exact(d).enumerate() {
            for (i, value) in row.iter().enumerate() {
                columns[i * count + t] = *value;
            }
        }
        Ok(columns)
    };
    for batch in starts.chunks(threads) {
        let panels = parallel::map(batch, threads, |start| panel(*start));
        for (start, columns) in batch.iter().zip(panels) {
            let columns = columns?;
            let count = columns.len() / d;
            let stride = to.nb()[1];
            if to.is(TensorType::F32) {
                to.write_rows(4 * start, stride, count, &columns)?;
            } else {
                let half = |v: &f32| bf16::from_f32(*v).to_bits();
                let halves: Vec<u16> = columns.iter().map(half).collect();
                to.write_rows(2 * start, stride, count, &halves)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rope_divisors_follow_base_and_factors() {
        let sliding = rope_divisors_of(1e4, 8, LayerKind::Sliding, Some(&[2.0; 4]));
        assert_eq!(sliding, [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(
            rope_divisors_of(1e4, 8, LayerKind::Full, Some(&[1.0, 1e30, 1e30, 1e30])),
            [1.0, 1e31, 1e32, 1e33]
        );
        assert_eq!(
            rope_divisors_of(1e4, 8, LayerKind::Full, None),
            [1.0, f32::MAX, f32::MAX, f32::MAX]
        );
    }
}
