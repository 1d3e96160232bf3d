//! A denoising step of small generated models on the CPU, and the masks that a canvas needs.
//!
//! `cargo bench --bench step`. Ids carry device and type; the speed of larger models is
//! `llama-diffusion-bench`'s to measure.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use llama_diffusion::diffusion::{
    Allowed, CanvasRun, CounterNoise, Denoiser as _, DiffusionParams, DrawRule, Draws, Filter,
    Run as _, StepInput,
};
use llama_diffusion::internal::model::KeyLayout;
use llama_diffusion::internal::synthetic::{Geometry, synthetic_file};
use llama_diffusion::model::{DenoiserParams, SequenceDenoiser};
use llama_diffusion::{FlashAttention, KvType, Model, ModelParams, Token};

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    group.sample_size(10);
    for types in ["f16", "q8_0", "q4_k_m"] {
        let geometry = Geometry {
            n_layers: 2,
            canvas_length: 64,
            ..Geometry::small()
        };
        let file = synthetic_file(&geometry, types.parse().unwrap(), 1).unwrap();
        let params = ModelParams {
            devices: Some(Vec::new()),
            ..ModelParams::default()
        };
        let model = Model::from_file(file, &params, &mut |_| ControlFlow::Continue(())).unwrap();
        let params = DenoiserParams {
            context: 256,
            batch: 256,
            threads: 1,
            prefill_threads: 1,
            kv_type: KvType::F16,
            flash_attention: FlashAttention::Auto,
            swa_full: false,
            checkpoints: 0,
        };
        let mut denoiser = SequenceDenoiser::new(&Arc::new(model), &params).unwrap();
        let n = geometry.canvas_length;
        denoiser.begin_canvas(n).unwrap();
        let canvas: Vec<Token> = (0..n as Token).collect();
        let (free, uniforms) = (vec![true; n], vec![0.5; n]);
        let mut draws = Draws::new(n, 0);
        group.bench_function(BenchmarkId::new("CPU", types), |bencher| {
            bencher.iter(|| {
                let input = StepInput {
                    canvas: &canvas,
                    free: &free,
                    allowed: Allowed::All,
                    filter: Filter::NONE,
                    rule: DrawRule::Inverse {
                        temperature: 0.6,
                        uniforms: &uniforms,
                    },
                    guidance: 0.0,
                    average: 0.0,
                    language: None,
                    targets: &[],
                };
                denoiser.step(&input, &mut draws).unwrap();
            });
        });
    }
}

/// The host's own work for a canvas: it decides which tokens to keep.
fn sampler(criterion: &mut Criterion) {
    const CANVAS: usize = 256;
    const VOCAB: usize = 262_144;
    let params = DiffusionParams::default();
    let noise = CounterNoise::new(1, VOCAB).unwrap();
    let entropies: Vec<f32> = (0..CANVAS)
        .map(|i| (i * 37 % CANVAS) as f32 / 1e3)
        .collect();
    criterion.bench_function("sampler/host/f32", |bencher| {
        bencher.iter(|| {
            let mut run = CanvasRun::new(&params, 0, CANVAS, &noise).unwrap();
            let (_, draws) = run.begin_step(&noise).unwrap();
            draws.entropy.copy_from_slice(&entropies);
            run.end_step(&noise).unwrap();
            black_box(run.status())
        });
    });
}

fn masks(criterion: &mut Criterion) {
    const CANVAS: usize = 256;
    const PREFIX: usize = 8192;
    let mut group = criterion.benchmark_group("mask");
    for (name, window, slots) in [("full", None, 8448), ("sliding", Some(1024), 1280)] {
        let layout = KeyLayout { slots, window };
        group.bench_function(BenchmarkId::new(name, "host/f16"), |bencher| {
            bencher.iter(|| black_box(layout.canvases(PREFIX, CANVAS, 1, slots)));
        });
    }
}

criterion_group!(benches, step, sampler, masks);
criterion_main!(benches);
