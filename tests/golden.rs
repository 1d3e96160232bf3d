//! Replays traces of Hugging Face transformers: forward by forward, and whole generations with the
//! recorded random draws, where every token of every step must be the same.
//!
//! `tests/golden/README.md` documents the format. `DIFFUSION_GOLDEN_DIR` names a folder with more
//! cases; `DIFFUSION_GOLDEN_DEVICE` a device (`CUDA0`) on which they are run, too. All else runs on
//! the CPU.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llama_diffusion::diffusion::{
    Denoiser, DiffusionParams, EndTokens, Event, Progress, RecordedBlock, RecordedNoise,
    RecordedStep, StepInput, StepOutput,
};
use llama_diffusion::ggml::gguf::{self, Gguf, writer::GgufWriter};
use llama_diffusion::ggml::types::TensorType;
use llama_diffusion::model::{DenoiserParams, SequenceDenoiser};
use llama_diffusion::{
    CancelFlag, FlashAttention, KvType, Model, ModelParams, Session, SessionParams, Token,
};
use safetensors::SafeTensors;
use serde::Deserialize;

#[derive(Deserialize)]
struct Meta {
    format: u32,
    prompt_length: usize,
    canvas_length: usize,
    vocab_size: usize,
    layers: Vec<LayerMeta>,
    sliding_window: usize,
    self_conditioning_temperature: f32,
    generation: GenerationMeta,
    blocks: usize,
    steps: usize,
}

#[derive(Deserialize)]
struct LayerMeta {
    sliding: bool,
}

#[derive(Deserialize)]
struct GenerationMeta {
    max_new_tokens: usize,
    max_denoising_steps: u32,
    t_min: f32,
    t_max: f32,
    entropy_bound: f32,
    stability_threshold: u32,
    confidence_threshold: f32,
    eos_token_ids: Vec<Token>,
    pad_token_id: Option<Token>,
}

struct Case {
    dir: PathBuf,
    meta: Meta,
    bytes: Vec<u8>,
}

impl Case {
    fn open(dir: PathBuf) -> Self {
        let meta = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let meta: Meta = serde_json::from_str(&meta).unwrap();
        assert_eq!(meta.format, 1, "{}: unknown format", dir.display());
        let bytes = std::fs::read(dir.join("golden.safetensors")).unwrap();
        Self { dir, meta, bytes }
    }

    /// All cases: those of the repository, and those of `DIFFUSION_GOLDEN_DIR`.
    fn all() -> Vec<Self> {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let more = std::env::var_os("DIFFUSION_GOLDEN_DIR").map(PathBuf::from);
        let mut dirs: Vec<PathBuf> = [Some(kept), more]
            .into_iter()
            .flatten()
            .flat_map(|folder| {
                let entries = std::fs::read_dir(&folder)
                    .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
                // A folder that is a case itself counts as one.
                entries.map(|e| e.unwrap().path()).chain([folder])
            })
            .filter(|dir| dir.join("golden.json").is_file())
            .collect();
        dirs.sort();
        assert!(dirs.len() >= 7, "the repository's cases are missing");
        dirs.into_iter().map(Self::open).collect()
    }

    fn name(&self) -> String {
        self.dir.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.chunks(name, f32::from_le_bytes)
    }

    fn tokens(&self, name: &str) -> Vec<Token> {
        self.chunks(name, Token::from_le_bytes)
    }

    fn flags(&self, name: &str) -> Vec<bool> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        tensors
            .tensor(name)
            .unwrap()
            .data()
            .iter()
            .map(|b| *b != 0)
            .collect()
    }

    fn chunks<T>(&self, name: &str, read: fn([u8; 4]) -> T) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors
            .tensor(name)
            .unwrap_or_else(|e| panic!("{}: {name}: {e}", self.dir.display()));
        tensor
            .data()
            .chunks_exact(4)
            .map(|c| read(c.try_into().unwrap()))
            .collect()
    }

    /// The model with the weights and the kernels of a run.
    fn load(&self, run: &Run) -> Arc<Model> {
        let path = self.dir.join("model.gguf");
        let halves = tempfile::NamedTempFile::new().unwrap();
        let path = if run.f16_weights {
            write_f16(&path, halves.path());
            halves.path()
        } else {
            &path
        };
        let placement = ModelParams {
            devices: Some(run.device.iter().map(|name| name.to_string()).collect()),
            ..ModelParams::default()
        };
        let model = Model::load(path, &placement, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(model.hparams().vocab_size, self.meta.vocab_size);
        assert_eq!(model.hparams().canvas_length, self.meta.canvas_length);
        Arc::new(if run.own_kernels {
            model
        } else {
            model.without_own_kernels()
        })
    }

    fn context(&self) -> usize {
        self.meta.prompt_length + (self.meta.blocks + 1) * self.meta.canvas_length
    }

    fn denoiser(&self, model: &Arc<Model>, run: &Run) -> SequenceDenoiser {
        let params = DenoiserParams {
            context: self.context(),
            batch: run.batch,
            threads: run.threads,
            prefill_threads: run.threads,
            kv_type: run.kv,
            flash_attention: run.flash,
            swa_full: false,
        };
        SequenceDenoiser::new(model, &params).unwrap()
    }
}

