//! The weights where they are used: in the mapped file, or copied to a device.

mod choose_memory;
mod derived;
mod load;

use std::collections::HashMap;

use super::file::ModelFile;
use super::hparams::Hparams;
use super::memory::Usage;
use super::params::ModelParams;
use super::placement::Placement;
use super::tensors::{Located, TensorTable};
use crate::error::{Error, Result};
use crate::ggml::buffer::Allocation;
use crate::ggml::device::BufferType;
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;
pub(super) use choose_memory::is_expert;
use choose_memory::{Chooser, Operation};
use derived::Derived;
pub(super) use derived::{DerivedLayer, transposed_type};
use load::{LoadPlan, LoadProgress};

/// The weights of a model as tensors, and what is computed from them once.
pub(crate) struct Weights {
    /// The tensors of the file.
    pub(crate) table: TensorTable<Tensor>,
    /// The output head, `[d, vocab]`: a tensor of its own or the embeddings.
    pub(crate) output: Tensor,
    /// Tensors that are not in the file.
    pub(crate) derived: Derived,
    /// The memory that they take.
    pub(crate) usage: Usage,
    /// Buffer types of weights that matrix products read, by the type of the weights.
    memories: HashMap<TensorType, BufferType>,
}

/// What weights are loaded from.
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
    pub(crate) fn load(source: &Source<'_>, progress: LoadProgress<'_>) -> Result<Self> {
        Self::new(source, Some(progress))
    }

    /// With memory and values if there is a progress callback.
    fn new(source: &Source<'_>, progress: Option<LoadProgress<'_>>) -> Result<Self> {
        let (file, placement) = (source.file, source.placement);
        let chooser = Chooser::new(file, placement, !source.params.no_mmap)?;
        let mut plan = LoadPlan::default();
        // The embeddings are looked up, and used as the output head unless there is one.
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
            derived: Derived::new(source, embd_memory, allocation, &mut usage)?,
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
