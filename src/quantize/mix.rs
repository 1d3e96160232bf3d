//! Which tensor gets which type: the mixtures of llama.cpp's quantizer for a Gemma 4 with a mixture
//! of experts, as in the public DiffusionGemma files.

use std::str::FromStr;

use regex::Regex;

use crate::gguf::TensorType;
use crate::gguf::tensor_type::find_by_name;
use crate::model::keys::{self, TOKEN_EMBD};
use crate::model::tensors::{Expected, TensorUse};

macro_rules! file_types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $ty:ident;)*) => {
        /// The type of a whole file, with llama.cpp's number for it as the discriminant.
        #[allow(non_camel_case_types, reason = "the names are those of llama.cpp")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum FileType {
            $($(#[$doc])* $variant = $id,)*
        }

        impl FileType {
            /// All types, the largest files first.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in llama.cpp's tools and in the names of files.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The type of most of its matrices.
            pub const fn tensor_type(self) -> TensorType {
                match self {
                    $(Self::$variant => TensorType::$ty,)*
                }
            }
        }
    };
}

file_types! {
    /// 32 bits: back from any other type, without another loss.
    F32 = 0, "F32", F32;
    /// 16 bits, numbers up to 65504.
    F16 = 1, "F16", F16;
    /// 16 bits, the range of F32 with fewer digits than F16.
    BF16 = 32, "BF16", BF16;
    /// 8.5 bits a weight.
    Q8_0 = 7, "Q8_0", Q8_0;
    /// 6.6 bits a weight.
    Q6_K = 18, "Q6_K", Q6_K;
    /// 5.5 bits a weight, 6.6 for the sensitive half of the value and down projections.
    Q5_K_M = 17, "Q5_K_M", Q5_K;
    /// 4.5 bits a weight, 6.6 for the sensitive half of the value and down projections.
    Q4_K_M = 15, "Q4_K_M", Q4_K;
    /// 4.5 bits a weight, without the second level of scales of the K types.
    Q4_0 = 2, "Q4_0", Q4_0;
}

impl FileType {
    /// The number under `general.file_type`.
    pub const fn id(self) -> u32 {
        self as u32
    }
}

impl FromStr for FileType {
    type Err = String;

    /// Parses a name, in upper or lower case. The error lists the names.
    fn from_str(name: &str) -> Result<Self, String> {
        find_by_name(Self::ALL, |ty| ty.name(), "file type", name)
    }
}

/// Another type for the matrices whose names match.
#[derive(Clone, Debug)]
pub struct TypeOverride {
    /// Regular expression over tensor names, found anywhere in the name.
    pub pattern: Regex,
    /// The type, which must be [quantizable](TensorType::is_quantizable).
    pub ty: TensorType,
}

/// A mixture of tensor types, with the caller's changes.
#[derive(Clone, Debug)]
pub struct Mix {
    /// The type of the file.
    pub file_type: FileType,
    /// Uses the type of the file for all matrices, none in a better one.
    pub pure: bool,
    /// Leaves the output head as it is: `output.weight`, or the embedding of a file that ties them.
    pub leave_output: bool,
    /// Type of the output head.
    pub output: Option<TensorType>,
    /// Type of the embedding; takes precedence over `output` in a file that ties them.
    pub embedding: Option<TensorType>,
    /// Types of other matrices; the first match applies.
    pub overrides: Vec<TypeOverride>,
}

/// What a mixture depends on besides the tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MixShape {
    pub(crate) n_layers: usize,
    pub(crate) n_experts: usize,
    /// Whether there is an importance matrix.
    pub(crate) weighted: bool,
}

impl Mix {
    /// llama.cpp's mixture for a type of file.
    pub const fn of(file_type: FileType) -> Self {
        Self {
            file_type,
            pure: false,
            leave_output: false,
            output: None,
            embedding: None,
            overrides: Vec::new(),
        }
    }

