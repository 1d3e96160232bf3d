//! Models on GPUs that are too small for them. The GPUs are made for these tests (see `device`),
//! which is why they have a process of their own.

mod device;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use device::LimitedGpu;
use llama_diffusion::gguf::{Gguf, TensorType};
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::quantize::{FileType, Plan, QuantizeParams, TypeOverride};
use llama_diffusion::{
    CancelFlag, DeviceMemory, DiffusionParams, EndTokens, Error, Fit, MaskedModel, MemoryReport,
    Model, ModelParams, Result, Session, SessionParams, TensorOverride, Token,
};
use llama_diffusion_testing::shared_dir::shared_dir;

/// Two GPUs, for one test at a time.
struct Machine {
    gpus: [&'static LimitedGpu; 2],
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    fn with(bytes: [usize; 2]) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        static GPUS: LazyLock<[&LimitedGpu; 2]> =
            LazyLock::new(|| ["Limited0", "Limited1"].map(LimitedGpu::register));
        let machine = Self {
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
            gpus: *GPUS,
        };
        machine.limit(bytes);
        machine
    }

    fn limit(&self, bytes: [usize; 2]) {
        for (gpu, bytes) in self.gpus.iter().zip(bytes) {
            gpu.limit(bytes);
        }
    }

    fn peaks(&self) -> [usize; 2] {
        self.gpus.map(LimitedGpu::peak)
    }
}

/// Half of the weights are experts, and a layer is larger than the buffers of a graph.
const GEOMETRY: Geometry = Geometry {
    n_layers: 5,
    n_experts: 12,
    ..Geometry::tiny()
};

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(shared_dir);

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = DIR.path().join("model.gguf");
    write_synthetic(&path, &GEOMETRY, WeightTypes::Uniform(TensorType::F32), 7).unwrap();
    path
});

const CONTEXT: usize = 256;

fn session_params() -> SessionParams {
    SessionParams {
        context: Some(CONTEXT),
        batch: Some(64),
        threads: Some(1),
        ..SessionParams::default()
    }
}

/// For [`session_params`], to the last byte.
fn params() -> ModelParams {
    ModelParams {
        fit: Some(Fit {
            session: session_params(),
            target: vec![0],
        }),
        ..ModelParams::default()
    }
}

fn load(params: &ModelParams) -> Result<Arc<Model>> {
    Model::load(&FILE, params, &mut |_| ControlFlow::Continue(())).map(Arc::new)
}

/// Fills the context, so that every graph has its full size. Returns the tokens and the report.
fn answer(model: &Arc<Model>) -> (Vec<Token>, MemoryReport) {
    try_answer(model).unwrap()
}

fn try_answer(model: &Arc<Model>) -> Result<(Vec<Token>, MemoryReport)> {
    let mut session = Session::new(model, EndTokens::default(), &session_params())?;
    let prompt: Vec<Token> = (0..CONTEXT - 2 * GEOMETRY.canvas_length)
        .map(|i| (5 + i * 17 % 300) as Token)
        .collect();
    let generate = DiffusionParams {
        max_steps: 3,
        max_tokens: None,
        max_canvases: Some(2),
        seed: 11,
        ..DiffusionParams::default()
    };
    let nobody = &mut |_: llama_diffusion::Event<'_>| ControlFlow::Continue(());
    let answer = session.generate(&prompt, &generate, &CancelFlag::default(), nobody)?;
    Ok((answer.generation.tokens, session.memory_report().unwrap()))
}

fn on<'a>(report: &'a MemoryReport, device: &str) -> Option<&'a DeviceMemory> {
    report.devices.iter().find(|row| row.device == device)
}

fn on_gpus(params: ModelParams, gpus: &[&str]) -> ModelParams {
    ModelParams {
        devices: Some(gpus.iter().map(|&name| name.into()).collect()),
        ..params
    }
}

