//! Which kind of memory holds each tensor.

use super::super::file::ModelFile;
use super::super::keys;
use super::super::placement::Placement;
use super::super::tensors::Located;
use crate::error::{Error, Result};
use crate::ggml::context::Context;
use crate::ggml::device::{BufferType, Device};
use crate::ggml::kernels::products::Instructions;
use crate::gguf::TensorType;
use crate::parameter::Parameter;

/// Where a tensor is placed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Memory {
    /// In the mapped file of a part.
    Mapped(usize),
    /// In a buffer of this type.
    Buffer(BufferType),
}

impl Memory {
    /// Whether the CPU reads it directly.
    pub(super) fn is_host(self) -> bool {
        match self {
            Self::Mapped(_) => true,
            Self::Buffer(memory) => memory.is_host(),
        }
    }
}

/// Chooses the memory of each tensor.
pub(super) struct Chooser<'a> {
    file: &'a ModelFile,
    placement: &'a Placement,
    /// Memory in which the CPU multiplies some types faster, the best first.
    cpu_extra: Vec<BufferType>,
    use_mmap: bool,
}

/// Tokens of the pass that operations are probed with: a typical prefill.
const PROBE_TOKENS: usize = 256;

impl<'a> Chooser<'a> {
    pub(super) fn new(
        file: &'a ModelFile,
        placement: &'a Placement,
        use_mmap: bool,
    ) -> Result<Self> {
        let cpu = placement.cpu();
        Ok(Self {
            file,
            placement,
            cpu_extra: cpu.extra_buffer_types(),
            use_mmap: use_mmap && cpu.takes_host_pointers(),
        })
    }

    /// The first memory in which the device of the tensor supports what the graphs do with it; the
    /// CPU's, which supports everything, is the last. The user's choice takes precedence.
    pub(super) fn choose(&self, tensor: &Located, operation: Operation) -> Result<Memory> {
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
                return Err(Error::parameter(Parameter::Overrides, problem));
            }
            return Ok(self.settle(tensor, memory));
        }
        let device = self.placement.device_of(tensor.layer, is_expert(tensor));
        let mut candidates = Vec::new();
        if device != cpu {
            candidates.push((device, device.buffer_type()));
        }
        if operation.is_product() && !self.is_read_as_stored(tensor, operation) {
            candidates.extend(self.cpu_extra.iter().map(|memory| (cpu, *memory)));
        }
        for (device, memory) in candidates {
            if self.probe(tensor, device, memory, operation)? {
                return Ok(self.settle(tensor, memory));
            }
        }
        Ok(self.settle(tensor, cpu.buffer_type()))
    }

    /// Whether a tensor in host memory is read as the file has it: by our kernels, or by a GPU that computes
    /// with a copy.
    fn is_read_as_stored(&self, tensor: &Located, operation: Operation) -> bool {
        let (ty, k) = (tensor.info.ty, tensor.info.shape[0]);
        match operation {
            Operation::ExpertProduct => {
                self.placement.may_offload() || Instructions::of_experts(ty, k).is_some()
            }
            Operation::Product => {
                self.placement.is_cpu_only() && Instructions::of_dense(ty, k).is_some()
            }
            Operation::Lookup | Operation::Scale => true,
        }
    }

    fn settle(&self, tensor: &Located, memory: BufferType) -> Memory {
        let part = &self.file.parts()[tensor.part];
        // Kernels read aligned values; files without this key have this alignment.
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
        Ok(node.runs_on_with(device, &weight, memory))
    }
}

/// Alignment of mapped weights, in bytes.
const MAPPED_ALIGNMENT: usize = 32;

/// What the graphs do with a weight.
#[derive(Clone, Copy)]
pub(super) enum Operation {
    Lookup,
    Product,
    ExpertProduct,
    Scale,
}

impl Operation {
    fn is_product(self) -> bool {
        matches!(self, Self::Product | Self::ExpertProduct)
    }

    pub(super) fn of(tensor: &Located) -> Self {
        if is_expert(tensor) {
            Self::ExpertProduct
        } else if tensor.info.shape[1] > 1 {
            Self::Product
        } else {
            Self::Scale
        }
    }
}

pub(crate) fn is_expert(tensor: &Located) -> bool {
    tensor.info.name.contains(&keys::weight(keys::EXPERTS))
}
