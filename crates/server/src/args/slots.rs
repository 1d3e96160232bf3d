//! Flags of the slots and of what they cache.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use llama_diffusion::Device;
use llama_diffusion_flags::numbers::whole;

/// Slots where there is a GPU.
const GPU_SLOTS: usize = 4;
/// Requests that may wait for each slot, and in all at least.
const QUEUE: (usize, usize) = (16, 64);

/// The slots, and what they cache.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Slots")]
pub struct SlotArgs {
    /// Number of slots, that is, of answers at once; they share the context of -c. Default: with a
    /// GPU 4 slots, each with a whole -c, else 1
    #[arg(long, value_name = "N", default_value = "-1", hide_default_value = true, value_parser = whole(-1..=256_i64))]
    parallel: i64,

    /// Maximum number of requests that wait for a slot. Default: 16 for each slot, at least 64
    #[arg(long, value_name = "N", value_parser = whole(0..=1_000_000_usize))]
    queue: Option<usize>,

    /// Maximum number of tokens in the prompts that wait for a slot; -1 for no limit. A prompt is
    /// always accepted if no other one waits
    #[arg(long, value_name = "N", default_value = "-1", hide_default_value = true, value_parser = whole(-1..=i64::MAX))]
    queue_tokens: i64,

    /// Directory where requests to /slots/ID?action=save write what a slot has cached, to be restored
    #[arg(long = "slot-save-path", value_name = "DIR")]
    pub save_path: Option<PathBuf>,

    /// Reuse the beginning of a prompt that is cached, which is the default
    #[arg(long, overrides_with = "no_cache_prompt")]
    cache_prompt: bool,

    /// Encode every prompt from its beginning, unless the request has cache_prompt
    #[arg(long, overrides_with = "cache_prompt", value_parser = BoolishValueParser::new())]
    no_cache_prompt: bool,

    /// Memory for the caches of earlier prompts of the slots, in MiB; 0 keeps none, -1 all
    #[arg(long, value_name = "MIB", default_value = "8192", value_parser = whole(-1..=1_i64 << 40))]
    cache_ram: i64,

    /// Number of latest prompts to whose ends a slot can return, even beyond the sliding window
    /// (default 3)
    #[arg(long = "ctx-checkpoints", value_name = "N", value_parser = whole(0..=usize::MAX))]
    pub checkpoints: Option<usize>,
}

impl SlotArgs {
    /// The number of slots, if the user chose one.
    pub fn parallel(&self) -> Option<usize> {
        usize::try_from(self.parallel)
            .ok()
            .filter(|slots| *slots > 0)
    }

    /// The number of slots for a model that answers several prompts at once, or not.
    pub fn count(&self, shares_steps: bool) -> usize {
        match (self.parallel(), shares_steps) {
            (_, false) => 1,
            (Some(slots), true) => slots,
            (None, true) if Device::default_gpus().is_empty() => 1,
            (None, true) => GPU_SLOTS,
        }
    }

    /// The context of a slot: if the user chose their number, they share that of -c.
    pub fn share_of(&self, context: Option<usize>, slots: usize) -> Option<usize> {
        match self.parallel() {
            Some(_) => context.map(|context| context / slots),
            None => context,
        }
    }

    /// Requests that wait for a slot.
    pub fn queue(&self, slots: usize) -> usize {
        let (each, least) = QUEUE;
        self.queue.unwrap_or((each * slots).max(least))
    }

    /// Tokens in the prompts that wait for a slot.
    pub fn queue_tokens(&self) -> usize {
        usize::try_from(self.queue_tokens).unwrap_or(usize::MAX)
    }

    /// Whether prompts are cached unless a request says more.
    pub fn caches_prompts(&self) -> bool {
        !self.no_cache_prompt
    }

    /// Bytes for the caches of earlier prompts.
    pub fn cache_ram(&self) -> usize {
        let mib = usize::try_from(self.cache_ram);
        mib.map_or(usize::MAX, |mib| mib.saturating_mul(1 << 20))
    }
}
