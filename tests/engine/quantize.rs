//! The quantizer: its errors, its files, and libllama's quantizer on the same layers.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llama_diffusion::gguf::TensorType;
use llama_diffusion::gguf::{FileTensor, Gguf, Value};
use llama_diffusion::internal::gguf::{Encoded, GgufWriter};
use llama_diffusion::internal::llama;
use llama_diffusion::internal::synthetic::{
    Geometry, WeightTypes, synthetic_bytes, write_as_gemma4, write_synthetic,
};
use llama_diffusion::model::file::ModelFile;
use llama_diffusion::quantize::{FileType, ImportanceMatrix, Plan, QuantizeParams, TypeOverride};
use llama_diffusion::{
    CancelFlag, DiffusionParams, EndTokens, Error, Model, Result, Session, SessionParams,
};
use regex::Regex;
use tempfile::TempDir;

use llama_diffusion_testing::model_file::Editable;

/// Rows of 256 and 512, of 96 and 288 (blocks of 32 only), and of 40, which no block fits.
const GEOMETRY: Geometry = Geometry {
    n_layers: 9,
    full_every: 5,
    d: 256,
    d_ff: 288,
    n_heads: 4,
    n_kv_heads: 2,
    n_kv_heads_full: 1,
    head_dim: 64,
    head_dim_full: 128,
    d_expert: 40,
    ..Geometry::tiny()
};

fn run(input: &Path, output: &Path, params: QuantizeParams) -> Result<()> {
    Plan::new(input, params)?.write(output, &mut |_| ControlFlow::Continue(()))
}

fn on_one_thread(file_type: FileType) -> QuantizeParams {
    QuantizeParams {
        threads: Some(1),
        ..QuantizeParams::new(file_type)
    }
}

/// A generated model in F32.
fn model(dir: &TempDir, geometry: &Geometry) -> PathBuf {
    let path = dir.path().join("model-f32.gguf");
    write_synthetic(&path, geometry, WeightTypes::Uniform(TensorType::F32), 5).unwrap();
    path
}

/// All tensors as numbers, converted by a file in F32.
fn numbers(path: &Path) -> HashMap<String, Vec<f32>> {
    let back = path.with_extension("back.gguf");
    run(path, &back, on_one_thread(FileType::F32)).unwrap();
    let gguf = Gguf::open(&back).unwrap();
    let tensors = gguf.tensors().map(|tensor| {
        assert_eq!(tensor.info.ty, TensorType::F32);
        let numbers = tensor.data.chunks_exact(4);
        let numbers = numbers.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        (tensor.info.name.clone(), numbers.collect())
    });
    tensors.collect()
}

/// Root of the weighted squares of the differences, relative to that of the values.
fn relative_error(values: &[f32], quantized: &[f32], weight: impl Fn(usize) -> f32) -> f64 {
    let sum = |f: &dyn Fn(usize) -> f64| {
        let terms = (0..values.len()).map(|i| f64::from(weight(i)) * f(i).powi(2));
        terms.sum::<f64>().sqrt()
    };
    assert_eq!(values.len(), quantized.len());
    sum(&|i| f64::from(quantized[i]) - f64::from(values[i])) / sum(&|i| f64::from(values[i]))
}

/// The rounding error of a type on uniform weights, and a quarter more: half a step over the range,
/// relative to the deviation.
fn bound(ty: TensorType) -> f64 {
    let steps = match ty {
        TensorType::F32 => return 0.0,
        TensorType::F16 => 2048.0,
        TensorType::BF16 => 256.0,
        TensorType::Q8_0 => 254.0,
        TensorType::Q6_K => 64.0,
        TensorType::Q5_K | TensorType::Q5_0 | TensorType::Q5_1 => 31.0,
        TensorType::Q4_K | TensorType::Q4_0 | TensorType::Q4_1 => 15.0,
        other => panic!("{other} is not expected here"),
    };
    1.25 / steps
}

fn answer(path: &Path) -> Vec<i32> {
    let model = Model::load(
        path,
        &Default::default(),
        &mut |_| ControlFlow::Continue(()),
    );
    let params = SessionParams {
        threads: Some(1),
        context: Some(64),
        ..SessionParams::default()
    };
    let model = Arc::new(model.unwrap());
    let mut session = Session::new(&model, EndTokens::default(), &params).unwrap();
    let generate = DiffusionParams {
        max_steps: 2,
        max_canvases: Some(1),
        seed: 3,
        ..DiffusionParams::default()
    };
    let answer = session.generate(
        &[2, 17, 300, 4],
        &generate,
        &CancelFlag::default(),
        &mut |_| ControlFlow::Continue(()),
    );
    answer.unwrap().generation.canvases[0].tokens.clone()
}

