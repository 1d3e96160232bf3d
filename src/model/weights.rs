//! The weights where they are used: in the mapped file, or copied to a device.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::chooser::{Chooser, Memory, Operation, is_expert};
use super::computed::Computed;
use super::file::ModelFile;
use super::hparams::Hparams;
use super::memory::{Purpose, Usage};
use super::params::ModelParams;
use super::placement::Placement;
use super::tensors::{Located, TensorTable};
use crate::error::{Error, Result};
use crate::ggml::buffer::{Allocation, Buffer};
use crate::ggml::context::Context;
use crate::ggml::convert::is_finite;
use crate::ggml::device::{BufferType, Device};
use crate::ggml::tensor::Tensor;
use crate::ggml::upload::Uploader;
use crate::gguf::TensorType;

/// The weights of a model as tensors, and what is computed from them once.
pub(crate) struct Weights {
    /// The tensors of the file.
    pub(crate) table: TensorTable<Tensor>,
    /// The output head, `[d, vocab]`: a tensor of its own or the embeddings.
    pub(crate) output: Tensor,
    /// Tensors that are not in the file.
    pub(crate) computed: Computed,
    /// What they take.
    pub(crate) usage: Usage,
    /// Buffer types that hold weights which products read, by the type of the weights.
    memories: HashMap<TensorType, BufferType>,
}

/// Hears how much of the model is loaded, from 0 to 1, and may stop it.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(f32) -> ControlFlow<()>;

/// What weights are made of.
pub(crate) struct Source<'a> {
    pub(crate) file: &'a ModelFile,
    pub(crate) hparams: &'a Hparams,
    pub(crate) located: &'a TensorTable<Located>,
    pub(crate) placement: &'a Placement,
    pub(crate) params: &'a ModelParams,
}

impl Weights {
    /// The weights without memory: graphs that read them can be measured, not computed.
    pub(crate) fn describe(source: &Source<'_>) -> Result<Self> {
        Self::new(source, None)
    }

    /// Loads the weights.
    pub(crate) fn load(source: &Source<'_>, progress: Progress<'_>) -> Result<Self> {
        Self::new(source, Some(progress))
    }

