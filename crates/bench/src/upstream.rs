//! libllama next to this engine: the same layers as gemma4, measured in turn, so that noise of the
//! machine affects both.

use llama_diffusion::Result;
use llama_diffusion::internal::Tracked;
use llama_diffusion::internal::llama::{CausalModel, CausalParams};
use llama_diffusion::internal::synthetic::write_as_gemma4;
use llama_diffusion::{Error, Token};
use tempfile::TempDir;

use crate::cost::Cost;
use crate::output::ComparisonRow;
use crate::run::{Bench, time, tokens};
use crate::stats::median;

/// Tokens decoded one by one in a round.
const DECODED: usize = 8;

/// libllama's model and what was measured.
pub struct Upstream {
    model: CausalModel,
    batch: usize,
    threads: usize,
    canvas: Vec<Token>,
    /// For each length of the prompt.
    lengths: Vec<Length>,
    /// Of the model file, which is as large as the model.
    _directory: TempDir,
    _tracked: Tracked,
}

/// Milliseconds of each round after a prompt of one length.
#[derive(Default)]
struct Length {
    prompt: usize,
    /// libllama's prefill of a canvas with logits for all tokens, without a prompt.
    canvas: Vec<f64>,
    prefill: Vec<f64>,
    /// One token, after the prompt.
    token: Vec<f64>,
    /// Our denoising step with self-conditioning.
    step: Vec<f64>,
}

impl Upstream {
    pub fn new(bench: &Bench<'_>, threads: usize) -> Result<Self> {
        let directory = tempfile::tempdir().map_err(|source| Error::Io {
            path: std::env::temp_dir(),
            source,
        })?;
        let tracked = Tracked::new(directory.path());
        let path = directory.path().join("gemma4.gguf");
        write_as_gemma4(bench.model.file(), &path)?;
        let hparams = bench.model.hparams();
        let longest = bench.args.prompts().into_iter().max().unwrap_or(0);
        let batch = bench.args.compute.batch().unwrap_or(256);
        let params = CausalParams {
            context: longest + hparams.canvas_length + DECODED,
            batch: batch.max(hparams.canvas_length),
            threads,
            f32_attention: false,
            gpu_layers: match bench.args.devices.gpu_layers.0 {
                _ if bench.backend() == "CPU" => 0,
                Some(layers) => i32::try_from(layers).unwrap_or(-1),
                None => -1,
            },
        };
        Ok(Self {
            model: CausalModel::load(&path, params)?,
            batch: params.batch,
            threads,
            canvas: tokens(hparams.canvas_length, hparams.vocab_size),
            lengths: Vec::new(),
            _directory: directory,
            _tracked: tracked,
        })
    }

    fn length(&mut self, prompt: usize) -> &mut Length {
        let known = self.lengths.iter().position(|l| l.prompt == prompt);
        let index = known.unwrap_or_else(|| {
            self.lengths.push(Length {
                prompt,
                ..Length::default()
            });
            self.lengths.len() - 1
        });
        &mut self.lengths[index]
    }

    /// One round; an untimed one warms up.
    pub fn round(&mut self, prompt: &[Token], counts: bool) -> Result<()> {
        let Self {
            model,
            canvas,
            batch,
            ..
        } = self;
        model.clear();
        let of_canvas = time(|| model.decode(canvas, true))?;
        model.clear();
        let prefill = time(|| {
            prompt
                .chunks(*batch)
                .try_for_each(|c| model.decode(c, false))
        })?;
        let decoded = time(|| (0..DECODED).try_for_each(|i| model.decode(&canvas[i..=i], true)))?;
        if counts {
            let length = self.length(prompt.len());
            length.canvas.push(of_canvas);
            length.prefill.push(prefill);
            length.token.push(decoded / DECODED as f64);
        }
        Ok(())
    }

    /// Records the milliseconds of our steps, one for each round.
    pub fn note_steps(&mut self, prompt: usize, steps: Vec<f64>) {
        self.length(prompt).step = steps;
    }

    /// The ratios.
    pub fn compare(&self, bench: &Bench<'_>) -> Vec<ComparisonRow> {
        let cost = Cost(&bench.model);
        let canvas = self.canvas.len();
        let shortest = self.lengths.iter().min_by_key(|l| l.prompt);
        let row = |l: &Length| {
            let ratio = |f: &dyn Fn(f64, f64) -> f64, of: &[f64]| {
                let pairs = l.step.iter().zip(of);
                median(&pairs.map(|(s, o)| f(*s, *o)).collect::<Vec<_>>())
            };
            let prefill_operations = cost.prefill_with_logits(canvas);
            // Milliseconds of this number of operations at the rate of a prefill of these
            // milliseconds.
            let at_rate = |operations: f64, prefill: f64| operations / prefill_operations * prefill;
            let growth = shortest.filter(|s| s.prompt < l.prompt).map(|s| {
                let added = cost.step(l.prompt) - cost.step(s.prompt);
                let allowed = at_rate(added, median(&l.canvas));
                (median(&l.step) - median(&s.step)) / allowed
            });
            let steps = bench.args.steps as f64;
            ComparisonRow {
                model: bench.name.clone(),
                n_threads: self.threads,
                n_prompt: l.prompt,
                step_ms: median(&l.step),
                upstream_canvas_ms: median(&l.canvas),
                upstream_prefill_ts: match l.prompt {
                    0 => None,
                    n => Some(n as f64 / median(&l.prefill) * 1e3),
                },
                upstream_token_ts: 1e3 / median(&l.token),
                step_to_canvas: ratio(&|step, canvas| step / canvas, &l.canvas),
                step_to_arithmetic: ratio(
                    &|step, canvas| step / at_rate(cost.step(l.prompt), canvas),
                    &l.canvas,
                ),
                n_steps: bench.args.steps,
                diffusion_to_token: ratio(
                    &|step, token| canvas as f64 / (steps * step) * token,
                    &l.token,
                ),
                growth_to_arithmetic: growth,
            }
        };
        self.lengths.iter().map(row).collect()
    }
}