#[test]
fn every_type_loads_answers_and_keeps_within_its_error() {
    let dir = TempDir::new().unwrap();
    let input = model(&dir, &GEOMETRY);
    let original = Gguf::open(&input).unwrap();
    let values = numbers(&input);
    let reference = answer(&input);
    for &file_type in FileType::ALL {
        let name = file_type.name();
        let output = dir.path().join(format!("{name}.gguf"));
        run(&input, &output, on_one_thread(file_type)).unwrap();
        let quantized = Gguf::open(&output).unwrap();

        // Metadata: the original keys, and those that describe the quantization.
        let added = ["general.file_type", "general.quantization_version"];
        for (key, value) in original.metadata() {
            assert_eq!(quantized.value(key), Some(value), "{name}: {key}");
        }
        let new = quantized.metadata().map(|(key, _)| key);
        let mut new: Vec<_> = new.filter(|key| original.value(key).is_none()).collect();
        // 16 is a power of two, which every type represents exactly: the factor does not change.
        new.sort_unstable();
        assert_eq!(new, added, "{name}");
        assert_eq!(quantized.value(added[0]), Some(Value::U32(file_type.id())));
        assert_eq!(quantized.value(added[1]), Some(Value::U32(2)));

        // Tensors: the same names and shapes in the same order, each within its bound.
        let back = numbers(&output);
        assert_eq!(quantized.tensors().len(), original.tensors().len());
        for (old, new) in original.tensors().zip(quantized.tensors()) {
            let (tensor, ty) = (&new.info.name, new.info.ty);
            assert_eq!((tensor, new.info.shape), (&old.info.name, old.info.shape));
            let error = relative_error(&values[tensor], &back[tensor], |_| 1.0);
            assert!(error <= bound(ty), "{name}: {tensor} in {ty}: {error}");
            // A bound that is met without quantizing would prove nothing.
            assert!(
                ty == TensorType::F32 || error > bound(ty) / 4.0,
                "{name}: {tensor}: {error}"
            );
            let small = ["norm", "gate_inp", "scale", "rope"]
                .iter()
                .any(|part| tensor.contains(part));
            let stays = small || file_type == FileType::F32;
            assert_eq!(ty == TensorType::F32, stays, "{name}: {tensor} in {ty}");
        }
        let ty = |tensor: &str| quantized.tensor(tensor).unwrap().info.ty;
        let down = [ty("blk.1.ffn_down.weight"), ty("blk.3.ffn_down.weight")];
        let expected = match file_type {
            FileType::Q6_K => [TensorType::Q8_0; 2],
            FileType::Q5_K_M => [TensorType::Q5_1, TensorType::Q8_0],
            FileType::Q4_K_M => [TensorType::Q5_0, TensorType::Q8_0],
            other => [other.tensor_type(); 2],
        };
        assert_eq!(down, expected, "{name}");
        let blocks = file_type.tensor_type().is_quantized();
        let experts = ty("blk.0.ffn_down_exps.weight");
        let unfitting = if blocks {
            TensorType::F16
        } else {
            file_type.tensor_type()
        };
        assert_eq!(experts, unfitting, "{name}");

        let answer = answer(&output);
        assert_eq!(answer.len(), reference.len());
        if file_type == FileType::F32 {
            assert_eq!(answer, reference);
        }
    }
}

