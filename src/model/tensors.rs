//! The tensors of a DiffusionGemma model: which are required, with which shapes and types, and
//! where a file has them.
//!
//! One structure serves every stage. [`TensorTable::expected`] describes the tensors of a model of
//! given hyperparameters, [`TensorTable::locate`] replaces each expectation by the matching tensor
//! of a file, and the loader maps those to tensors of ggml.

use std::fmt;

use super::file::ModelFile;
use super::hparams::{Hparams, LayerHparams, LayerKind};
use super::keys;
use crate::error::Result;
use crate::gguf::TensorType;
use crate::gguf::{TensorInfo, show_shape};

/// What a tensor is used for, which determines the types that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorUse {
    /// Multiplied with activations: any type that ggml can multiply.
    Matrix,
    /// The router's matrix, which is small and sensitive: F32, F16 or BF16.
    Router,
    /// Norm weights, scales and frequency factors, applied element by element: F32.
    Vector,
}

impl TensorUse {
    /// Whether a tensor of this use may have the type.
    pub const fn accepts(self, ty: TensorType) -> bool {
        match self {
            Self::Matrix => ty.is_multipliable(),
            Self::Router => matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16),
            Self::Vector => matches!(ty, TensorType::F32),
        }
    }

    const fn types(self) -> &'static str {
        match self {
            Self::Matrix => "a type that ggml can multiply",
            Self::Router => "f32, f16 or bf16",
            Self::Vector => "f32",
        }
    }
}

/// A tensor that a model must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name in the file.
    pub name: String,
    /// Its shape in ggml's order (row length first).
    pub shape: Vec<usize>,
    /// What it is used for.
    pub usage: TensorUse,
    /// The layer that it belongs to.
    pub layer: Option<usize>,
}

/// A tensor of a file that has the shape and a type that were expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Name, type, shape, and the range of its data in the file of the part.
    pub info: TensorInfo,
    /// Index of the part among [`ModelFile::parts`].
    pub part: usize,
    /// The layer that it belongs to.
    pub layer: Option<usize>,
}

/// The experts' first matrices, which multiply the activations of the router's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Experts<T> {
    /// Gate and up projection in one, `[d, 2 · d_expert, n_experts]`: of each expert first the rows
    /// of the gate.
    Fused {
        /// The matrix.
        gate_up: T,
    },
    /// One matrix for each, both `[d, d_expert, n_experts]`.
    Split {
        /// The gate projection, which goes through the activation function.
        gate: T,
        /// The up projection.
        up: T,
    },
}

impl<T> Experts<T> {
    /// Replaces every tensor by the result of `f`, and stops at the first error.
    ///
    /// # Errors
    /// The errors of `f`.
    pub fn try_map<U, E>(self, f: &mut impl FnMut(T) -> Result<U, E>) -> Result<Experts<U>, E> {
        Ok(match self {
            Self::Fused { gate_up } => Experts::Fused {
                gate_up: f(gate_up)?,
            },
            Self::Split { gate, up } => Experts::Split {
                gate: f(gate)?,
                up: f(up)?,
            },
        })
    }
}

/// Structures of tensors. A field that is more than one `T` says after `=>` how it is mapped.
macro_rules! tensor_struct {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty $(=> $map:ident)?,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name<T> {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        impl<T> $name<T> {
            /// Replaces every tensor by the result of `f`, and stops at the first error.
            ///
            /// # Errors
            /// The errors of `f`.
            pub fn try_map<U, E>(self, f: &mut impl FnMut(T) -> Result<U, E>) -> Result<$name<U>, E> {
                Ok($name {
                    $($field: tensor_struct!(@map $($map)?, self.$field, f),)*
                })
            }
        }
    };
    (@map , $value:expr, $f:ident) => { $f($value)? };
    (@map optional, $value:expr, $f:ident) => { $value.map(&mut *$f).transpose()? };
    (@map nested, $value:expr, $f:ident) => { $value.try_map($f)? };
    (@map each, $value:expr, $f:ident) => {
        $value.into_iter().map(|value| value.try_map($f)).collect::<Result<_, E>>()?
    };
}

