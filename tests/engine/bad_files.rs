//! Bad model files: each gives an error that names the file and the cause.

use std::fs;
use std::path::Path;

use llama_diffusion::gguf::Gguf;
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::gguf::Encoded;
use llama_diffusion::internal::llama::check_tokenizer;
use llama_diffusion::internal::model::Hparams;
use llama_diffusion::internal::model::TensorTable;
use llama_diffusion::internal::synthetic::Geometry;
use llama_diffusion::model::file::ModelFile;
use llama_diffusion_testing::model_file::{Editable, load};
use tempfile::TempDir;

/// Asserts that `path` cannot be loaded, and that the message names it and everything in
/// `culprits`.
#[track_caller]
fn assert_refused(path: &Path, culprits: &[&str]) {
    let message = match load(path) {
        Ok(_) => panic!("{culprits:?}: loaded"),
        Err(error) => error.to_string(),
    };
    for part in culprits.iter().copied().chain(path.to_str()) {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// Asserts that these bytes are not a model that can be loaded, and that the message names the
/// causes.
#[track_caller]
fn assert_bytes_refused(bytes: &[u8], culprits: &[&str]) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    assert_refused(&path, culprits);
}

#[track_caller]
fn assert_edit_refused(file: &Editable, culprits: &[&str]) {
    assert_bytes_refused(&file.to_bytes(), culprits);
}

/// The error of these bytes before anything is loaded: file, hyperparameters, tensors, tokenizer.
fn problem(bytes: Vec<u8>) -> Option<String> {
    let check = || {
        let file = ModelFile::from_gguf(Gguf::parse(Path::new("model.gguf"), bytes)?);
        TensorTable::locate(&file, &Hparams::from_file(&file)?)?;
        check_tokenizer(file.metadata())
    };
    check().err().map(|error| error.to_string())
}

/// The offset of the tensor data.
fn data_offset(bytes: &[u8]) -> usize {
    let gguf = Gguf::parse(Path::new("model.gguf"), bytes.to_vec()).unwrap();
    gguf.tensors().next().unwrap().info.range.start
}

#[test]
fn the_file_that_the_others_are_made_from_is_good() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    Editable::tiny().save(&path);
    let (model, vocab) = load(&path).unwrap();
    assert_eq!(*model.hparams(), Geometry::tiny().hparams());
    assert_eq!(vocab.len(), Geometry::tiny().vocab_size);
}

// Not a file, not a GGUF.

#[test]
fn no_file() {
    assert_refused(Path::new("/nowhere/model.gguf"), &["No such file"]);
}

#[test]
fn a_directory() {
    let dir = TempDir::new().unwrap();
    assert_refused(dir.path(), &["is a directory"]);
}

#[test]
fn an_empty_file() {
    assert_bytes_refused(b"", &["the file is empty"]);
}

