//! The encoder against libllama: the same weights written as architecture `gemma4`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::llama::{CausalModel, CausalParams};
use llama_diffusion::internal::synthetic::{
    Geometry, WeightTypes, write_as_gemma4, write_synthetic,
};
use llama_diffusion::model::{DenoiserParams, SequenceDenoiser};
use llama_diffusion::{FlashAttention, KvType, Model, ModelParams, Token};

/// Relative error of the logits after `tokens`, ours with gelu in F32 and with ggml's table.
fn compare(model: &Path, tokens: &[Token]) -> [f64; 2] {
    let dir = tempfile::tempdir().unwrap();
    let backbone = dir.path().join("gemma4.gguf");
    write_as_gemma4(load(model).file(), &backbone).unwrap();
    let mut upstream = CausalModel::load(
        &backbone,
        CausalParams {
            context: 512,
            batch: 256,
            threads: 1,
            f32_attention: true,
            gpu_layers: 0,
        },
    )
    .unwrap();
    upstream.decode(tokens, false).unwrap();
    let reference = upstream.last_logits().unwrap();

    let params = DenoiserParams {
        context: 512,
        // Passes shorter than the prompt: the cache carries the rest.
        batch: 24,
        threads: 1,
        prefill_threads: 1,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Auto,
        swa_full: false,
        checkpoints: 0,
    };
    [load(model), load(model).without_own_kernels()].map(|model| {
        let mut denoiser = SequenceDenoiser::new(&Arc::new(model), &params).unwrap();
        let logits = denoiser.encode_with_logits(tokens).unwrap();
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut logits.iter().zip(&reference).map(|(a, b)| f64::from(a - b)))
            / norm(&mut reference.iter().map(|x| f64::from(*x)))
    })
}

fn load(path: &Path) -> Model {
    Model::load(path, &ModelParams::default(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

/// Weights of the golden cases: damped, so that rounding is not amplified from layer to layer.
#[test]
fn the_encoder_gives_the_logits_of_libllama() {
    for case in [
        "window-below-prompt",
        "prompt-beyond-two-windows",
        "one-expert",
        "twelve-layers",
    ] {
        let model = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(case)
            .join("model.gguf");
        let vocab = load(&model).hparams().vocab_size;
        for prompt in [1, 30, 200] {
            let tokens: Vec<Token> = (0..prompt).map(|i| (i * 7919 % vocab) as Token).collect();
            let [exact, table] = compare(&model, &tokens);
            println!(
                "{case}, {prompt} tokens: {exact:.1e}, with ggml's table for gelu {table:.1e}"
            );
            assert!(table <= 1e-4, "{case}, {prompt} tokens: {table:.1e}");
            // The error of libllama's gelu from a table of F16 numbers, and no more.
            assert!(exact <= 1e-3, "{case}, {prompt} tokens: {exact:.1e}");
        }
    }
}

/// Separate tensors for the experts' projections and for the output head.
#[test]
fn split_experts_and_an_untied_head_work() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("split.gguf");
    let geometry = Geometry {
        fused_experts: false,
        tied_output: false,
        full_layers_have_v: true,
        ..Geometry::tiny()
    };
    write_synthetic(&path, &geometry, WeightTypes::Uniform(TensorType::F32), 3).unwrap();
    let [_, table] = compare(&path, &[2, 17, 300, 4, 99]);
    assert!(table <= 1e-4, "{table:.1e}");
}
