//! Models of masked diffusion (Dream, LLaDA, LLaDA-MoE, RND1), run by libllama. What differs between
//! the families is data of their files.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::file::ModelFile;
use super::keys::{self, MASKED_ARCHITECTURES, SHIFT_LOGITS};
use super::masked_placing::load_params;
use super::params::ModelParams;
use super::placement::warn_of_unmatched;
use super::{Backbone, end_tokens};
use crate::diffusion::candidates::{CandidateSampler, Choice, Draw};
use crate::diffusion::{Denoiser, EndTokens, Selection, StepInput, StepOutput, Token};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::keys::{GENERAL_ARCHITECTURE, token_id};
use crate::llama::bidirectional::{BidirectionalContext, BidirectionalModel};
use crate::llama::check_tokenizer;
use crate::parallel;

/// What libllama takes.
const MAX_EXPERTS: u32 = 512;

/// A loaded model: immutable, shared by the sessions that run on it.
pub struct MaskedModel {
    file: ModelFile,
    weights: Arc<BidirectionalModel>,
    mask: Token,
    eos: Option<u32>,
    /// How many rows before a position its logits are: 1 for models that were made from causal
    /// ones.
    shift: usize,
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

/// Whether a file is of a masked family, by its architecture.
///
/// # Errors
/// The file names no architecture.
pub fn is_masked(file: &ModelFile) -> Result<bool> {
    let architecture: &str = file.metadata().require(GENERAL_ARCHITECTURE)?;
    Ok(MASKED_ARCHITECTURES.contains(&architecture))
}

impl MaskedModel {
    /// Loads a GGUF file of a masked family, or all parts of a split one.
    ///
    /// `progress` hears the share that is loaded, from 0 to 1, and may stop.
    ///
    /// # Errors
    /// The file cannot be read, is no such model, has no mask token, or does not fit the devices;
    /// [`Error::Cancelled`] if `progress` stopped.
    pub fn load(
        path: &Path,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        let mut file = ModelFile::open(path)?;
        file.override_metadata(&params.metadata)?;
        let gguf = file.metadata();
        if !is_masked(&file)? {
            let found: &str = gguf.require(GENERAL_ARCHITECTURE)?;
            let problem = format!(
                "'{found}' is no masked model: use one of {}",
                MASKED_ARCHITECTURES.join(", ")
            );
            return Err(gguf.metadata_error(GENERAL_ARCHITECTURE, problem));
        }
        check_tokenizer(gguf)?;
        let (layers, context_length) = check_extents(gguf)?;
        let mask_token = token_id("mask");
        let mask: u32 = gguf.get(&mask_token)?.ok_or_else(|| {
            gguf.metadata_error(
                &mask_token,
                "is missing: a masked model starts from mask tokens. Convert the checkpoint anew, \
                 with a converter that writes its mask token",
            )
        })?;
        // As llama.cpp has it where the file is silent.
        let shifted = gguf.get(SHIFT_LOGITS)?.unwrap_or(true);
        let eos = gguf.get(&token_id("eos"))?;
        warn_of_unmatched(params, &file, layers);
        let places = load_params(&file, layers, params)?;
        let weights = BidirectionalModel::load(path, &places, progress)?;
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

    /// The token that stands for one that is not known yet.
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
}

impl Backbone for MaskedModel {
    fn file(&self) -> &ModelFile {
        &self.file
    }

