//! What users of the C interface call the parameters of the library.

use llama_diffusion::Parameter;

/// The field or argument of the header that sets a parameter. Those that C cannot set keep their
/// name.
pub(super) fn field(parameter: Parameter) -> &'static str {
    match parameter {
        Parameter::Length | Parameter::AnswerTokens | Parameter::TextTokens => "max_tokens",
        Parameter::Schedule => "block_length",
        Parameter::Steps => "max_steps",
        Parameter::Context => "context_length",
        Parameter::Batch => "batch_size",
        Parameter::PrefillThreads => "threads",
        Parameter::Split => "tensor_split",
        Parameter::Overrides => "tensor_overrides",
        Parameter::RpcTimeout => "timeout_ms",
        Parameter::BackendDirectory => "directory",
        Parameter::Threshold => "unmask_threshold",
        Parameter::Factor => "unmask_factor",
        Parameter::Recipe => "params",
        Parameter::Template => "templates",
        Parameter::Ahead => "ahead",
        Parameter::Protected => "line_ranges",
        Parameter::GapLength => "infill_tokens",
        Parameter::TopTokens => "top_logprobs",
        Parameter::JsonDepth => "json_depth",
        same => same.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What C cannot set.
    const WITHOUT: [Parameter; 17] = [
        Parameter::GapLength,
        Parameter::Constraint,
        Parameter::Repository,
        Parameter::Metadata,
        Parameter::TensorTypes,
        Parameter::OutputType,
        Parameter::EmbeddingType,
        Parameter::AllowRequantize,
        Parameter::Draws,
        Parameter::Noise,
        Parameter::Answers,
        Parameter::Session,
        Parameter::Snapshot,
        Parameter::Layer,
        Parameter::Position,
        Parameter::Logits,
        Parameter::VocabSize,
    ];

    #[test]
    fn every_parameter_is_a_field_or_an_argument_of_the_header() {
        let header = include_str!("../../../include/llama_diffusion.h");
        let is_code = |line: &&str| !line.trim_start().starts_with(['*', '/']);
        let declarations: Vec<&str> = header.lines().filter(is_code).collect();
        let has = |name: &str| {
            let ends = [format!(" {name};"), format!(" {name},"), format!("*{name}")];
            declarations
                .iter()
                .any(|line| ends.iter().any(|end| line.contains(end)))
        };
        for parameter in Parameter::ALL {
            let name = field(*parameter);
            assert_eq!(
                !has(name),
                WITHOUT.contains(parameter),
                "{parameter}: {name}"
            );
        }
    }
}