    /// With memory and values if there is a progress callback.
    fn new(source: &Source<'_>, progress: Option<Progress<'_>>) -> Result<Self> {
        let (file, placement) = (source.file, source.placement);
        let chooser = Chooser::new(file, placement, !source.params.no_mmap)?;
        let mut plan = Plan::default();
        // The embeddings are looked up, and multiplied with as the head unless there is one.
        let embd = source.located.token_embd.clone();
        let embd_memory = chooser.choose(&embd, Operation::Lookup)?;
        let head = source
            .located
            .output
            .clone()
            .unwrap_or_else(|| embd.clone());
        let head_memory = chooser.choose(&head, Operation::Product)?;

        let mut tensors = HashMap::new();
        let table = source.located.clone().try_map(&mut |tensor| {
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

        let allocation = match progress {
            Some(_) => Allocation::Real,
            None => Allocation::Measured,
        };
        let mut usage = Usage::default();
        let (tensors, buffers) = plan.place(file, placement.cpu(), allocation, &mut usage)?;
        if let Some(progress) = progress {
            plan.fill(&tensors, file, source.params.check_tensors, progress)?;
            if source.params.lock {
                plan.lock(&buffers, file);
            }
        }
        let table = table.try_map(&mut |index| Ok::<_, Error>(tensors[index].clone()))?;
        Ok(Self {
            output: tensors[output].clone(),
            table,
            computed: Computed::new(
                file,
                source.hparams,
                placement,
                &embd,
                allocation,
                &mut usage,
            )?,
            usage,
            memories: plan.memories(),
        })
    }

    /// The kind of memory that holds most copied weights of this type; mapped ones have none of
    /// their own.
    pub(crate) fn memory_of(&self, ty: TensorType) -> Option<BufferType> {
        self.memories.get(&ty).copied()
    }
}

/// Tensors and their memories, before any is had.
#[derive(Default)]
struct Plan {
    items: Vec<(Memory, Located)>,
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

    /// Describes the tensors, one arena for each memory, and gives them their places there.
    fn place(
        &self,
        file: &ModelFile,
        cpu: Device,
        allocation: Allocation,
        usage: &mut Usage,
    ) -> Result<(Vec<Tensor>, Vec<Arc<Buffer>>)> {
        let mut memories: Vec<Memory> = Vec::new();
        for (memory, _) in &self.items {
            if !memories.contains(memory) {
                memories.push(*memory);
            }
        }
        let mut tensors: Vec<Option<Tensor>> = vec![None; self.items.len()];
        let mut buffers = Vec::new();
        for memory in &memories {
            let members = || {
                let items = self.items.iter().enumerate();
                items.filter(|(_, (m, _))| m == memory)
            };
            let context = Context::new(members().count())?;
            for (i, (_, located)) in members() {
                let info = &located.info;
                tensors[i] = Some(context.tensor(info.ty, &info.shape, &info.name)?);
            }
            let sizes = members().map(|(_, (_, located))| (located, located.info.range.len()));
            let of_experts = |(located, _): &(&Located, usize)| is_expert(located);
            let experts: usize = sizes.filter(of_experts).map(|(_, bytes)| bytes).sum();
            match memory {
                Memory::Buffer(buffer_type) => {
                    let advice = "use a smaller quantization, or put fewer layers on this device (-ngl, --n-cpu-moe)";
                    let buffer = context.place(allocation, *buffer_type, "the weights", advice)?;
                    buffer.mark_weights();
                    let dense = buffer.size().saturating_sub(experts);
                    usage.add(*buffer_type, Purpose::Dense, dense);
                    usage.add(*buffer_type, Purpose::Experts, buffer.size() - dense);
                    buffers.push(buffer);
                }
                Memory::Mapped(part) => {
                    let mapping = file.parts()[*part].mapping();
                    let mapping =
                        mapping.ok_or_else(|| Error::Ggml("a part is not mapped".into()))?;
                    let sizes = || members().map(|(_, (_, t))| t.info.range.len());
                    let buffer = cpu.map(mapping, sizes().max().unwrap_or(0))?;
                    buffer.mark_weights();
                    context.keep(&buffer);
                    for (i, (_, located)) in members() {
                        if let Some(tensor) = &tensors[i] {
                            tensor.place_in(&buffer, located.info.range.start)?;
                        }
                    }
                    let all: usize = sizes().sum();
                    usage.add_mapped(cpu, Purpose::Dense, all - experts);
                    usage.add_mapped(cpu, Purpose::Experts, experts);
                }
            }
        }
        let tensors: Option<Vec<Tensor>> = tensors.into_iter().collect();
        let tensors = tensors.ok_or_else(|| Error::Ggml("a tensor was planned nowhere".into()))?;
        Ok((tensors, buffers))
    }

    /// Copies the values of the tensors that do not use the mapped file.
    fn fill(
        &self,
        tensors: &[Tensor],
        file: &ModelFile,
        check_all: bool,
        progress: Progress<'_>,
    ) -> Result<()> {
        let total: usize = self.items.iter().map(|(_, t)| t.info.range.len()).sum();
        let mut done = 0;
        let mut uploaders: HashMap<BufferType, Option<Uploader>> = HashMap::new();
        for (memory, _) in &self.items {
            if let Memory::Buffer(memory) = memory
                && !uploaders.contains_key(memory)
            {
                uploaders.insert(*memory, Uploader::new(*memory)?);
            }
        }
        for ((memory, located), tensor) in self.items.iter().zip(tensors) {
            let range = &located.info.range;
            let buffer_type = match memory {
                Memory::Buffer(buffer_type) => Some(buffer_type),
                Memory::Mapped(_) => None,
            };
            let part = &file.parts()[located.part];
            // Norms and scalars cost nothing to check, and quantized products may hide their NaNs.
            let check = check_all || located.info.shape[1..] == [1; 3];
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
        uploaders.values().flatten().try_for_each(Uploader::finish)
    }

    /// Keeps the weights from being swapped out.
    fn lock(&self, buffers: &[Arc<Buffer>], file: &ModelFile) {
        for buffer in buffers {
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
}

/// Weights that could not be locked still work.
fn warn_unless_locked(locked: std::io::Result<()>) {
    if let Err(error) = locked {
        tracing::warn!(
            "--mlock: the system does not lock the weights in memory (`ulimit -l` says how much it locks): {error}"
        );
    }
}
