//! The other implementations.

use std::sync::Arc;

use jsonschema::Validator;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, TokEnv};

/// A schema, as other implementations understand it.
pub(crate) struct Judges {
    validator: Validator,
    /// None where llguidance does not take the schema.
    grammar: Option<Grammar>,
}

/// A language as llguidance understands it.
pub(crate) struct Grammar(Matcher);

/// Who rejects a text, and why.
#[derive(Debug)]
pub(crate) enum Rejection {
    Parser(#[allow(dead_code, reason = "shown by tests that fail")] String),
    Jsonschema(#[allow(dead_code, reason = "shown by tests that fail")] String),
    Llguidance(#[allow(dead_code, reason = "shown by tests that fail")] String),
}

/// Makes judges.
pub(crate) struct Court {
    factory: ParserFactory,
}

impl Court {
    pub(crate) fn new() -> Self {
        let bytes: TokEnv = Arc::new(ApproximateTokEnv::single_byte());
        let mut factory = ParserFactory::new_simple(&bytes).unwrap();
        factory.quiet();
        Self { factory }
    }

    pub(crate) fn judges(&self, schema: &Value) -> Judges {
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(schema);
        let mut lenient = schema.clone();
        lenient["x-guidance"] =
            json!({"json_allow_general_unicode_escapes": true, "coerce_one_of": true});
        Judges {
            validator: validator.unwrap_or_else(|error| panic!("{schema}: {error}")),
            grammar: self.grammar(TopLevelGrammar::from_json_schema(without_own(lenient))),
        }
    }

    /// The texts that a regular expression matches as a whole.
    pub(crate) fn expression(&self, pattern: &str) -> Option<Grammar> {
        self.grammar(TopLevelGrammar::from_regex(pattern))
    }

    fn grammar(&self, grammar: TopLevelGrammar) -> Option<Grammar> {
        let parser = self.factory.create_parser(grammar).ok()?;
        let matcher = Matcher::new(Ok(parser));
        (!matcher.is_error()).then_some(Grammar(matcher))
    }
}

/// llguidance knows no keywords of one's own, and does not read newer annotations.
fn without_own(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(keywords) => {
            keywords.remove("x-order");
            keywords.remove("deprecated");
            for value in keywords.values_mut() {
                *value = without_own(value.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = without_own(item.take());
            }
        }
        _ => {}
    }
    schema
}

impl Judges {
    pub(crate) fn has_grammar(&self) -> bool {
        self.grammar.is_some()
    }

    /// Whether all take a text.
    pub(crate) fn judge(&self, text: &[u8]) -> Result<(), Rejection> {
        let value: Value =
            serde_json::from_slice(text).map_err(|error| Rejection::Parser(error.to_string()))?;
        self.validator
            .validate(&value)
            .map_err(|error| Rejection::Jsonschema(error.to_string()))?;
        self.grammar
            .as_ref()
            .map_or(Ok(()), |grammar| grammar.reads(text))
            .map_err(Rejection::Llguidance)
    }
}

impl Grammar {
    /// Whether it takes a text as a whole.
    pub(crate) fn reads(&self, text: &[u8]) -> Result<(), String> {
        let mut grammar = self.0.deep_clone();
        let bytes: Vec<u32> = text.iter().map(|&byte| byte.into()).collect();
        let read = grammar
            .try_consume_tokens(&bytes)
            .map_err(|error| error.to_string())?;
        if read < bytes.len() {
            return Err(format!(
                "rejects byte {read}, after {:?}",
                String::from_utf8_lossy(&text[..read])
            ));
        }
        match grammar.is_stopped() || grammar.is_accepting().unwrap_or(false) {
            true => Ok(()),
            false => Err("is incomplete".to_owned()),
        }
    }
}
