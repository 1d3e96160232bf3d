//! Strings: length, patterns and formats, also several of them at once.

use serde_json::Value;

use super::automaton::{Dfa, Effort, intersection};
use super::compiler::Compiler;
use super::expression::Expression;
use super::refusal::{At, too_large};
use super::text::{any_content, character, quoted, written};
use super::{format, pattern};
use crate::constraint::error::ConstraintError;

/// Characters that can be counted: each takes several states.
const MAX_LENGTH: usize = 2000;

/// What a byte of a pattern counts for, in schemas that are looked at.
const WORK_OF_BYTE: usize = 4;

/// What a schema says about strings.
#[derive(Clone, Default)]
pub(super) struct StringRules {
    min: usize,
    max: Option<usize>,
    /// Pointer of a keyword that limits the length.
    length: Option<String>,
    /// What patterns and formats allow between the quotes, with their pointers.
    contents: Vec<(String, Expression)>,
}

impl StringRules {
    /// Takes a keyword, if it is one about strings.
    pub(super) fn take(
        &mut self,
        at: At<'_>,
        value: &Value,
        compiler: &mut Compiler<'_>,
    ) -> Result<bool, ConstraintError> {
        match at.keyword {
            "minLength" => self.min = self.min.max(self.length(at, value)?),
            "maxLength" => {
                let max = self.length(at, value)?;
                self.max = Some(self.max.map_or(max, |known| known.min(max)));
            }
            "pattern" | "format" => {
                let text = value.as_str().ok_or_else(|| at.malformed("a string"))?;
                // A class of two letters may have hundreds of ranges.
                compiler.work(WORK_OF_BYTE * text.len(), at.pointer)?;
                let content = if at.keyword == "format" {
                    format::content(text)
                } else {
                    pattern::found_in(text)
                        .map_err(|problem| format!("has {problem}, which has no automaton here"))
                };
                self.add(at, content.map_err(|problem| at.refuse(problem))?)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn length(&mut self, at: At<'_>, value: &Value) -> Result<usize, ConstraintError> {
        let length = at.count(value)?;
        if length > MAX_LENGTH {
            return Err(at.refuse(format!("is {value}, but lengths up to {MAX_LENGTH} can be counted: lower it or leave it out")));
        }
        self.length = Some(at.pointer());
        Ok(length)
    }

    fn add(&mut self, at: At<'_>, content: Expression) -> Result<(), ConstraintError> {
        if content.is_too_large() {
            return Err(at.too_large());
        }
        self.contents.push((at.pointer(), content));
        Ok(())
    }

    /// The strings that obey, as JSON.
    pub(super) fn expression(&self, effort: &mut Effort) -> Result<Expression, ConstraintError> {
        let counted = self.length.as_ref();
        let counted = counted.map(|pointer| (pointer, character().repeat(self.min, self.max)));
        let contents = self
            .contents
            .iter()
            .map(|(pointer, content)| (pointer, content.clone()));
        let mut rules = contents.chain(counted);
        let Some((_, mut content)) = rules.next() else {
            return Ok(quoted(any_content()));
        };
        for (pointer, rule) in rules {
            let both = intersection(&content, &rule, effort);
            content = both.map_err(|_| too_large(pointer))?;
        }
        Ok(quoted(content))
    }

    /// Which of these strings, of `const` or `enum`, obey.
    pub(super) fn admitted<'a>(
        &self,
        strings: &[&'a str],
        effort: &mut Effort,
    ) -> Result<Vec<&'a str>, ConstraintError> {
        let mut admitted = strings.to_vec();
        admitted.retain(|text| {
            let length = text.chars().count();
            length >= self.min && self.max.is_none_or(|max| length <= max)
        });
        for (pointer, content) in &self.contents {
            let dfa = Dfa::new(content, effort).map_err(|_| too_large(pointer))?;
            admitted.retain(|text| dfa.accepts(written(text).as_bytes()));
        }
        Ok(admitted)
    }
}