#[test]
fn a_gpu_holds_as_much_as_it_can_and_the_answer_stays() {
    let enough = 1 << 30;
    let machine = Machine::with([enough, 0]);
    let one = on_gpus(params(), &["Limited0"]);
    let (expected, whole) = answer(&load(&one).unwrap());
    let needed = machine.peaks()[0];
    let row = on(&whole, "Limited0").unwrap();
    assert!(row.experts > 0 && row.kv_cache > 0 && row.compute > 0);
    // What was planned is what was allocated, except for the rounding of buffers.
    let planned = row.weights + row.experts + row.kv_cache + row.compute;
    assert!(
        planned.abs_diff(needed) < needed / 100,
        "planned {planned}, taken {needed}"
    );
    assert_eq!(row.total, enough);
    assert!(row.free.abs_diff(enough - needed) < needed / 100, "{row:?}");

    let mut before = (0, 0);
    let mut placements = Vec::new();
    for percent in (5..=105).step_by(10) {
        let limit = planned * percent / 100;
        machine.limit([limit, 0]);
        // A buffer beyond the limit would be refused.
        let (tokens, report) = answer(&load(&one).unwrap());
        let (dense, experts) = match on(&report, "Limited0") {
            Some(row) => {
                assert_eq!(tokens, expected, "{percent} %");
                (row.weights, row.experts)
            }
            None => (0, 0),
        };
        println!(
            "{percent} % ({limit}): {dense} + {experts} bytes of weights, peak {:?}",
            machine.peaks()
        );
        assert!(dense >= before.0, "{percent} %");
        assert!(experts >= before.1, "{percent} %");
        // Experts come after everything else.
        assert!(experts == 0 || dense == row.weights, "{percent} %");
        before = (dense, experts);
        placements.push(before);
    }
    assert_eq!(before, (row.weights, row.experts), "all fits in the end");
    placements.dedup();
    assert!(placements.len() > 5, "{placements:?}");
}

#[test]
fn two_gpus_share_what_one_cannot_hold() {
    let machine = Machine::with([1 << 30, 1 << 30]);
    let (expected, report) = answer(&load(&on_gpus(params(), &["Limited0"])).unwrap());
    let row = on(&report, "Limited0").unwrap();
    let (weights, experts) = (row.weights, row.experts);
    let whole = machine.peaks()[0];
    machine.limit([whole * 7 / 10, whole * 7 / 10]);
    let both = on_gpus(params(), &["Limited0", "Limited1"]);
    let (tokens, report) = answer(&load(&both).unwrap());
    assert_eq!(tokens, expected);
    let rows = ["Limited0", "Limited1"].map(|name| on(&report, name).unwrap().clone());
    assert_eq!(rows[0].weights + rows[1].weights, weights);
    assert_eq!(rows[0].experts + rows[1].experts, experts);
    assert_eq!(on(&report, "CPU").unwrap().experts, 0);
}

#[test]
fn what_stays_free_is_what_was_asked_for() {
    let machine = Machine::with([1 << 30, 0]);
    let fit = |target| {
        let params = ModelParams {
            fit: Some(Fit {
                session: session_params(),
                target,
            }),
            ..ModelParams::default()
        };
        on_gpus(params, &["Limited0"])
    };
    let weights = |params: &ModelParams| {
        let (_, report) = answer(&load(params).unwrap());
        on(&report, "Limited0").map_or(0, |row| row.weights + row.experts)
    };
    let all = weights(&fit(vec![0]));
    let whole = machine.peaks()[0];
    assert_eq!(weights(&fit(vec![(1 << 30) - whole - (whole / 50)])), all);
    assert!(weights(&fit(vec![(1 << 30) - whole / 2])) < all);
    assert!(machine.peaks()[0] >= whole);
    assert_eq!(weights(&fit(vec![1 << 30])), 0);
    // By default an eighth stays free, because this GPU is small.
    machine.limit([whole * 110 / 100, 0]);
    assert!(weights(&fit(Vec::new())) < all);
    machine.limit([whole * 120 / 100, 0]);
    assert_eq!(weights(&fit(Vec::new())), all);
}

