//! Flags for how passes over a model are computed, spelled as in llama.cpp.

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use llama_diffusion::{Error, FlashAttention, KvType, Result};

use crate::numbers::whole;
use crate::values::parse_kv_type;

/// How passes are computed.
#[derive(Debug, clap::Args)]
pub struct ComputeArgs {
    /// Maximum number of tokens of a prompt that are encoded in one pass
    #[arg(short, long, value_name = "N", value_parser = whole(1..=usize::MAX))]
    batch_size: Option<usize>,

    /// As --batch-size; the smaller one applies. For a masked model, the tokens of prompt and
    /// answer together (default 512), unless -n is given
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX))]
    pub ubatch_size: Option<usize>,

    /// Element type of the KV cache: f16, f32 or q8_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = parse_kv_type)]
    pub cache_type_k: KvType,

    /// The same for V; both must be the same type
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = parse_kv_type)]
    cache_type_v: KvType,

    /// Keep all positions on sliding-window layers too: more memory and longer steps, but a
    /// conversation can return to any earlier point without being encoded again
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub swa_full: bool,
}

/// A switch in llama.cpp's spellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    #[value(aliases = ["enabled", "true", "1"])]
    On,
    #[value(aliases = ["disabled", "false", "0"])]
    Off,
    #[value(alias = "-1")]
    Auto,
}

impl From<When> for FlashAttention {
    fn from(when: When) -> Self {
        match when {
            When::On => Self::On,
            When::Off => Self::Off,
            When::Auto => Self::Auto,
        }
    }
}

impl ComputeArgs {
    /// Maximum number of tokens in a pass over a prompt, if the user chose.
    pub fn batch(&self) -> Option<usize> {
        [self.batch_size, self.ubatch_size]
            .into_iter()
            .flatten()
            .min()
    }

    /// Element type of the KV cache.
    ///
    /// # Errors
    /// Keys and values differ.
    pub fn kv_type(&self) -> Result<KvType> {
        if self.cache_type_k != self.cache_type_v {
            return Err(Error::Input {
                name: "-ctk, -ctv".into(),
                problem: format!(
                    "{:?} and {:?} differ, but keys and values share one type: give both",
                    self.cache_type_k, self.cache_type_v
                ),
            });
        }
        Ok(self.cache_type_k)
    }
}
