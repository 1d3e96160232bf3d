//! Generated models: any geometry with random weights, for tests and benchmarks, as files or made
//! when they are loaded.
//!
//! The weights mean nothing, but they are sized so that activations stay in the range of a trained
//! model, no two tensors are alike, and the scalars of encoder and decoder are far apart. The same
//! seed gives the same file.

mod vocabulary;
mod weights;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

pub use vocabulary::min_vocab_size;
pub(super) use vocabulary::set_tokenizer;
use vocabulary::special_id;
pub(crate) use weights::random_weights;
pub(super) use weights::{Random, write_matrix};
use weights::{fill, scales};

use super::file::ModelFile;
use super::hparams::{ARCHITECTURE, Hparams, LayerHparams, LayerKind, embedding_scale};
use super::mix::{Backbone, FileType, Mix};
use super::tensors::{Expected, TOKEN_EMBD, TensorTable, TensorUse};
use crate::diffusion::Overrides;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::gguf::writer::{Encoded, GgufWriter};
use crate::gguf::{Gguf, TensorData, TensorInfo};
use crate::parallel;

/// The extents of a generated model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Layers.
    pub n_layers: usize,
    /// Every so many layers, and the last, one is full; the others are sliding.
    pub full_every: usize,
    /// Width of the residual stream.
    pub d: usize,
    /// Width of the dense MLPs.
    pub d_ff: usize,
    /// Heads of Q.
    pub n_heads: usize,
    /// Heads of K and V on sliding layers.
    pub n_kv_heads: usize,
    /// Heads of K and V on full layers.
    pub n_kv_heads_full: usize,
    /// Size of a head on sliding layers.
    pub head_dim: usize,
    /// Size of a head on full layers.
    pub head_dim_full: usize,
    /// Positions that a token of a sliding layer sees.
    pub sliding_window: usize,
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts chosen for a token.
    pub n_experts_used: usize,
    /// Width of an expert.
    pub d_expert: usize,
    /// Tokens of the vocabulary, at least those of [`min_vocab_size`].
    pub vocab_size: usize,
    /// Tokens of a canvas.
    pub canvas_length: usize,
    /// Positions that the model pretends to be trained for.
    pub context_length: usize,
    /// Whether the experts' gate and up projections are one tensor.
    pub fused_experts: bool,
    /// Whether the output head is the embedding matrix.
    pub tied_output: bool,
    /// Whether full layers have a value projection.
    pub full_layers_have_v: bool,
}

impl Geometry {
    /// A model for tests, below a megabyte: every feature of the architecture in small. Rows are
    /// whole blocks of 32, so that it can be had in Q8_0.
    pub const fn tiny() -> Self {
        Self {
            n_layers: 3,
            full_every: 2,
            d: 64,
            d_ff: 96,
            n_heads: 4,
            n_kv_heads: 2,
            n_kv_heads_full: 1,
            head_dim: 16,
            head_dim_full: 32,
            sliding_window: 8,
            n_experts: 4,
            n_experts_used: 2,
            d_expert: 32,
            vocab_size: 320,
            canvas_length: 16,
            context_length: 4096,
            fused_experts: true,
            tied_output: true,
            full_layers_have_v: false,
        }
    }

    /// A model for benchmarks on a CPU: 131 million weights, 263 MB in F16.
    pub const fn small() -> Self {
        Self {
            n_layers: 6,
            full_every: 6,
            d: 768,
            d_ff: 1536,
            n_heads: 8,
            n_kv_heads: 4,
            n_kv_heads_full: 1,
            head_dim: 128,
            head_dim_full: 256,
            sliding_window: 1024,
            n_experts: 16,
            n_experts_used: 4,
            d_expert: 384,
            vocab_size: 8192,
            canvas_length: 256,
            context_length: 32_768,
            fused_experts: true,
            tied_output: true,
            full_layers_have_v: false,
        }
    }

    /// The same with a large vocabulary, as real models have: 196 million weights, 208 MB in Q8_0.
    pub const fn medium() -> Self {
        Self {
            n_experts: 20,
            vocab_size: 65_536,
            ..Self::small()
        }
    }

    /// The geometry of diffusiongemma-26B-A4B.
    pub const fn a4b_26b() -> Self {
        Self {
            n_layers: 30,
            full_every: 6,
            d: 2816,
            d_ff: 2112,
            n_heads: 16,
            n_kv_heads: 8,
            n_kv_heads_full: 2,
            head_dim: 256,
            head_dim_full: 512,
            sliding_window: 1024,
            n_experts: 128,
            n_experts_used: 8,
            d_expert: 704,
            vocab_size: 262_144,
            canvas_length: 256,
            context_length: 262_144,
            fused_experts: true,
            tied_output: true,
            full_layers_have_v: false,
        }
    }