/// How the engine runs a case.
#[derive(Clone, Copy)]
struct Run {
    name: &'static str,
    /// A GPU, or nothing for the CPU.
    device: Option<&'static str>,
    kv: KvType,
    flash: FlashAttention,
    batch: usize,
    threads: usize,
    f16_weights: bool,
    /// Our kernels between logits and draw and for gelu, or ggml's operations.
    own_kernels: bool,
    /// Largest relative error of logits without and with self-conditioning, and of K and V.
    limits: [f64; 3],
}

const F32: Run = Run {
    name: "f32, flash attention",
    device: None,
    kv: KvType::F32,
    flash: FlashAttention::On,
    batch: 256,
    // Tests run side by side: more threads than cores would wait for each other.
    threads: 1,
    f16_weights: false,
    own_kernels: true,
    limits: [1e-5, 1e-4, 1e-5],
};

const RUNS: [Run; 5] = [
    F32,
    Run {
        name: "f32, separate softmax",
        flash: FlashAttention::Off,
        ..F32
    },
    // Passes of 5 tokens: every boundary between passes falls somewhere inside the window.
    Run {
        name: "f32, prefill in passes of 5",
        batch: 5,
        ..F32
    },
    Run {
        name: "f16 weights and cache",
        kv: KvType::F16,
        f16_weights: true,
        limits: [5e-3, 5e-3, 5e-3],
        ..F32
    },
    // ggml's gelu on the CPU is a table of F16 numbers.
    Run {
        name: "ggml's operations",
        own_kernels: false,
        limits: [1e-3, 1e-3, 1e-3],
        ..F32
    },
];

/// Copies a model with its matrices (and its experts) rounded to F16.
fn write_f16(from: &Path, to: &Path) {
    let gguf = Gguf::open(from).unwrap();
    let is_matrix =
        |t: &gguf::Tensor<'_>| t.info.shape[1] > 1 && !t.info.name.contains("ffn_gate_inp");
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.set(key, value);
    }
    for tensor in gguf.tensors() {
        let ty = if is_matrix(&tensor) {
            TensorType::F16
        } else {
            tensor.info.ty
        };
        writer.tensor(tensor.info.name.as_str(), &tensor.info.shape, ty);
    }
    let mut data = writer.begin(std::fs::File::create(to).unwrap()).unwrap();
    for tensor in gguf.tensors() {
        if is_matrix(&tensor) {
            let values = tensor
                .data
                .chunks_exact(4)
                .map(|c| f32::from_le_bytes(c.try_into().unwrap()));
            let halves: Vec<u8> = values
                .flat_map(|v| half::f16::from_f32(v).to_le_bytes())
                .collect();
            data.write(&halves).unwrap();
        } else {
            data.write(tensor.data).unwrap();
        }
    }
    data.finish().unwrap();
}

/// ‖ours − reference‖ / ‖reference‖
fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(
        &mut ours
            .iter()
            .zip(reference)
            .map(|(a, b)| f64::from(*a) - f64::from(*b)),
    );
    difference / norm(&mut reference.iter().map(|v| f64::from(*v)))
}