    /// The types of all tensors of a model, listed layer by layer; `None` leaves one as it is:
    /// routers, norms and scales, which are small and sensitive.
    pub(crate) fn types(&self, tensors: &[Expected], shape: &MixShape) -> Vec<Option<TensorType>> {
        let is = |tensor: &Expected, stem: &str| keys::stem(&tensor.name) == stem;
        let tied = !tensors.iter().any(|tensor| is(tensor, keys::OUTPUT));
        let values = tensors.iter().filter(|t| is(t, keys::ATTN_V)).count();
        let mut value = 0;
        tensors
            .iter()
            .map(|tensor| {
                let rank = value;
                value += usize::from(is(tensor, keys::ATTN_V));
                let is_embedding = tensor.name == TOKEN_EMBD;
                let is_output = is(tensor, keys::OUTPUT) || (tied && is_embedding);
                if tensor.usage != TensorUse::Matrix || (is_output && self.leave_output) {
                    return None;
                }
                let overridden = || {
                    let mut overrides = self.overrides.iter();
                    overrides.find(|o| o.pattern.is_match(&tensor.name))
                };
                let chosen = (self.embedding.filter(|_| is_embedding))
                    .or(self.output.filter(|_| is_output))
                    .or_else(|| overridden().map(|o| o.ty));
                let ty = chosen.unwrap_or_else(|| {
                    let base = self.file_type.tensor_type();
                    if self.pure || !base.is_quantized() {
                        base
                    } else if is_output {
                        output_type(base, tensor.shape[0])
                    } else {
                        self.layer_type(tensor, (rank, values), shape)
                    }
                });
                Some(ty.for_rows_of(tensor.shape[0]))
            })
            .collect()
    }

    /// The type of a matrix of a layer (or of self-conditioning). A value projection has its index
    /// as `rank`, among `values` of them.
    fn layer_type(
        &self,
        tensor: &Expected,
        (rank, values): (usize, usize),
        shape: &MixShape,
    ) -> TensorType {
        let base = self.file_type.tensor_type();
        let mixed = matches!(self.file_type, FileType::Q4_K_M | FileType::Q5_K_M);
        let layer = tensor.layer.unwrap_or_default();
        // Models of eight experts are special: their attention is small compared to the experts.
        let eight = shape.n_experts == 8;
        match keys::stem(&tensor.name) {
            keys::ATTN_K | keys::ATTN_V if eight => TensorType::Q8_0,
            keys::ATTN_OUTPUT if eight && self.file_type == FileType::Q4_K_M => TensorType::Q5_K,
            keys::ATTN_V if mixed && is_sensitive(rank, values) => TensorType::Q6_K,
            keys::FFN_DOWN | keys::EXPERTS_DOWN => match self.file_type {
                _ if mixed && is_sensitive(layer, shape.n_layers) => TensorType::Q6_K,
                FileType::Q4_0 if shape.weighted && layer < shape.n_layers / 8 => TensorType::Q4_1,
                _ => base,
            },
            _ => base,
        }
    }
}

/// The layers whose value and down projections get more bits: the first and the last eighth, and
/// every third layer between.
const fn is_sensitive(index: usize, count: usize) -> bool {
    let eighth = count / 8;
    index < eighth || index >= 7 * count / 8 || (index - eighth) % 3 == 2
}