tensor_struct! {
    /// All tensors of a model. Shapes are in ggml's order, with `V` the vocabulary.
    TensorTable {
        /// Embedding of each token, `[d, V]`.
        token_embd: T,
        /// Output head, `[d, V]`, in files that do not tie it to the embedding.
        output: Option<T> => optional,
        /// Final norm, `[d]`.
        output_norm: T,
        /// Divisors of the rotary frequencies on full layers, `[head_dim / 2]`. Without them the
        /// last three quarters of the pairs are not rotated, as in the reference.
        rope_freqs: Option<T> => optional,
        /// The self-conditioning MLP.
        self_cond: SelfConditioning<T> => nested,
        /// Layer by layer.
        layers: Vec<LayerTensors<T>> => each,
    }
}

tensor_struct! {
    /// The MLP that turns the soft embeddings of a step into a signal for the next.
    SelfConditioning {
        /// Norm of its input, `[d]`.
        pre_norm: T,
        /// Gate projection, `[d, d_ff]`.
        gate: T,
        /// Up projection, `[d, d_ff]`.
        up: T,
        /// Down projection, `[d_ff, d]`.
        down: T,
    }
}

tensor_struct! {
    /// The tensors of a layer. `hd` is the size of its heads.
    LayerTensors {
        /// Norm before attention, `[d]`.
        attn_norm: T,
        /// Query projection, `[d, n_heads · hd]`.
        attn_q: T,
        /// Key projection, `[d, n_kv_heads · hd]`.
        attn_k: T,
        /// Value projection, `[d, n_kv_heads · hd]`. Full layers may lack it: then V is the raw key
        /// projection.
        attn_v: Option<T> => optional,
        /// Output projection, `[n_heads · hd, d]`.
        attn_output: T,
        /// Norm of each query head, `[hd]`.
        attn_q_norm: T,
        /// Norm of each key head, `[hd]`.
        attn_k_norm: T,
        /// Norm after attention, `[d]`.
        post_attention_norm: T,
        /// Norm before the dense MLP, `[d]`.
        ffn_norm: T,
        /// Gate projection of the dense MLP, `[d, d_ff]`.
        ffn_gate: T,
        /// Up projection of the dense MLP, `[d, d_ff]`.
        ffn_up: T,
        /// Down projection of the dense MLP, `[d_ff, d]`.
        ffn_down: T,
        /// Norm after the dense MLP, `[d]`.
        post_ffw_norm_1: T,
        /// Norm before the experts, `[d]`.
        pre_ffw_norm_2: T,
        /// Norm after the experts, `[d]`.
        post_ffw_norm_2: T,
        /// Norm of the sum of dense MLP and experts, `[d]`.
        post_ffw_norm: T,
        /// The router, `[d, n_experts]`.
        router: T,
        /// Scale of the router's input, `[d]`.
        router_scale: T,
        /// Gate and up projections of the experts.
        experts: Experts<T> => nested,
        /// Down projections of the experts, `[d_expert, d, n_experts]`.
        experts_down: T,
        /// Scale of each expert's output, `[n_experts]`.
        experts_down_scale: T,
        /// Scale of the layer's output on the canvas (the reference's decoder), `[1]`.
        decoder_scale: T,
        /// Scale of the layer's output on the prefix (the reference's encoder), `[1]`.
        encoder_scale: T,
    }
}