#[test]
fn what_the_user_chose_is_not_changed() {
    let machine = Machine::with([1 << 30, 0]);
    let (_, whole) = answer(&load(&on_gpus(params(), &["Limited0"])).unwrap());
    let all = on(&whole, "Limited0").unwrap().clone();
    let needed = machine.peaks()[0];

    // A fixed number of layers: there is not enough memory for them, and the error has the
    // arithmetic.
    machine.limit([needed / 2, 0]);
    for params in [
        ModelParams {
            gpu_layers: Some(99),
            ..params()
        },
        ModelParams {
            split: vec![1.0],
            ..params()
        },
        ModelParams {
            fit: None,
            ..params()
        },
    ] {
        let has_fit = params.fit.is_some();
        let refused = load(&on_gpus(params, &["Limited0"])).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, Error::OutOfMemory { .. }), "{text}");
        assert!(
            text.contains("MiB on Limited0") && text.contains("Limited0 would hold weights "),
            "{text}"
        );
        assert!(text.contains(" MiB, and has "), "{text}");
        // If the fit of a session is not checked, it is not counted.
        assert_eq!(text.contains("graphs"), has_fit, "{text}");
    }

    // Experts: only layers move.
    let experts = |params: ModelParams| {
        let (_, report) = answer(&load(&on_gpus(params, &["Limited0"])).unwrap());
        on(&report, "Limited0").map(|row| (row.weights, row.experts))
    };
    machine.limit([needed, 0]);
    let two = experts(ModelParams {
        cpu_moe_layers: 2,
        ..params()
    });
    assert_eq!(two, Some((all.weights, all.experts * 3 / 5)));
    machine.limit([needed * 6 / 10, 0]);
    let (dense, some) = experts(ModelParams {
        cpu_moe_layers: 2,
        ..params()
    })
    .unwrap();
    assert!(dense < all.weights && some > 0, "{dense}, {some}");
    // Single tensors: they do not count against the GPU.
    let overrides = vec![TensorOverride {
        pattern: "_exps".parse().unwrap(),
        memory: "CPU".into(),
    }];
    // Layers with a part elsewhere have a little more to copy.
    machine.limit([needed - all.experts + needed / 20, 0]);
    let elsewhere = experts(ModelParams {
        overrides,
        ..params()
    });
    // Except for the padding between tensors.
    assert!(
        elsewhere.is_some_and(|(dense, experts)| dense + 1024 > all.weights && experts == 0),
        "{elsewhere:?}"
    );
    let on_host = experts(ModelParams {
        kv_on_host: true,
        ..params()
    });
    assert_eq!(on_host.unwrap().0, all.weights);
}

