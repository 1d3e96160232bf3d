//! The measurements.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use llama_diffusion::diffusion::{
    Allowed, Corrections, CounterNoise, Denoiser as _, DrawRule, Draws, Filter, Generator,
    StepInput, check_canvas_length, generate,
};
use llama_diffusion::internal::measure::device_rates;
use llama_diffusion::model::profile::{Part, Profile};
use llama_diffusion::model::{
    BatchMember, CanvasBatch, Counters, DenoiserParams, SequenceDenoiser,
};
use llama_diffusion::{
    CancelFlag, Device, DiffusionParams, EndTokens, Error, Model, Result, Token,
};

use crate::args::Args;
use crate::cost::Cost;
use crate::output::{PartRow, ProfileRow, Report, TestRow};
use crate::stats::Spread;
use crate::upstream::Upstream;
use llama_diffusion_flags::compute::When;
use llama_diffusion_flags::corrections;
use llama_diffusion_flags::streams::say;

/// Milliseconds that `f` takes.
pub fn time(f: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    f()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Arbitrary tokens, the same each time.
pub fn tokens(count: usize, vocab: usize) -> Vec<Token> {
    (0..count).map(|i| (i * 7919 % vocab) as Token).collect()
}

/// One model and how it is measured.
pub struct Bench<'a> {
    pub args: &'a Args,
    pub name: String,
    pub model: Arc<Model>,
}

/// What may be given several times, besides prompts.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub threads: usize,
    pub flash_attn: When,
    /// Tokens of a canvas.
    pub canvas: usize,
    /// Sequences that are denoised together.
    pub parallel: usize,
}

/// What one test does.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Whether the time of encoding it is a result.
    pub reads: bool,
    /// Canvases of the answer; if there are none, only the prompt is encoded.
    pub canvases: usize,
}

/// Milliseconds of one repetition.
pub struct Sample {
    /// Encoding the prompts; 0 without any.
    pub prefill: f64,
    /// Every denoising step.
    pub steps: Vec<f64>,
    /// Committing finished canvases.
    pub commits: f64,
}

/// Sequences that are denoised together, with what a step reads and writes.
struct Runner {
    sequences: Vec<SequenceDenoiser>,
    batch: Option<CanvasBatch>,
    canvas: Vec<Token>,
    free: Vec<bool>,
    uniforms: Vec<f32>,
    drawn: Vec<Draws>,
}

/// In the middle of a schedule.
const TEMPERATURE: f32 = 0.6;

fn step_input<'a>(canvas: &'a [Token], free: &'a [bool], uniforms: &'a [f32]) -> StepInput<'a> {
    StepInput {
        canvas,
        free,
        allowed: Allowed::All,
        filter: Filter::NONE,
        rule: DrawRule::Inverse {
            temperature: TEMPERATURE,
            uniforms,
        },
        guidance: 0.0,
        average: 0.0,
        language: None,
        targets: &[],
    }
}

impl Runner {
    fn new(bench: &Bench<'_>, setting: Setting, prompt: usize, canvases: usize) -> Result<Self> {
        let hparams = bench.model.hparams();
        let (n, trained) = (setting.canvas, hparams.canvas_length);
        check_canvas_length(n, trained)?;
        let params = DenoiserParams {
            context: canvases
                .saturating_mul(n)
                .saturating_add(prompt)
                .max(trained + 1),
            batch: bench.args.compute.batch().unwrap_or(n.max(256)),
            threads: setting.threads,
            prefill_threads: setting.threads,
            kv_type: bench.args.compute.kv_type()?,
            flash_attention: setting.flash_attn.into(),
            swa_full: bench.args.compute.swa_full,
            checkpoints: 0,
        };
        let count = setting.parallel;
        let mut sequences: Vec<_> = (0..count)
            .map(|_| SequenceDenoiser::new(&bench.model, &params))
            .collect::<Result<_>>()?;
        // Comparisons count the dense product's arithmetic.
        for sequence in &mut sequences {
            sequence.allow_sparse_self_conditioning(!bench.args.compare_upstream);
        }
        Ok(Self {
            batch: match count {
                1 => None,
                _ => Some(CanvasBatch::new(&sequences[0], count)?),
            },
            sequences,
            canvas: tokens(n, hparams.vocab_size),
            free: vec![true; n],
            uniforms: vec![0.5; n],
            drawn: vec![Draws::new(n, 0); count],
        })
    }

