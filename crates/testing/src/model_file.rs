//! A model file in pieces, which can be changed and assembled again.

use std::ops::ControlFlow;
use std::path::Path;

use llama_diffusion::gguf::Gguf;
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::gguf::{Encoded, GgufWriter};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, synthetic_bytes};
use llama_diffusion::{Model, Result, Vocab};

/// A tensor with its data.
#[derive(Clone)]
pub struct EditableTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub ty: TensorType,
    pub data: Vec<u8>,
}

/// A GGUF file in pieces.
#[derive(Clone)]
pub struct Editable {
    pub metadata: GgufWriter,
    pub tensors: Vec<EditableTensor>,
}

impl Editable {
    /// A valid model of this geometry, in F32.
    pub fn generated(geometry: &Geometry) -> Self {
        let types = WeightTypes::Uniform(TensorType::F32);
        let bytes = synthetic_bytes(geometry, types, 7).unwrap();
        Self::of(&Gguf::parse(Path::new("generated.gguf"), bytes).unwrap())
    }

    /// The pieces of a file.
    pub fn of(gguf: &Gguf) -> Self {
        let mut metadata = GgufWriter::new();
        for (key, value) in gguf.metadata() {
            metadata.set(key, value);
        }
        let tensors = gguf.tensors().map(|tensor| EditableTensor {
            name: tensor.info.name.clone(),
            shape: tensor.info.shape.to_vec(),
            ty: tensor.info.ty,
            data: tensor.data.to_vec(),
        });
        Self {
            metadata,
            tensors: tensors.collect(),
        }
    }

    /// A small valid model.
    pub fn tiny() -> Self {
        Self::generated(&Geometry::tiny())
    }

    /// With another value of `key`.
    pub fn with(mut self, key: &str, value: impl Into<Encoded>) -> Self {
        self.metadata.set(key, value);
        self
    }

    /// Without `key`, which must be there.
    pub fn without(mut self, key: &str) -> Self {
        assert!(self.metadata.remove(key), "there is no key {key}");
        self
    }

    /// Without the tensor of that name, which must be there.
    pub fn without_tensor(mut self, name: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.name != name);
        assert_eq!(self.tensors.len() + 1, before, "there is no tensor {name}");
        self
    }

    /// With zeros of another shape and type for the tensor of that name, which must be there.
    pub fn with_tensor(mut self, name: &str, shape: &[usize], ty: TensorType) -> Self {
        let tensor = self.tensors.iter_mut().find(|tensor| tensor.name == name);
        let tensor = tensor.unwrap_or_else(|| panic!("there is no tensor {name}"));
        tensor.shape = shape.to_vec();
        tensor.ty = ty;
        let rows: usize = shape[1..].iter().product();
        tensor.data = vec![0; ty.row_bytes(shape[0]).unwrap() * rows];
        self
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = self.metadata.clone();
        for tensor in &self.tensors {
            writer.tensor(&tensor.name, &tensor.shape, tensor.ty);
        }
        let mut data = writer.begin(Vec::new()).unwrap();
        for tensor in &self.tensors {
            data.write(&tensor.data).unwrap();
        }
        data.finish().unwrap()
    }

    /// Writes the file to `path`.
    pub fn save(&self, path: &Path) {
        std::fs::write(path, self.to_bytes()).unwrap();
    }
}

/// Loads all of a model: weights and vocabulary.
pub fn load(path: &Path) -> Result<(Model, Vocab)> {
    let model = Model::load(
        path,
        &Default::default(),
        &mut |_| ControlFlow::Continue(()),
    )?;
    let vocab = Vocab::load(model.file().metadata(), model.file().metadata_overrides())?;
    Ok((model, vocab))
}

/// The demo model with scales that are not finite in one of its matrices.
pub fn damaged_demo(tensor: &str) -> Vec<u8> {
    let demo = Path::new(llama_diffusion_demo_model::PATH);
    let mut bytes = llama_diffusion_demo_model::MODEL.to_vec();
    let range = Gguf::open(demo).unwrap();
    let range = range.tensor(tensor).unwrap().info.range.clone();
    // Blocks of Q8_0: a scale in F16, and 32 bytes.
    for block in bytes[range].chunks_exact_mut(34) {
        block[..2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    }
    bytes
}
