//! Every implementation of a draw against [`DrawSampler`], which draws from the logits of the step.

use std::ops::ControlFlow;
use std::sync::Arc;

use llama_diffusion::diffusion::draw::{Choice, DrawSampler};
use llama_diffusion::diffusion::{Allowed, Denoiser, DrawRule, Filter, StepInput};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::{EndTokens, KvType, Model, Session, SessionParams};
use llama_diffusion_testing::placements::{on_cpu, on_device};
use llama_diffusion_testing::steps::{prompt, step_over};

/// A vocabulary size that is not divisible by any chunk of work.
const GEOMETRY: Geometry = Geometry {
    vocab_size: 5003,
    ..Geometry::tiny()
};

/// The maximum errors of entropy, probability and margin.
type Worst = [f64; 3];

/// Compares the draws of four steps at a temperature; a token may differ only if the uniform is
/// within `edge` of its share.
fn check(model: &Arc<Model>, temperature: f32, edge: f64, worst: &mut Worst) {
    let params = SessionParams {
        threads: Some(1),
        kv_type: KvType::F32,
        ..SessionParams::default()
    };
    let mut session = Session::new(model, EndTokens::default(), &params).unwrap();
    session.prefill(&prompt(20)).unwrap();
    let denoiser = session.canvas_denoiser().unwrap();
    let n = GEOMETRY.canvas_length;
    denoiser.begin_canvas(n).unwrap();
    let mut sampler = DrawSampler::default();
    for step in 0..4 {
        let canvas = prompt(n);
        let uniforms: Vec<f32> = (0..n)
            .map(|i| ((i * 7 + step * 3) % n) as f32 / n as f32 + 0.01)
            .collect();
        let draws = step_over(denoiser, &canvas, temperature, &uniforms).unwrap();
        let input = StepInput {
            canvas: &canvas,
            free: &vec![true; n],
            allowed: Allowed::All,
            filter: Filter::NONE,
            rule: DrawRule::Inverse {
                temperature,
                uniforms: &uniforms,
            },
            guidance: 0.0,
            average: 0.0,
            language: None,
            targets: &[],
        };
        let mut logits = denoiser.logits().unwrap();
        for (position, row) in logits.chunks_exact_mut(GEOMETRY.vocab_size).enumerate() {
            let expected = sampler.draw(row, position, &input).unwrap();
            let at = format!("temperature {temperature}, step {step}, position {position}");
            assert_eq!(draws.argmax[position], expected.argmax, "{at}");
            let sampled = draws.sampled[position];
            let shares = shares(row, temperature);
            let before: f64 = shares[..sampled as usize].iter().sum();
            let share = shares[sampled as usize];
            let uniform = f64::from(uniforms[position]);
            assert!(
                sampled == expected.sampled
                    || (before - edge..before + share + edge).contains(&uniform),
                "{at}: {sampled} instead of {}, {uniform} is not in {before} + {share}",
                expected.sampled
            );
            // Of the drawn token.
            let expected = Choice {
                probability: share as f32,
                ..expected
            };
            let errors = [
                (draws.entropy[position], expected.entropy),
                (draws.probability[position], expected.probability),
                (draws.margin[position], expected.margin),
            ];
            for (worst, (ours, reference)) in worst.iter_mut().zip(errors) {
                assert!(ours.is_finite(), "{at}");
                *worst = worst.max(f64::from((ours - reference).abs()));
            }
        }
    }
}

/// The probability of each token.
fn shares(logits: &[f32], temperature: f32) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: &f32| (f64::from(logit - max) / f64::from(temperature)).exp();
    let total: f64 = logits.iter().map(weight).sum();
    logits.iter().map(|logit| weight(logit) / total).collect()
}

#[test]
fn kernels_and_ggmls_operations_draw_as_the_reference_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, &GEOMETRY, types, 7).unwrap();
    let load = |params| Model::load(&path, &params, &mut |_| ControlFlow::Continue(())).unwrap();
    for (name, model) in [
        ("CPU kernels", load(on_cpu())),
        ("ggml's operations", load(on_cpu()).without_own_kernels()),
        ("the device's", load(on_device())),
    ] {
        let model = Arc::new(model);
        // Measured: at most 1.1e-5, 6.6e-6, 1.3e-5 at the first temperature with AVX2 and 5.5e-6,
        // 3.3e-5, 6.5e-5 with AVX-512; 2.6e-6, 1.2e-6, 2.2e-6 at the others. A low temperature
        // amplifies the rounding error of the soft cap.
        for (temperature, bounds) in [
            (0.02, [3e-5, 6e-5, 1.2e-4]),
            (0.4, [6e-6, 3e-6, 6e-6]),
            (0.8, [6e-6, 3e-6, 3e-6]),
            (1.0, [6e-6, 3e-6, 3e-6]),
            (3.0, [3e-6, 1e-8, 3e-8]),
        ] {
            let mut worst = Worst::default();
            check(&model, temperature, 1e-5, &mut worst);
            println!("{name}, temperature {temperature}: {worst:?}");
            assert!(
                worst
                    .iter()
                    .zip(bounds)
                    .all(|(worst, bound)| *worst <= bound),
                "{name}, temperature {temperature}: {worst:?} above {bounds:?}"
            );
        }
    }
}