    /// The hyperparameters that a generated file of F32 has.
    pub fn hparams(&self) -> Hparams {
        Hparams {
            vocab_size: self.vocab_size,
            d: self.d,
            d_ff: self.d_ff,
            n_heads: self.n_heads,
            layers: (1..=self.n_layers)
                .map(|number| self.layer(number))
                .collect(),
            sliding_window: self.sliding_window,
            rms_eps: 1e-6,
            n_experts: self.n_experts,
            n_experts_used: self.n_experts_used,
            d_expert: self.d_expert,
            logit_softcap: 30.0,
            canvas_length: self.canvas_length,
            context_length: self.context_length,
            embedding_scale: embedding_scale(self.d, TensorType::F32),
            sampler: Overrides::default(),
            bos: Some(special_id("<bos>")),
            eos: Some(special_id("<eos>")),
            pad: Some(special_id("<pad>")),
        }
    }

    /// The layer of this number, counted from 1.
    fn layer(&self, number: usize) -> LayerHparams {
        let full = number == self.n_layers || number.is_multiple_of(self.full_every.max(1));
        let (kind, n_kv_heads, head_dim, rope_base) = if full {
            (
                LayerKind::Full,
                self.n_kv_heads_full,
                self.head_dim_full,
                1e6,
            )
        } else {
            (LayerKind::Sliding, self.n_kv_heads, self.head_dim, 1e4)
        };
        LayerHparams {
            kind,
            n_kv_heads,
            head_dim,
            rope_base,
            rope_dims: head_dim,
        }
    }

    /// The tensors of the file.
    fn tensors(&self, hparams: &Hparams) -> Vec<Expected> {
        let has = |name: &str| match name.rsplit('.').nth(1) {
            Some("output") => !self.tied_output,
            Some("attn_v") => self.full_layers_have_v,
            Some("ffn_gate_up_exps") => self.fused_experts,
            Some("ffn_gate_exps") => !self.fused_experts,
            _ => true,
        };
        TensorTable::expected(hparams, has).into_vec()
    }
}

impl FromStr for Geometry {
    type Err = String;

    /// `tiny`, `small`, `200m` or `26b-a4b`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "tiny" => Ok(Self::tiny()),
            "small" => Ok(Self::small()),
            "200m" => Ok(Self::medium()),
            "26b-a4b" => Ok(Self::a4b_26b()),
            _ => Err(format!(
                "unknown geometry '{name}', expected tiny, small, 200m or 26b-a4b"
            )),
        }
    }
}

/// The types of a generated model's matrices. Norms, scales and routers are F32. A type whose
/// blocks do not fit the rows of a tensor [gives way](TensorType::for_rows_of).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightTypes {
    /// One type.
    Uniform(TensorType),
    /// The mixture of the files called Q4_K_M.
    Q4KM,
}

impl WeightTypes {
    fn of(self, tensors: &[Expected], geometry: &Geometry) -> Vec<TensorType> {
        let types: Vec<_> = match self {
            Self::Uniform(ty) => tensors
                .iter()
                .map(|tensor| {
                    let is_matrix = tensor.usage == TensorUse::Matrix;
                    is_matrix.then(|| ty.for_rows_of(tensor.shape[0]))
                })
                .collect(),
            Self::Q4KM => Mix::of(FileType::Q4_K_M).types(
                tensors,
                &Backbone {
                    n_layers: geometry.n_layers,
                    n_experts: geometry.n_experts,
                    weighted: false,
                },
            ),
        };
        let types = types.into_iter();
        types.map(|ty| ty.unwrap_or(TensorType::F32)).collect()
    }
}

impl FromStr for WeightTypes {
    type Err = String;

    /// The name of a tensor type, or `q4_k_m`.
    fn from_str(name: &str) -> Result<Self, String> {
        if name.eq_ignore_ascii_case("q4_k_m") {
            Ok(Self::Q4KM)
        } else {
            name.parse().map(Self::Uniform)
        }
    }
}

/// Writes a generated model to `path`.
///
/// # Errors
/// A vocabulary below [`min_vocab_size`], a type for which there is no generator, or the file
/// cannot be written.
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
/// A vocabulary below [`min_vocab_size`], or a type for which there is no generator.
pub fn synthetic_bytes(geometry: &Geometry, types: WeightTypes, seed: u64) -> Result<Vec<u8>> {
    write(Vec::new(), Path::new("(in memory)"), geometry, types, seed)
}

