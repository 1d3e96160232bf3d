//! Places the weights, and fills them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::file::ModelFile;
use super::super::memory::{Purpose, Usage};
use super::super::tensors::Located;
use super::choose_memory::{Memory, is_expert};
use crate::error::{Error, Result};
use crate::ggml::buffer::{Allocation, Buffer};
use crate::ggml::context::Context;
use crate::ggml::convert::is_finite;
use crate::ggml::device::{BufferType, Device};
use crate::ggml::tensor::Tensor;
use crate::ggml::upload::Uploader;
use crate::gguf::{Gguf, TensorType};

/// Is called with the fraction loaded (0 to 1), and may cancel.
pub(crate) type LoadProgress<'a> = &'a mut dyn FnMut(f32) -> ControlFlow<()>;

/// Tensors and their memories, before anything is allocated.
#[derive(Default)]
pub(super) struct LoadPlan {
    items: Vec<(Memory, Located)>,
}

impl LoadPlan {
    /// For each type of weights the buffer type that holds most of them. Experts are not counted:
    /// our kernels read them as they are, where ggml rearranges other weights.
    pub(super) fn memories(&self) -> HashMap<TensorType, BufferType> {
        let mut bytes: HashMap<(TensorType, BufferType), usize> = HashMap::new();
        for (memory, tensor) in &self.items {
            if let Memory::Buffer(memory) = memory
                && !is_expert(tensor)
            {
                *bytes.entry((tensor.info.ty, *memory)).or_default() += tensor.info.range.len();
            }
        }
        let mut by_size: Vec<_> = bytes.into_iter().collect();
        by_size.sort_by_key(|(_, bytes)| *bytes);
        by_size.into_iter().map(|(key, _)| key).collect()
    }

    pub(super) fn add(&mut self, memory: Memory, tensor: Located) -> usize {
        self.items.push((memory, tensor));
        self.items.len() - 1
    }

    /// Describes the tensors, one arena for each memory, and places them there.
    pub(super) fn place(
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
            let members: Vec<(usize, &Located)> = self
                .items
                .iter()
                .enumerate()
                .filter(|(_, (m, _))| m == memory)
                .map(|(i, (_, located))| (i, located))
                .collect();
            let context = Context::new(members.len())?;
            let described: Vec<(Tensor, &Located)> = members
                .iter()
                .map(|(_, located)| {
                    let info = &located.info;
                    Ok((context.tensor(info.ty, &info.shape, &info.name)?, *located))
                })
                .collect::<Result<_>>()?;
            match memory {
                Memory::Buffer(ty) => {
                    buffers.push(place_copies(&context, &described, *ty, allocation, usage)?);
                }
                Memory::Mapped(part) => {
                    let part = &file.parts()[*part];
                    place_mapped(&context, &described, part, cpu, usage)?;
                }
            }
            for ((i, _), (tensor, _)) in members.iter().zip(described) {
                tensors[*i] = Some(tensor);
            }
        }
        let tensors: Option<Vec<Tensor>> = tensors.into_iter().collect();
        let tensors = tensors.ok_or_else(|| Error::Ggml("a tensor was planned nowhere".into()))?;
        Ok((tensors, buffers))
    }

    /// Copies the values of the tensors that do not use the mapped file.
    pub(super) fn fill(
        &self,
        tensors: &[Tensor],
        file: &ModelFile,
        check_all: bool,
        progress: LoadProgress<'_>,
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
                        // All at once: memory that rearranges weights does not accept pieces.
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

    /// Locks the weights in memory.
    pub(super) fn lock(&self, buffers: &[Arc<Buffer>], file: &ModelFile) {
        for buffer in buffers {
            warn_unless_locked(buffer.lock());
        }
        let mut in_place = self
            .items
            .iter()
            .filter(|(memory, _)| matches!(memory, Memory::Mapped(_)));
        // If one lock fails, the others will fail too: one warning is enough.
        warn_unless_locked(in_place.try_for_each(|(_, located)| {
            let mapping = file.parts()[located.part].mapping();
            mapping.map_or(Ok(()), |mapping| mapping.lock(located.info.range.clone()))
        }));
    }
}

/// Bytes of the experts among tensors, and of all tensors.
fn sizes(tensors: &[(Tensor, &Located)]) -> (usize, usize) {
    let bytes = |(_, located): &(Tensor, &Located)| located.info.range.len();
    let experts = tensors.iter().filter(|(_, located)| is_expert(located));
    (experts.map(bytes).sum(), tensors.iter().map(bytes).sum())
}

/// Places tensors in a buffer of their own.
fn place_copies(
    context: &Context,
    tensors: &[(Tensor, &Located)],
    ty: BufferType,
    allocation: Allocation,
    usage: &mut Usage,
) -> Result<Arc<Buffer>> {
    let advice =
        "use a smaller quantization, or put less on this device (`gpu_layers`, `cpu_moe_layers`)";
    let buffer = context.place(allocation, ty, "the weights", advice)?;
    buffer.mark_weights();
    let (experts, _) = sizes(tensors);
    let dense = buffer.size().saturating_sub(experts);
    usage.add(ty, Purpose::Dense, dense);
    usage.add(ty, Purpose::Experts, buffer.size() - dense);
    Ok(buffer)
}

/// Places tensors in the mapped file.
fn place_mapped(
    context: &Context,
    tensors: &[(Tensor, &Located)],
    part: &Gguf,
    cpu: Device,
    usage: &mut Usage,
) -> Result<()> {
    let mapping = part.mapping();
    let mapping = mapping.ok_or_else(|| Error::Ggml("a part is not mapped".into()))?;
    let lengths = tensors.iter().map(|(_, located)| located.info.range.len());
    let buffer = cpu.map(mapping, lengths.max().unwrap_or(0))?;
    buffer.mark_weights();
    context.keep(&buffer);
    for (tensor, located) in tensors {
        tensor.place_in(&buffer, located.info.range.start)?;
    }
    let (experts, all) = sizes(tensors);
    usage.add_mapped(cpu, Purpose::Dense, all - experts);
    usage.add_mapped(cpu, Purpose::Experts, experts);
    Ok(())
}

/// Weights that could not be locked still work.
fn warn_unless_locked(locked: std::io::Result<()>) {
    if let Err(error) = locked {
        tracing::warn!(
            "the system does not lock the weights in memory (`ulimit -l` says how much it locks): {error}"
        );
    }
}
