//! The weights where they are used: in the mapped file, or copied to a device.

use std::collections::HashMap;
use std::ops::ControlFlow;

use half::{bf16, f16};

use super::file::ModelFile;
use super::hparams::{Hparams, LayerKind};
use super::params::ModelParams;
use super::placement::{OVERRIDE, Placement};
use super::tensors::{Located, TensorTable};
use crate::error::{Error, Result};
use crate::ggml::backend::{BufferType, Device};
use crate::ggml::convert::{is_finite, to_f32};
use crate::ggml::tensor::{Context, Tensor};
use crate::ggml::types::TensorType;
use crate::ggml::upload::Uploader;
use crate::parallel;

/// The weights of a model as tensors with memory, and what is computed from them once.
pub(crate) struct Weights {
    /// The tensors of the file.
    pub(crate) table: TensorTable<Tensor>,
    /// The output head, `[d, vocab]`: a tensor of its own or the embeddings.
    pub(crate) output: Tensor,
    /// The embeddings with the vocabulary along rows, `[vocab, d]`: what probabilities are
    /// multiplied with. F32 if the embeddings are or on ARM, else F16, or BF16 on GPUs.
    pub(crate) embd_transposed: Tensor,
    /// Per layer, F32 `[rope_dims / 2]`: what positions are divided by.
    pub(crate) rope_divisors: Vec<Tensor>,
    /// Per layer, F32 `[d]`: the scale of the router's input with its constant `1 / sqrt(d)`.
    pub(crate) router_scale: Vec<Tensor>,
    /// Bytes copied to devices, and bytes used in the mapped file.
    pub(crate) copied_bytes: usize,
    pub(crate) mapped_bytes: usize,
    /// Buffer types that hold weights which products read, by the type of the weights.
    memories: HashMap<TensorType, BufferType>,
}

/// Where a tensor will lie.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Memory {
    /// In the mapped file of a part.
    Mapped(usize),
    /// In a buffer of this type.
    Buffer(BufferType),
}

/// Hears how much of the model is loaded, from 0 to 1, and may stop it.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(f32) -> ControlFlow<()>;

impl Weights {
    /// Loads what the table locates.
    pub(crate) fn load(
        file: &ModelFile,
        hparams: &Hparams,
        located: TensorTable<Located>,
        placement: &Placement,
        params: &ModelParams,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let chooser = Chooser::new(file, placement, !params.no_mmap)?;
        let mut plan = Plan::default();
        // The embeddings are looked up, and multiplied with as the head unless there is one.
        let embd = located.token_embd.clone();
        let embd_memory = chooser.choose(&embd, Operation::Lookup)?;
        let head = located.output.clone().unwrap_or_else(|| embd.clone());
        let head_memory = chooser.choose(&head, Operation::Product)?;

        let mut tensors = HashMap::new();
        let table = located.try_map(&mut |tensor| {
            let memory = match &tensor {
                t if t.info.name == embd.info.name => embd_memory,
                t if t.info.name == head.info.name => head_memory,
                t => chooser.choose(t, Operation::of(t))?,
            };
            let name = tensor.info.name.clone();
            let index = plan.add(memory, tensor);
            tensors.insert(name, index);
            Ok::<usize, Error>(index)
        })?;
        let output = if head_memory == embd_memory || head.info.name != embd.info.name {
            tensors[&head.info.name]
        } else {
            plan.add(head_memory, head)
        };

        let mut loaded = plan.load(file, placement.cpu(), params, progress)?;
        let table = table.try_map(&mut |index| Ok::<_, Error>(loaded.tensors[index].clone()))?;
        let computed = Computed::new(file, hparams, placement, &embd)?;
        loaded.copied += computed.bytes;
        Ok(Self {
            output: loaded.tensors[output].clone(),
            table,
            embd_transposed: computed.embd_transposed,
            rope_divisors: computed.rope_divisors,
            router_scale: computed.router_scale,
            copied_bytes: loaded.copied,
            mapped_bytes: loaded.mapped,
            memories: loaded.memories,
        })
    }