#[test]
fn not_a_gguf() {
    assert_bytes_refused(b"PK\x03\x04 and more", &["not a GGUF", r#""PK\x03\x04""#]);
    assert_bytes_refused(b"#", &["not a GGUF", "\"#\""]);
    // The container format before GGUF.
    assert_bytes_refused(b"tjgg\x03\0\0\0", &["not a GGUF", "\"tjgg\""]);
}

#[test]
fn a_version_that_is_not_supported() {
    for (version, culprit) in [
        (1_u32, "version 1"),
        (4, "version 4"),
        (3 << 24, "big-endian"),
    ] {
        let mut bytes = Editable::tiny().to_bytes();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        assert_bytes_refused(&bytes, &[culprit, "convert the model again"]);
    }
}

#[test]
fn version_2_is_as_good_as_3() {
    let mut bytes = Editable::tiny().to_bytes();
    bytes[4] = 2;
    assert_eq!(problem(bytes), None);
}

// Truncated.

#[test]
fn truncated_in_the_header() {
    let bytes = Editable::tiny().to_bytes();
    for len in 1..24 {
        assert_bytes_refused(&bytes[..len], &["truncated in the header"]);
    }
}

#[test]
fn truncated_in_the_metadata() {
    let bytes = Editable::tiny().to_bytes();
    assert_bytes_refused(
        &bytes[..30],
        &["truncated in the metadata", "the key of number 0"],
    );
    let key = b"diffusion-gemma.block_count";
    let at = bytes
        .windows(key.len())
        .position(|window| window == key)
        .unwrap();
    let culprits = ["truncated in the metadata", "'diffusion-gemma.block_count'"];
    assert_bytes_refused(&bytes[..at + key.len() + 6], &culprits);
    let key = b"tokenizer.ggml.merges";
    let at = bytes
        .windows(key.len())
        .position(|window| window == key)
        .unwrap();
    let culprits = ["truncated in the metadata", "'tokenizer.ggml.merges'"];
    assert_bytes_refused(&bytes[..at + key.len() + 40], &culprits);
}

#[test]
fn truncated_in_the_tensor_table() {
    let bytes = Editable::tiny().to_bytes();
    let name = b"blk.1.attn_q.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    let culprits = ["truncated in the tensor table", "'blk.1.attn_q.weight'"];
    assert_bytes_refused(&bytes[..at + name.len() + 10], &culprits);
}

#[test]
fn truncated_in_the_tensor_data() {
    let file = Editable::tiny();
    let bytes = file.to_bytes();
    let quoted = |index: usize| format!("'{}'", file.tensors[index].name);
    // The last tensor is a scalar; the padding after it may be missing.
    let len = bytes.len() - 30;
    let culprits = [
        "truncated in the tensor data",
        &quoted(file.tensors.len() - 1),
        &len.to_string(),
    ];
    assert_bytes_refused(&bytes[..len], &culprits);
    let len = data_offset(&bytes) + 5;
    assert_bytes_refused(
        &bytes[..len],
        &["truncated in the tensor data", &quoted(0), &len.to_string()],
    );
}

#[test]
fn every_prefix_of_a_file_is_reported_as_truncated() {
    let bytes = Editable::tiny().to_bytes();
    let data = data_offset(&bytes);
    for len in (1..data)
        .step_by(41)
        .chain((data..bytes.len() - 32).step_by(997))
    {
        let message = problem(bytes[..len].to_vec()).expect("a prefix is not a model");
        assert!(message.contains("truncated in"), "{len} bytes: {message}");
    }
}

// Malformed metadata and tensor tables, written byte by byte.

const U32: u32 = 4;
const STR: u32 = 8;
const ARRAY: u32 = 9;

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn entry(key: &[u8], value_type: u32, value: &[u8]) -> Vec<u8> {
    [&string(key), &value_type.to_le_bytes()[..], value].concat()
}

fn tensor(name: &str, shape: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name.as_bytes());
    bytes.extend((shape.len() as u32).to_le_bytes());
    bytes.extend(shape.iter().flat_map(|extent| extent.to_le_bytes()));
    bytes.extend(type_id.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// A file of these entries, with a kilobyte of data.
fn file(entries: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    bytes.extend(entries.concat());
    bytes.extend(tensors.concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 1024, 0);
    bytes
}

#[test]
fn malformed_metadata() {
    let one = 1_u32.to_le_bytes();
    let refused =
        |entry: Vec<u8>, culprits: &[&str]| assert_bytes_refused(&file(&[entry], &[]), culprits);
    refused(entry(b"", U32, &one), &["number 0", "the name is empty"]);
    refused(entry(b"a\0b", U32, &one), &["number 0", "a zero byte"]);
    refused(entry(b"\xff", U32, &one), &["number 0", "not UTF-8"]);
    refused(entry(b"odd", 13, &one), &["'odd'", "value type 13"]);
    refused(
        entry(b"text", STR, &string(b"\xc3\x28")),
        &["'text'", "not UTF-8"],
    );
    refused(
        entry(b"text", STR, &u64::MAX.to_le_bytes()),
        &["'text'", "18446744073709551615"],
    );
    refused(
        entry(b"long", STR, &(1_u64 << 29).to_le_bytes()),
        &["truncated", "'long'"],
    );
    let array = |element_type: u32, len: u64| {
        [&element_type.to_le_bytes()[..], &len.to_le_bytes()].concat()
    };
    refused(
        entry(b"list", ARRAY, &array(ARRAY, 1)),
        &["'list'", "arrays of arrays"],
    );
    refused(
        entry(b"list", ARRAY, &array(99, 1)),
        &["'list'", "value type 99"],
    );
    refused(
        entry(b"list", ARRAY, &array(U32, u64::MAX)),
        &["'list'", "18446744073709551615"],
    );
    refused(
        entry(b"list", ARRAY, &array(U32, 1 << 29)),
        &["truncated", "'list'"],
    );
    refused(
        entry(b"list", ARRAY, &array(STR, 1 << 29)),
        &["truncated", "'list'"],
    );
    refused(
        entry(b"general.alignment", U32, &12_u32.to_le_bytes()),
        &["'general.alignment'", "power of two"],
    );
    refused(
        entry(b"general.alignment", U32, &[0; 4]),
        &["'general.alignment'", "power of two"],
    );
    refused(
        entry(b"general.alignment", STR, &string(b"32")),
        &["'general.alignment'", "u32"],
    );
    let twice = [entry(b"same", U32, &one), entry(b"same", U32, &one)];
    assert_bytes_refused(&file(&twice, &[]), &["'same'", "twice"]);
}

#[test]
fn malformed_tensor_table() {
    let (f32, q8_0) = (TensorType::F32.id(), TensorType::Q8_0.id());
    let refused = |tensors: &[Vec<u8>], culprits: &[&str]| {
        assert_bytes_refused(&file(&[], tensors), culprits)
    };
    refused(
        &[tensor("", &[1], f32, 0)],
        &["number 0", "the name is empty"],
    );
    refused(
        &[tensor(&"n".repeat(64), &[1], f32, 0)],
        &["nnn", "longer than 63 bytes"],
    );
    refused(&[tensor("t", &[1; 5], f32, 0)], &["'t'", "5 dimensions"]);
    // A dimension of 0 does not hide another one.
    refused(
        &[tensor("t", &[0, 1 << 40, 1 << 40], f32, 0)],
        &["'t'", "too large"],
    );
    refused(&[tensor("t", &[4], 4, 0)], &["'t'", "type id 4"]);
    refused(
        &[tensor("t", &[4], u32::MAX, 0)],
        &["'t'", "type id 4294967295"],
    );
    refused(
        &[tensor("t", &[33], q8_0, 0)],
        &["'t'", "33", "blocks of 32"],
    );
    refused(
        &[tensor("t", &[1 << 32, 1 << 32], f32, 0)],
        &["'t'", "too large"],
    );
    refused(&[tensor("t", &[1 << 62], f32, 0)], &["'t'", "too large"]);
    refused(&[tensor("t", &[u64::MAX], f32, 0)], &["'t'", "too large"]);
    refused(
        &[tensor("t", &[4], f32, 32)],
        &["'t'", "offset 32", "expected 0"],
    );
    let gap = [tensor("t", &[4], f32, 0), tensor("u", &[4], f32, 64)];
    refused(&gap, &["'u'", "offset 64", "expected 32"]);
    let twice = [tensor("t", &[4], f32, 0), tensor("t", &[4], f32, 32)];
    refused(&twice, &["'t'", "twice"]);
    let large = [
        tensor("t", &[1 << 40], f32, 0),
        tensor("u", &[4], f32, 1 << 42),
    ];
    refused(&large, &["truncated in the tensor data", "'t'"]);
}

// Metadata of the model.

#[test]
fn another_architecture() {
    let file = |name: &str| Editable::tiny().with("general.architecture", name);
    assert_edit_refused(
        &file("llama"),
        &["general.architecture", "'llama'", "diffusion-gemma"],
    );
    for masked in ["dream", "llada", "llada-moe", "rnd1"] {
        assert_edit_refused(
            &file(masked),
            &["general.architecture", masked, "masked model"],
        );
    }
}

const REQUIRED: [&str; 23] = [
    "general.architecture",
    "diffusion.canvas_length",
    "diffusion-gemma.block_count",
    "diffusion-gemma.context_length",
    "diffusion-gemma.embedding_length",
    "diffusion-gemma.feed_forward_length",
    "diffusion-gemma.attention.head_count",
    "diffusion-gemma.attention.head_count_kv",
    "diffusion-gemma.attention.key_length",
    "diffusion-gemma.attention.key_length_swa",
    "diffusion-gemma.attention.value_length",
    "diffusion-gemma.attention.value_length_swa",
    "diffusion-gemma.attention.sliding_window",
    "diffusion-gemma.attention.sliding_window_pattern",
    "diffusion-gemma.attention.layer_norm_rms_epsilon",
    "diffusion-gemma.rope.freq_base",
    "diffusion-gemma.rope.freq_base_swa",
    "diffusion-gemma.rope.dimension_count",
    "diffusion-gemma.rope.dimension_count_swa",
    "diffusion-gemma.expert_count",
    "diffusion-gemma.expert_used_count",
    "diffusion-gemma.expert_feed_forward_length",
    "diffusion-gemma.final_logit_softcapping",
];

#[test]
fn a_missing_key() {
    for key in REQUIRED {
        assert_edit_refused(
            &Editable::tiny().without(key),
            &[&format!("'{key}'"), "is missing"],
        );
    }
}

#[test]
fn a_key_of_the_wrong_type() {
    let quoted = |key: &str| format!("'{key}'");
    for key in &REQUIRED[1..] {
        let file = Editable::tiny().with(key, "seven");
        assert_edit_refused(&file, &[&quoted(key), "str \"seven\"", "expected"]);
    }
    let file = Editable::tiny().with("general.architecture", 3_u32);
    assert_edit_refused(&file, &["'general.architecture'", "u32 3", "a string"]);
    let pattern = "diffusion-gemma.attention.sliding_window_pattern";
    let file = Editable::tiny().with(
        pattern,
        [1.0_f32, 0.0, 0.0].into_iter().collect::<Encoded>(),
    );
    assert_edit_refused(&file, &[&quoted(pattern), "array of 3 f32"]);
    let kv_heads = "diffusion-gemma.attention.head_count_kv";
    let file = Editable::tiny().with(kv_heads, [2, -1, 1].into_iter().collect::<Encoded>());
    assert_edit_refused(&file, &[&quoted(kv_heads), "unsigned"]);
    let file = Editable::tiny().with("diffusion-gemma.block_count", -3_i32);
    assert_edit_refused(&file, &["'diffusion-gemma.block_count'", "i32 -3"]);
}

#[test]
fn an_absurd_value() {
    let refused = |key: &str, value: Encoded| {
        let quoted = format!("'{key}'");
        assert_edit_refused(&Editable::tiny().with(key, value), &[&quoted]);
    };
    let counts: [(&str, &[u32]); 15] = [
        ("block_count", &[0, 1 << 31, u32::MAX, 1025]),
        ("context_length", &[0, u32::MAX]),
        ("embedding_length", &[0, u32::MAX]),
        ("feed_forward_length", &[0, u32::MAX]),
        ("attention.head_count", &[0, u32::MAX]),
        // Not a divisor of the heads of Q.
        ("attention.head_count_kv", &[0, 3, 8, u32::MAX]),
        ("attention.key_length", &[0, 31, u32::MAX]),
        ("attention.key_length_swa", &[0, 15, u32::MAX]),
        ("attention.value_length", &[0, 16, u32::MAX]),
        ("attention.value_length_swa", &[0, 32, u32::MAX]),
        ("attention.sliding_window", &[0, 1, u32::MAX]),
        ("rope.dimension_count", &[0, 31, 34]),
        ("rope.dimension_count_swa", &[0, 15, 18]),
        ("expert_count", &[0, u32::MAX]),
        // More than there are.
        ("expert_used_count", &[0, 5, u32::MAX]),
    ];
    for (suffix, values) in counts {
        for &value in values {
            refused(&format!("diffusion-gemma.{suffix}"), value.into());
        }
    }
    let file = Editable::tiny().with("diffusion-gemma.attention.head_count", 3_u32);
    assert_edit_refused(&file, &["head_count", "do not divide the 3 heads of Q"]);
    for value in [0, 8193, u32::MAX] {
        refused("diffusion.canvas_length", value.into());
    }
    for suffix in [
        "attention.layer_norm_rms_epsilon",
        "rope.freq_base",
        "rope.freq_base_swa",
        "final_logit_softcapping",
        "embedding_scale",
    ] {
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            refused(&format!("diffusion-gemma.{suffix}"), value.into());
        }
    }
    refused("diffusion.eb_max_steps", 0_u32.into());
    for name in ["t_min", "t_max", "entropy_bound", "confidence_threshold"] {
        refused(&format!("diffusion.eb_{name}"), f32::NAN.into());
        refused(&format!("diffusion.eb_{name}"), (-0.1_f32).into());
    }
    refused(
        "diffusion-gemma.attention.sliding_window_pattern",
        0_u32.into(),
    );
    let two: Encoded = [true, false].into_iter().collect();
    refused("diffusion-gemma.attention.sliding_window_pattern", two);
    let four: Encoded = [2_i32, 1, 2, 1].into_iter().collect();
    refused("diffusion-gemma.attention.head_count_kv", four);
    for name in ["bos", "eos", "padding"] {
        refused(&format!("tokenizer.ggml.{name}_token_id"), 320_u32.into());
    }
}

#[test]
fn a_feature_that_is_not_supported() {
    for (key, value) in [
        (
            "diffusion-gemma.attention.shared_kv_layers",
            Encoded::from(2_u32),
        ),
        (
            "diffusion-gemma.embedding_length_per_layer_input",
            64_u32.into(),
        ),
        ("diffusion.shift_logits", true.into()),
    ] {
        assert_edit_refused(
            &Editable::tiny().with(key, value),
            &[&format!("'{key}'"), "support"],
        );
    }
}

#[test]
fn other_spellings_of_the_same_model_are_good() {
    let geometry = Geometry {
        full_every: 3,
        n_kv_heads_full: 2,
        ..Geometry::tiny()
    };
    let file = Editable::generated(&geometry)
        .with("diffusion-gemma.attention.sliding_window_pattern", 3_u32)
        .with("diffusion-gemma.attention.head_count_kv", 2_u32)
        .with("diffusion-gemma.block_count", 3_u64)
        .with("diffusion-gemma.rope.freq_base", 1e6_f64)
        .without("diffusion-gemma.attention.shared_kv_layers")
        .without("diffusion-gemma.embedding_length_per_layer_input")
        .without_tensor("rope_freqs.weight");
    let file = ModelFile::from_gguf(Gguf::parse(Path::new("model.gguf"), file.to_bytes()).unwrap());
    let hparams = Hparams::from_file(&file).unwrap();
    assert_eq!(hparams, geometry.hparams());
    TensorTable::locate(&file, &hparams).unwrap();
}

// Tensors.

#[test]
fn a_missing_tensor() {
    let file = Editable::tiny();
    // These have a default: the reference's frequencies.
    for tensor in file
        .tensors
        .iter()
        .filter(|tensor| tensor.name != "rope_freqs.weight")
    {
        let bytes = file.clone().without_tensor(&tensor.name).to_bytes();
        let message = problem(bytes).unwrap_or_else(|| panic!("{}: accepted", tensor.name));
        let quoted = format!("tensor '{}'", tensor.name);
        assert!(
            message.contains(&quoted) && message.contains("is missing"),
            "{message}"
        );
    }
    let split = Editable::generated(&Geometry {
        fused_experts: false,
        ..Geometry::tiny()
    });
    let name = "blk.1.ffn_up_exps.weight";
    assert_edit_refused(&split.without_tensor(name), &[name, "is missing"]);
}

#[test]
fn a_tensor_of_the_wrong_shape() {
    let file = Editable::tiny();
    for tensor in &file.tensors {
        for dimension in 0..tensor.shape.len() {
            let mut shape = tensor.shape.clone();
            shape[dimension] += 32;
            let bytes = file
                .clone()
                .with_tensor(&tensor.name, &shape, tensor.ty)
                .to_bytes();
            let message = problem(bytes).unwrap_or_else(|| panic!("{}: accepted", tensor.name));
            // Rows of the embedding are compared with the tokens of the tokenizer first.
            assert!(message.contains(&format!("'{}'", tensor.name)), "{message}");
        }
    }
    let file = file.with_tensor("blk.0.attn_q.weight", &[64, 32], TensorType::F32);
    let culprits = [
        "'blk.0.attn_q.weight'",
        "has shape [64, 32]",
        "expected [64, 64]",
    ];
    assert_edit_refused(&file, &culprits);
}

#[test]
fn a_tensor_of_the_wrong_type() {
    let file = Editable::tiny();
    for tensor in &file.tensors {
        let bytes = file
            .clone()
            .with_tensor(&tensor.name, &tensor.shape, TensorType::I32)
            .to_bytes();
        let message = problem(bytes).unwrap_or_else(|| panic!("{}: accepted", tensor.name));
        let quoted = format!("tensor '{}': has type i32, expected", tensor.name);
        assert!(message.contains(&quoted), "{message}");
    }
    let refused = |name: &str, shape: &[usize], ty, culprit: &str| {
        assert_edit_refused(&file.clone().with_tensor(name, shape, ty), &[name, culprit]);
    };
    refused(
        "output_norm.weight",
        &[64],
        TensorType::F16,
        "has type f16, expected f32",
    );
    refused(
        "blk.0.ffn_gate_inp.weight",
        &[64, 4],
        TensorType::Q8_0,
        "has type q8_0",
    );
    refused(
        "blk.0.attn_q.weight",
        &[64, 64],
        TensorType::Q8_1,
        "can multiply",
    );
}

// The tokenizer.

#[test]
fn a_bad_tokenizer() {
    let strings = |strings: &[&str]| strings.iter().copied().collect::<Encoded>();
    let tokens = |change: &dyn Fn(&mut Vec<String>)| {
        let file = Editable::tiny();
        let gguf = Gguf::parse(Path::new("model.gguf"), file.to_bytes()).unwrap();
        let list = gguf
            .require::<llama_diffusion::gguf::Array<'_>>("tokenizer.ggml.tokens")
            .unwrap();
        let mut tokens: Vec<_> = list
            .strings()
            .map(|token| String::from_utf8_lossy(token).into_owned())
            .collect();
        change(&mut tokens);
        tokens.iter().map(String::as_str).collect::<Encoded>()
    };
    let cases: [(&str, Option<Encoded>, &str); 24] = [
        ("model", None, "is missing"),
        ("model", Some("bert".into()), "'bert' is not supported"),
        ("tokens", None, "is missing"),
        ("tokens", Some("all".into()), "expected an array"),
        (
            "tokens",
            Some([1_i32; 320].into_iter().collect()),
            "array of 320 i32",
        ),
        ("tokens", Some(strings(&["a", "b"])), "has 2 tokens"),
        (
            "tokens",
            Some(tokens(&|list| list[300] = "<eos>".into())),
            "token 300 is \"<eos>\"",
        ),
        // libllama keeps C strings, and gives names to empty ones.
        (
            "tokens",
            Some(tokens(&|list| list[300] = "<eos>\0x".into())),
            "token 300 is \"<eos>\"",
        ),
        (
            "tokens",
            Some(tokens(&|list| {
                list[300].clear();
                list[301] = "[EMPTY_300]".into();
            })),
            "token 301",
        ),
        (
            "scores",
            Some([0.0_f32; 319].into_iter().collect()),
            "has 319 elements for 320 tokens",
        ),
        (
            "scores",
            Some([0_u64; 320].into_iter().collect()),
            "array of 320 u64",
        ),
        (
            "token_type",
            Some([1_i32; 321].into_iter().collect()),
            "has 321 elements for 320 tokens",
        ),
        (
            "token_type",
            Some([1_u32; 320].into_iter().collect()),
            "array of 320 u32",
        ),
        (
            "token_type",
            Some([6_i32; 320].into_iter().collect()),
            "type of bytes",
        ),
        ("merges", None, "is missing"),
        ("merges", Some(strings(&["a b", "ab"])), "merge 1 is \"ab\""),
        ("merges", Some(strings(&[" a"])), "merge 0"),
        ("merges", Some(strings(&["a "])), "merge 0"),
        ("bos_token_id", None, "is missing"),
        ("bos_token_id", Some(2_u64.into()), "expected a u32"),
        ("eot_token_id", Some(320_u32.into()), "has 320 tokens"),
        ("add_bos_token", Some(1_u32.into()), "expected a bool"),
        ("pre", Some(1_u32.into()), "expected a str"),
        (
            "suppress_tokens",
            Some([1_u32].into_iter().collect()),
            "array of 1 u32",
        ),
    ];
    for (name, value, culprit) in cases {
        let key = format!("tokenizer.ggml.{name}");
        let file = match value {
            Some(value) => Editable::tiny().with(&key, value),
            None => Editable::tiny().without(&key),
        };
        assert_edit_refused(&file, &[&format!("'{key}'"), culprit]);
    }
    let file = Editable::tiny()
        .with("tokenizer.ggml.add_eos_token", true)
        .without("tokenizer.ggml.eos_token_id");
    assert_edit_refused(&file, &["'tokenizer.ggml.eos_token_id'", "add_eos_token"]);
}

#[test]
fn odd_tokenizers_that_are_good() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let mut file = Editable::tiny()
        .without("tokenizer.ggml.scores")
        .without("tokenizer.ggml.token_type");
    file.metadata.set(
        "tokenizer.ggml.merges",
        ["  a", "a  "].into_iter().collect::<Encoded>(),
    );
    file.save(&path);
    load(&path).unwrap();
}

// Split models.

/// A tiny model in `count` parts under `dir`.
fn parts(count: u16) -> Vec<Editable> {
    let file = Editable::tiny();
    let total = file.tensors.len();
    let share = total.div_ceil(count.into());
    let parts = file.tensors.chunks(share).enumerate().map(|(no, tensors)| {
        let mut part = Editable {
            tensors: tensors.to_vec(),
            ..file.clone()
        };
        if no > 0 {
            part.metadata = Default::default();
        }
        part.with("split.no", no as u16)
            .with("split.count", count)
            .with("split.tensors.count", total as i32)
    });
    parts.collect()
}

/// Saves parts and returns the paths.
fn save_parts(dir: &TempDir, parts: &[Editable]) -> Vec<std::path::PathBuf> {
    let count = parts.len();
    let save = |(no, part): (usize, &Editable)| {
        let path = dir
            .path()
            .join(format!("model-{:05}-of-{count:05}.gguf", no + 1));
        part.save(&path);
        path
    };
    parts.iter().enumerate().map(save).collect()
}

#[test]
fn a_split_model_is_read_from_all_its_parts() {
    let dir = TempDir::new().unwrap();
    let paths = save_parts(&dir, &parts(3));
    let file = ModelFile::open(&paths[0]).unwrap();
    assert_eq!(file.parts().len(), 3);
    for whole in &Editable::tiny().tensors {
        let (_, tensor) = file.tensor(&whole.name).unwrap();
        assert_eq!(tensor.data, whole.data, "{}", whole.name);
    }
    load(&paths[0]).unwrap();
}

#[test]
fn a_missing_part() {
    let dir = TempDir::new().unwrap();
    let paths = save_parts(&dir, &parts(3));
    fs::remove_file(&paths[1]).unwrap();
    let message = load(&paths[0]).unwrap_err().to_string();
    assert!(
        message.contains(paths[1].to_str().unwrap()) && message.contains("part 2 of 3"),
        "{message}"
    );
}

#[test]
fn a_part_that_is_not_the_first() {
    let dir = TempDir::new().unwrap();
    let paths = save_parts(&dir, &parts(3));
    assert_refused(
        &paths[1],
        &["part 2", "give the first part", paths[0].to_str().unwrap()],
    );
}

#[test]
fn a_part_under_another_name() {
    let dir = TempDir::new().unwrap();
    let paths = save_parts(&dir, &parts(2));
    let renamed = dir.path().join("model.gguf");
    fs::copy(&paths[0], &renamed).unwrap();
    assert_refused(&renamed, &["part 1 of 2", "-00001-of-00002.gguf"]);
    fs::copy(&paths[0], &paths[1]).unwrap();
    let message = load(&paths[0]).unwrap_err().to_string();
    assert!(
        message.contains(paths[1].to_str().unwrap()) && message.contains("'split.no'"),
        "{message}"
    );
}

#[test]
fn parts_that_do_not_belong_together() {
    let refused = |change: &dyn Fn(&mut Vec<Editable>), culprits: &[&str]| {
        let dir = TempDir::new().unwrap();
        let mut parts = parts(2);
        change(&mut parts);
        let paths = save_parts(&dir, &parts);
        let message = load(&paths[0]).unwrap_err().to_string();
        for culprit in culprits {
            assert!(
                message.contains(culprit),
                "{culprit:?} is not in {message:?}"
            );
        }
    };
    let set = |part: &mut Editable, key: &str, value: Encoded| {
        part.metadata.set(key, value);
    };
    refused(
        &|parts| set(&mut parts[0], "split.tensors.count", 7_i32.into()),
        &["'split.tensors.count'", "7"],
    );
    refused(
        &|parts| set(&mut parts[0], "split.count", 2_u32.into()),
        &["'split.count'", "u16"],
    );
    // libllama would stop the process.
    refused(
        &|parts| set(&mut parts[1], "split.no", 1_u32.into()),
        &["'split.no'", "u16"],
    );
    let twice = |parts: &mut Vec<Editable>| {
        let tensor = parts[0].tensors[3].clone();
        parts[1].tensors.push(tensor);
    };
    let name = &parts(2)[0].tensors[3].name;
    refused(&twice, &[name, "is in", "too"]);
}
