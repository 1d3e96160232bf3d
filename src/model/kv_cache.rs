//! The keys and values of the encoded prefix, and the room behind it where a canvas keeps its own
//! while it is denoised.

use super::hparams::{Hparams, LayerKind};
use super::kv_type::{KvType, SLOT_UNIT};
use super::mask::KeyLayout;
use super::memory::{Purpose, Usage};
use super::placement::Placement;
use crate::diffusion::Token;
use crate::error::{Error, Result};
use crate::ggml::buffer::Allocation;
use crate::ggml::context::Context;
use crate::ggml::tensor::Tensor;

/// Cached keys and values of one layer, each `[head_dim * kv_heads, slots]`.
pub(crate) struct LayerCache {
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

/// The cache of one session.
pub(crate) struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    full: KeyLayout,
    sliding: KeyLayout,
    ty: KvType,
    context: usize,
    /// Tokens whose keys and values are cached.
    tokens: Vec<Token>,
    /// One past the highest position ever written since the start was: what a ring overwrote.
    written: usize,
    usage: Usage,
}

impl KvCache {
    /// Room for `context` positions; `pass` is the most tokens that one pass writes.
    pub(crate) fn new(
        hparams: &Hparams,
        placement: &Placement,
        context: usize,
        pass: usize,
        ty: KvType,
        allocation: Allocation,
    ) -> Result<Self> {
        let full = KeyLayout {
            slots: context.next_multiple_of(SLOT_UNIT),
            window: None,
        };
        // A window beyond the context is the context.
        let ring = (hparams.sliding_window.min(context) - 1 + pass).next_multiple_of(SLOT_UNIT);
        let sliding = KeyLayout {
            // A context below the window never wraps.
            slots: ring.min(full.slots),
            window: Some(hparams.sliding_window),
        };
        let mut layers: Vec<Option<LayerCache>> = (0..hparams.layers.len()).map(|_| None).collect();
        let mut usage = Usage::default();
        for (buffer_type, members) in placement.layers_by_memory() {
            let arena = Context::new(2 * members.len())?;
            for l in members {
                let row = hparams.layers[l].n_kv_heads * hparams.layers[l].head_dim;
                let slots = match hparams.layers[l].kind {
                    LayerKind::Full => full.slots,
                    LayerKind::Sliding => sliding.slots,
                };
                layers[l] = Some(LayerCache {
                    k: arena.tensor(ty.tensor_type(), &[row, slots], &format!("cache_k.{l}"))?,
                    v: arena.tensor(ty.tensor_type(), &[row, slots], &format!("cache_v.{l}"))?,
                });
            }
            let buffer = arena.place(
                allocation,
                buffer_type,
                &format!("the KV cache of {context} positions"),
                "lower the context size (-c) or use a smaller KV cache type (-ctk, -ctv)",
            )?;
            usage.add(buffer_type, Purpose::KvCache, buffer.size());
        }
        let layers: Option<Vec<LayerCache>> = layers.into_iter().collect();
        let cache = Self {
            layers: layers.ok_or_else(|| Error::Ggml("a layer was placed nowhere".into()))?,
            full,
            sliding,
            ty,
            context,
            tokens: Vec::new(),
            written: 0,
            usage,
        };
        let filled = cache
            .layers
            .iter()
            .filter(|_| allocation == Allocation::Real);
        // Hidden slots take part in attention with weight zero: they must hold numbers.
        for layer in filled {
            layer.k.zero()?;
            layer.v.zero()?;
        }
        Ok(cache)
    }

    /// How a layer's positions lie in its slots.
    pub(crate) fn layout(&self, kind: LayerKind) -> KeyLayout {
        match kind {
            LayerKind::Full => self.full,
            LayerKind::Sliding => self.sliding,
        }
    }

    /// Element type.
    pub(crate) fn ty(&self) -> KvType {
        self.ty
    }

    /// Positions that fit.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// What it takes.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Tokens whose keys and values are cached.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Notes that a pass wrote `count` positions behind the cached tokens without keeping them.
    pub(crate) fn scratch(&mut self, count: usize) {
        self.written = self.written.max(self.tokens.len() + count);
    }

    /// Notes that these tokens were encoded behind the cached ones.
    pub(crate) fn append(&mut self, tokens: &[Token]) {
        self.scratch(tokens.len());
        self.tokens.extend_from_slice(tokens);
    }

    /// The first position that slots of this layout still hold.
    pub(crate) fn overwritten_below(&self, layout: KeyLayout) -> usize {
        self.written.saturating_sub(layout.slots)
    }

    /// Forgets all but the first `count` tokens, and everything if the rings no longer hold what
    /// the window before position `count` needs. Returns how many are kept.
    pub(crate) fn truncate(&mut self, count: usize) -> usize {
        let count = count.min(self.tokens.len());
        let window_start = count.saturating_sub(self.sliding.window.unwrap_or(0).saturating_sub(1));
        let kept = if window_start >= self.overwritten_below(self.sliding) {
            count
        } else {
            0
        };
        self.tokens.truncate(kept);
        if kept == 0 {
            self.written = 0;
        }
        kept
    }
}