    /// The kind of memory that holds most copied weights of this type; mapped ones have none of
    /// their own.
    pub(crate) fn memory_of(&self, ty: TensorType) -> Option<BufferType> {
        self.memories.get(&ty).copied()
    }
}

/// Chooses the memory of each tensor.
struct Chooser<'a> {
    file: &'a ModelFile,
    placement: &'a Placement,
    /// Memory in which the CPU multiplies some types faster, the best first.
    cpu_extra: Vec<BufferType>,
    use_mmap: bool,
}

/// Tokens of the pass that operations are probed with: a typical prefill.
const PROBE_TOKENS: usize = 256;

impl<'a> Chooser<'a> {
    fn new(file: &'a ModelFile, placement: &'a Placement, use_mmap: bool) -> Result<Self> {
        let cpu = placement.cpu();
        Ok(Self {
            file,
            placement,
            cpu_extra: cpu.extra_buffer_types(),
            use_mmap: use_mmap && cpu.takes_host_pointers(),
        })
    }

    /// The first memory in which the device of the tensor can do what the graphs do with it; the
    /// CPU's, which can do everything, is the last. What the user wants comes before all.
    fn choose(&self, tensor: &Located, operation: Operation) -> Result<Memory> {
        let cpu = self.placement.cpu();
        let name = &tensor.info.name;
        if let Some(device) = self.placement.overridden(name) {
            let memory = device.buffer_type();
            if device != cpu && !self.probe(tensor, device, memory, operation)? {
                let problem = format!(
                    "{} cannot use '{name}' of type {}",
                    device.name(),
                    tensor.info.ty
                );
                return Err(Error::parameter(OVERRIDE, problem));
            }
            return Ok(self.settle(tensor, memory));
        }
        let device = self.placement.device_of(tensor.layer, is_expert(tensor));
        let mut candidates = Vec::new();
        if device != cpu {
            candidates.push((device, device.buffer_type()));
        }
        if operation.is_product() {
            candidates.extend(self.cpu_extra.iter().map(|memory| (cpu, *memory)));
        }
        for (device, memory) in candidates {
            if self.probe(tensor, device, memory, operation)? {
                return Ok(self.settle(tensor, memory));
            }
        }
        Ok(self.settle(tensor, cpu.buffer_type()))
    }

    fn settle(&self, tensor: &Located, memory: BufferType) -> Memory {
        let part = &self.file.parts()[tensor.part];
        // Kernels read aligned values; files that say nothing have this alignment.
        let mapped = self.use_mmap
            && memory == self.placement.cpu().buffer_type()
            && part.mapping().is_some()
            && part.alignment().is_multiple_of(MAPPED_ALIGNMENT);
        if mapped {
            Memory::Mapped(tensor.part)
        } else {
            Memory::Buffer(memory)
        }
    }

    fn probe(
        &self,
        tensor: &Located,
        device: Device,
        memory: BufferType,
        operation: Operation,
    ) -> Result<bool> {
        let ctx = Context::new(8)?;
        let weight = ctx.tensor(tensor.info.ty, &tensor.info.shape, "weight")?;
        let [row, width, ..] = weight.ne();
        let node = match operation {
            Operation::Lookup => {
                let rows = ctx.tensor(TensorType::I32, &[PROBE_TOKENS], "rows")?;
                ctx.get_rows(&weight, &rows)?
            }
            Operation::Product => {
                let input = ctx.tensor(TensorType::F32, &[row, PROBE_TOKENS], "input")?;
                ctx.mul_mat(&weight, &input)?
            }
            Operation::ExpertProduct => {
                let input = ctx.tensor(TensorType::F32, &[row, 1, PROBE_TOKENS], "input")?;
                let chosen = ctx.tensor(TensorType::I32, &[1, PROBE_TOKENS], "chosen")?;
                ctx.mul_mat_id(&weight, &input, &chosen)?
            }
            Operation::Scale => {
                let input = ctx.tensor(TensorType::F32, &[row, width, PROBE_TOKENS], "input")?;
                ctx.mul(&input, &weight)?
            }
        };
        Ok(memory.supports(device, &weight, &node))
    }
}

