//! The keys and values of the encoded prefix, and the room after it where a canvas keeps its own
//! while it is denoised.
//!
//! Sliding layers keep their window and one pass. Once they have moved past the end of a prompt,
//! the cache could not return to it, which a conversation needs if its template drops the thoughts
//! of earlier turns: a checkpoint keeps the window before that position on the host.

use std::collections::VecDeque;
use std::ops::Range;

use super::cache_rows::CacheRows;
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
use crate::parameter::Parameter;

/// Cached keys and values of one layer, each `[head_dim * kv_heads, slots]`.
pub(crate) struct LayerCache {
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

/// The cache of one session.
pub(crate) struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    kinds: Vec<LayerKind>,
    full: KeyLayout,
    sliding: KeyLayout,
    ty: KvType,
    context: usize,
    /// Tokens whose keys and values are cached.
    tokens: Vec<Token>,
    /// One past the highest position ever written since position 0 was: what a ring has
    /// overwritten.
    written: usize,
    /// The first position that the sliding layers hold after a checkpoint was restored.
    restored_from: usize,
    /// The end of the latest prompt, which has no checkpoint yet.
    protected: Option<usize>,
    /// The windows before the ends of earlier prompts, the latest last.
    checkpoints: VecDeque<CacheRows>,
    max_checkpoints: usize,
    usage: Usage,
}

/// A copy of a cache on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CacheSnapshot {
    pub(crate) tokens: Vec<Token>,
    pub(crate) ty: KvType,
    /// All positions.
    pub(crate) full: CacheRows,
    /// The window before the end.
    pub(crate) sliding: CacheRows,
    /// The windows before the ends of earlier prompts, the latest last.
    pub(crate) checkpoints: Vec<CacheRows>,
}

