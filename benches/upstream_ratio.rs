//! One denoising step against libllama's prefill of as many tokens on the same backbone: the same
//! weights, threads and logits for all positions, both in turn in one run.
//!
//! `cargo bench --bench upstream_ratio [-- TYPE…]`; the types default to q8_0 and f16. Prints the
//! median of each time and of the ratios of neighbouring runs, which a noisy machine spoils least.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use llama_diffusion::diffusion::{Denoiser, StepInput, StepOutput};
use llama_diffusion::ggml::upstream::{UpstreamModel, UpstreamParams};
use llama_diffusion::model::synthetic::{Geometry, WeightTypes, write_as_gemma4, write_synthetic};
use llama_diffusion::model::{DenoiserParams, SequenceDenoiser};
use llama_diffusion::{FlashAttention, KvType, Model, PlacementParams, Token};

const ROUNDS: usize = 9;
const LONG_PREFIX: usize = 8192;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Milliseconds that `f` takes.
fn time(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64() * 1e3
}

struct Stepper {
    denoiser: SequenceDenoiser,
    canvas: Vec<Token>,
}

impl Stepper {
    fn new(model: &Arc<Model>, context: usize, threads: usize) -> Self {
        let params = DenoiserParams {
            context,
            batch: 256,
            threads,
            kv_type: KvType::F16,
            flash_attention: FlashAttention::Auto,
        };
        let hparams = model.hparams();
        let canvas = (0..hparams.canvas_length)
            .map(|i| (i * 7919 % hparams.vocab_size) as Token)
            .collect();
        Self {
            denoiser: SequenceDenoiser::new(model, &params).unwrap(),
            canvas,
        }
    }

    fn begin(&mut self) {
        self.denoiser.begin_canvas().unwrap();
    }

    fn step(&mut self) -> f64 {
        let n = self.canvas.len();
        let (mut argmax, mut sampled, mut entropy) = (vec![0; n], vec![0; n], vec![0.0; n]);
        let uniforms = vec![0.5; n];
        time(|| {
            let input = StepInput {
                canvas: &self.canvas,
                temperature: 0.6,
                uniforms: &uniforms,
                selection: None,
            };
            let output = StepOutput {
                argmax: &mut argmax,
                sampled: &mut sampled,
                entropy: &mut entropy,
                likelihood: None,
            };
            self.denoiser.step(input, output).unwrap();
            black_box(&sampled);
        })
    }
}

fn compare(types: &str, threads: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (
        dir.path().join("model.gguf"),
        dir.path().join("gemma4.gguf"),
    );
    write_synthetic(
        &ours,
        &Geometry::small(),
        types.parse::<WeightTypes>().unwrap(),
        1,
    )
    .unwrap();
    let model = Model::load(&ours, &PlacementParams::default(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    write_as_gemma4(model.file(), &theirs).unwrap();
    let size = std::fs::metadata(&ours).unwrap().len() >> 20;
    let model = Arc::new(model);

    let params = UpstreamParams {
        context: 512,
        batch: 256,
        threads,
        f32_attention: false,
        gpu_layers: 0,
    };
    let mut upstream = UpstreamModel::load(&theirs, params).unwrap();
    let mut stepper = Stepper::new(&model, 512, threads);
    let tokens = stepper.canvas.clone();
    // One untimed round warms caches and builds graphs.
    let (mut prefill, mut first, mut next) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        upstream.clear();
        let p = time(|| upstream.decode(&tokens, true).unwrap());
        stepper.begin();
        let f = stepper.step();
        let n = stepper.step();
        if round > 0 {
            prefill.push(p);
            first.push(f);
            next.push(n);
        }
    }
    let ratio = |step: &[f64]| median(step.iter().zip(&prefill).map(|(s, p)| s / p).collect());
    println!(
        "{types}, {size} MiB, {threads} threads, canvas {}:",
        tokens.len()
    );
    println!(
        "  libllama prefill, all logits      {:8.1} ms",
        median(prefill.clone())
    );
    println!(
        "  step without self-conditioning    {:8.1} ms  ratio {:.3}",
        median(first.clone()),
        ratio(&first)
    );
    println!(
        "  step with self-conditioning       {:8.1} ms  ratio {:.3}",
        median(next.clone()),
        ratio(&next)
    );

    let mut long = Stepper::new(&model, LONG_PREFIX + 512, threads);
    let prefix: Vec<Token> = (0..LONG_PREFIX)
        .map(|i| (i * 31 % model.hparams().vocab_size) as Token)
        .collect();
    let encode = time(|| long.denoiser.encode(&prefix).unwrap());
    let (mut short_steps, mut long_steps) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS / 2 {
        stepper.begin();
        stepper.step();
        long.begin();
        long.step();
        let pair = (stepper.step(), long.step());
        if round > 0 {
            short_steps.push(pair.0);
            long_steps.push(pair.1);
        }
    }
    println!("  prefill of {LONG_PREFIX} tokens            {encode:8.1} ms");
    println!(
        "  step behind {LONG_PREFIX} tokens           {:8.1} ms  against {:.1} ms behind none",
        median(long_steps),
        median(short_steps)
    );
}

fn main() {
    // cargo passes --bench; every other argument is a type.
    let types: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let types = if types.is_empty() {
        vec!["q8_0".into(), "f16".into()]
    } else {
        types
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for types in types {
        compare(&types, threads);
    }
}
