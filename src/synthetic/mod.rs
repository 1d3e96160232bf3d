//! Generated models: any geometry with random weights, for tests and benchmarks, as files or
//! generated while they are loaded.
//!
//! The weights are random, but sized so that activations stay in the range of a trained model, no
//! two tensors are alike, and the scalars of encoder and decoder are far apart. The same seed gives
//! the same file.

mod gemma4;
mod generated;
mod geometry;
#[doc(hidden)]
pub mod masked;
mod metadata;
mod types;
mod vocabulary;
mod weights;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

pub use gemma4::write_as_gemma4;
use generated::Generated;
pub use geometry::Geometry;
pub use types::WeightTypes;
pub use vocabulary::min_vocab_size;
pub(crate) use weights::random_weights;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::file::ModelFile;

/// Writes a generated model to `path`.
///
/// # Errors
/// A vocabulary below [`min_vocab_size`], a type without a generator, or the file cannot be
/// written.
pub fn write_synthetic(
    path: &Path,
    geometry: &Geometry,
    types: WeightTypes,
    seed: u64,
) -> Result<()> {
    let out = BufWriter::new(File::create(path).map_err(Error::io(path))?);
    write(out, path, geometry, types, seed).map(drop)
}

/// A generated model in memory.
///
/// # Errors
/// A vocabulary below [`min_vocab_size`], or a type without a generator.
pub fn synthetic_bytes(geometry: &Geometry, types: WeightTypes, seed: u64) -> Result<Vec<u8>> {
    write(Vec::new(), Path::new("(in memory)"), geometry, types, seed)
}

/// A generated model of which only the description exists: its weights are generated while they are
/// loaded, one tensor at a time.
///
/// # Errors
/// As [`synthetic_bytes`].
pub fn synthetic_file(geometry: &Geometry, types: WeightTypes, seed: u64) -> Result<ModelFile> {
    let path = Path::new("(generated)");
    let plan = Generated::new(geometry, types, seed)?;
    let head = plan
        .describe(&geometry.hparams())
        .begin(Vec::new())
        .map_err(Error::io(path))?
        .into_head();
    Gguf::generated(path, head, Arc::new(plan)).map(ModelFile::from_gguf)
}

fn write<W: Write>(
    out: W,
    path: &Path,
    geometry: &Geometry,
    types: WeightTypes,
    seed: u64,
) -> Result<W> {
    let plan = Generated::new(geometry, types, seed)?;
    let describe = plan.describe(&geometry.hparams());
    let mut data = describe.begin(out).map_err(Error::io(path))?;
    for tensor in &plan.tensors {
        let pieces = |out: &mut dyn Write| {
            let mut buffer = vec![0; tensor.bytes().min(tensor.piece_bytes())];
            for (index, start) in (0..tensor.bytes())
                .step_by(tensor.piece_bytes())
                .enumerate()
            {
                let piece = buffer.len().min(tensor.bytes() - start);
                tensor.fill(seed, index, &mut buffer[..piece]);
                out.write_all(&buffer[..piece])?;
            }
            Ok(())
        };
        data.write_with(pieces).map_err(Error::io(path))?;
    }
    data.finish().map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::TensorType;
    use crate::llama::check_tokenizer;
    use crate::model::hparams::Hparams;
    use crate::model::tensors::TensorTable;

    fn generated(geometry: &Geometry, types: WeightTypes, seed: u64) -> ModelFile {
        let bytes = synthetic_bytes(geometry, types, seed).unwrap();
        ModelFile::from_gguf(Gguf::parse(Path::new("synthetic.gguf"), bytes).unwrap())
    }

    fn every_variant() -> impl Iterator<Item = Geometry> {
        [(true, true, false), (false, false, true)].into_iter().map(
            |(fused_experts, tied_output, full_layers_have_v)| Geometry {
                fused_experts,
                tied_output,
                full_layers_have_v,
                ..Geometry::tiny()
            },
        )
    }

    #[test]
    fn generated_files_pass_every_check() {
        for geometry in every_variant() {
            let file = generated(&geometry, WeightTypes::Uniform(TensorType::F32), 1);
            let hparams = Hparams::from_file(&file).unwrap();
            assert_eq!(hparams, geometry.hparams());
            check_tokenizer(file.metadata()).unwrap();
            let table = TensorTable::locate(&file, &hparams).unwrap();
            assert_eq!(table.output.is_none(), geometry.tied_output);
            let last = table.layers.last().unwrap();
            assert_eq!(last.attn_v.is_some(), geometry.full_layers_have_v);
        }
    }

    #[test]
    fn weights_depend_on_seed_and_name_only() {
        let geometry = Geometry::tiny();
        let types = WeightTypes::Uniform(TensorType::F16);
        let data = |file: &ModelFile, name: &str| file.tensor(name).unwrap().1.data.to_vec();
        let (one, other) = (
            generated(&geometry, types, 1),
            generated(&geometry, types, 2),
        );
        let wider = generated(
            &Geometry {
                vocab_size: 400,
                ..geometry.clone()
            },
            types,
            1,
        );
        let names = ["blk.0.attn_q.weight", "blk.1.attn_norm.weight"];
        for name in names {
            assert_eq!(
                data(&one, name),
                data(&generated(&geometry, types, 1), name)
            );
            assert_eq!(data(&one, name), data(&wider, name));
            assert_ne!(data(&one, name), data(&other, name));
        }
        assert_ne!(
            data(&one, "blk.0.attn_norm.weight"),
            data(&one, "blk.1.attn_norm.weight")
        );
    }

    #[test]
    fn weights_made_on_demand_are_those_of_the_file() {
        // Wide enough for matrices of several pieces.
        let geometry = Geometry {
            vocab_size: 8192,
            ..Geometry::tiny()
        };
        let types = WeightTypes::Uniform(TensorType::Q8_0);
        let (whole, described) = (
            generated(&geometry, types, 3),
            synthetic_file(&geometry, types, 3).unwrap(),
        );
        assert_eq!(whole.tensor_bytes(), described.tensor_bytes());
        for (_, tensor) in described.tensors() {
            let made = described.metadata().data(tensor.info);
            let (_, stored) = whole.tensor(&tensor.info.name).unwrap();
            assert_eq!(made, stored.data, "{}", tensor.info.name);
        }
    }

    #[test]
    fn blocks_that_do_not_fit_a_row_give_way() {
        let file = generated(&Geometry::tiny(), WeightTypes::Q4KM, 1);
        let ty = |name: &str| file.tensor(name).unwrap().1.info.ty;
        assert_eq!(ty("blk.0.attn_q.weight"), TensorType::Q5_0);
        assert_eq!(ty("token_embd.weight"), TensorType::Q8_0);
        assert_eq!(ty("blk.0.ffn_gate_inp.weight"), TensorType::F32);
    }

    #[test]
    fn a_vocabulary_that_is_too_small_is_refused() {
        let geometry = Geometry {
            vocab_size: min_vocab_size() - 1,
            ..Geometry::tiny()
        };
        let error = synthetic_bytes(&geometry, WeightTypes::Q4KM, 1)
            .unwrap_err()
            .to_string();
        assert!(error.contains("vocab_size"), "{error}");
        let error = synthetic_bytes(
            &Geometry::tiny(),
            WeightTypes::Uniform(TensorType::NVFP4),
            1,
        );
        assert!(error.unwrap_err().to_string().contains("nvfp4"));
    }
}
