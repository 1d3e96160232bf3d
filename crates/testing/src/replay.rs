//! Replays of golden cases: forward by forward, and whole generations with the recorded random
//! draws.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use llama_diffusion::diffusion::{
    AcceptanceRule, CanvasStatus, Denoiser, DiffusionParams, EndTokens, Event, RecordedBlock,
    RecordedNoise, RecordedStep, Template,
};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::gguf::{self, Gguf};
use llama_diffusion::internal::gguf::GgufWriter;
use llama_diffusion::model::{DenoiserParams, SequenceDenoiser};
use llama_diffusion::{
    CancelFlag, FlashAttention, KvType, Model, ModelParams, Session, SessionParams, Token,
};

use crate::golden::Case;
use crate::steps::step_over;

/// How the engine runs a case.
#[derive(Clone)]
pub struct Run {
    pub name: String,
    /// Devices, layers on them, and similar settings.
    pub placement: ModelParams,
    pub kv: KvType,
    pub flash: FlashAttention,
    pub swa_full: bool,
    pub batch: usize,
    pub threads: usize,
    pub f16_weights: bool,
    /// Our kernels between logits and draw and for gelu, or ggml's operations.
    pub own_kernels: bool,
    /// What is known about every canvas of a case without pins.
    pub template: Option<Template>,
    /// Maximum relative error of logits without and with self-conditioning, and of K and V.
    pub limits: [f64; 3],
}

impl Run {
    /// On the CPU, all in F32.
    pub fn f32(name: &str) -> Self {
        Self {
            name: name.into(),
            placement: ModelParams {
                devices: Some(Vec::new()),
                ..ModelParams::default()
            },
            kv: KvType::F32,
            flash: FlashAttention::On,
            swa_full: false,
            // With a window of 8, these passes fill a ring of 256 slots to the last one.
            batch: 249,
            // Tests run side by side: more threads than cores would wait for each other.
            threads: 1,
            f16_weights: false,
            own_kernels: true,
            template: None,
            // 7.7e-7, 1.1e-6 and 3.4e-6 were measured with AVX2; other processors sum in other
            // orders.
            limits: [1e-5, 2.5e-5, 1e-5],
        }
    }

    /// The model of a case with the weights and the kernels of this run.
    pub fn load(&self, case: &Case) -> Arc<Model> {
        let path = case.dir.join("model.gguf");
        let halves = tempfile::NamedTempFile::new().unwrap();
        let path = if self.f16_weights {
            write_f16(&path, halves.path());
            halves.path()
        } else {
            &path
        };
        let load = Model::load(path, &self.placement, &mut |_| ControlFlow::Continue(()));
        let model = load.unwrap_or_else(|e| panic!("{}: {}: {e}", case.name(), self.name));
        assert_eq!(model.hparams().vocab_size, case.meta.vocab_size);
        assert_eq!(model.hparams().canvas_length, case.meta.canvas_length);
        Arc::new(if self.own_kernels {
            model
        } else {
            model.without_own_kernels()
        })
    }

    fn denoiser(&self, case: &Case, model: &Arc<Model>) -> SequenceDenoiser {
        let params = DenoiserParams {
            context: context(case),
            batch: self.batch,
            threads: self.threads,
            prefill_threads: self.threads,
            kv_type: self.kv,
            flash_attention: self.flash,
            swa_full: self.swa_full,
            checkpoints: 0,
        };
        SequenceDenoiser::new(model, &params).unwrap()
    }
}

fn context(case: &Case) -> usize {
    case.meta.prompt_length + (case.meta.blocks + 1) * case.meta.canvas_length
}

/// Copies a model with its matrices (and its experts) rounded to F16.
fn write_f16(from: &Path, to: &Path) {
    let gguf = Gguf::open(from).unwrap();
    let is_matrix =
        |t: &gguf::FileTensor<'_>| t.info.shape[1] > 1 && !t.info.name.contains("ffn_gate_inp");
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
pub fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
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
pub fn forwards(case: &Case, model: &Arc<Model>, run: &Run) -> [f64; 3] {
    let meta = &case.meta;
    let mut denoiser = run.denoiser(case, model);
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
    denoiser.begin_canvas(meta.canvas_length).unwrap();
    let mut decode = |which: usize| {
        let canvas = case.tokens(&format!("decode{which}.canvas"));
        let (temperature, uniforms) = (meta.self_conditioning_temperature, vec![0.5; canvas.len()]);
        step_over(&mut denoiser, &canvas, temperature, &uniforms).unwrap();
        relative_error(
            &denoiser.logits().unwrap(),
            &case.floats(&format!("decode{which}.logits")),
        )
    };
    let first = decode(0);
    [first, decode(1), worst_kv]
}

/// The result of a replay.
pub struct Replay {
    /// Steps that were as recorded in every token and decision.
    pub steps: usize,
    /// The largest error of an entropy in them, in nats.
    pub worst_entropy: f32,
    /// The largest error of the mean entropy of a canvas, in nats.
    pub worst_mean_entropy: f32,
    /// The first difference.
    pub difference: Option<Difference>,
}

/// A decision that was not as recorded.
pub struct Difference {
    /// The row of the step among all of the case.
    pub step: usize,
    /// What it decides: `argmax`, `sampled`, `accepted` and so on.
    pub what: &'static str,
    pub text: String,
}

/// Replays the recorded generation up to its first difference.
pub fn generation(case: &Case, model: &Arc<Model>, run: &Run) -> Replay {
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
        templates: match meta.pins.is_empty() {
            true => vec![run.template.clone().unwrap_or_default(); meta.blocks],
            false => case.templates(),
        },
        acceptance: AcceptanceRule::Reference,
        ..DiffusionParams::default()
    };
    let end = EndTokens {
        ids: g.eos_token_ids.clone(),
        pad: g.pad_token_id,
    };
    let session_params = SessionParams {
        context: Some(context(case)),
        batch: Some(run.batch),
        threads: Some(run.threads),
        prefill_threads: None,
        kv_type: run.kv,
        flash_attention: run.flash,
        swa_full: run.swa_full,
        checkpoints: None,
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
        worst_mean_entropy: 0.0,
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
            let alike = |what, alike| match alike {
                true => Ok(()),
                false => Err(Difference {
                    step: i,
                    what,
                    text: format!(
                        "{name}, {}: canvas {} step {}: {what}",
                        run.name, draft.block, draft.step
                    ),
                }),
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
                    let converged = draft.status == CanvasStatus::Converged;
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
            let error = (draft.mean_entropy - mean[i]).abs();
            replay.worst_mean_entropy = replay.worst_mean_entropy.max(error);
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
pub fn check_forwards(case: &Case, run: &Run) {
    let model = run.load(case);
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