/// Alignment of mapped weights, in bytes.
const MAPPED_ALIGNMENT: usize = 32;

/// What the graphs do with a weight.
#[derive(Clone, Copy)]
enum Operation {
    Lookup,
    Product,
    ExpertProduct,
    Scale,
}

impl Operation {
    fn is_product(self) -> bool {
        matches!(self, Self::Product | Self::ExpertProduct)
    }

    fn of(tensor: &Located) -> Self {
        if is_expert(tensor) {
            Self::ExpertProduct
        } else if tensor.info.shape[1] > 1 {
            Self::Product
        } else {
            Self::Scale
        }
    }
}

fn is_expert(tensor: &Located) -> bool {
    tensor.info.name.contains("_exps.weight")
}

/// Tensors and their memories, before any is had.
#[derive(Default)]
struct Plan {
    items: Vec<(Memory, Located)>,
}

struct Loaded {
    tensors: Vec<Tensor>,
    copied: usize,
    mapped: usize,
    memories: HashMap<TensorType, BufferType>,
}

impl Plan {
    /// For each type of weights the buffer type that holds most of them.
    fn memories(&self) -> HashMap<TensorType, BufferType> {
        let mut bytes: HashMap<(TensorType, BufferType), usize> = HashMap::new();
        for (memory, tensor) in &self.items {
            if let Memory::Buffer(memory) = memory {
                *bytes.entry((tensor.info.ty, *memory)).or_default() += tensor.info.range.len();
            }
        }
        let mut by_size: Vec<_> = bytes.into_iter().collect();
        by_size.sort_by_key(|(_, bytes)| *bytes);
        by_size.into_iter().map(|(key, _)| key).collect()
    }

    fn add(&mut self, memory: Memory, tensor: Located) -> usize {
        self.items.push((memory, tensor));
        self.items.len() - 1
    }

