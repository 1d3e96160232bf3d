//! What users of the command line call the parameters of the library.

use clap::Command;
use llama_diffusion::{Error, Parameter};

use crate::spelling::{find, respelled_flag};

/// The flags that set a parameter, as llama.cpp's users type them. `None` for what no flag sets.
pub fn flags(parameter: Parameter) -> Option<&'static str> {
    Some(match parameter {
        Parameter::MaxSteps => "--diffusion-eb-max-steps",
        Parameter::TMin => "--diffusion-eb-t-min",
        Parameter::TMax => "--diffusion-eb-t-max",
        Parameter::EntropyBound => "--diffusion-eb-entropy-bound",
        Parameter::ConfidenceThreshold => "--diffusion-eb-confidence",
        Parameter::MinLogprob => "--verify",
        Parameter::TopTokens => "--top-logprobs",
        Parameter::Ahead => "--ar",
        Parameter::Form => "--form",
        Parameter::Template => "--template",
        Parameter::GapLength => "--infill-tokens",
        Parameter::Strength => "--strength",
        Parameter::Protected => "--protect",
        Parameter::MaxTokens | Parameter::AnswerTokens => "-n",
        Parameter::MaxCanvases => "--diffusion-blocks",
        Parameter::Canvas => "--canvas",
        Parameter::Length => "-n or -ub",
        Parameter::TextTokens => "-ub",
        Parameter::Schedule => "--diffusion-eps, --diffusion-block-length",
        Parameter::Eps => "--diffusion-eps",
        Parameter::BlockLength => "--diffusion-block-length",
        Parameter::Steps => "--diffusion-steps",
        Parameter::Temperature => "--temp",
        Parameter::AlgorithmTemperature => "--diffusion-alg-temp",
        Parameter::Threshold => "--diffusion-threshold",
        Parameter::Factor => "--diffusion-factor",
        Parameter::EarlyStop => "--diffusion-early-stop",
        Parameter::Lookahead => "--diffusion-lookahead",
        Parameter::Guidance => "--diffusion-cfg-scale",
        Parameter::TopP => "--top-p",
        Parameter::Constraint => "-j, -jf, --grammar-regex",
        Parameter::JsonDepth => "--json-depth",
        Parameter::Context => "-c",
        Parameter::Batch => "-b",
        Parameter::Threads => "-t",
        Parameter::PrefillThreads => "-tb",
        Parameter::KvType => "-ctk, -ctv",
        Parameter::FlashAttention => "-fa",
        Parameter::GpuLayers => "-ngl",
        Parameter::CpuMoeLayers => "-ncmoe",
        Parameter::Repository => "-hf",
        Parameter::Devices => "-dev",
        Parameter::Split => "-ts",
        Parameter::Overrides => "-ot",
        Parameter::Metadata => "--override-kv",
        Parameter::RpcServer => "--rpc",
        Parameter::RpcTimeout => "--rpc-timeout",
        Parameter::TensorTypes => "--tensor-type",
        Parameter::OutputType => "--output-tensor-type",
        Parameter::EmbeddingType => "--token-embedding-type",
        Parameter::AllowRequantize => "--allow-requantize",
        _ => return None,
    })
}

/// The message of an error, with the flags of a program for the parameters that it names. A
/// parameter that the program has no flag for keeps its own name.
pub fn message(error: &Error, command: &Command) -> String {
    error.message_with(|parameter| match flags(parameter) {
        Some(flags) if defines(command, flags) => flags,
        _ => parameter.name(),
    })
}

/// Whether a program or one of its subcommands has each of these flags.
pub fn defines(command: &Command, flags: &str) -> bool {
    let has = |flag: &str| {
        let mut all = command.get_subcommands().chain([command]);
        all.any(|command| find(command, &respelled_flag(command, flag)).is_some())
    };
    flags
        .split(", ")
        .flat_map(|part| part.split(" or "))
        .all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What no flag sets: the arguments of calls.
    const WITHOUT: [Parameter; 13] = [
        Parameter::BackendDirectory,
        Parameter::Prompt,
        Parameter::Tokens,
        Parameter::Draws,
        Parameter::Noise,
        Parameter::Recipe,
        Parameter::Answers,
        Parameter::Session,
        Parameter::Snapshot,
        Parameter::Layer,
        Parameter::Position,
        Parameter::Logits,
        Parameter::VocabSize,
    ];

    #[test]
    fn every_parameter_has_a_flag_or_is_none_of_a_program() {
        for parameter in Parameter::ALL {
            let is_without = WITHOUT.contains(parameter);
            assert_eq!(flags(*parameter).is_none(), is_without, "{parameter}");
        }
    }

    #[test]
    fn messages_name_the_flags_that_a_program_has() {
        let error = Error::ContextFull {
            prompt: 10,
            canvas: 4,
            context: 12,
        };
        let flag = |name: &'static str| clap::Arg::new(name).long(name);
        let with = Command::new("with").arg(flag("ctx-size").short('c'));
        let without = Command::new("without").arg(flag("model"));
        assert!(message(&error, &with).ends_with(": raise -c or shorten the prompt"));
        assert!(message(&error, &without).ends_with(": raise context or shorten the prompt"));
        let error = Error::InvalidParameter {
            parameter: Parameter::KvType,
            problem: "both".into(),
        };
        let keys = Command::new("quantize").arg(flag("cache-type-k").alias("ctk"));
        assert_eq!(message(&error, &keys), "kv_type: both");
        let values = Command::new("both")
            .subcommand(keys)
            .arg(flag("cache-type-v").alias("ctv"));
        assert_eq!(message(&error, &values), "-ctk, -ctv: both");
    }
}
