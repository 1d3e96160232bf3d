//! Resident memory, in a process of its own.

#![cfg(target_os = "linux")]

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use llama_diffusion::diffusion::{CanvasRun, CounterNoise, Denoiser as _, Run as _};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::model::{BatchMember, CanvasBatch, DenoiserParams, SequenceDenoiser};
use llama_diffusion::{
    CancelFlag, DiffusionParams, EndTokens, FlashAttention, KvType, Model, ModelParams, Session,
    SessionParams,
};
use llama_diffusion_testing::process::status;

/// One test at a time: they measure the process.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn an_unloaded_batch_releases_the_caches_of_its_sequences() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, &Geometry::tiny(), types, 1).unwrap();
    let model = Arc::new(
        Model::load(&path, &ModelParams::default(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap(),
    );
    let params = DenoiserParams {
        context: 65_536,
        batch: 64,
        threads: 1,
        prefill_threads: 1,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::On,
        swa_full: true,
        checkpoints: 0,
    };
    let mut denoiser = SequenceDenoiser::new(&model, &params).unwrap();
    let cache = denoiser.memory().0;
    assert!(cache > 30 << 20, "{cache} bytes are too few to be measured");
    let mut batch = CanvasBatch::new(&denoiser, 1).unwrap();
    denoiser.encode(&[5, 6]).unwrap();
    denoiser.begin_canvas(16).unwrap();
    let noise = CounterNoise::new(1, model.hparams().vocab_size).unwrap();
    let mut run = CanvasRun::new(&DiffusionParams::default(), 0, 16, &noise).unwrap();
    let (input, draws) = run.begin_step(&noise).unwrap();
    let member = BatchMember {
        denoiser: &mut denoiser,
        input,
        draws,
    };
    batch.step(&mut [member]).unwrap();
    drop(denoiser);
    let held = status("VmRSS");
    batch.unload();
    let freed = held.saturating_sub(status("VmRSS"));
    assert!(freed > cache / 10 * 9, "{freed} of {cache} bytes are freed");
}

#[test]
fn memory_is_weights_cache_and_three_times_the_logits() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let geometry = Geometry {
        vocab_size: 32_768,
        ..Geometry::small()
    };
    for ty in [TensorType::Q8_0, TensorType::Q4_K, TensorType::F16] {
        let path = dir.path().join("model.gguf");
        write_synthetic(&path, &geometry, WeightTypes::Uniform(ty), 1).unwrap();
        // Writing the model took memory too: 5 resets the peak (proc(5)).
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmHWM");

        let model = Model::load(&path, &ModelParams::default(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let weights = model.file().tensor_bytes();
        let params = SessionParams {
            context: Some(8192),
            threads: Some(2),
            ..SessionParams::default()
        };
        let mut session = Session::new(&Arc::new(model), EndTokens::default(), &params).unwrap();
        let prompt: Vec<i32> = (5..600).collect();
        let generate = DiffusionParams {
            max_steps: 2,
            max_tokens: None,
            max_canvases: Some(2),
            ..DiffusionParams::default()
        };
        session
            .generate(&prompt, &generate, &CancelFlag::default(), &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap();
        let (cache, compute) = session.canvas_denoiser().unwrap().memory();
        let logits = 3 * geometry.canvas_length * geometry.vocab_size * 4;
        // 285 MiB was measured for Q4_K, whose weights take 84: a second copy of them would be
        // noticed.
        let allowed = (weights + cache + (120 << 20)) as f64 + 1.15 * logits as f64;
        let peak = status("VmHWM");
        let mib = |bytes: usize| bytes >> 20;
        println!(
            "{ty}: peak {} MiB (before loading {}), allowed {:.0}: weights {}, cache {}, compute {}",
            mib(peak),
            mib(before),
            allowed / f64::from(1 << 20),
            mib(weights),
            mib(cache),
            mib(compute)
        );
        assert!(peak as f64 <= allowed, "{ty}");
    }
}