    fn each(&mut self, mut f: impl FnMut(&mut SequenceDenoiser) -> Result<()>) -> Result<()> {
        self.sequences.iter_mut().try_for_each(&mut f)
    }

    fn step(&mut self) -> Result<()> {
        let input = step_input(&self.canvas, &self.free, &self.uniforms);
        match &mut self.batch {
            None => self.sequences[0].step(&input, &mut self.drawn[0])?,
            Some(batch) => {
                let sequences = self.sequences.iter_mut().zip(&mut self.drawn);
                let mut members: Vec<_> = sequences
                    .map(|(denoiser, draws)| BatchMember {
                        denoiser,
                        input,
                        draws,
                    })
                    .collect();
                batch.step(&mut members)?;
            }
        }
        black_box(&self.drawn[0].sampled);
        Ok(())
    }

    fn prefill(&mut self, prompt: &[Token]) -> Result<()> {
        self.each(|sequence| {
            sequence.truncate(0)?;
            sequence.encode(prompt)
        })
    }

    fn counters(&self) -> Counters {
        match &self.batch {
            Some(batch) => batch.counters(),
            None => self.sequences[0].counters(),
        }
    }

    /// Answers a prompt: every canvas but the last is committed, as in a generation.
    fn answer(&mut self, prompt: &[Token], canvases: usize, steps: usize) -> Result<Sample> {
        let prefill = time(|| self.prefill(prompt))?;
        let (mut times, mut commits) = (Vec::new(), 0.0);
        for canvas in 0..canvases {
            if canvas > 0 {
                let finished = self.canvas.clone();
                commits += time(|| self.each(|sequence| sequence.encode(&finished)))?;
            }
            let len = self.canvas.len();
            self.each(|sequence| sequence.begin_canvas(len))?;
            for _ in 0..steps {
                times.push(time(|| self.step())?);
            }
        }
        self.check_logits(canvases, steps)?;
        Ok(Sample {
            prefill,
            steps: times,
            commits,
        })
    }

    /// What an answer to a prompt corrects, with the sampler that the tool has by default.
    fn corrections(
        &mut self,
        prompt: &[Token],
        canvases: usize,
        steps: usize,
    ) -> Result<Corrections> {
        let denoiser = &mut self.sequences[0];
        denoiser.truncate(0)?;
        let params = DiffusionParams {
            max_steps: u32::try_from(steps).unwrap_or(u32::MAX),
            max_tokens: None,
            max_canvases: Some(canvases),
            canvas: Some(self.canvas.len()),
            ..DiffusionParams::default()
        };
        let limits = denoiser.limits();
        let noise = CounterNoise::new(params.seed, limits.vocab)?;
        let end = EndTokens::default();
        let generator = Generator::new(Box::new(params), prompt, 0, &end, limits)?;
        let on_event = &mut |_: llama_diffusion::Event<'_>| ControlFlow::Continue(());
        let cancel = CancelFlag::default();
        let generation = generate(generator, denoiser, &noise, &cancel, on_event)?;
        Ok(generation.corrections)
    }

    /// The time of a model that computes nothing would be meaningless.
    fn check_logits(&self, canvases: usize, steps: usize) -> Result<()> {
        let entropies = self.drawn.iter().flat_map(|drawn| drawn.entropy.iter());
        let Some(position) = entropies.enumerate().find(|(_, h)| !h.is_finite()) else {
            return Ok(());
        };
        let error = Error::NotFinite {
            block: canvases.saturating_sub(1) as u32,
            step: steps.saturating_sub(1) as u32,
            position: position.0 % self.canvas.len(),
        };
        Err(self.sequences[0].model().file().explain(error))
    }
}