/// libllama rejects the architecture, but not the layers under another name.
#[test]
fn tensors_are_those_of_libllama_s_quantizer() {
    for (n_experts, tied_output) in [(4, true), (8, false)] {
        let dir = TempDir::new().unwrap();
        let geometry = Geometry {
            n_experts,
            tied_output,
            d_expert: 96,
            ..GEOMETRY
        };
        let input = model(&dir, &geometry);
        let backbone = dir.path().join("gemma4.gguf");
        write_as_gemma4(&ModelFile::open(&input).unwrap(), &backbone).unwrap();
        let weights = importances(&input);
        let matrix = dir.path().join("imatrix.gguf");
        write_imatrix(&matrix, &weights);
        let list: Vec<_> = weights
            .iter()
            .map(|(name, weights)| (CString::new(name.as_str()).unwrap(), weights.means.clone()))
            .collect();
        for &file_type in FileType::ALL {
            for (pure, weighted) in [(false, false), (false, true), (true, false)] {
                let (ours, theirs) = (dir.path().join("ours.gguf"), dir.path().join("theirs.gguf"));
                let mut params = on_one_thread(file_type);
                params.mix.pure = pure;
                params.importance = weighted.then(|| ImportanceMatrix::open(&matrix).unwrap());
                run(&input, &ours, params).unwrap();
                let list = if weighted { &list[..] } else { &[] };
                llama::quantize(&backbone, &theirs, file_type.id(), pure, list).unwrap();
                assert_same_tensors(
                    &ours,
                    &theirs,
                    &format!("{} {pure} {weighted}", file_type.name()),
                );
            }
        }
    }
}

fn assert_same_tensors(ours: &Path, theirs: &Path, what: &str) {
    let (ours, theirs) = (Gguf::open(ours).unwrap(), Gguf::open(theirs).unwrap());
    let mut compared = 0;
    for tensor in theirs
        .tensors()
        .filter(|t| !t.info.name.contains("layer_output_scale"))
    {
        let name = &tensor.info.name;
        let same = ours.tensor(name).unwrap();
        assert_eq!(same.info.ty, tensor.info.ty, "{what}: {name}");
        assert!(same.data == tensor.data, "{what}: {name} differs");
        compared += 1;
    }
    // Self-conditioning and two scalars of each layer are not in the other file.
    assert_eq!(compared + 4 + 2 * 9, ours.tensors().len(), "{what}");
}

#[test]
fn the_number_of_threads_does_not_show() {
    let dir = TempDir::new().unwrap();
    // An embedding of several slabs, experts whose rows no number of threads divides.
    let geometry = Geometry {
        vocab_size: 20_000,
        n_layers: 2,
        n_experts: 3,
        ..GEOMETRY
    };
    let input = model(&dir, &geometry);
    for file_type in [FileType::Q4_K_M, FileType::F16] {
        let bytes = [1, 2, 3].map(|threads| {
            let output = dir.path().join(format!("{threads}.gguf"));
            let params = QuantizeParams {
                threads: Some(threads),
                ..QuantizeParams::new(file_type)
            };
            run(&input, &output, params).unwrap();
            fs::read(output).unwrap()
        });
        assert!(
            bytes[0] == bytes[1] && bytes[0] == bytes[2],
            "{}",
            file_type.name()
        );
    }
}

/// Importances of a tensor: the values of a file, and their meaning.
struct Importances {
    columns: usize,
    counts: Vec<f32>,
    means: Vec<f32>,
}

/// Importances of every matrix of the layers, some columns a thousand times those of others. The
/// last expert was never chosen.
fn importances(model: &Path) -> HashMap<String, Importances> {
    let gguf = Gguf::open(model).unwrap();
    let matrices = gguf.tensors().filter(|tensor| {
        let name = &tensor.info.name;
        name.starts_with("blk.") && tensor.info.shape[1] > 1 && !name.contains("gate_inp")
    });
    let entry = |tensor: FileTensor<'_>| {
        let [columns, _, experts, _] = tensor.info.shape;
        let counts: Vec<f32> = (0..experts)
            .map(|expert| match expert {
                0 => 512.0,
                _ if expert + 1 == experts => 0.0,
                _ => 7.0 * expert as f32,
            })
            .collect();
        let means = (0..columns * experts).map(|i| match counts[i / columns] {
            0.0 => 1.0,
            _ => 10_f32.powi((i * 7919 % 4) as i32),
        });
        let means = means.collect();
        let name = tensor.info.name.clone();
        (
            name,
            Importances {
                columns,
                counts,
                means,
            },
        )
    };
    matrices.map(entry).collect()
}