/// Errors of single forwards: logits without and with self-conditioning, the worst K or V.
fn forwards(case: &Case, model: &Arc<Model>, run: &Run) -> [f64; 3] {
    let meta = &case.meta;
    let mut denoiser = case.denoiser(model, run);
    let prompt = case.tokens("prompt");
    let logits = denoiser.encode_with_logits(&prompt).unwrap();
    let mut worst_kv = relative_error(&logits, &case.floats("prefill.logits"));
    for (l, layer) in meta.layers.iter().enumerate() {
        // Sliding layers keep what their window can see, in whatever slots are left.
        let window = if layer.sliding {
            meta.sliding_window - 1
        } else {
            prompt.len()
        };
        let first = prompt.len().saturating_sub(window);
        let (k, v) = denoiser.keys_values(l, first).unwrap();
        for (ours, name) in [(k, "k"), (v, "v")] {
            let reference = case.floats(&format!("prefill.{name}.{l}"));
            let row = reference.len() / prompt.len();
            worst_kv = worst_kv.max(relative_error(&ours, &reference[first * row..]));
        }
    }
    denoiser.begin_canvas().unwrap();
    let mut decode = |which: usize| {
        let canvas = case.tokens(&format!("decode{which}.canvas"));
        let n = canvas.len();
        let (mut argmax, mut sampled, mut entropy) = (vec![0; n], vec![0; n], vec![0.0; n]);
        let input = StepInput {
            canvas: &canvas,
            temperature: meta.self_conditioning_temperature,
            uniforms: &vec![0.5; n],
            selection: None,
        };
        let output = StepOutput {
            argmax: &mut argmax,
            sampled: &mut sampled,
            entropy: &mut entropy,
            likelihood: None,
        };
        denoiser.step(input, output).unwrap();
        relative_error(
            &denoiser.logits().unwrap(),
            &case.floats(&format!("decode{which}.logits")),
        )
    };
    let first = decode(0);
    [first, decode(1), worst_kv]
}

/// How a replay went.
struct Replay {
    /// Steps that were as recorded in every token and decision.
    steps: usize,
    /// The largest error of an entropy in them, in nats.
    worst_entropy: f32,
    /// What the first step did that was not.
    difference: Option<String>,
}

/// Replays the recorded generation up to its first difference.
fn generation(case: &Case, model: &Arc<Model>, run: &Run) -> Replay {
    let meta = &case.meta;
    let (canvas, g) = (meta.canvas_length, &meta.generation);
    let row = |values: &[Token], i: usize| values[i * canvas..(i + 1) * canvas].to_vec();
    let (initial, uniforms, renoise) = (
        case.tokens("gen.init_canvas"),
        case.floats("gen.uniforms"),
        case.tokens("gen.renoise"),
    );
    let steps = case.tokens("gen.steps");
    let mut next = 0;
    let blocks = (0..meta.blocks)
        .map(|b| RecordedBlock {
            initial_canvas: row(&initial, b),
            steps: (0..steps[b])
                .map(|_| {
                    next += 1;
                    RecordedStep {
                        uniforms: uniforms[(next - 1) * canvas..next * canvas].to_vec(),
                        renoise: row(&renoise, next - 1),
                    }
                })
                .collect(),
        })
        .collect();
    let noise = RecordedNoise::new(blocks, meta.vocab_size).unwrap();
    let params = DiffusionParams {
        max_steps: g.max_denoising_steps,
        t_min: g.t_min,
        t_max: g.t_max,
        entropy_bound: g.entropy_bound,
        stability_threshold: g.stability_threshold,
        confidence_threshold: g.confidence_threshold,
        max_tokens: None,
        max_canvases: Some(g.max_new_tokens.div_ceil(canvas)),
        ..DiffusionParams::default()
    };
    let end = EndTokens {
        ids: g.eos_token_ids.clone(),
        pad: g.pad_token_id,
    };
    let session_params = SessionParams {
        context: Some(case.context()),
        batch: Some(run.batch),
        threads: Some(run.threads),
        prefill_threads: None,
        kv_type: run.kv,
        flash_attention: run.flash,
        swa_full: false,
    };
    let mut session = Session::new(model, end, &session_params).unwrap();

    let (argmax, sampled, canvas_out) = (
        case.tokens("gen.argmax"),
        case.tokens("gen.sampled"),
        case.tokens("gen.canvas_out"),
    );
    let (entropy, temperature, mean) = (
        case.floats("gen.entropy"),
        case.floats("gen.temperature"),
        case.floats("gen.mean_entropy"),
    );
    let (accept, stop) = (case.flags("gen.accept"), case.flags("gen.stop"));
    let name = case.name();
    let mut replay = Replay {
        steps: 0,
        worst_entropy: 0.0,
        difference: None,
    };
    let answer = session.generate_with(
        &case.tokens("prompt"),
        &params,
        &noise,
        &CancelFlag::default(),
        &mut |event| {
            let Event::Draft(draft) = event else {
                return ControlFlow::Continue(());
            };
            let i = replay.steps;
            let recorded = i * canvas..(i + 1) * canvas;
            let alike = |what: &str, alike: bool| match alike {
                true => Ok(()),
                false => Err(format!(
                    "{name}, {}: canvas {} step {}: {what}",
                    run.name, draft.block, draft.step
                )),
            };
            let checked = alike("the reference had stopped", i < meta.steps)
                .and_then(|()| alike("argmax", draft.argmax == row(&argmax, i)))
                .and_then(|()| alike("sampled", draft.sampled == row(&sampled, i)))
                .and_then(|()| alike("accepted", draft.accepted == &accept[recorded.clone()]))
                .and_then(|()| alike("next canvas", draft.canvas == row(&canvas_out, i)))
                .and_then(|()| {
                    let error = (draft.temperature - temperature[i]).abs();
                    alike("temperature", error < 1e-6)
                })
                .and_then(|()| {
                    let converged = draft.progress == Progress::Converged;
                    alike("stop", converged == stop[i])
                })
                .and_then(|()| {
                    let error = (draft.mean_entropy - mean[i]).abs();
                    alike("mean entropy", error < 1e-2)
                });
            if let Err(difference) = checked {
                replay.difference = Some(difference);
                return ControlFlow::Break(());
            }
            for (ours, theirs) in draft.entropy.iter().zip(&entropy[recorded]) {
                replay.worst_entropy = replay.worst_entropy.max((ours - theirs).abs());
            }
            replay.steps += 1;
            ControlFlow::Continue(())
        },
    );
    let answer = answer.unwrap();
    if replay.difference.is_none() {
        assert_eq!(replay.steps, meta.steps, "{name}: steps");
        let blocks: Vec<Token> = answer
            .generation
            .canvases
            .iter()
            .flat_map(|c| c.tokens.clone())
            .collect();
        assert_eq!(blocks, case.tokens("gen.blocks"), "{name}: blocks");
        let finished: Vec<bool> = answer.generation.canvases.iter().map(|c| c.ended).collect();
        assert_eq!(finished, case.flags("gen.finished"), "{name}: finished");
    }
    replay
}