    fn end_tokens(&self) -> Result<EndTokens> {
        end_tokens(self.file.metadata(), self.vocab_size(), self.eos, None)
    }
}

/// Checks what libllama would stop the process for, and returns the number of layers and the length of
/// the context.
fn check_extents(gguf: &Gguf) -> Result<(usize, usize)> {
    let architecture: &str = gguf.require(GENERAL_ARCHITECTURE)?;
    let key = |suffix: &str| format!("{architecture}.{suffix}");
    let number = |suffix: &str| gguf.require::<u32>(&key(suffix));
    let refuse = |suffix: &str, problem: String| Err(gguf.metadata_error(&key(suffix), problem));
    let layers = number(keys::BLOCK_COUNT)?;
    if !(1..=512).contains(&layers) {
        return refuse(keys::BLOCK_COUNT, format!("is {layers}, expected 1 to 512"));
    }
    let (width, heads) = (number(keys::EMBEDDING_LENGTH)?, number(keys::HEAD_COUNT)?);
    if heads == 0 || width == 0 {
        return refuse(
            keys::HEAD_COUNT,
            format!("is {heads} for a width of {width}"),
        );
    }
    let kv_heads = gguf.get(&key(keys::HEAD_COUNT_KV))?.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        let problem = format!("is {kv_heads}, which does not divide the {heads} heads of Q");
        return refuse(keys::HEAD_COUNT_KV, problem);
    }
    let head_dim: u32 = gguf.get(&key(keys::KEY_LENGTH))?.unwrap_or(width / heads);
    for suffix in [keys::VALUE_LENGTH, keys::ROPE_DIMENSION_COUNT] {
        let value: u32 = gguf.get(&key(suffix))?.unwrap_or(head_dim);
        let implied = suffix == keys::VALUE_LENGTH && gguf.value(&key(suffix)).is_none();
        let expected = if implied { value } else { head_dim };
        if value != expected || value == 0 {
            return refuse(
                suffix,
                format!("is {value}, but keys of a head have {head_dim}"),
            );
        }
    }
    let experts: u32 = gguf.get(&key(keys::EXPERT_COUNT))?.unwrap_or(0);
    let used: u32 = gguf.get(&key(keys::EXPERT_USED_COUNT))?.unwrap_or(0);
    let has_experts = matches!(architecture, "llada-moe" | "rnd1");
    if has_experts != (experts > 0) || experts > MAX_EXPERTS {
        let problem = match has_experts {
            true => format!("is {experts}, expected 1 to {MAX_EXPERTS}"),
            false => format!("is {experts}, but a '{architecture}' model has no experts"),
        };
        return refuse(keys::EXPERT_COUNT, problem);
    }
    if used > experts || (used == 0) != (experts == 0) {
        let problem = format!("is {used}, but there are {experts} experts");
        return refuse(keys::EXPERT_USED_COUNT, problem);
    }
    Ok((layers as usize, number(keys::CONTEXT_LENGTH)? as usize))
}

/// A text of a masked model: a prompt, and one canvas behind it. Nothing is cached: positions see
/// each other in both directions, so that every step reads the whole text.
pub struct MaskedDenoiser {
    model: Arc<MaskedModel>,
    context: BidirectionalContext,
    prefix: Vec<Token>,
    canvas_len: usize,
    threads: usize,
    samplers: Vec<CandidateSampler>,
}

impl std::fmt::Debug for MaskedDenoiser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaskedDenoiser")
            .field("prefix", &self.prefix.len())
            .field("canvas", &self.canvas_len)
            .finish_non_exhaustive()
    }
}

/// Logits that are worth a thread: about a millisecond of work.
const LOGITS_PER_THREAD: usize = 1 << 17;

impl MaskedDenoiser {
    /// Reserves memory for texts of at most `capacity` tokens. `fused` is fused attention, where
    /// libllama decides if it is left open.
    ///
    /// # Errors
    /// There is no memory, or a device cannot do what is asked.
    pub fn new(
        model: &Arc<MaskedModel>,
        capacity: usize,
        threads: usize,
        fused: Option<bool>,
    ) -> Result<Self> {
        parallel::check_threads(threads, "threads (-t)")?;
        Ok(Self {
            context: BidirectionalContext::new(&model.weights, capacity, threads, fused)?,
            model: Arc::clone(model),
            prefix: Vec::new(),
            canvas_len: 1,
            threads,
            samplers: Vec::new(),
        })
    }

    /// Most tokens of a text.
    pub fn capacity(&self) -> usize {
        self.context.capacity()
    }

    /// Begins a text: `prompt`, and `canvas_len` positions to denoise behind it.
    ///
    /// # Errors
    /// The prompt or the canvas is empty, or both do not fit.
    pub fn begin(&mut self, prompt: &[Token], canvas_len: usize) -> Result<()> {
        if prompt.is_empty() || canvas_len == 0 {
            return Err(Error::parameter(
                "prompt",
                "prompt and canvas need at least one token each",
            ));
        }
        if prompt.len().saturating_add(canvas_len) > self.context.capacity() {
            return Err(Error::AnswerTooLong {
                prompt: prompt.len(),
                answer: canvas_len,
                context: self.context.capacity(),
            });
        }
        self.prefix.clear();
        self.prefix.extend_from_slice(prompt);
        self.canvas_len = canvas_len;
        Ok(())
    }

    /// The logits that positions of a canvas are drawn from, one row for each, before guidance.
    ///
    /// # Errors
    /// The canvas has another length, a token is not in the vocabulary, or libllama fails.
    pub fn logits(&mut self, canvas: &[Token]) -> Result<Vec<Vec<f32>>> {
        let all = vec![true; canvas.len()];
        let rows = self.rows(canvas, &all, None)?;
        Ok(rows.into_iter().map(|(_, row)| row.to_vec()).collect())
    }

