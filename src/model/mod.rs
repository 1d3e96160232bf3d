//! DiffusionGemma: the model file, its weights, its graphs, and the sequences that run on it.

mod any;
mod batch;
mod cache_rows;
mod counters;
mod decoder;
mod denoiser;
pub mod file;
mod fit;
mod graph;
pub(crate) mod hparams;
pub(crate) mod keys;
mod kv_cache;
mod kv_type;
pub(crate) mod mask;
pub mod masked;
mod measure;
mod memory;
mod params;
mod pass;
mod placement;
mod placing;
pub mod profile;
mod restrict;
mod score;
mod sequence;
pub(crate) mod tensors;
mod weights;

use std::ops::ControlFlow;
use std::path::Path;

pub use any::AnyModel;
pub use batch::{BatchMember, CanvasBatch};
pub(crate) use cache_rows::CacheRows;
pub use counters::Counters;
pub use denoiser::SequenceDenoiser;
use file::ModelFile;
use hparams::Hparams;
use keys::EOS_TOKEN_IDS;
pub(crate) use kv_cache::CacheSnapshot;
pub use kv_type::KvType;
pub use masked::{MaskedDenoiser, MaskedModel};
pub use memory::{DeviceMemory, MemoryReport};
pub use params::{
    DEFAULT_CHECKPOINTS, DEFAULT_CONTEXT, DenoiserParams, Fit, FlashAttention, ModelParams,
    SessionParams, TensorOverride,
};
use placement::{Placement, warn_of_unmatched};
use tensors::{Located, TensorTable};
use weights::{Source, Weights};

use crate::diffusion::{EndTokens, SamplerOverrides, Token};
use crate::error::{Error, Result};
use crate::ggml::device::{BufferType, Device};
use crate::ggml::headroom;
use crate::gguf::{Array, Gguf, TensorType};
use crate::host_memory::{self, Request};
use crate::parameter::Parameter;

