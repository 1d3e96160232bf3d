//! Loading a model of a masked family.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::super::end_tokens;
use super::super::file::ModelFile;
use super::super::keys::{MASKED_ARCHITECTURES, SHIFT_LOGITS};
use super::super::params::ModelParams;
use super::super::placement::warn_of_unmatched;
use super::file::{check_extents, is_masked};
use super::placing::load_params;
use crate::diffusion::{EndTokens, Token};
use crate::error::Result;
use crate::gguf::keys::{GENERAL_ARCHITECTURE, token_id};
use crate::llama::bidirectional::BidirectionalModel;
use crate::llama::check_tokenizer;

/// A loaded model: immutable, shared by the sessions that run on it.
pub struct MaskedModel {
    file: ModelFile,
    pub(super) weights: Arc<BidirectionalModel>,
    pub(super) mask: Token,
    eos: Option<u32>,
    /// How many rows before a position its logits are: 1 for models that were derived from causal
    /// ones.
    pub(super) shift: usize,
    context_length: usize,
}

impl std::fmt::Debug for MaskedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaskedModel")
            .field("path", &self.file.metadata().path())
            .field("mask", &self.mask)
            .field("shift", &self.shift)
            .finish_non_exhaustive()
    }
}

impl MaskedModel {
    /// Loads a GGUF file of a masked family, or all parts of a split one.
    ///
    /// `progress` is called with the fraction loaded (0 to 1), and may cancel.
    ///
    /// # Errors
    /// The file cannot be read, is not such a model, has no mask token, or does not fit the
    /// devices; [`Error::Cancelled`](crate::Error::Cancelled) if `progress` cancelled.
    pub fn load(
        path: &Path,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        Self::from_file(ModelFile::open(path)?, params, progress)
    }

    /// Loads a model whose file is already open.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_file(
        mut file: ModelFile,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        file.override_metadata(&params.metadata)?;
        let gguf = file.metadata();
        if !is_masked(&file)? {
            let found: &str = gguf.require(GENERAL_ARCHITECTURE)?;
            let problem = format!(
                "is not a masked model: use one of {}",
                MASKED_ARCHITECTURES.join(", ")
            );
            return Err(gguf.unsupported(found, problem));
        }
        check_tokenizer(gguf)?;
        let (layers, context_length) = check_extents(gguf)?;
        let mask_token = token_id("mask");
        let mask: u32 = gguf.get(&mask_token)?.ok_or_else(|| {
            gguf.metadata_error(
                &mask_token,
                "is missing: a masked model starts from mask tokens. Convert the checkpoint again, \
                 with a converter that writes its mask token",
            )
        })?;
        // llama.cpp's default if the file has no such key.
        let shifted = gguf.get(SHIFT_LOGITS)?.unwrap_or(true);
        let eos = gguf.get(&token_id("eos"))?;
        warn_of_unmatched(params, &file, layers);
        let places = load_params(&file, layers, params)?;
        let weights = BidirectionalModel::load(gguf.path(), &places, progress)?;
        let mask = Token::try_from(mask)
            .ok()
            .filter(|mask| (*mask as usize) < weights.vocab_size())
            .ok_or_else(|| {
                let problem = format!(
                    "is {mask}, but the vocabulary has {} tokens",
                    weights.vocab_size()
                );
                gguf.metadata_error(&mask_token, problem)
            })?;
        Ok(Self {
            weights: Arc::new(weights),
            mask,
            eos,
            shift: usize::from(shifted),
            context_length,
            file,
        })
    }

    /// The token that stands for an unknown one.
    pub fn mask(&self) -> Token {
        self.mask
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.weights.vocab_size()
    }

    /// Positions that the model was trained for.
    pub fn context_length(&self) -> usize {
        self.context_length
    }
    /// The file, for its metadata.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// The tokens that end an answer according to the file.
    ///
    /// # Errors
    /// The file's list does not consist of token ids.
    pub fn end_tokens(&self) -> Result<EndTokens> {
        end_tokens(self.file.metadata(), self.vocab_size(), self.eos, None)
    }
}