/// A model whose layers have experts of different sizes, and the bytes of each layer's.
fn uneven() -> (PathBuf, Vec<usize>) {
    use TensorType::{F16, F32, Q4_0, Q5_1, Q8_0};
    let path = DIR.path().join("uneven.gguf");
    let mut params = QuantizeParams::new(FileType::F32);
    params.mix.overrides = [F32, Q8_0, F16, Q4_0, Q5_1]
        .into_iter()
        .enumerate()
        .map(|(layer, ty)| TypeOverride {
            pattern: format!(r"^blk\.{layer}\..*_exps").parse().unwrap(),
            ty,
        })
        .collect();
    let plan = Plan::new(&FILE, params).unwrap();
    plan.write(&path, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let experts = (0..GEOMETRY.n_layers).map(|layer| {
        let prefix = format!("blk.{layer}.");
        let of_layer = gguf.tensors().filter(|tensor| {
            let name = &tensor.info.name;
            name.starts_with(&prefix) && name.ends_with("_exps.weight")
        });
        of_layer.map(|tensor| tensor.data.len()).sum()
    });
    let experts = experts.collect();
    (path, experts)
}

/// Bytes of experts on each of these devices.
fn experts_on<const N: usize>(path: &Path, params: ModelParams, names: [&str; N]) -> [usize; N] {
    let params = on_gpus(params, &["Limited0", "Limited1"]);
    let go_on = &mut |_| ControlFlow::Continue(());
    let model = Arc::new(Model::load(path, &params, go_on).unwrap());
    let (_, report) = answer(&model);
    names.map(|name| on(&report, name).map_or(0, |row| row.experts))
}

#[test]
fn the_experts_of_the_first_layers_stay_in_host_memory() {
    let _machine = Machine::with([1 << 30, 1 << 30]);
    let (path, experts) = uneven();
    for layers in 0..=GEOMETRY.n_layers {
        let params = ModelParams {
            gpu_layers: Some(usize::MAX),
            split: vec![1.0, 0.0],
            cpu_moe_layers: layers,
            ..ModelParams::default()
        };
        let (host, gpu) = experts.split_at(layers);
        let expected: [usize; 2] = [host, gpu].map(|layers| layers.iter().sum());
        assert_eq!(
            experts_on(&path, params, ["CPU", "Limited0"]),
            expected,
            "{layers} layers of {experts:?}"
        );
    }
}

#[test]
fn of_several_overrides_that_match_the_first_counts() {
    let _machine = Machine::with([1 << 30, 1 << 30]);
    let (path, experts) = uneven();
    let total: usize = experts.iter().sum();
    let one = (r"^blk\.1\..*_exps", "CPU");
    let all = ("_exps", "Limited1");
    let late = ("_exps", "Limited0");
    for (order, expected) in [
        (&[one, all, late][..], [experts[1], 0, total - experts[1]]),
        (&[all, one, late], [0, 0, total]),
        (&[late, all, one], [0, total, 0]),
        (&[one, late, all], [experts[1], total - experts[1], 0]),
    ] {
        let overrides = order.iter().map(|(pattern, memory)| TensorOverride {
            pattern: pattern.parse().unwrap(),
            memory: (*memory).into(),
        });
        let params = ModelParams {
            gpu_layers: Some(usize::MAX),
            split: vec![1.0, 0.0],
            overrides: overrides.collect(),
            ..ModelParams::default()
        };
        let found = experts_on(&path, params, ["CPU", "Limited0", "Limited1"]);
        assert_eq!(found, expected, "{order:?}");
    }
}

#[test]
fn a_session_that_does_not_fit_is_refused_with_the_arithmetic() {
    let machine = Machine::with([1 << 30, 0]);
    let params = on_gpus(params(), &["Limited0"]);
    answer(&load(&params).unwrap());
    // Enough for the session that was planned, not for one with a hundred times its context.
    machine.limit([machine.peaks()[0] * 12 / 10, 0]);
    let model = load(&params).unwrap();
    let long = SessionParams {
        context: Some(100 * CONTEXT),
        ..session_params()
    };
    let refused = Session::new(&model, EndTokens::default(), &long)
        .err()
        .unwrap();
    let text = refused.to_string();
    assert!(text.contains("the KV cache of 25600 positions"), "{text}");
    assert!(
        text.contains("Limited0 would hold weights ") && text.contains(" + KV cache "),
        "{text}"
    );
    answer(&model);
}

#[test]
fn a_cache_with_a_tensor_too_large_for_the_device_is_refused() {
    let machine = Machine::with([1 << 30, 0]);
    let model = load(&on_gpus(params(), &["Limited0"])).unwrap();
    machine.gpus[0].limit_tensors(16 << 20);
    let long = SessionParams {
        context: Some(1 << 20),
        ..session_params()
    };
    let refused = Session::new(&model, EndTokens::default(), &long).err();
    assert!(
        matches!(&refused, Some(Error::OutOfMemory { what, advice, .. })
            if what.starts_with("the tensor cache_k.") && advice.contains("must be smaller")),
        "{refused:?}"
    );
    answer(&model);
}

#[test]
fn a_graph_that_does_not_fit_is_refused_with_the_arithmetic() {
    let machine = Machine::with([1 << 30, 0]);
    let params = on_gpus(
        ModelParams {
            gpu_layers: Some(99),
            ..params()
        },
        &["Limited0"],
    );
    answer(&load(&params).unwrap());
    let needed = machine.peaks()[0];
    let mut refused = 0;
    for percent in [90, 93, 96, 99] {
        machine.limit([needed * percent / 100, 0]);
        let text = try_answer(&load(&params).unwrap()).unwrap_err().to_string();
        assert!(text.contains("Limited0 would hold weights "), "{text}");
        refused += usize::from(text.contains(" graph needs "));
    }
    assert!(refused > 0);
}

#[test]
fn masked_models_leave_to_the_host_what_does_not_fit() {
    let path = DIR.path().join("masked.gguf");
    write_masked(&path, MaskedFamily::LladaMoe, 11, &|_| ()).unwrap();
    let machine = Machine::with([1 << 30, 0]);
    // Bytes of weights on the GPU, and tokens of the vocabulary.
    let taken = || {
        let go_on = &mut |_| ControlFlow::Continue(());
        let model = MaskedModel::load(&path, &on_gpus(params(), &["Limited0"]), go_on).unwrap();
        (machine.gpus[0].used(), model.vocab_size())
    };
    let (all, vocab) = taken();
    assert!(all > 0);
    // The reserve for the logits of a text.
    let graph = 2 * 512 * vocab * size_of::<f32>();
    machine.limit([all * 3 / 4 + graph, 0]);
    let (some, _) = taken();
    assert!(some > 0 && some <= all * 3 / 4, "{some} of {all}");
    machine.limit([graph / 2, 0]);
    assert_eq!(taken().0, 0);
}