    /// Describes the tensors, one arena for each memory, gives them memory and fills it.
    fn load(
        self,
        file: &ModelFile,
        cpu: Device,
        params: &ModelParams,
        progress: Progress<'_>,
    ) -> Result<Loaded> {
        let mut memories: Vec<Memory> = Vec::new();
        for (memory, _) in &self.items {
            if !memories.contains(memory) {
                memories.push(*memory);
            }
        }
        let mut tensors: Vec<Option<Tensor>> = vec![None; self.items.len()];
        let (mut copied, mut mapped) = (0, 0);
        let mut buffers = Vec::new();
        for memory in &memories {
            let members = || {
                self.items
                    .iter()
                    .enumerate()
                    .filter(|(_, (m, _))| m == memory)
            };
            let context = Context::new(members().count())?;
            for (i, (_, located)) in members() {
                let info = &located.info;
                tensors[i] = Some(context.tensor(info.ty, &info.shape, &info.name)?);
            }
            match memory {
                Memory::Buffer(buffer_type) => {
                    let advice = "use a smaller quantization, or put fewer layers on this device (-ngl, --n-cpu-moe)";
                    let buffer = context.allocate(*buffer_type, "the weights", advice)?;
                    buffer.mark_weights();
                    copied += buffer.size();
                    buffers.push(buffer);
                }
                Memory::Mapped(part) => {
                    let mapping = file.parts()[*part].mapping();
                    let mapping =
                        mapping.ok_or_else(|| Error::Ggml("a part is not mapped".into()))?;
                    let largest = members()
                        .map(|(_, (_, t))| t.info.range.len())
                        .max()
                        .unwrap_or(0);
                    let buffer = cpu.map(mapping, largest)?;
                    buffer.mark_weights();
                    context.keep(&buffer);
                    for (i, (_, located)) in members() {
                        if let Some(tensor) = &tensors[i] {
                            buffer.place(tensor, located.info.range.start)?;
                            mapped += located.info.range.len();
                        }
                    }
                }
            }
        }
        let tensors: Option<Vec<Tensor>> = tensors.into_iter().collect();
        let tensors = tensors.ok_or_else(|| Error::Ggml("a tensor was planned nowhere".into()))?;

        let total: usize = self.items.iter().map(|(_, t)| t.info.range.len()).sum();
        let mut done = 0;
        let mut uploaders: HashMap<BufferType, Option<Uploader>> = HashMap::new();
        for memory in &memories {
            if let Memory::Buffer(memory) = memory {
                uploaders.insert(*memory, Uploader::new(*memory)?);
            }
        }
        for ((memory, located), tensor) in self.items.iter().zip(&tensors) {
            let range = &located.info.range;
            let buffer_type = match memory {
                Memory::Buffer(buffer_type) => Some(buffer_type),
                Memory::Mapped(_) => None,
            };
            let part = &file.parts()[located.part];
            // Norms and scalars cost nothing to check, and quantized products may hide their NaNs.
            let check = params.check_tensors || located.info.shape[1..] == [1; 3];
            if buffer_type.is_some() || check {
                let data = part.data(&located.info);
                if check && !is_finite(located.info.ty, &data) {
                    return Err(file.not_finite(&located.info.name));
                }
                if let Some(buffer_type) = buffer_type {
                    match uploaders.get_mut(buffer_type) {
                        Some(Some(uploader)) => uploader.write(tensor, &data)?,
                        // All at once: memory that rearranges weights takes no pieces.
                        _ => tensor.write(0, &data)?,
                    }
                    part.release(range.clone());
                }
            }
            done += range.len();
            if progress(done as f32 / total.max(1) as f32).is_break() {
                return Err(Error::Cancelled);
            }
        }
        drop(uploaders); // waits for all of them
        if params.lock {
            for buffer in &buffers {
                warn_unless_locked(buffer.lock());
            }
            let mut in_place = self
                .items
                .iter()
                .filter(|(memory, _)| matches!(memory, Memory::Mapped(_)));
            // What refuses one will refuse the others: one warning is enough.
            warn_unless_locked(in_place.try_for_each(|(_, located)| {
                let mapping = file.parts()[located.part].mapping();
                mapping.map_or(Ok(()), |mapping| mapping.lock(located.info.range.clone()))
            }));
        }
        Ok(Loaded {
            tensors,
            copied,
            mapped,
            memories: self.memories(),
        })
    }
}

/// Weights that could not be locked still work.
fn warn_unless_locked(locked: std::io::Result<()>) {
    if let Err(error) = locked {
        tracing::warn!(
            "--mlock: the system does not lock the weights in memory (`ulimit -l` says how much it locks): {error}"
        );
    }
}

/// Tensors that are not in the file but follow from it.
struct Computed {
    embd_transposed: Tensor,
    rope_divisors: Vec<Tensor>,
    router_scale: Vec<Tensor>,
    bytes: usize,
}