fn write_imatrix(path: &Path, entries: &HashMap<String, Importances>) {
    let mut writer = GgufWriter::new();
    writer
        .set("general.type", "imatrix")
        .set(
            "imatrix.datasets",
            ["calibration.txt"].into_iter().collect::<Encoded>(),
        )
        .set("imatrix.chunk_count", 12_u32)
        .set("imatrix.chunk_size", 512_u32);
    for (name, entry) in entries {
        let experts = entry.counts.len();
        writer.tensor(
            format!("{name}.in_sum2"),
            &[entry.columns, experts],
            TensorType::F32,
        );
        writer.tensor(format!("{name}.counts"), &[1, experts], TensorType::F32);
    }
    let mut data = writer.begin(Vec::new()).unwrap();
    let bytes = |values: &[f32]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<_>>()
    };
    for entry in entries.values() {
        let sum = |(i, mean): (usize, &f32)| mean * entry.counts[i / entry.columns];
        let sums: Vec<f32> = entry.means.iter().enumerate().map(sum).collect();
        data.write(&bytes(&sums)).unwrap();
        data.write(&bytes(&entry.counts)).unwrap();
    }
    fs::write(path, data.finish().unwrap()).unwrap();
}

/// The older format, with means for sums of one call.
fn write_legacy(path: &Path, entries: &HashMap<String, Importances>) {
    let number = |n: usize| (n as i32).to_le_bytes();
    let mut bytes = number(entries.len()).to_vec();
    for (name, entry) in entries {
        bytes.extend(number(name.len()));
        bytes.extend(name.as_bytes());
        bytes.extend(number(4));
        bytes.extend(number(entry.means.len()));
        bytes.extend(
            entry
                .means
                .iter()
                .flat_map(|mean| (4.0 * mean).to_le_bytes()),
        );
    }
    bytes.extend(number(12));
    bytes.extend(number("calibration.txt".len()));
    bytes.extend(b"calibration.txt");
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_importance_matrix_lowers_the_weighted_error() {
    let dir = TempDir::new().unwrap();
    let geometry = Geometry {
        d_expert: 96,
        ..GEOMETRY
    };
    let input = model(&dir, &geometry);
    let weights = importances(&input);
    let files = ["imatrix.gguf", "imatrix.dat"].map(|name| dir.path().join(name));
    write_imatrix(&files[0], &weights);
    write_legacy(&files[1], &weights);
    let quantize = |importance: Option<&PathBuf>| {
        let output = dir.path().join("quantized.gguf");
        let mut params = on_one_thread(FileType::Q4_K_M);
        params.importance = importance.map(|path| ImportanceMatrix::open(path).unwrap());
        run(&input, &output, params).unwrap();
        (numbers(&output), Gguf::open(&output).unwrap())
    };
    let values = numbers(&input);
    let (plain, _) = quantize(None);
    let (weighted, file) = quantize(Some(&files[0]));
    for (name, entry) in &weights {
        let rows = values[name].len() / entry.means.len();
        let weight = |i: usize| {
            let (columns, experts) = (entry.columns, i / (entry.columns * rows));
            entry.means[experts * columns + i % columns]
        };
        let [without, with] = [&plain, &weighted]
            .map(|quantized| relative_error(&values[name], &quantized[name], weight));
        // Eight bits have little to gain, and may lose slightly.
        let q8_0 = file.tensor(name).unwrap().info.ty == TensorType::Q8_0;
        assert!(
            with < without || (q8_0 && with == without),
            "{name}: {with} with, {without} without"
        );
    }
    assert_eq!(
        file.value("quantize.imatrix.file"),
        Some(Value::Str("imatrix.gguf"))
    );
    assert_eq!(
        file.value("quantize.imatrix.dataset"),
        Some(Value::Str("calibration.txt"))
    );
    assert_eq!(
        file.value("quantize.imatrix.entries_count"),
        Some(Value::U32(weights.len() as u32))
    );
    assert_eq!(
        file.value("quantize.imatrix.chunks_count"),
        Some(Value::U32(12))
    );

    let (legacy, file) = quantize(Some(&files[1]));
    assert!(legacy == weighted);
    assert_eq!(
        file.value("quantize.imatrix.dataset"),
        Some(Value::Str("calibration.txt"))
    );
}

#[test]
fn parts_of_a_split_model_become_one_file() {
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole.gguf");
    let editable = Editable::tiny();
    editable.save(&whole);
    let half = editable.tensors.len() / 2;
    for (no, tensors) in [&editable.tensors[..half], &editable.tensors[half..]]
        .into_iter()
        .enumerate()
    {
        let mut part = editable
            .clone()
            .with("split.no", no as u16)
            .with("split.count", 2_u16);
        part = part.with("split.tensors.count", editable.tensors.len() as i32);
        part.tensors = tensors.to_vec();
        part.save(
            &dir.path()
                .join(format!("split-{:05}-of-00002.gguf", no + 1)),
        );
    }
    let outputs = [whole, dir.path().join("split-00001-of-00002.gguf")].map(|input| {
        let output = dir.path().join("out.gguf");
        run(&input, &output, on_one_thread(FileType::Q8_0)).unwrap();
        fs::read(output).unwrap()
    });
    assert!(outputs[0] == outputs[1]);
}

/// A factor of 22.627, which in BF16 is 22.625, the factor of all types but F32 and F16.
#[test]
fn the_factor_of_the_embedding_stays() {
    let dir = TempDir::new().unwrap();
    let geometry = Geometry {
        d: 512,
        n_layers: 2,
        ..GEOMETRY
    };
    let input = model(&dir, &geometry);
    let scale = |path: &Path| {
        let model = Model::load(
            path,
            &Default::default(),
            &mut |_| ControlFlow::Continue(()),
        );
        model.unwrap().hparams().embedding_scale
    };
    let output = dir.path().join("q8_0.gguf");
    run(&input, &output, on_one_thread(FileType::Q8_0)).unwrap();
    assert_eq!([scale(&input), scale(&output)], [512_f32.sqrt(); 2]);
    // And back: from a file whose factor was rounded.
    let (rounded, back) = (dir.path().join("bf16.gguf"), dir.path().join("back.gguf"));
    let types = WeightTypes::Uniform(TensorType::BF16);
    fs::write(&rounded, synthetic_bytes(&geometry, types, 1).unwrap()).unwrap();
    run(&rounded, &back, on_one_thread(FileType::F16)).unwrap();
    assert_eq!([scale(&rounded), scale(&back)], [22.625; 2]);
}

#[test]
fn a_run_that_is_stopped_or_fails_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let input = model(&dir, &Geometry::tiny());
    let output = dir.path().join("out.gguf");
    fs::write(&output, "an older file").unwrap();
    let entries = || fs::read_dir(dir.path()).unwrap().count();
    let plan = Plan::new(&input, on_one_thread(FileType::Q8_0)).unwrap();
    let (mut shares, mut seen) = (Vec::new(), 0);
    let stopped = plan.write(&output, &mut |share| {
        shares.push(share);
        seen = seen.max(entries());
        match share < 0.5 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(shares.len() > 3 && shares.is_sorted(), "{shares:?}");
    assert_eq!((seen, entries()), (3, 2));
    assert_eq!(fs::read(&output).unwrap(), b"an older file");

    let mut shares = Vec::new();
    plan.write(&output, &mut |share| {
        shares.push(share);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((shares.last(), entries()), (Some(&1.0), 2));
    Gguf::open(&output).unwrap();

    let broken = Editable::tiny();
    let other = dir.path().join("other.gguf");
    // Converted, and copied.
    for name in ["blk.1.attn_q.weight", "output_norm.weight"] {
        let mut broken = broken.clone();
        let tensor = broken.tensors.iter_mut().find(|t| t.name == name);
        tensor.unwrap().data[200..204].copy_from_slice(&f32::INFINITY.to_le_bytes());
        broken.save(&input);
        let error = run(&input, &other, on_one_thread(FileType::Q8_0)).unwrap_err();
        let error = error.to_string();
        let named = format!("{}: tensor '{name}': rows", input.display());
        assert!(
            error.contains(&named) && error.contains("not finite"),
            "{error}"
        );
        assert_eq!(entries(), 2);
    }
}

/// An infinity would make every answer arbitrary, and no later step could find the weight.
#[test]
fn numbers_too_large_for_a_type_are_named() {
    let dir = TempDir::new().unwrap();
    let (input, output) = (dir.path().join("in.gguf"), dir.path().join("out.gguf"));
    let name = "blk.1.attn_q.weight";
    let with_number = |number: f32| {
        let mut model = Editable::generated(&GEOMETRY);
        let tensor = model.tensors.iter_mut().find(|t| t.name == name).unwrap();
        // In row 2.
        let at = 4 * (2 * GEOMETRY.d + 7);
        tensor.data[at..at + 4].copy_from_slice(&number.to_le_bytes());
        model.save(&input);
    };
    let to = |ty| {
        let mut params = on_one_thread(FileType::F32);
        params.mix.overrides = vec![TypeOverride {
            pattern: Regex::new("blk.1.attn_q").unwrap(),
            ty,
        }];
        params
    };
    with_number(1e6);
    assert_refused(
        &input,
        &output,
        on_one_thread(FileType::F16),
        &[
            input.to_str().unwrap(),
            &format!("tensor '{name}': rows 0 to "),
            "hold a number that is too large for f16",
        ],
    );
    assert!(!output.exists());
    // The largest F16 is 65504; numbers below the midpoint to the next step round to it.
    with_number(65_519.0);
    run(&input, &output, to(TensorType::F16)).unwrap();
    assert_eq!(numbers(&output)[name][2 * GEOMETRY.d + 7], 65_504.0);
    with_number(65_520.0);
    assert_refused(&input, &output, to(TensorType::F16), &["too large for f16"]);
    // Types whose scales are F16.
    with_number(1e10);
    for ty in [
        TensorType::Q8_0,
        TensorType::Q5_1,
        TensorType::Q4_0,
        TensorType::Q2_K,
        TensorType::Q4_K,
        TensorType::Q6_K,
        TensorType::IQ4_NL,
    ] {
        let problem = format!("too large for {ty}");
        assert_refused(&input, &output, to(ty), &[name, &problem]);
    }
    run(&input, &output, to(TensorType::BF16)).unwrap();
    with_number(f32::MAX);
    assert_refused(
        &input,
        &output,
        to(TensorType::BF16),
        &["too large for bf16"],
    );
}

/// A run that must fail, with the expected parts of its message.
fn assert_refused(input: &Path, output: &Path, params: QuantizeParams, parts: &[&str]) {
    let message = run(input, output, params).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn bad_models_and_outputs_are_named() {
    let dir = TempDir::new().unwrap();
    let input = model(&dir, &Geometry::tiny());
    let at = |name: &str| dir.path().join(name);
    let q8_0 = || on_one_thread(FileType::Q8_0);
    let save = |name: &str, bytes: &[u8]| {
        fs::write(at(name), bytes).unwrap();
        at(name)
    };
    let bytes = fs::read(&input).unwrap();
    let output = at("out.gguf");

    let cut = save("cut.gguf", &bytes[..bytes.len() - 100]);
    assert_refused(&cut, &output, q8_0(), &["cut.gguf", "truncated"]);
    assert_refused(
        &at("none.gguf"),
        &output,
        q8_0(),
        &["none.gguf", "No such file"],
    );
    let gemma = at("gemma4.gguf");
    write_as_gemma4(&ModelFile::open(&input).unwrap(), &gemma).unwrap();
    let parts = ["gemma4", "'diffusion-gemma'", "llama-quantize"];
    assert_refused(&gemma, &output, q8_0(), &parts);
    let lacking = at("lacking.gguf");
    Editable::tiny()
        .without_tensor("blk.1.attn_q.weight")
        .save(&lacking);
    assert_refused(
        &lacking,
        &output,
        q8_0(),
        &["blk.1.attn_q.weight", "missing"],
    );
    assert!(!output.exists());

    assert_refused(
        &input,
        &input,
        q8_0(),
        &["model-f32.gguf", "the model itself"],
    );
    assert_refused(&input, dir.path(), q8_0(), &["is a directory"]);
    let nowhere = at("no/such/out.gguf");
    assert_refused(&input, &nowhere, q8_0(), &["no/such", "No such file"]);
    #[cfg(unix)]
    {
        assert_refused(
            &input,
            Path::new("/dev/null"),
            q8_0(),
            &["/dev/null", "not a regular file"],
        );
        let link = at("link.gguf");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        assert_refused(&input, &link, q8_0(), &["the model itself"]);
    }
    assert_eq!(fs::read(&input).unwrap(), bytes);

    let threads = QuantizeParams {
        threads: Some(0),
        ..q8_0()
    };
    assert_refused(&input, &output, threads, &["threads: ", "1 to 512"]);
    run(&input, &output, q8_0()).unwrap();
    let again = at("again.gguf");
    let q4_0 = || on_one_thread(FileType::Q4_0);
    assert_refused(
        &output,
        &again,
        q4_0(),
        &["quantized already", "`allow_requantize`"],
    );
    let allowed = QuantizeParams {
        allow_requantize: true,
        ..q4_0()
    };
    run(&output, &again, allowed).unwrap();
    // The same type again loses nothing.
    run(&output, &again, q8_0()).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&output).unwrap());
}

#[test]
fn bad_overrides_and_importance_matrices_are_named() {
    let dir = TempDir::new().unwrap();
    let input = model(&dir, &Geometry::tiny());
    let output = dir.path().join("out.gguf");
    let refused = |change: &dyn Fn(&mut QuantizeParams), parts: &[&str]| {
        let mut params = on_one_thread(FileType::Q4_0);
        change(&mut params);
        assert_refused(&input, &output, params, parts);
    };
    let overridden = |pattern: &str, ty| TypeOverride {
        pattern: Regex::new(pattern).unwrap(),
        ty,
    };
    let nothing = || vec![overridden("ffn_gate_inp", TensorType::Q8_0)];
    refused(
        &|p| p.mix.overrides = nothing(),
        &["mix.overrides: ", "ffn_gate_inp", "none"],
    );
    let unusable = || vec![overridden("ffn", TensorType::IQ2_XXS)];
    refused(
        &|p| p.mix.overrides = unusable(),
        &["mix.overrides: ", "iq2_xxs", "q4_K"],
    );
    refused(
        &|p| p.mix.output = Some(TensorType::I8),
        &["mix.output: ", "i8"],
    );
    refused(
        &|p| p.mix.embedding = Some(TensorType::Q8_1),
        &["mix.embedding: ", "q8_1"],
    );

    let file = dir.path().join("imatrix.gguf");
    let of = |entries: &HashMap<String, Importances>| {
        write_imatrix(&file, entries);
        ImportanceMatrix::open(&file)
    };
    let mut entries = importances(&input);
    let other = of(&HashMap::from([(
        "other.weight".to_owned(),
        entries.remove("blk.0.attn_q.weight").unwrap(),
    )]));
    let other = other.unwrap();
    refused(
        &|p| p.importance = Some(other.clone()),
        &["imatrix.gguf", "none of the 1 tensors"],
    );
    let name = "blk.1.ffn_down_exps.weight";
    entries.get_mut(name).unwrap().columns -= 16;
    let entry = entries.get_mut(name).unwrap();
    entry.means.truncate(entry.columns * entry.counts.len());
    let wrong = of(&entries).unwrap();
    refused(
        &|p| p.importance = Some(wrong.clone()),
        &["imatrix.gguf", name, "64 importances"],
    );
    entries.get_mut(name).unwrap().means[3] = f32::NAN;
    let error = of(&entries).unwrap_err().to_string();
    assert!(
        error.contains(name) && error.contains("not finite"),
        "{error}"
    );

    // No columns or no counts, sums without counts, no sums at all, and the older format truncated.
    for (sums, counts) in [([0, 2], [1, 2]), ([0, 2], [1, 0]), ([64, 2], [1, 0])] {
        let mut writer = GgufWriter::new();
        let name = "blk.0.attn_q.weight";
        writer.tensor(format!("{name}.in_sum2"), &sums, TensorType::F32);
        writer.tensor(format!("{name}.counts"), &counts, TensorType::F32);
        let mut data = writer.begin(Vec::new()).unwrap();
        for shape in [sums, counts] {
            data.write(&vec![0; 4 * shape[0] * shape[1]]).unwrap();
        }
        fs::write(&file, data.finish().unwrap()).unwrap();
        let error = ImportanceMatrix::open(&file).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("counts do not divide"),
            "{error}"
        );
    }
    let mut writer = GgufWriter::new();
    writer.tensor("blk.0.attn_q.weight.in_sum2", &[64], TensorType::F32);
    let mut data = writer.begin(Vec::new()).unwrap();
    data.write(&[0; 256]).unwrap();
    fs::write(&file, data.finish().unwrap()).unwrap();
    let error = ImportanceMatrix::open(&file).unwrap_err().to_string();
    assert!(
        error.contains("'blk.0.attn_q.weight.counts': is missing"),
        "{error}"
    );
    let error = ImportanceMatrix::open(&input).unwrap_err().to_string();
    assert!(error.contains("not an importance matrix"), "{error}");
    let legacy = dir.path().join("imatrix.dat");
    write_legacy(&legacy, &importances(&input));
    let bytes = fs::read(&legacy).unwrap();
    for len in [0, 3, 4, 40, bytes.len() / 2] {
        fs::write(&legacy, &bytes[..len]).unwrap();
        let error = ImportanceMatrix::open(&legacy).unwrap_err().to_string();
        assert!(
            error.contains("imatrix.dat") && error.contains("importance matrix"),
            "{error}"
        );
    }
}
