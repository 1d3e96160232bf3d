//! Flags of llama.cpp that are taken so that its command lines work, and that have no effect here.
//! Each use is answered by a warning, unless what it asks for is so anyway.

use clap::builder::{PossibleValuesParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

struct Inert {
    long: &'static str,
    env: Option<&'static str>,
    value: Value,
    effect: Effect,
}

enum Value {
    Flag,
    Text,
    Choice(&'static [&'static str]),
}

enum Effect {
    /// What it asks for is always so.
    Given,
    /// Why it has none.
    None(&'static str),
    /// What is always so, and why `off` has no effect.
    GivenUnlessOff(&'static str),
}

const SWITCH: Value = Value::Choice(&["auto", "on", "off"]);

const fn inert(long: &'static str, value: Value, effect: Effect) -> Inert {
    Inert {
        long,
        env: None,
        value,
        effect,
    }
}

const fn with_env(flag: Inert, env: &'static str) -> Inert {
    Inert {
        env: Some(env),
        ..flag
    }
}

const FLAGS: &[Inert] = &[
    inert(
        "diffusion-eb",
        SWITCH,
        Effect::GivenUnlessOff("canvas models have no other sampler than the entropy-bound one"),
    ),
    inert(
        "diffusion-kv-cache",
        SWITCH,
        Effect::GivenUnlessOff("keys and values are always cached"),
    ),
    inert(
        "diffusion-gpu-sampling",
        SWITCH,
        Effect::GivenUnlessOff("tokens are always drawn on the device that computes the logits"),
    ),
    inert(
        "diffusion-gpu-sample-reduce",
        SWITCH,
        Effect::GivenUnlessOff("logits are always reduced on the device that computes them"),
    ),
    with_env(
        inert(
            "rpc",
            Value::Text,
            Effect::None("this tool does not connect to RPC servers"),
        ),
        "LLAMA_ARG_RPC",
    ),
    with_env(
        inert("jinja", Value::Flag, Effect::Given),
        "LLAMA_ARG_JINJA",
    ),
    inert(
        "no-jinja",
        Value::Flag,
        Effect::None("chat templates are always Jinja"),
    ),
    inert("no-warmup", Value::Flag, Effect::Given),
    inert("no-display-prompt", Value::Flag, Effect::Given),
];

impl Inert {
    fn arg(&self) -> Arg {
        let help = match self.effect {
            Effect::Given => "Always so",
            Effect::None(why) | Effect::GivenUnlessOff(why) => why,
        };
        let mut arg = Arg::new(self.long)
            .long(self.long)
            .help(help)
            .help_heading("Taken as by llama.cpp, without effect")
            .hide_env_values(true);
        if let Some(env) = self.env {
            arg = arg.env(env);
        }
        let (name, parser): (_, ValueParser) = match self.value {
            Value::Flag => {
                let parser = clap::builder::BoolishValueParser::new();
                return arg.action(ArgAction::SetTrue).value_parser(parser);
            }
            Value::Text => ("TEXT", value_parser!(String)),
            Value::Choice(values) => ("CHOICE", PossibleValuesParser::new(values).into()),
        };
        arg.value_name(name).value_parser(parser)
    }

    fn warning(&self, matches: &ArgMatches) -> Option<String> {
        let source = matches.value_source(self.long)?;
        let why = match self.effect {
            Effect::Given => return None,
            Effect::None(why) => why,
            Effect::GivenUnlessOff(why) => {
                let value = matches.get_one::<String>(self.long)?;
                (value == "off").then_some(why)?
            }
        };
        let name = match (source, self.env) {
            (ValueSource::DefaultValue, _) => return None,
            (ValueSource::EnvVariable, Some(env)) => env.to_owned(),
            _ => format!("--{}", self.long),
        };
        Some(format!("{name} has no effect: {why}"))
    }
}

/// Adds the flags to those that do something.
pub fn define(command: Command) -> Command {
    command.args(FLAGS.iter().map(Inert::arg))
}

/// A line for each flag that was used in vain.
pub fn warnings(matches: &ArgMatches) -> Vec<String> {
    FLAGS
        .iter()
        .filter_map(|flag| flag.warning(matches))
        .collect()
}