/// A generated model of which only the description exists: its weights are made when they are
/// loaded, one tensor at a time.
///
/// # Errors
/// As [`synthetic_bytes`].
pub fn synthetic_file(geometry: &Geometry, types: WeightTypes, seed: u64) -> Result<ModelFile> {
    let path = Path::new("(generated)");
    let plan = Plan::new(geometry, types, seed)?;
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
    let plan = Plan::new(geometry, types, seed)?;
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

/// The tensors of a generated model.
#[derive(Debug)]
struct Plan {
    tensors: Vec<Planned>,
    seed: u64,
}

impl Plan {
    fn new(geometry: &Geometry, types: WeightTypes, seed: u64) -> Result<Self> {
        if geometry.vocab_size < min_vocab_size() {
            let problem = format!(
                "is {}, expected at least {}",
                geometry.vocab_size,
                min_vocab_size()
            );
            return Err(Error::parameter("vocab_size", problem));
        }
        let expected = geometry.tensors(&geometry.hparams());
        let tensors: Vec<Planned> = types
            .of(&expected, geometry)
            .into_iter()
            .zip(expected)
            .map(|(ty, expected)| Planned { ty, expected })
            .collect();
        match tensors.iter().find(|tensor| scales(tensor.ty).is_none()) {
            Some(Planned { ty, .. }) => Err(Error::parameter(
                "tensor type",
                format!("random weights of type {ty} are not supported"),
            )),
            None => Ok(Self { tensors, seed }),
        }
    }

    fn describe(&self, hparams: &Hparams) -> GgufWriter {
        let mut writer = GgufWriter::new();
        set_hparams(&mut writer, hparams);
        set_tokenizer(&mut writer, hparams.vocab_size);
        for Planned { ty, expected } in &self.tensors {
            writer.tensor(&expected.name, &expected.shape, *ty);
        }
        writer
    }
}

impl TensorData for Plan {
    /// On all cores.
    fn make(&self, info: &TensorInfo) -> Vec<u8> {
        let mut data = vec![0; info.range.len()];
        let named = |tensor: &&Planned| tensor.expected.name == info.name;
        let Some(tensor) = self.tensors.iter().find(named) else {
            return data;
        };
        let pieces = data.chunks_mut(tensor.piece_bytes()).enumerate();
        parallel::map(pieces, parallel::cores(), |(i, piece)| {
            tensor.fill(self.seed, i, piece)
        });
        data
    }
}

/// A tensor of a generated model with its type.
#[derive(Debug)]
struct Planned {
    ty: TensorType,
    expected: Expected,
}

impl Planned {
    fn elements(&self) -> usize {
        self.expected.shape.iter().product()
    }

    fn bytes(&self) -> usize {
        self.elements() / self.ty.block_len() * self.ty.block_bytes()
    }

    /// Matrices are made in pieces of this size, which fit the cache; each has a random stream of
    /// its own. Vectors are one piece.
    fn piece_bytes(&self) -> usize {
        const ABOUT: usize = 1 << 18;
        match self.expected.usage {
            TensorUse::Vector => self.bytes(),
            _ => ABOUT / self.ty.block_bytes() * self.ty.block_bytes(),
        }
    }

    /// Fills the piece of this index.
    fn fill(&self, seed: u64, piece: usize, buffer: &mut [u8]) {
        let mut random = Random::new(seed, &self.expected.name, piece);
        match self.expected.usage {
            TensorUse::Vector => {
                buffer.copy_from_slice(&vector(&self.expected.name, self.elements(), &mut random));
            }
            _ => fill(buffer, self.ty, amplitude(&self.expected), &mut random),
        }
    }
}

/// Bound of the uniform distribution of a matrix's weights, so that activations keep their size.
fn amplitude(tensor: &Expected) -> f32 {
    let row = tensor.shape[0] as f32;
    let deviation = match tensor.usage {
        // Its input is divided by the root of its length.
        TensorUse::Router => 1.0,
        // Logits this far apart give the canvas certain and uncertain positions.
        _ if tensor.name == TOKEN_EMBD => 3.0 / row.sqrt(),
        _ => 1.0 / row.sqrt(),
    };
    deviation * 3_f32.sqrt()
}

/// Norm weights, scales and frequency factors, as F32.
fn vector(name: &str, len: usize, random: &mut Random) -> Vec<u8> {
    let value = |index: usize| match name.rsplit('.').nth(1) {
        // A quarter of the pairs turn.
        Some("rope_freqs") => {
            if index < len / 4 {
                1.0
            } else {
                1e30
            }
        }
        Some("layer_output_scale") => 1.0 + 0.1 * random.signed(),
        Some("enc_layer_output_scale") => 0.5 + 0.1 * random.signed(),
        _ => 1.0 + 0.5 * random.signed(),
    };
    (0..len).map(value).flat_map(f32::to_le_bytes).collect()
}

fn set_hparams(writer: &mut GgufWriter, hparams: &Hparams) {
    let number = |n: usize| Encoded::from(n as u32);
    writer
        .set("general.architecture", ARCHITECTURE)
        .set("general.name", "synthetic")
        .set("diffusion.canvas_length", number(hparams.canvas_length));
    let sliding = |layer: &LayerHparams| layer.kind == LayerKind::Sliding;
    let mut set = |suffix: &str, value: Encoded| {
        writer.set(format!("{ARCHITECTURE}.{suffix}"), value);
    };
    set("block_count", number(hparams.layers.len()));
    set("context_length", number(hparams.context_length));
    set("embedding_length", number(hparams.d));
    set("feed_forward_length", number(hparams.d_ff));
    set("attention.head_count", number(hparams.n_heads));
    set(
        "attention.head_count_kv",
        hparams
            .layers
            .iter()
            .map(|layer| layer.n_kv_heads as i32)
            .collect(),
    );
    set("attention.sliding_window", number(hparams.sliding_window));
    set(
        "attention.sliding_window_pattern",
        hparams.layers.iter().map(sliding).collect(),
    );
    set("attention.shared_kv_layers", number(0));
    set("embedding_length_per_layer_input", number(0));
    set("attention.layer_norm_rms_epsilon", hparams.rms_eps.into());
    for layer in &hparams.layers {
        let suffix = if sliding(layer) { "_swa" } else { "" };
        set(
            &format!("attention.key_length{suffix}"),
            number(layer.head_dim),
        );
        set(
            &format!("attention.value_length{suffix}"),
            number(layer.head_dim),
        );
        set(&format!("rope.freq_base{suffix}"), layer.rope_base.into());
        set(
            &format!("rope.dimension_count{suffix}"),
            number(layer.rope_dims),
        );
    }
    set("expert_count", number(hparams.n_experts));
    set("expert_used_count", number(hparams.n_experts_used));
    set("expert_feed_forward_length", number(hparams.d_expert));
    set("final_logit_softcapping", hparams.logit_softcap.into());
}

/// Writes the backbone of a DiffusionGemma model as a model of architecture `gemma4`, which
/// libllama can run: the same weights with the encoder's scalars, without self-conditioning.
///
/// # Errors
/// The file cannot be written.
pub fn write_as_gemma4(model: &ModelFile, path: &Path) -> Result<()> {
    const TARGET: &str = "gemma4";
    let renamed = |name: &str| match name.rsplit_once('.') {
        Some((stem, _))
            if stem.starts_with("self_cond") || stem.ends_with(".layer_output_scale") =>
        {
            None
        }
        _ => Some(name.replace("enc_layer_output_scale", "layer_output_scale")),
    };
    let mut writer = GgufWriter::new();
    for (key, value) in model.metadata().metadata() {
        let key = match key.strip_prefix(ARCHITECTURE) {
            // A canvas is not causal, a prefix is.
            Some(".attention.causal") => continue,
            Some(suffix) => format!("{TARGET}{suffix}"),
            None if key.starts_with("split.") => continue,
            None => key.to_owned(),
        };
        writer.set(key, value);
    }
    writer.set("general.architecture", TARGET);
    if model.metadata().value("tokenizer.ggml.model").is_none() {
        // A file without a tokenizer, such as one for tests, must say so to libllama.
        let vocab_size = Hparams::from_file(model)?.vocab_size;
        writer.set("tokenizer.ggml.model", "no_vocab");
        writer.set(format!("{TARGET}.vocab_size"), vocab_size as u32);
    }
    let tensors = || {
        model
            .tensors()
            .filter_map(|(part, tensor)| Some((renamed(&tensor.info.name)?, part, tensor.info)))
    };
    for (name, _, info) in tensors() {
        writer.tensor(name, &info.shape, info.ty);
    }
    let out = BufWriter::new(File::create(path).map_err(Error::io(path))?);
    let mut data = writer.begin(out).map_err(Error::io(path))?;
    for (_, part, info) in tensors() {
        let weights = model.parts()[part].data(info);
        data.write(&weights).map_err(Error::io(path))?;
    }
    data.finish().map(drop).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::check_tokenizer;

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