/// A loaded model: immutable, shared by the sessions that run on it.
pub struct Model {
    file: ModelFile,
    hparams: Hparams,
    placement: Placement,
    weights: Weights,
    /// Whether sequences use our own kernels; tests turn it off to compare them with ggml's
    /// operations.
    own_kernels: bool,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.file.metadata().path())
            .field("hparams", &self.hparams)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a GGUF file of architecture `diffusion-gemma`, or all parts of a split one.
    ///
    /// `progress` is called with the fraction loaded (0 to 1), and may cancel.
    ///
    /// # Errors
    /// The file cannot be read, is not such a model, or does not fit the devices;
    /// [`Error::Cancelled`] if `progress` cancelled.
    pub fn load(
        path: &Path,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        Self::from_file(ModelFile::open(path)?, params, progress)
    }

    /// Loads a model whose file is already open, or generated.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_file(
        mut file: ModelFile,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        headroom::check("loading a model", 0)?;
        file.override_metadata(&params.metadata)?;
        let hparams = Hparams::from_file(&file)?;
        let located = TensorTable::locate(&file, &hparams)?;
        let placement = Placement::new(&hparams, params)?;
        warn_of_unmatched(params, &file, hparams.layers.len());
        let weights = Weights::describe(&Source {
            file: &file,
            hparams: &hparams,
            located: &located,
            placement: &placement,
            params,
        })?;
        let mut model = Self {
            file,
            hparams,
            placement,
            weights,
            own_kernels: true,
        };
        let planned = placing::place(&mut model, &located, params)?;
        let usage = planned.as_ref().unwrap_or(&model.weights.usage);
        let loaded = model.load_weights(&located, params, progress);
        model.weights = loaded.map_err(|error| usage.explain(error))?;
        model
            .placement
            .devices()
            .iter()
            .try_for_each(Device::settle)?;
        let (copied, mapped) = model.weight_bytes();
        tracing::info!(
            path = %model.file.metadata().path().display(),
            layers = model.hparams.layers.len(),
            experts = model.hparams.n_experts,
            vocab = model.hparams.vocab_size,
            canvas = model.hparams.canvas_length,
            mapped_mib = mapped >> 20,
            copied_mib = copied >> 20,
            devices = ?model.placement.devices(),
            "model loaded"
        );
        Ok(model)
    }

    /// Loads the weights that are described so far, if the host can hold its part.
    fn load_weights(
        &self,
        located: &TensorTable<Located>,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Weights> {
        let share = self.weights.usage.of(self.placement.cpu());
        host_memory::check(&Request {
            what: "the model",
            bytes: share.allocated(),
            held: 0,
            advice: "map the file instead of copying it, or use a smaller quantization",
        })?;
        let lock = params.lock && host_memory::can_lock(share.allocated() + share.mapped);
        let params = ModelParams {
            lock,
            ..params.clone()
        };
        let source = Source {
            file: &self.file,
            hparams: &self.hparams,
            located,
            placement: &self.placement,
            params: &params,
        };
        Weights::load(&source, progress)
    }

    /// Makes sequences use ggml's own operations instead of this crate's kernels, for comparison:
    /// slower, and on the CPU gelu is less exact.
    #[doc(hidden)]
    pub fn without_own_kernels(mut self) -> Self {
        self.own_kernels = false;
        self
    }

    /// Sizes and settings of the model.
    #[doc(hidden)]
    pub fn hparams(&self) -> &Hparams {
        &self.hparams
    }

    /// The file, for its metadata.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// The devices that the model runs on, the host's processor last.
    pub fn devices(&self) -> Vec<Device> {
        self.placement.devices()
    }

    /// The device of the output head.
    pub(crate) fn output_device(&self) -> Device {
        self.placement.output()
    }

    /// The memory of weights of a type that are copied to the CPU.
    pub(crate) fn memory_of(&self, ty: TensorType) -> Option<BufferType> {
        self.weights.memory_of(ty)
    }

    /// Bytes of weights: copied to devices, and used in the mapped file.
    pub fn weight_bytes(&self) -> (usize, usize) {
        self.weights.usage.weights()
    }

    /// Bytes of the table that self-conditioning multiplies by probabilities in every step except a
    /// canvas's first.
    pub fn soft_embedding_bytes(&self) -> usize {
        let transposed = self.weights.derived.embd_transposed.as_ref();
        transposed
            .unwrap_or(&self.weights.table.token_embd)
            .nbytes()
    }

    /// Sampler settings that the file recommends.
    pub fn overrides(&self) -> SamplerOverrides {
        self.hparams.sampler
    }
    /// The tokens that end an answer according to the file: the list `diffusion.eos_token_ids` if
    /// it has one, else the end-of-sequence token. The vocabulary may know more by their names.
    ///
    /// # Errors
    /// The list does not consist of token ids.
    pub fn end_tokens(&self) -> Result<EndTokens> {
        let hparams = &self.hparams;
        end_tokens(
            self.file.metadata(),
            hparams.vocab_size,
            hparams.eos,
            hparams.pad,
        )
    }
}

/// Rejects tokens that are not among the `vocab` ones of a model.
fn check_tokens(tokens: &[Token], vocab: usize) -> Result<()> {
    let unknown = |t: &&Token| usize::try_from(**t).map_or(true, |t| t >= vocab);
    match tokens.iter().find(unknown) {
        Some(token) => Err(Error::parameter(
            Parameter::Tokens,
            format!("token {token} is not in the vocabulary of {vocab} tokens"),
        )),
        None => Ok(()),
    }
}

fn end_tokens(
    gguf: &Gguf,
    vocab_size: usize,
    eos: Option<u32>,
    pad: Option<u32>,
) -> Result<EndTokens> {
    let token = |id: u32| ((id as usize) < vocab_size).then_some(id as Token);
    let ids: Vec<Token> = match gguf.get::<Array<'_>>(EOS_TOKEN_IDS)? {
        Some(list) => {
            let ids = list.to_vec::<u32>().unwrap_or_default();
            ids.into_iter().filter_map(token).collect()
        }
        None => eos.and_then(token).into_iter().collect(),
    };
    if ids.is_empty() && gguf.value(EOS_TOKEN_IDS).is_some() {
        return Err(gguf.metadata_error(EOS_TOKEN_IDS, "expected a list of token ids"));
    }
    Ok(EndTokens {
        ids,
        pad: pad.and_then(token),
    })
}