impl Bench<'_> {
    /// Measures a prompt and the canvases after it; libllama in turn, if it is there.
    pub fn test(
        &self,
        setting: Setting,
        work: Work,
        mut upstream: Option<&mut Upstream>,
        report: &mut Report,
    ) -> Result<()> {
        let Work {
            prompt,
            reads,
            canvases,
        } = work;
        if canvases == 0 && !reads {
            return Ok(());
        }
        self.announce(setting, work);
        let hparams = self.model.hparams();
        let mut runner = Runner::new(self, setting, prompt, canvases)?;
        let tokens = tokens(prompt, hparams.vocab_size);
        let mut samples = Vec::new();
        let mut warm = Counters::default();
        let warmups = usize::from(!self.args.no_warmup);
        for round in 0..warmups + self.args.repetitions {
            let counts = round >= warmups;
            if round == warmups {
                warm = runner.counters();
            }
            if let Some(upstream) = &mut upstream {
                upstream.round(&tokens, counts)?;
            }
            // Graphs are built in the first two steps; more steps would show nothing new.
            let steps = match counts {
                true => self.args.steps,
                false => self.args.steps.min(2),
            };
            let sample = runner.answer(&tokens, canvases, steps)?;
            if counts {
                samples.push(sample);
            }
        }
        if let Some(upstream) = upstream.filter(|_| canvases > 0) {
            let steps = samples.iter().map(|s| self.later_step(s)).collect();
            upstream.note_steps(prompt, steps);
        }
        if reads {
            report
                .tests
                .push(self.prefill_row(setting, prompt, &samples));
        }
        if canvases == 0 {
            return Ok(());
        }
        let all = runner.counters();
        // An answer needs a prompt.
        let corrections = match self.args.diffusion_stats && prompt > 0 {
            true => Some(runner.corrections(&tokens, canvases, self.args.steps)?),
            false => None,
        };
        report.tests.push(TestRow {
            corrections: corrections.as_ref().map(Corrections::total),
            corrected_positions: corrections.as_ref().map(|all| all.positions),
            corrections_by_step: corrections.as_ref().map(corrections::by_step),
            last_correction: corrections.and_then(|all| all.last).map(|last| {
                corrections::place(&last, format_args!("token {}", last.from), last.to)
            }),
            graphs_built: Some(all.graphs_built - warm.graphs_built),
            graphs_captured: Some(all.graphs_captured),
            captures_dropped: Some(all.captures_dropped),
            step_bytes: Some((all.step_bytes - warm.step_bytes) / (all.steps - warm.steps).max(1)),
            ..self.denoise_row(setting, work, &samples)
        });
        Ok(())
    }

    /// Waits before a test, and prints its name, as the user asked.
    fn announce(&self, setting: Setting, work: Work) {
        thread::sleep(Duration::from_secs(self.args.delay.into()));
        if self.args.progress {
            say(format_args!(
                "{}: {} threads, prompt of {} tokens, answer of {} canvases",
                self.name, setting.threads, work.prompt, work.canvases
            ));
        }
    }

    /// Milliseconds of a step with self-conditioning: not the first of a canvas, unless there are
    /// no others.
    fn later_step(&self, sample: &Sample) -> f64 {
        let steps = self.args.steps;
        let later = |(i, time): (usize, &f64)| (steps == 1 || i % steps > 0).then_some(*time);
        let later: Vec<f64> = sample.steps.iter().enumerate().filter_map(later).collect();
        Spread::of(&later).mean
    }

    fn row(&self, setting: Setting, test: String, speeds: &[f64]) -> TestRow {
        let speed = Spread::of(speeds);
        let file = self.model.file();
        TestRow {
            model: self.name.clone(),
            model_size: file.tensor_bytes(),
            model_n_params: file
                .tensors()
                .map(|(_, tensor)| tensor.info.shape.iter().product::<usize>())
                .sum(),
            backend: self.backend(),
            n_threads: setting.threads,
            n_gpu_layers: (self.args.devices.gpu_layers.0).filter(|layers| *layers < usize::MAX),
            type_kv: format!("{:?}", self.args.compute.cache_type_k).to_lowercase(),
            flash_attn: format!("{:?}", setting.flash_attn).to_lowercase(),
            parallel: setting.parallel,
            test,
            avg_ts: speed.mean,
            stddev_ts: speed.stddev,
            ..TestRow::default()
        }
    }

    /// Names of the GPUs that take part, or `CPU`.
    pub fn backend(&self) -> String {
        let devices = self.model.devices().into_iter();
        let gpus: Vec<String> = devices.filter(Device::is_gpu).map(|d| d.name()).collect();
        match gpus.is_empty() {
            true => "CPU".into(),
            false => gpus.join(","),
        }
    }

    fn prefill_row(&self, setting: Setting, prompt: usize, samples: &[Sample]) -> TestRow {
        let count = (prompt * setting.parallel) as f64;
        let speeds: Vec<f64> = samples.iter().map(|s| count / s.prefill * 1e3).collect();
        let times: Vec<f64> = samples.iter().map(|s| s.prefill).collect();
        TestRow {
            n_prompt: prompt,
            avg_ms: Spread::of(&times).mean,
            stddev_ms: Spread::of(&times).stddev,
            ..self.row(setting, format!("pp{prompt}"), &speeds)
        }
    }

    fn denoise_row(&self, setting: Setting, work: Work, samples: &[Sample]) -> TestRow {
        let Work {
            prompt, canvases, ..
        } = work;
        let steps = self.args.steps;
        let canvas = setting.canvas;
        let blocks = (canvases * setting.parallel) as f64;
        let work = |s: &Sample| s.steps.iter().sum::<f64>() + s.commits;
        let speeds: Vec<f64> = samples
            .iter()
            .map(|s| blocks * canvas as f64 / work(s) * 1e3)
            .collect();
        let rates: Vec<f64> = samples.iter().map(|s| blocks / work(s) * 1e3).collect();
        let times: Vec<f64> = samples.iter().flat_map(|s| s.steps.clone()).collect();
        let answers: Vec<f64> = samples
            .iter()
            .map(|s| (s.prefill + work(s)) / 1e3)
            .collect();
        let test = match canvases {
            1 => format!("dn{canvas}x{steps} @ {prompt}"),
            _ => format!("dn{canvases}x{canvas}x{steps} @ {prompt}"),
        };
        TestRow {
            n_prompt: prompt,
            canvas: Some(canvas),
            n_canvases: Some(canvases),
            n_steps: Some(steps),
            avg_ms: Spread::of(&times).mean,
            stddev_ms: Spread::of(&times).stddev,
            blocks_per_s: Some(Spread::of(&rates).mean),
            answer_s: Some(Spread::of(&answers).mean),
            tokens_per_forward: Some(canvas as f64 / steps as f64),
            ..self.row(setting, test, &speeds)
        }
    }

    /// Times by part, and their lower bounds.
    pub fn profile(&self, setting: Setting, report: &mut Report) -> Result<()> {
        let rates = device_rates(&self.model, setting.threads)?;
        for prompt in self.args.prompts() {
            let tokens = tokens(prompt, self.model.hparams().vocab_size);
            let mut runner = Runner::new(self, setting, prompt, 1)?;
            runner.answer(&tokens, 1, 2)?;
            if prompt > 0 {
                let mut profiles = Vec::new();
                for _ in 0..self.args.repetitions {
                    runner.sequences[0].truncate(0)?;
                    let profiled = runner.sequences[0].profile(|s| s.encode(&tokens))?;
                    profiles.push(profiled.1);
                }
                report.parts.extend(self.part_rows(
                    setting.threads,
                    &format!("pp{prompt}"),
                    &profiles,
                ));
                runner.answer(&tokens, 1, 2)?;
            }
            let (mut plain, mut profiles) = (Vec::new(), Vec::new());
            for _ in 0..self.args.repetitions {
                plain.push(time(|| runner.step())?);
                profiles.push(runner.profiled_step()?);
            }
            let test = format!("step @ {prompt}");
            report
                .parts
                .extend(self.part_rows(setting.threads, &test, &profiles));
            let cost = Cost(&self.model);
            let (bytes, operations) = (cost.step_bytes(), cost.step(prompt));
            report.profiles.push(ProfileRow {
                model: self.name.clone(),
                n_threads: setting.threads,
                test,
                device: rates.device.clone(),
                step_ms: Spread::of(&plain).mean,
                bytes,
                bandwidth_gb_s: rates.bandwidth / 1e9,
                bytes_floor_ms: bytes / rates.bandwidth * 1e3,
                operations,
                weight_type: rates.weight_type.name().into(),
                rate_gop_s: rates.operations / 1e9,
                operations_floor_ms: operations / rates.operations * 1e3,
            });
        }
        Ok(())
    }

    fn part_rows(&self, threads: usize, test: &str, profiles: &[Profile]) -> Vec<PartRow> {
        let whole: f64 = profiles.iter().map(|p| p.whole().as_secs_f64()).sum();
        let row = |part: Part| {
            let times = profiles.iter().map(|p| p.of(part).as_secs_f64() * 1e3);
            let times: Vec<f64> = times.collect();
            let spread = Spread::of(&times);
            PartRow {
                model: self.name.clone(),
                n_threads: threads,
                test: test.into(),
                part: part.name().into(),
                avg_ms: spread.mean,
                stddev_ms: spread.stddev,
                share: times.iter().sum::<f64>() / 1e3 / whole,
            }
        };
        Part::ALL.map(row).into()
    }
}

impl Runner {
    fn profiled_step(&mut self) -> Result<Profile> {
        let input = step_input(&self.canvas, &self.free, &self.uniforms);
        let draws = &mut self.drawn[0];
        let ((), profile) = self.sequences[0].profile(|s| s.step(&input, draws))?;
        Ok(profile)
    }
}
