//! The parameters that errors name, each by its field or argument in this crate.

use std::fmt;

/// Defines the parameters, their names and the list of all of them in one place.
macro_rules! parameters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A parameter that cannot work, or that a message advises to change. It displays as the field or
        /// the argument of this crate; a front end that calls it otherwise passes its own names to
        /// [`Error::message_with`](crate::Error::message_with).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Parameter {
            $($(#[$doc])* $variant,)*
        }

        impl Parameter {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The field or argument of this crate.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

parameters! {
    // How a canvas model answers.
    /// Maximum number of denoising steps of a canvas.
    MaxSteps = "max_steps",
    /// Temperature that the last step approaches.
    TMin = "t_min",
    /// Temperature of the first step.
    TMax = "t_max",
    /// Entropy that the tokens accepted in a step may have together.
    EntropyBound = "entropy_bound",
    /// Mean entropy below which a stable canvas is finished.
    ConfidenceThreshold = "confidence_threshold",
    /// Log-probability below which a token of a finished canvas is doubted.
    MinLogprob = "min_logprob",
    /// How many of the most likely tokens a score lists.
    TopTokens = "top",
    /// Maximum number of tokens in an answer.
    MaxTokens = "max_tokens",
    /// Maximum number of canvases in an answer.
    MaxCanvases = "max_canvases",

    /// Tokens that the causal encoder writes before the first canvas.
    Ahead = "count",
    /// Tokens of a gap.
    GapLength = "gap_length",
    /// Share of the positions that are noise when an edit begins.
    Strength = "strength",
    /// Lines of a text that an edit leaves alone.
    Protected = "protected",

    // How a form is filled.
    /// A text with blanks, and what may stand in them.
    Form = "form",

    // How a masked model answers.
    /// The positions to denoise.
    Length = "length",
    /// Their number, as the tokens of the answer.
    AnswerTokens = "AnswerLength::Tokens",
    /// Their number, as the tokens of prompt and answer together.
    TextTokens = "AnswerLength::Text",
    /// Which schedule chooses the number of positions that a step unmasks.
    Schedule = "schedule",
    /// Epsilon of the timestep schedule.
    Eps = "eps",
    /// Positions of a block of the block schedule.
    BlockLength = "block_length",
    /// Denoising steps of an answer.
    Steps = "steps",
    /// Temperature of the tokens.
    Temperature = "temperature",
    /// Temperature of the choice of positions.
    AlgorithmTemperature = "algorithm_temperature",
    /// Probability above which a step unmasks tokens in addition to those of the schedule.
    Threshold = "Parallel::Threshold",
    /// The same for the n most likely tokens together.
    Factor = "Parallel::Factor",
    /// Probability of the tokens from which an answer has settled.
    EarlyStop = "early_stop",
    /// How many canvases a pass reads.
    Lookahead = "lookahead",
    /// Weight of classifier-free guidance.
    Guidance = "guidance",
    /// Probability that the tokens which may be drawn have together.
    TopP = "top_p",

    // How a session runs.
    /// Positions of the KV cache.
    Context = "context",
    /// Maximum number of tokens in one pass over a prompt.
    Batch = "batch",
    /// Threads of the CPU.
    Threads = "threads",
    /// Threads of the CPU for passes over a prompt.
    PrefillThreads = "prefill_threads",
    /// Element type of the KV cache.
    KvType = "kv_type",
    /// Fused attention.
    FlashAttention = "flash_attention",

    // How a model is loaded, and where.
    /// Layers on GPUs.
    GpuLayers = "gpu_layers",
    /// Layers whose experts stay in host memory.
    CpuMoeLayers = "cpu_moe_layers",
    /// Repository on Hugging Face.
    Repository = "repository",
    /// Devices by name.
    Devices = "devices",
    /// Shares of the layers for each GPU.
    Split = "split",
    /// Memory of single tensors.
    Overrides = "overrides",
    /// Metadata to use instead of the file's.
    Metadata = "metadata",
    /// Address of an RPC server.
    RpcServer = "endpoint",
    /// How long an RPC server may be silent.
    RpcTimeout = "timeout",
    /// Directory of plug-in backends.
    BackendDirectory = "dir",

    // How a model is quantized.
    /// Types of tensors, by their names.
    TensorTypes = "mix.overrides",
    /// Type of the output head.
    OutputType = "mix.output",
    /// Type of the token embedding.
    EmbeddingType = "mix.embedding",
    /// Whether tensors that are quantized already may be quantized again.
    AllowRequantize = "allow_requantize",

    // What calls are given.
    /// Tokens of a prompt.
    Prompt = "prompt",
    /// Tokens of any other text.
    Tokens = "tokens",
    /// The canvas: its length, and what belongs to its positions.
    Canvas = "canvas",
    /// What a step draws.
    Draws = "draws",
    /// Random numbers of a step.
    Noise = "noise",
    /// What is known about a canvas before its first step.
    Template = "template",
    /// The language that an answer follows.
    Constraint = "constraint",
    /// How deep JSON may be nested where a schema sets no limit.
    JsonDepth = "depth",
    /// How an answer is generated, as a whole: the parameters of the other family of models.
    Recipe = "recipe",
    /// Prompts and answers to score.
    Answers = "answers",
    /// A session, or several of them that answer together.
    Session = "session",
    /// The saved state of a session.
    Snapshot = "snapshot",
    /// A layer, by its number.
    Layer = "layer",
    /// A position in the KV cache.
    Position = "position",
    /// Logits of a position or of a step.
    Logits = "logits",
    /// Number of tokens in a vocabulary.
    VocabSize = "vocab_size",
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text of this crate with the parameters that it names between backticks under other names.
pub(crate) fn renamed<N: fmt::Display>(text: &str, name: impl Fn(Parameter) -> N) -> String {
    let rename = |text: String, parameter: &Parameter| {
        text.replace(&format!("`{parameter}`"), &name(*parameter).to_string())
    };
    Parameter::ALL.iter().fold(text.to_owned(), rename)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Parameter::ALL.iter().map(|p| p.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Parameter::ALL.len());
    }

    #[test]
    fn only_parameters_between_backticks_get_other_names() {
        let other = |text| renamed(text, |parameter| format!("<{parameter:?}>"));
        for (text, expected) in [
            ("", ""),
            ("raise context", "raise context"),
            ("raise `context`", "raise <Context>"),
            ("`batch` or `ulimit -l`", "<Batch> or `ulimit -l`"),
            ("`x` and `t_max`, `t_min`", "`x` and <TMax>, <TMin>"),
            ("an open `batch", "an open `batch"),
            ("`context``batch`", "<Context><Batch>"),
        ] {
            assert_eq!(other(text), expected, "{text:?}");
        }
    }
}