impl KvCache {
    /// Room for `context` positions; `pass` is the maximum number of tokens written in one pass.
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
                "lower `context`, or choose a smaller type with `kv_type`",
            )?;
            usage.add(buffer_type, Purpose::KvCache, buffer.size());
        }
        let layers: Option<Vec<LayerCache>> = layers.into_iter().collect();
        let cache = Self {
            kinds: hparams.layers.iter().map(|layer| layer.kind).collect(),
            layers: layers.ok_or_else(|| Error::Ggml("a layer was placed nowhere".into()))?,
            full,
            sliding,
            ty,
            context,
            tokens: Vec::new(),
            written: 0,
            restored_from: 0,
            protected: None,
            checkpoints: VecDeque::new(),
            max_checkpoints: 0,
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

    /// How a layer's positions map to its slots.
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

    /// Maximum number of positions.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// The memory that it takes.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Tokens whose keys and values are cached.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Keeps at most `count` checkpoints.
    pub(crate) fn keep_checkpoints(&mut self, count: usize) {
        self.max_checkpoints = count;
        self.checkpoints.truncate(count);
    }

    /// Records that a prompt ends before position `end`: the cache can return to it.
    pub(crate) fn protect(&mut self, end: usize) {
        self.protected = Some(end);
    }

    /// Prepares for a pass that writes `count` positions after the cached tokens without keeping
    /// them. Makes the checkpoint of a prompt whose window the pass would overwrite.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn scratch(&mut self, count: usize) -> Result<()> {
        let written = self.written.max(self.tokens.len() + count);
        let end = self.protected.filter(|end| *end <= self.tokens.len());
        if let Some(end) = end {
            let window = self.window_before(end);
            if window.start < written.saturating_sub(self.sliding.slots) {
                self.protected = None;
                self.add_checkpoint(window)?;
            }
        }
        self.written = written;
        Ok(())
    }

    /// Whether a window is one to keep: it is not kept yet, and the rings hold it.
    fn needs_checkpoint(&self, window: &Range<usize>) -> bool {
        // The prompt may already have been answered.
        let exists = self.checkpoints.iter().any(|c| c.positions == *window);
        let lost = window.start < self.overwritten_below(self.sliding);
        self.max_checkpoints > 0 && !exists && !lost
    }

    fn add_checkpoint(&mut self, window: Range<usize>) -> Result<()> {
        if !self.needs_checkpoint(&window) {
            return Ok(());
        }
        if self.checkpoints.len() == self.max_checkpoints {
            self.checkpoints.pop_front();
        }
        let rows = CacheRows::read(self.layers_of(LayerKind::Sliding), self.sliding, window)?;
        tracing::debug!(
            position = rows.positions.end,
            mib = rows.bytes() >> 20,
            "checkpoint of the sliding layers"
        );
        self.checkpoints.push_back(rows);
        Ok(())
    }

    /// Records that these tokens were encoded after the cached ones, in a pass that was
    /// [announced](Self::scratch).
    pub(crate) fn append(&mut self, tokens: &[Token]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// What the sliding layers need to continue from position `end`.
    fn window_before(&self, end: usize) -> Range<usize> {
        let seen = self.sliding.window.unwrap_or(0).saturating_sub(1);
        end.saturating_sub(seen)..end
    }

    fn layers_of(&self, kind: LayerKind) -> impl Iterator<Item = &LayerCache> {
        let layers = self.layers.iter().zip(&self.kinds);
        layers
            .filter(move |(_, k)| **k == kind)
            .map(|(layer, _)| layer)
    }

    /// The first position that slots of this layout still hold.
    pub(crate) fn overwritten_below(&self, layout: KeyLayout) -> usize {
        let overwritten = self.written.saturating_sub(layout.slots);
        match layout.window {
            Some(_) => overwritten.max(self.restored_from),
            None => overwritten,
        }
    }

    /// The latest checkpoint at or before position `end`.
    fn checkpoint(&self, end: usize) -> Option<&CacheRows> {
        let before = self.checkpoints.iter().filter(|c| c.positions.end <= end);
        before.max_by_key(|checkpoint| checkpoint.positions.end)
    }

    fn rings_hold(&self, end: usize) -> bool {
        self.window_before(end).start >= self.overwritten_below(self.sliding)
    }

    /// How many of the first `count` tokens can be kept: all of them, or, if the rings no longer
    /// hold the window before position `count`, as many as a checkpoint allows.
    pub(crate) fn usable_prefix(&self, count: usize) -> usize {
        let count = count.min(self.tokens.len());
        match self.rings_hold(count) {
            true => count,
            false => self.checkpoint(count).map_or(0, |c| c.positions.end),
        }
    }

    /// The end of the latest prompt, which [`truncate`](Self::truncate) can return to.
    pub(crate) fn protected(&self) -> Option<usize> {
        self.protected
    }

    /// Forgets all but the first `count` tokens, or more if they are not
    /// [usable](Self::usable_prefix). Returns how many are kept.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn truncate(&mut self, count: usize) -> Result<usize> {
        let count = count.min(self.tokens.len());
        let kept = self.usable_prefix(count);
        if !self.rings_hold(count)
            && let Some(rows) = self.checkpoint(count)
        {
            rows.write(self.layers_of(LayerKind::Sliding), self.sliding)?;
            self.restored_from = rows.positions.start;
            self.written = kept;
        }
        self.tokens.truncate(kept);
        self.checkpoints.retain(|c| c.positions.end <= kept);
        self.protected = self.protected.filter(|end| *end <= kept);
        if kept == 0 {
            self.written = 0;
            self.restored_from = 0;
        }
        Ok(kept)
    }

    /// Copies what is cached to the host.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn snapshot(&self) -> Result<CacheSnapshot> {
        let end = self.tokens.len();
        let read =
            |kind, positions| CacheRows::read(self.layers_of(kind), self.layout(kind), positions);
        let earlier = self.checkpoints.iter().filter(|c| c.positions.end < end);
        let mut checkpoints: Vec<CacheRows> = earlier.cloned().collect();
        // The rings still hold the window before the end of the latest prompt; a copy would not.
        let latest = self.protected.filter(|prompt| *prompt < end);
        let latest = latest.map(|prompt| self.window_before(prompt));
        if let Some(window) = latest.filter(|window| self.needs_checkpoint(window)) {
            checkpoints.push(read(LayerKind::Sliding, window)?);
            let surplus = checkpoints.len().saturating_sub(self.max_checkpoints);
            checkpoints.drain(..surplus);
        }
        Ok(CacheSnapshot {
            tokens: self.tokens.clone(),
            ty: self.ty,
            full: read(LayerKind::Full, 0..end)?,
            sliding: read(LayerKind::Sliding, self.window_before(end))?,
            checkpoints,
        })
    }

    /// Replaces the contents by a snapshot.
    ///
    /// # Errors
    /// The snapshot does not fit this cache, or the device fails; the cache is empty then.
    pub(crate) fn restore(&mut self, snapshot: &CacheSnapshot) -> Result<()> {
        let end = snapshot.tokens.len();
        let refuse = |problem: String| Err(Error::parameter(Parameter::Snapshot, problem));
        if end > self.context {
            let context = self.context;
            return refuse(format!(
                "it has {end} tokens, but the context holds {context}: use a larger context"
            ));
        }
        if snapshot.ty != self.ty {
            return refuse(format!(
                "its KV cache type is {:?}, but this session's is {:?}",
                snapshot.ty, self.ty
            ));
        }
        let is_window = |rows: &CacheRows| rows.positions == self.window_before(rows.positions.end);
        let checkpoints = &snapshot.checkpoints;
        if snapshot.full.positions != (0..end)
            || snapshot.sliding.positions.end != end
            || !is_window(&snapshot.sliding)
            || !checkpoints
                .iter()
                .all(|c| c.positions.end < end && is_window(c))
        {
            return refuse("it is of a model with another sliding window".into());
        }
        for checkpoint in checkpoints {
            checkpoint.check(self.layers_of(LayerKind::Sliding))?;
        }
        self.truncate(0)?;
        snapshot
            .full
            .write(self.layers_of(LayerKind::Full), self.full)?;
        snapshot
            .sliding
            .write(self.layers_of(LayerKind::Sliding), self.sliding)?;
        self.tokens.clone_from(&snapshot.tokens);
        self.written = end;
        self.restored_from = snapshot.sliding.positions.start;
        let surplus = checkpoints.len().saturating_sub(self.max_checkpoints);
        self.checkpoints
            .extend(checkpoints[surplus..].iter().cloned());
        Ok(())
    }
}