/// Runs the forwards of a case and asserts its limits.
fn check_forwards(case: &Case, run: &Run) {
    let model = case.load(run);
    let errors = forwards(case, &model, run);
    let [plain, conditioned, kv] = errors;
    println!(
        "{}: {}: logits {plain:.1e}, self-conditioned {conditioned:.1e}, K and V {kv:.1e}",
        case.name(),
        run.name
    );
    for (error, limit) in errors.iter().zip(run.limits) {
        assert!(
            *error <= limit,
            "{}: {}: {errors:?} above {:?}",
            case.name(),
            run.name,
            run.limits
        );
    }
}

#[test]
fn single_forwards_agree_with_transformers() {
    for case in Case::all() {
        for run in &RUNS {
            check_forwards(&case, run);
        }
    }
}

#[test]
fn generations_replay_token_for_token() {
    for case in Case::all() {
        for run in &RUNS[..3] {
            let model = case.load(run);
            let replay = generation(&case, &model, run);
            if let Some(difference) = replay.difference {
                panic!("{difference}");
            }
            let worst = replay.worst_entropy;
            println!(
                "{}: {}: {} steps, entropies within {worst:.1e}",
                case.name(),
                run.name,
                case.meta.steps
            );
            assert!(
                worst < 1e-3,
                "{}: {}: entropy off by {worst:.1e}",
                case.name(),
                run.name
            );
        }
    }
}

/// On a device of the user's choice: forwards within the limits of F16, and how far the traces go
/// before a rounding decides a token otherwise, which is told and no failure.
#[test]
fn the_named_device_agrees() {
    let Ok(device) = std::env::var("DIFFUSION_GOLDEN_DEVICE") else {
        return;
    };
    let device: &'static str = device.leak();
    let run = Run {
        name: device,
        device: (device != "CPU").then_some(device),
        kv: KvType::F16,
        limits: [5e-3, 5e-3, 5e-3],
        ..F32
    };
    let (mut equal, mut all) = (0, 0);
    for case in Case::all() {
        check_forwards(&case, &run);
        let model = case.load(&run);
        let replay = generation(&case, &model, &run);
        println!(
            "{}: {device}: {} of {} steps as recorded; {}",
            case.name(),
            replay.steps,
            case.meta.steps,
            replay.difference.as_deref().unwrap_or("no difference")
        );
        equal += replay.steps;
        all += case.meta.steps;
    }
    println!("golden: {equal} of {all} steps as recorded on {device}");
}
