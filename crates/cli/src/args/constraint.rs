//! Flags of what an answer is constrained to.

use std::path::PathBuf;

use clap::ValueEnum;
use llama_diffusion::diffusion::ConstrainAt;
use llama_diffusion_flags::numbers::whole;

/// What an answer is constrained to.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Constraints")]
pub struct ConstraintArgs {
    /// Answer in JSON that this JSON Schema allows; {} is any JSON. The answer is valid whatever the
    /// model wants, and -n never cuts it
    #[arg(short = 'j', long, value_name = "SCHEMA", conflicts_with_all = ["json_schema_file", "grammar_regex"])]
    pub json_schema: Option<String>,

    /// File with the JSON Schema
    #[arg(long, value_name = "FILE", conflicts_with = "grammar_regex")]
    pub json_schema_file: Option<PathBuf>,

    /// Answer with a text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX")]
    pub grammar_regex: Option<String>,

    /// How deep JSON may be nested where the schema sets no limit
    #[arg(long, value_name = "N", default_value = "4", value_parser = whole(1..=usize::MAX))]
    pub json_depth: usize,

    /// What the constraint changes: each step, or only what is committed in the end
    #[arg(long, value_name = "WHEN", default_value = "step")]
    constrain_at: At,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum At {
    Step,
    Commit,
}

impl ConstraintArgs {
    /// What the constraint changes.
    pub fn at(&self) -> ConstrainAt {
        match self.constrain_at {
            At::Step => ConstrainAt::Step,
            At::Commit => ConstrainAt::Commit,
        }
    }
}
