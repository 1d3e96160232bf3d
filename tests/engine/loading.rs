//! Options of loading: locked and checked weights, other metadata.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::Geometry;
use llama_diffusion::quantize::{FileType, Plan, QuantizeParams};
use llama_diffusion::{
    AnyModel, Error, MetadataOverride, MetadataValue, Model, ModelParams, Result, Vocab,
};
use tempfile::TempDir;

use llama_diffusion_testing::model_file::{Editable, EditableTensor};

fn load(path: &Path, params: &ModelParams) -> Result<Model> {
    Model::load(path, params, &mut |_| ControlFlow::Continue(()))
}

fn vocab(model: &Model) -> Result<Vocab> {
    let file = model.file();
    Vocab::load(file.metadata(), file.metadata_overrides())
}

/// A small model with a change to the data of one tensor.
fn damaged(name: &str, damage: impl FnOnce(&mut [u8])) -> Editable {
    let mut file = Editable::tiny();
    let tensor = file.tensors.iter_mut().find(|tensor| tensor.name == name);
    damage(&mut tensor.unwrap().data);
    file
}

#[test]
fn a_weight_that_is_not_finite_is_named_when_asked_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("nan.gguf");
    let name = "blk.0.ffn_down.weight";
    damaged(name, |data| {
        let last = data.len() - 4;
        data[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    })
    .save(&path);
    for no_mmap in [false, true] {
        let params = |check_tensors| ModelParams {
            no_mmap,
            check_tensors,
            ..ModelParams::default()
        };
        load(&path, &params(false)).unwrap();
        match load(&path, &params(true)) {
            Err(Error::Tensor {
                path: named,
                tensor,
                ..
            }) => {
                assert_eq!((named.as_path(), tensor.as_str()), (path.as_path(), name));
            }
            other => panic!("{other:?}"),
        }
    }
    Editable::tiny().save(&path);
    let params = ModelParams {
        check_tensors: true,
        ..ModelParams::default()
    };
    load(&path, &params).unwrap();
}

#[test]
fn norms_are_always_checked() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("nan.gguf");
    let name = "output_norm.weight";
    damaged(name, |data| data[..4].fill(0xff)).save(&path);
    match load(&path, &ModelParams::default()) {
        Err(Error::Tensor { tensor, .. }) => assert_eq!(tensor, name),
        other => panic!("{other:?}"),
    }
}

#[test]
#[cfg(target_os = "linux")]
fn locked_weights_are_locked_as_long_as_the_model_lives() {
    // The memory that the system keeps locked.
    let locked = || llama_diffusion_testing::process::status("VmLck");
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    // Far below the 8 MiB that Linux allows every user to lock.
    Editable::generated(&Geometry::tiny()).save(&path);
    let size = std::fs::metadata(&path).unwrap().len() as usize;
    for no_mmap in [false, true] {
        let before = locked();
        let params = ModelParams {
            no_mmap,
            lock: true,
            ..ModelParams::default()
        };
        let model = load(&path, &params).unwrap();
        assert!(
            locked() >= before + size * 8 / 10,
            "{} of {size} bytes",
            locked() - before
        );
        drop(model);
        if !no_mmap {
            assert_eq!(locked(), before);
        }
    }
}

fn with(key: &str, value: MetadataValue) -> ModelParams {
    ModelParams {
        metadata: vec![MetadataOverride {
            key: key.into(),
            value,
        }],
        ..ModelParams::default()
    }
}

#[test]
fn metadata_of_the_user_takes_precedence_over_the_file_s() {
    use MetadataValue::{Float, Integer, Text};
    let path = Path::new(llama_diffusion_demo_model::PATH);
    let model = |key, value| load(path, &with(key, value)).unwrap();

    let model_steps = model("diffusion.eb_max_steps", Integer(7));
    assert_eq!(model_steps.overrides().max_steps, Some(7));
    let warmer = model("diffusion.eb_t_max", Float(1.5));
    assert_eq!(warmer.overrides().t_max, Some(1.5));
    // libllama, which reads the vocabulary, uses them too.
    let vocab = vocab(&model("tokenizer.ggml.eos_token_id", Integer(5))).unwrap();
    assert_eq!(vocab.eos(), Some(5));
    let template = llama_diffusion::TextModel::new(AnyModel::from(&Arc::new(model(
        "tokenizer.chat_template",
        Text("{{ messages[0].content }}".into()),
    ))));
    let template = template.unwrap().chat_template().unwrap().unwrap();
    let hello = [llama_diffusion::chat::Message::new(
        llama_diffusion::chat::Role::User,
        "hello",
    )];
    assert_eq!(
        template.render(&hello, &Default::default()).unwrap(),
        "hello"
    );

    for (key, value, part) in [
        ("diffusion.eb_max_steps", Text("many".into()), "is no u32"),
        ("diffusion.eb_max_steps", Integer(-1), "': -1 is no u32"),
        ("diffusion.eb_max_steps", Integer(0), "expected 1 to"),
        ("tokenizer.ggml.tokens", Integer(1), "array"),
        (
            "general.architecture",
            Text("llama".into()),
            "stays as it is",
        ),
        ("general.name", Text("x".repeat(128)), "127 bytes"),
    ] {
        let message = load(path, &with(key, value)).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(part), "{message}");
    }
}

/// A model with an empty tensor that nothing uses, in the middle and at the end.
fn with_empty_tensors() -> Editable {
    let mut file = Editable::tiny();
    for (at, shape) in [(3, vec![32, 0]), (file.tensors.len(), vec![0, 5, 2])] {
        let empty = EditableTensor {
            name: format!("unused.{at}"),
            shape,
            ty: TensorType::Q8_0,
            data: Vec::new(),
        };
        file.tensors.insert(at, empty);
    }
    file
}

#[test]
fn empty_tensors_that_nothing_uses_are_taken_and_copied() {
    let dir = TempDir::new().unwrap();
    let [path, copy] = ["in.gguf", "out.gguf"].map(|name| dir.path().join(name));
    with_empty_tensors().save(&path);
    let params = ModelParams {
        check_tensors: true,
        ..ModelParams::default()
    };
    let model = load(&path, &params).unwrap();
    vocab(&model).unwrap();
    let plan = Plan::new(&path, QuantizeParams::new(FileType::Q8_0)).unwrap();
    plan.write(&copy, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let model = load(&copy, &params).unwrap();
    let empty = model
        .file()
        .tensors()
        .filter(|(_, tensor)| tensor.data.is_empty());
    let shapes: Vec<_> = empty.map(|(_, tensor)| tensor.info.shape).collect();
    assert_eq!(shapes, [[32, 0, 1, 1], [0, 5, 2, 1]]);
}

#[test]
fn an_empty_tensor_that_is_used_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("in.gguf");
    let name = "blk.0.ffn_down.weight";
    Editable::tiny()
        .with_tensor(name, &[96, 0], TensorType::F32)
        .save(&path);
    match load(&path, &ModelParams::default()) {
        Err(Error::Tensor { tensor, .. }) => assert_eq!(tensor, name),
        other => panic!("{other:?}"),
    }
}
