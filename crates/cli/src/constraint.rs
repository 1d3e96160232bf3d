//! What the answers of a run are constrained to.

use std::path::Path;

use llama_diffusion::constraint::schema::{SchemaOptions, json_schema};
use llama_diffusion::constraint::{ByteAutomaton, Constraint, ConstraintError, Limits};
use llama_diffusion::internal::parse_json;
use llama_diffusion::{Error, Result, TextModel, Thoughts, Token};

use crate::args::ConstraintArgs;
use llama_diffusion_flags::input;

/// A language, and what the model writes before its texts.
pub struct Language {
    automaton: ByteAutomaton,
    thoughts: Thoughts,
}

impl Language {
    /// The language that the flags ask for, if they do, after such thoughts. It is read before minutes
    /// of loading.
    ///
    /// # Errors
    /// A file cannot be read, JSON is malformed, or the schema or the expression cannot be honoured:
    /// the message names the flag or the file.
    pub fn read(flags: &ConstraintArgs, thoughts: Thoughts) -> Result<Option<Self>> {
        let limits = Limits::default();
        let automaton = if let Some(pattern) = &flags.grammar_regex {
            let made = ByteAutomaton::from_regex(pattern, &limits);
            made.map_err(|error| refused("--grammar-regex", error))?
        } else if let Some(schema) = &flags.json_schema {
            schema_language("-j", schema, flags.json_depth, &limits)?
        } else if let Some(path) = &flags.json_schema_file {
            let name = path.display().to_string();
            schema_language(&name, &read_schema(path)?, flags.json_depth, &limits)?
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            automaton,
            thoughts,
        }))
    }

    /// The constraint of an answer to `prompt`.
    ///
    /// # Errors
    /// No tokens of the model can write such a text.
    pub fn of(&self, model: &TextModel, prompt: &[Token]) -> Result<Constraint> {
        model.constraint(&self.automaton, prompt, self.thoughts)
    }
}

fn read_schema(path: &Path) -> Result<String> {
    Ok(input::without_last_line_end(input::file(path)?))
}

fn schema_language(name: &str, text: &str, depth: usize, limits: &Limits) -> Result<ByteAutomaton> {
    let schema = parse_json(text.as_bytes()).map_err(|error| Error::Input {
        name: name.into(),
        problem: format!("it is not JSON: {error}"),
    })?;
    let mut options = SchemaOptions::default();
    options.depth = depth;
    let language = json_schema(&schema, &options).map_err(|error| refused(name, error))?;
    for cut in &language.cuts {
        tracing::warn!("{name}: {cut}: raise it with --json-depth");
    }
    language
        .automaton(limits)
        .map_err(|error| refused(name, error))
}

fn refused(name: &str, error: ConstraintError) -> Error {
    Error::Input {
        name: name.into(),
        problem: error.to_string(),
    }
}
