//! Flags of a session: its context, threads, attention and cache.

use llama_diffusion::{Result, SessionParams};

use crate::compute::{ComputeArgs, When};
use crate::numbers::whole;

/// The size of a session, and how its passes are computed.
#[derive(Debug, clap::Args)]
pub struct SessionArgs {
    /// Maximum number of tokens of prompt and answer together, 0 for what the model was trained
    /// for. Default: what it was trained for, at most 8192
    #[arg(short, long, value_name = "N", value_parser = whole(0..=usize::MAX))]
    ctx_size: Option<usize>,

    /// Threads of the CPU; 0 or less is one for each core, or fewer for a small model
    #[arg(
        short,
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true, value_parser = whole(i32::MIN..=i32::MAX))]
    threads: i32,

    /// The same for passes over a prompt; 0 or less is as many as -t
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true, value_parser = whole(i32::MIN..=i32::MAX))]
    threads_batch: i32,

    #[command(flatten)]
    pub compute: ComputeArgs,

    /// Fused attention: auto uses it where the devices have it
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "on"
    )]
    flash_attn: When,
}

impl SessionArgs {
    /// Warns of a context beyond the one that the model was trained for. `sessions` share that context.
    pub fn warn_of_long_context(&self, trained: usize, sessions: usize) {
        if let Some(warning) = self.long_context(trained, sessions) {
            tracing::warn!("{warning}");
        }
    }

    fn long_context(&self, trained: usize, sessions: usize) -> Option<String> {
        let size = self.ctx_size?;
        let share = size / sessions.max(1);
        let is_it = match sessions {
            0 | 1 => "is".to_owned(),
            _ => format!("gives each of {sessions} slots {share} tokens,"),
        };
        (share > trained).then(|| {
            format!(
                "-c {size} {is_it} more than the {trained} tokens that the model was trained for: \
                 what comes after them may make no sense, or be empty"
            )
        })
    }

    /// How a session of a masked model runs: without what concerns the KV cache.
    pub fn masked(&self) -> SessionParams {
        SessionParams {
            context: self.ctx_size,
            threads: given(self.threads),
            flash_attention: self.flash_attn.into(),
            ..SessionParams::default()
        }
    }

    /// How a session of a canvas model runs.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn canvas(&self) -> Result<SessionParams> {
        Ok(SessionParams {
            context: self.ctx_size,
            batch: self.compute.batch(),
            threads: given(self.threads),
            prefill_threads: given(self.threads_batch),
            kv_type: self.compute.kv_type()?,
            flash_attention: self.flash_attn.into(),
            swa_full: self.compute.swa_full,
            ..SessionParams::default()
        })
    }
}

/// A number of threads, unless it is left open by 0 or less.
fn given(threads: i32) -> Option<usize> {
    usize::try_from(threads).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    #[test]
    fn a_context_that_slots_share_is_long_for_each_of_them() {
        let warning = |size: &str, sessions| {
            let command = SessionArgs::augment_args(Command::new("tool"));
            let matches = command.try_get_matches_from(["tool", "--ctx-size", size]);
            let args = SessionArgs::from_arg_matches(&matches.unwrap()).unwrap();
            args.long_context(2048, sessions)
        };
        let begins = |warning: Option<String>, with: &str| {
            assert!(
                warning.as_ref().is_some_and(|w| w.starts_with(with)),
                "{warning:?}"
            );
        };
        assert_eq!(warning("2048", 1), None);
        begins(warning("2049", 1), "-c 2049 is more than the 2048 tokens");
        assert_eq!(warning("4096", 2), None);
        let each = "-c 4098 gives each of 2 slots 2049 tokens, more than the 2048 tokens";
        begins(warning("4098", 2), each);
    }
}
