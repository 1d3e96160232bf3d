//! Replays traces of Hugging Face transformers on the CPU: forward by forward, and whole
//! generations with the recorded random draws, where every token of every step must be the same.
//!
//! `tests/golden/README.md` documents the format; `DIFFUSION_GOLDEN_DIR` names a folder with more
//! cases. `tests/device_golden.rs` replays them on other devices.

use llama_diffusion::diffusion::Template;
use llama_diffusion::{FlashAttention, KvType};
use llama_diffusion_testing::golden::Case;
use llama_diffusion_testing::replay::{Run, check_forwards, generation};

/// A template that says nothing.
fn all_free() -> Template {
    let mut template = Template::new();
    // The shortest canvas of a case.
    for _ in 0..8 {
        template.free();
    }
    template
}

fn runs() -> [Run; 5] {
    [
        Run::f32("f32, flash attention"),
        Run {
            flash: FlashAttention::Off,
            ..Run::f32("f32, separate softmax")
        },
        // Passes of 5 tokens: every boundary between passes is somewhere inside the window.
        Run {
            batch: 5,
            ..Run::f32("f32, prefill in passes of 5")
        },
        Run {
            kv: KvType::F16,
            f16_weights: true,
            limits: [5e-3; 3],
            ..Run::f32("f16 weights and cache")
        },
        // ggml's gelu on the CPU is a table of F16 numbers.
        Run {
            own_kernels: false,
            limits: [1e-3; 3],
            ..Run::f32("ggml's operations")
        },
    ]
}

#[test]
fn single_forwards_agree_with_transformers() {
    for case in Case::all() {
        for run in &runs() {
            check_forwards(&case, run);
        }
    }
}

#[test]
fn generations_replay_token_for_token() {
    for case in Case::all() {
        let free = Run {
            template: Some(all_free()),
            ..Run::f32("f32, a template without content")
        };
        // Pins are a template already.
        let free = case.meta.pins.is_empty().then_some(&free);
        for run in runs()[..3].iter().chain(free) {
            let model = run.load(&case);
            let replay = generation(&case, &model, run);
            if let Some(difference) = replay.difference {
                panic!("{}", difference.text);
            }
            let (worst, mean) = (replay.worst_entropy, replay.worst_mean_entropy);
            let what = format!(
                "{}: {}: {} steps, entropies within {worst:.1e}, their means within {mean:.1e}",
                case.name(),
                run.name,
                case.meta.steps
            );
            println!("{what}");
            // 3.6e-5 and 2.2e-5 were measured.
            assert!(worst < 1e-3 && mean < 5e-4, "{what}");
        }
    }
}