    /// The rows of the wanted positions of one pass; with `unprompted`, a mask token stands for each
    /// token of the prompt.
    fn rows(
        &mut self,
        canvas: &[Token],
        wanted: &[bool],
        unprompted: Option<Token>,
    ) -> Result<Vec<(usize, &mut [f32])>> {
        if canvas.len() != self.canvas_len || wanted.len() != canvas.len() {
            return Err(Error::parameter(
                "canvas",
                format!("has {} tokens, expected {}", canvas.len(), self.canvas_len),
            ));
        }
        let mut text = match unprompted {
            Some(mask) => vec![mask; self.prefix.len()],
            None => self.prefix.clone(),
        };
        text.extend_from_slice(canvas);
        let first = self
            .prefix
            .len()
            .checked_sub(self.model.shift)
            .ok_or_else(|| Error::parameter("prompt", "it is empty: give at least one token"))?;
        let vocab = self.model.vocab_size();
        let rows = self.context.logits(&text)?.chunks_exact_mut(vocab);
        let canvas_rows = rows.skip(first).take(wanted.len()).enumerate();
        Ok(canvas_rows
            .filter(|(position, _)| wanted[*position])
            .collect())
    }
}

impl Denoiser for MaskedDenoiser {
    fn canvas_len(&self) -> usize {
        self.canvas_len
    }

    fn prefix_len(&self) -> usize {
        self.prefix.len()
    }

    fn context_len(&self) -> usize {
        self.context.capacity()
    }

    fn begin_canvas(&mut self) -> Result<()> {
        Ok(())
    }

    fn step(&mut self, input: StepInput<'_>, output: StepOutput<'_>) -> Result<()> {
        let (Some(selection), Some(likelihood)) = (input.selection, output.likelihood) else {
            return Err(Error::parameter(
                "sampler",
                "a masked model draws some positions only: use MaskedSampler",
            ));
        };
        let mut samplers = std::mem::take(&mut self.samplers);
        samplers.resize_with(self.threads, CandidateSampler::default);
        let threads = self.threads;
        let unguided = match selection.guidance > 0.0 {
            true => {
                let rows = self.rows(input.canvas, selection.wanted, None)?;
                rows.into_iter().map(|(_, row)| row.to_vec()).collect()
            }
            false => Vec::new(),
        };
        let unprompted = (selection.guidance > 0.0).then_some(self.model.mask);
        let mut rows = self.rows(input.canvas, selection.wanted, unprompted)?;
        for ((_, row), prompted) in rows.iter_mut().zip(&unguided) {
            guide(row, prompted, selection.guidance);
        }
        let choices = choose(&mut samplers, threads, rows, &input, &selection)?;
        self.samplers = samplers;
        for (position, choice) in choices {
            output.argmax[position] = choice.argmax;
            output.sampled[position] = choice.sampled;
            output.entropy[position] = choice.entropy;
            likelihood.sampled[position] = choice.probability;
            likelihood.margin[position] = choice.margin;
        }
        Ok(())
    }

    fn commit(&mut self, tokens: &[Token]) -> Result<()> {
        let prefix = [self.prefix.as_slice(), tokens].concat();
        self.begin(&prefix, self.canvas_len)
    }
}

/// Classifier-free guidance, from the logits without the prompt to those with it and beyond.
fn guide(unprompted: &mut [f32], prompted: &[f32], weight: f32) {
    for (without, with) in unprompted.iter_mut().zip(prompted) {
        *without += (weight + 1.0) * (with - *without);
    }
}

type Chosen = Vec<(usize, Choice)>;

/// Draws a token for each row, on as many threads as the rows are worth.
fn choose(
    samplers: &mut [CandidateSampler],
    threads: usize,
    mut rows: Vec<(usize, &mut [f32])>,
    input: &StepInput<'_>,
    selection: &Selection<'_>,
) -> Result<Chosen> {
    let logits: usize = rows.iter().map(|(_, row)| row.len()).sum();
    let threads = threads.min(logits.div_ceil(LOGITS_PER_THREAD)).max(1);
    let share = rows.len().div_ceil(threads).max(1);
    let work =
        |sampler: &mut CandidateSampler, rows: &mut [(usize, &mut [f32])]| -> Result<Chosen> {
            rows.iter_mut()
                .map(|(position, row)| {
                    if let Some(excluded) = row.get_mut(selection.excluded as usize) {
                        *excluded = f32::NEG_INFINITY;
                    }
                    let draw = draw(*position, input, selection);
                    Ok((*position, sampler.choose(row, selection.filter, draw)?))
                })
                .collect()
        };
    let shares = rows.chunks_mut(share).zip(samplers);
    let parts = parallel::map(shares, threads, |(rows, sampler)| work(sampler, rows));
    Ok(parts.into_iter().collect::<Result<Vec<Chosen>>>()?.concat())
}

fn draw<'a>(position: usize, input: &StepInput<'_>, selection: &Selection<'a>) -> Draw<'a> {
    let temperature = input.temperature;
    match selection.gumbel {
        _ if temperature <= 0.0 => Draw::Greedy,
        Some(noise) => Draw::Gumbel {
            temperature,
            position,
            noise,
        },
        None => Draw::Inverse {
            temperature,
            uniform: input.uniforms[position],
        },
    }
}