impl TensorTable<Expected> {
    /// The tensors of a model of these hyperparameters. Where a model has a choice (a tied head,
    /// fused experts …), `has` decides by the names in the file.
    pub fn expected(hparams: &Hparams, has: impl Fn(&str) -> bool) -> Self {
        let Hparams {
            vocab_size,
            d,
            d_ff,
            ..
        } = *hparams;
        let global = Namer {
            prefix: String::new(),
            layer: None,
            has: &has,
        };
        let full = hparams
            .layers
            .iter()
            .find(|layer| layer.kind == LayerKind::Full);
        Self {
            token_embd: global.matrix(keys::TOKEN_EMBD, &[d, vocab_size]),
            output: global.if_present(global.matrix(keys::weight(keys::OUTPUT), &[d, vocab_size])),
            output_norm: global.vector(keys::weight(keys::OUTPUT_NORM), d),
            rope_freqs: full.and_then(|layer| {
                global.if_present(global.vector(keys::weight(keys::ROPE_FREQS), layer.head_dim / 2))
            }),
            self_cond: SelfConditioning {
                pre_norm: global.vector(keys::weight(keys::SELF_COND_PRE_NORM), d),
                gate: global.matrix(keys::weight(keys::SELF_COND_GATE), &[d, d_ff]),
                up: global.matrix(keys::weight(keys::SELF_COND_UP), &[d, d_ff]),
                down: global.matrix(keys::weight(keys::SELF_COND_DOWN), &[d_ff, d]),
            },
            layers: (hparams.layers.iter().enumerate())
                .map(|(index, layer)| LayerTensors::expected(hparams, index, layer, &has))
                .collect(),
        }
    }

    /// All of them in one list, layer by layer.
    pub fn into_vec(self) -> Vec<Expected> {
        let mut tensors = Vec::new();
        let Ok(_) = self.try_map(&mut |tensor| {
            tensors.push(tensor);
            Ok::<_, std::convert::Infallible>(())
        });
        tensors
    }
}

impl LayerTensors<Expected> {
    fn expected(
        hparams: &Hparams,
        index: usize,
        layer: &LayerHparams,
        has: &dyn Fn(&str) -> bool,
    ) -> Self {
        let Hparams {
            d,
            d_ff,
            n_heads,
            n_experts,
            d_expert,
            ..
        } = *hparams;
        let LayerHparams {
            kind,
            n_kv_heads,
            head_dim,
            ..
        } = *layer;
        let names = Namer {
            prefix: keys::of_layer(index),
            layer: Some(index),
            has,
        };
        let norm = |stem| names.vector(keys::weight(stem), d);
        let attn_v = names.matrix(keys::weight(keys::ATTN_V), &[d, n_kv_heads * head_dim]);
        let experts_of = |stem, width| names.matrix(keys::weight(stem), &[d, width, n_experts]);
        let fused = experts_of(keys::EXPERTS_GATE_UP, d_expert.saturating_mul(2));
        let gate = experts_of(keys::EXPERTS_GATE, d_expert);
        Self {
            attn_norm: norm(keys::ATTN_NORM),
            attn_q: names.matrix(keys::weight(keys::ATTN_Q), &[d, n_heads * head_dim]),
            attn_k: names.matrix(keys::weight(keys::ATTN_K), &[d, n_kv_heads * head_dim]),
            attn_v: match kind {
                LayerKind::Sliding => Some(attn_v),
                LayerKind::Full => names.if_present(attn_v),
            },
            attn_output: names.matrix(keys::weight(keys::ATTN_OUTPUT), &[n_heads * head_dim, d]),
            attn_q_norm: names.vector(keys::weight(keys::ATTN_Q_NORM), head_dim),
            attn_k_norm: names.vector(keys::weight(keys::ATTN_K_NORM), head_dim),
            post_attention_norm: norm(keys::POST_ATTENTION_NORM),
            ffn_norm: norm(keys::FFN_NORM),
            ffn_gate: names.matrix(keys::weight(keys::FFN_GATE), &[d, d_ff]),
            ffn_up: names.matrix(keys::weight(keys::FFN_UP), &[d, d_ff]),
            ffn_down: names.matrix(keys::weight(keys::FFN_DOWN), &[d_ff, d]),
            post_ffw_norm_1: norm(keys::POST_FFW_NORM_1),
            pre_ffw_norm_2: norm(keys::PRE_FFW_NORM_2),
            post_ffw_norm_2: norm(keys::POST_FFW_NORM_2),
            post_ffw_norm: norm(keys::POST_FFW_NORM),
            router: names.tensor(
                keys::weight(keys::ROUTER),
                &[d, n_experts],
                TensorUse::Router,
            ),
            router_scale: names.vector(keys::scale(keys::ROUTER), d),
            // A file with neither is reported to lack the fused tensor, which the public files
            // have.
            experts: if has(&gate.name) && !has(&fused.name) {
                let up = experts_of(keys::EXPERTS_UP, d_expert);
                Experts::Split { gate, up }
            } else {
                Experts::Fused { gate_up: fused }
            },
            experts_down: names.matrix(keys::weight(keys::EXPERTS_DOWN), &[d_expert, d, n_experts]),
            experts_down_scale: names.vector(keys::scale(keys::EXPERTS_DOWN), n_experts),
            decoder_scale: names.vector(keys::weight(keys::DECODER_SCALE), 1),
            encoder_scale: names.vector(keys::weight(keys::ENCODER_SCALE), 1),
        }
    }
}

