//! Flags about how likely a finished answer is.

use std::path::PathBuf;

use llama_diffusion::diffusion::{Scorer, Scoring};

use llama_diffusion_flags::numbers::{real, whole};

/// Flags about how likely a finished answer is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Diffusion")]
pub struct ScoringArgs {
    /// Check each finished canvas by one more step, and denoise again the tokens whose log-probability in
    /// nats is below this, with their neighbours; -1 is a good start. encoder:-4 checks by the causal
    /// encoder, where it is trained to predict tokens
    #[arg(long, value_name = "MIN_LOGPROB", value_parser = check)]
    verify: Option<Check>,

    /// Write the first N tokens of an answer one by one with the model's causal encoder, then
    /// canvases. Refused if the encoder is not trained for that
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX), conflicts_with_all = ["record", "json_schema", "json_schema_file", "grammar_regex"])]
    ar: Option<usize>,

    /// Write the log-probability of each token of the answer to a file, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub logprobs: Option<PathBuf>,

    /// With --logprobs, write the N most likely tokens at each position too; N may be at most the
    /// size of the vocabulary
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole(0..=usize::MAX))]
    top_logprobs: usize,
}

impl ScoringArgs {
    /// How canvases are scored, if so.
    pub fn scoring(&self) -> Option<Scoring> {
        let is_wanted = self.verify.is_some() || self.logprobs.is_some();
        is_wanted.then_some(Scoring {
            by: self.scorer(),
            min_logprob: self.verify.map(|check| check.min_logprob),
            top: match self.logprobs {
                Some(_) => self.top_logprobs,
                None => 0,
            },
        })
    }

    /// What scores the canvases.
    pub fn scorer(&self) -> Scorer {
        self.verify.map(|check| check.by).unwrap_or_default()
    }

    /// How many tokens are written before the first canvas.
    pub fn ahead(&self) -> usize {
        self.ar.unwrap_or(0)
    }

    /// The flag that needs a canvas model, if there is one.
    pub fn flag(&self) -> Option<&'static str> {
        let verify = self.verify.map(|_| "--verify");
        let verify = verify.or(self.ar.map(|_| "--ar"));
        verify.or(self.logprobs.as_ref().map(|_| "--logprobs"))
    }
}

/// A check of finished canvases.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Check {
    by: Scorer,
    min_logprob: f32,
}

fn check(text: &str) -> Result<Check, String> {
    let (by, number) = match text.strip_prefix("encoder:") {
        Some(number) => (Scorer::Encoder, number),
        None if text == "encoder" => {
            return Err("give a log-probability after it, such as encoder:-4".into());
        }
        None => (Scorer::Denoiser, text),
    };
    let min_logprob = real(..=0.0)(number)?;
    Ok(Check { by, min_logprob })
}