impl Computed {
    fn new(
        file: &ModelFile,
        hparams: &Hparams,
        placement: &Placement,
        embd: &Located,
    ) -> Result<Self> {
        let advice = "use a smaller quantization or fewer GPU layers (-ngl)";
        let context = Context::new(1)?;
        let ty = match embd.info.ty {
            TensorType::F32 => TensorType::F32,
            // GPUs may sum products with F16 in F16, which a sum over the vocabulary does not bear;
            // BF16 they sum in F32, and it is what the reference multiplies.
            _ if placement.output() != placement.cpu() => TensorType::BF16,
            // So do ARM's CPUs, and ggml has no fast product with BF16 there.
            _ if cfg!(target_arch = "aarch64") => TensorType::F32,
            _ => TensorType::F16,
        };
        let embd_transposed =
            context.tensor(ty, &[hparams.vocab_size, hparams.d], "embd_transposed")?;
        let buffer = context.allocate(
            placement.output().buffer_type(),
            "the transposed embeddings",
            advice,
        )?;
        buffer.mark_weights();
        transpose(file, embd, &embd_transposed)?;
        let mut bytes = buffer.size();

        let data = |name: &str| -> Result<Vec<f32>> {
            let (part, tensor) = file
                .tensor(name)
                .ok_or_else(|| file.tensor_error(name, "is missing"))?;
            let mut values = vec![0.0; tensor.info.shape.iter().product()];
            let data = file.parts()[part].data(tensor.info);
            to_f32(tensor.info.ty, &data, &mut values)?;
            Ok(values)
        };
        let rope_freqs = file
            .tensor(ROPE_FREQS)
            .map(|_| data(ROPE_FREQS))
            .transpose()?;
        let (mut rope_divisors, mut router_scale) = (Vec::new(), Vec::new());
        for (l, layer) in hparams.layers.iter().enumerate() {
            let divisors = divisors(
                layer.rope_base,
                layer.rope_dims,
                layer.kind,
                rope_freqs.as_deref(),
            );
            let mut scale = data(&format!("blk.{l}.ffn_gate_inp.scale"))?;
            let root = (hparams.d as f32).sqrt();
            scale.iter_mut().for_each(|s| *s /= root);

            let context = Context::new(2)?;
            let divisors_tensor =
                context.tensor(TensorType::F32, &[divisors.len()], "rope_divisors")?;
            let scale_tensor = context.tensor(TensorType::F32, &[scale.len()], "router_scale")?;
            let memory = placement.device_of(Some(l), false).buffer_type();
            let buffer = context.allocate(memory, "the weights", advice)?;
            buffer.mark_weights();
            bytes += buffer.size();
            divisors_tensor.write(0, &divisors)?;
            scale_tensor.write(0, &scale)?;
            rope_divisors.push(divisors_tensor);
            router_scale.push(scale_tensor);
        }
        Ok(Self {
            embd_transposed,
            rope_divisors,
            router_scale,
            bytes,
        })
    }
}

const ROPE_FREQS: &str = "rope_freqs.weight";

/// `base^(2i / dims)` for every pair i, times the file's factors on full layers.
fn divisors(base: f32, dims: usize, kind: LayerKind, factors: Option<&[f32]>) -> Vec<f32> {
    (0..dims / 2)
        .map(|i| {
            let divisor = f64::from(base).powf(2.0 * i as f64 / dims as f64);
            let factor = match (kind, factors) {
                (LayerKind::Sliding, _) => 1.0,
                (LayerKind::Full, Some(factors)) => {
                    f64::from(factors.get(i).copied().unwrap_or(1.0))
                }
                // The reference turns the first quarter of the pairs ("proportional" rotary embedding).
                (LayerKind::Full, None) if i < dims / 8 => 1.0,
                (LayerKind::Full, None) => f64::INFINITY,
            };
            (divisor * factor).min(f64::from(f32::MAX)) as f32
        })
        .collect()
}

/// Tokens that are transposed together.
const PANEL: usize = 1024;

/// Fills `to [vocab, d]` with the transposed embeddings.
fn transpose(file: &ModelFile, embd: &Located, to: &Tensor) -> Result<()> {
    let bytes = file.parts()[embd.part].data(&embd.info);
    let [d, vocab, ..] = embd.info.shape;
    let row = bytes.len() / vocab;
    let starts: Vec<usize> = (0..vocab).step_by(PANEL).collect();
    // Each thread holds two panels; memory is the limit after a few.
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
                let half = |v: &f32| match to.ty() {
                    Some(TensorType::BF16) => bf16::from_f32(*v).to_bits(),
                    _ => f16::from_f32(*v).to_bits(),
                };
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
        let sliding = divisors(1e4, 8, LayerKind::Sliding, Some(&[2.0; 4]));
        assert_eq!(sliding, [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(
            divisors(1e4, 8, LayerKind::Full, Some(&[1.0, 1e30, 1e30, 1e30])),
            [1.0, 1e31, 1e32, 1e33]
        );
        assert_eq!(
            divisors(1e4, 8, LayerKind::Full, None),
            [1.0, f32::MAX, f32::MAX, f32::MAX]
        );
    }
}