/// Makes the expectations of a layer, or of the whole model.
struct Namer<'a> {
    prefix: String,
    layer: Option<usize>,
    has: &'a dyn Fn(&str) -> bool,
}

impl Namer<'_> {
    fn tensor(&self, name: impl fmt::Display, shape: &[usize], usage: TensorUse) -> Expected {
        Expected {
            name: format!("{}{name}", self.prefix),
            shape: shape.to_vec(),
            usage,
            layer: self.layer,
        }
    }

    fn matrix(&self, name: impl fmt::Display, shape: &[usize]) -> Expected {
        self.tensor(name, shape, TensorUse::Matrix)
    }

    fn vector(&self, name: impl fmt::Display, len: usize) -> Expected {
        self.tensor(name, &[len], TensorUse::Vector)
    }

    fn if_present(&self, expected: Expected) -> Option<Expected> {
        (self.has)(&expected.name).then_some(expected)
    }
}

impl TensorTable<Located> {
    /// Finds the tensors of a model of these hyperparameters in its file.
    ///
    /// # Errors
    /// A tensor is missing or has another shape or type than expected. Other tensors are ignored.
    pub fn locate(file: &ModelFile, hparams: &Hparams) -> Result<Self> {
        let mut used = 0;
        let table = TensorTable::expected(hparams, |name| file.tensor(name).is_some()).try_map(
            &mut |expected| {
                used += 1;
                locate(file, expected)
            },
        )?;
        let unused = file.tensors().count() - used;
        if unused > 0 {
            tracing::debug!(
                "{unused} tensors of {} are not used",
                file.metadata().path().display()
            );
        }
        Ok(table)
    }
}

fn locate(file: &ModelFile, expected: Expected) -> Result<Located> {
    let Expected {
        name,
        shape,
        usage,
        layer,
    } = expected;
    let (part, tensor) = file.tensor(&name).ok_or_else(|| {
        let problem = format!("is missing, expected shape {}", show_shape(&shape));
        file.tensor_error(&name, problem)
    })?;
    let info = tensor.info;
    let mut padded = [1; 4];
    padded
        .iter_mut()
        .zip(&shape)
        .for_each(|(padded, &extent)| *padded = extent);
    if info.shape != padded {
        let problem = format!(
            "has shape {}, expected {}",
            show_shape(&info.shape),
            show_shape(&shape)
        );
        return Err(file.tensor_error(&name, problem));
    }
    if !usage.accepts(info.ty) {
        let problem = format!("has type {}, expected {}", info.ty, usage.types());
        return Err(file.tensor_error(&name, problem));
    }
    Ok(Located {
        info: info.clone(),
        part,
        layer,
    })
}