/// The output head affects all logits, and gets at least six bits.
const fn output_type(base: TensorType, row_len: usize) -> TensorType {
    match base {
        TensorType::Q8_0 => TensorType::Q8_0,
        _ if row_len.is_multiple_of(base.block_len()) => TensorType::Q6_K,
        _ => TensorType::Q8_0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tensors::TensorTable;
    use crate::synthetic::Geometry;

    fn tensors(geometry: &Geometry) -> Vec<Expected> {
        let has = |name: &str| name != "output.weight" && !name.contains("attn_v");
        TensorTable::expected(&geometry.hparams(), has).into_vec()
    }

    fn types(
        mix: &Mix,
        geometry: &Geometry,
        weighted: bool,
    ) -> Vec<(Expected, Option<TensorType>)> {
        let tensors = tensors(geometry);
        let shape = MixShape {
            n_layers: geometry.n_layers,
            n_experts: geometry.n_experts,
            weighted,
        };
        let types = mix.types(&tensors, &shape);
        tensors.into_iter().zip(types).collect()
    }

    fn type_of(mix: &Mix, geometry: &Geometry, weighted: bool, name: &str) -> Option<TensorType> {
        let mut types = types(mix, geometry, weighted).into_iter();
        types.find(|(tensor, _)| tensor.name == name).unwrap().1
    }

    /// The public Q4_K_M file has 423 tensors of F32 besides its matrices, and 16.8 GB.
    #[test]
    fn the_public_q4_k_m_file() {
        let all = types(&Mix::of(FileType::Q4_K_M), &Geometry::a4b_26b(), false);
        let count = |ty| all.iter().filter(|(_, found)| *found == ty).count();
        assert_eq!(count(None), 423);
        let of = |ty| count(Some(ty));
        // 13 value projections of 25 and the down projections of 14 layers of 30 are sensitive.
        assert_eq!(of(TensorType::Q6_K), 1 + 13);
        assert_eq!(of(TensorType::Q8_0), 2 * 14);
        assert_eq!(of(TensorType::Q5_0), 2 * 16 + 1);
        assert_eq!(of(TensorType::Q4_K), 269 - 14 - 28 - 33);
        let bytes: usize = all
            .iter()
            .map(|(tensor, ty)| {
                let ty = ty.unwrap_or(TensorType::F32);
                ty.row_bytes(tensor.shape[0]).unwrap() * tensor.shape[1..].iter().product::<usize>()
            })
            .sum();
        assert!((16.75e9..16.85e9).contains(&(bytes as f64)), "{bytes}");
    }

    #[test]
    fn flags_go_before_the_mixture() {
        let geometry = Geometry::small();
        let ty = |change: fn(&mut Mix), name: &str| {
            let mut mix = Mix::of(FileType::Q4_K_M);
            change(&mut mix);
            type_of(&mix, &geometry, false, name)
        };
        let (embedding, down) = (TOKEN_EMBD, "blk.2.ffn_down.weight");
        assert_eq!(ty(|_| (), embedding), Some(TensorType::Q6_K));
        assert_eq!(ty(|_| (), down), Some(TensorType::Q6_K));
        assert_eq!(ty(|mix| mix.pure = true, embedding), Some(TensorType::Q4_K));
        assert_eq!(ty(|mix| mix.pure = true, down), Some(TensorType::Q4_K));
        assert_eq!(ty(|mix| mix.leave_output = true, embedding), None);
        let output = |mix: &mut Mix| mix.output = Some(TensorType::Q8_0);
        assert_eq!(ty(output, embedding), Some(TensorType::Q8_0));
        let both = |mix: &mut Mix| {
            mix.output = Some(TensorType::Q8_0);
            mix.embedding = Some(TensorType::Q5_K);
        };
        assert_eq!(ty(both, embedding), Some(TensorType::Q5_K));
        let overrides = |mix: &mut Mix| {
            mix.overrides = [("blk.2.ffn_d", TensorType::F16), ("ffn", TensorType::Q5_0)]
                .map(|(pattern, ty)| TypeOverride {
                    pattern: Regex::new(pattern).unwrap(),
                    ty,
                })
                .into();
        };
        assert_eq!(ty(overrides, down), Some(TensorType::F16));
        assert_eq!(ty(overrides, "blk.1.ffn_up.weight"), Some(TensorType::Q5_0));
        // Not even by name: a router is not a matrix of this kind.
        assert_eq!(ty(overrides, "blk.1.ffn_gate_inp.weight"), None);
    }

    #[test]
    fn importances_shield_the_first_down_projections_of_q4_0() {
        let geometry = Geometry {
            n_layers: 16,
            ..Geometry::small()
        };
        let mix = Mix::of(FileType::Q4_0);
        let ty = |weighted, layer| {
            let name = format!("blk.{layer}.ffn_down_exps.weight");
            type_of(&mix, &geometry, weighted, &name)
        };
        assert_eq!(ty(true, 1), Some(TensorType::Q4_1));
        assert_eq!(ty(true, 2), Some(TensorType::Q4_0));
        assert_eq!(ty(false, 1), Some(TensorType::Q4_0));
    }

    #[test]
    fn names_lead_back_to_the_type() {
        for &ty in FileType::ALL {
            assert_eq!(ty.name().to_lowercase().parse(), Ok(ty));
        }
        let error = "q4_k_x".parse::<FileType>().unwrap_err();
        assert!(
            error.contains("'q4_k_x'") && error.contains("Q4_K_M"),
            "{error}"
        );
    }
}
