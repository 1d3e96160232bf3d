//! The text side of a form: the tokens of its text and of what may stand in its blanks.

use crate::constrained::Thoughts;
use crate::constraint::{self, ByteAutomaton, Constraint, Scaffold, TokenAutomaton};
use crate::diffusion::{CancelFlag, EndTokens, Limits, Template, Token, TokenSet};
use crate::error::{Error, Result};
use crate::form::{Blank, BlankKind, FilledBlank, FilledForm, Form, FormParams, Frame, Piece};
use crate::form_request::{
    BLANK, BlankAnswer, BlankRequest, ChoiceAnswer, FormAnswer, FormRequest, refusal,
};
use crate::parameter::Parameter;
use crate::session::Session;
use crate::text_model::TextModel;

/// A blank in a text, and the text before it.
#[derive(Debug, Clone)]
struct Gap {
    before: String,
    /// Tokens, if it has no choices.
    tokens: usize,
    name: String,
    choices: Option<Vec<String>>,
    regex: Option<String>,
    /// Whether the space before it is part of its first token.
    takes_space: bool,
}

/// A form with the texts of its blanks, ready for a model.
#[derive(Debug, Clone)]
pub struct TextForm {
    form: Form,
    gaps: Vec<Gap>,
    before: Vec<Vec<Token>>,
    params: FormParams,
}

impl TextForm {
    /// Its tokens.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// What the model may write before it: see [`Session::fill`].
    pub fn before(&self) -> &[Vec<Token>] {
        &self.before
    }

    /// How it is filled.
    pub fn params(&self) -> &FormParams {
        &self.params
    }

    /// Checks that a session with these limits can fill it.
    ///
    /// # Errors
    /// As [`Session::fill`] before its first pass.
    pub fn check(&self, limits: &Limits) -> Result<()> {
        let end = EndTokens::default();
        Frame::within(limits, &self.form, &self.before, &end, &self.params).map(drop)
    }
}

impl TextModel {
    /// Fills a form as the answer to `prompt`: see [`Session::fill`]. The session must be of this model.
    ///
    /// The tokens on either side of a choice are those that the whole text has with it, so that a token
    /// may be partly known text and partly a choice. A space before a blank without choices begins its
    /// first token.
    ///
    /// # Errors
    /// The prompt has begun a thought; the text has no blank, more blanks are described than it has, a
    /// blank with choices is several ▢ or has a regular expression as well, an expression is malformed or its
    /// texts need more tokens than there are ▢, or the vocabulary cannot spell a text; as [`Form::new`] and
    /// [`Session::fill`].
    pub fn fill(
        &self,
        session: &mut Session,
        prompt: &[Token],
        request: &FormRequest,
        thoughts: Thoughts,
        cancel: &CancelFlag,
    ) -> Result<FormAnswer> {
        let form = self.text_form(request, prompt, thoughts)?;
        let filled = session.fill(prompt, &form.before, &form.form, &form.params, cancel)?;
        self.form_answer(&form, &filled, prompt.len())
    }

    /// Prepares a form, to be filled by [`Session::fill`] as the answer to `prompt`.
    ///
    /// # Errors
    /// As [`fill`](Self::fill), as far as the session has no part in it.
    pub fn text_form(
        &self,
        request: &FormRequest,
        prompt: &[Token],
        thoughts: Thoughts,
    ) -> Result<TextForm> {
        let (mut gaps, rest) = gaps(&request.form, &request.blanks)?;
        let form = Form::new(self.pieces(&mut gaps, &rest)?)?;
        let mut before = vec![self.before_text(prompt, thoughts, Parameter::Form)?];
        if !before[0].is_empty() {
            // Not every model writes it.
            before.push(Vec::new());
        }
        Ok(TextForm {
            form,
            gaps,
            before,
            params: request.params(),
        })
    }

    /// What a form that is filled after `prompt_tokens` tokens says.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn form_answer(
        &self,
        form: &TextForm,
        filled: &FilledForm,
        prompt_tokens: usize,
    ) -> Result<FormAnswer> {
        let blanks = filled.blanks.iter().zip(&form.gaps);
        let blanks: Result<Vec<_>> = blanks.map(|(blank, gap)| self.answer(blank, gap)).collect();
        Ok(FormAnswer {
            text: self.vocab().detokenize(&filled.tokens, false)?,
            blanks: blanks?,
            canvas: filled.canvas,
            rows: filled.rows,
            passes: filled.passes,
            prompt_tokens,
            cached_tokens: filled.reused,
        })
    }

    /// The template of a canvas that begins with this text, in which each ▢ is an unknown token.
    ///
    /// # Errors
    /// The prompt has begun a thought, or the vocabulary cannot spell the text.
    pub fn template(&self, text: &str, prompt: &[Token], thoughts: Thoughts) -> Result<Template> {
        let mut template = Template::new();
        template.fixed(&self.before_text(prompt, thoughts, Parameter::Template)?);
        let (mut gaps, rest) = gaps(text, &[])?;
        for piece in self.pieces(&mut gaps, &rest)? {
            match piece {
                Piece::Text(tokens) => {
                    template.fixed(&tokens);
                }
                Piece::Blank(Blank { kind, .. }) => {
                    if let BlankKind::Free(sets) = kind {
                        for set in sets.into_iter().flatten() {
                            template.within(set);
                        }
                    }
                }
            }
        }
        Ok(template)
    }

    /// What the model writes before a text that is known, which `parameter` gives.
    fn before_text(
        &self,
        prompt: &[Token],
        thoughts: Thoughts,
        parameter: Parameter,
    ) -> Result<Vec<Token>> {
        match self.scaffold(prompt, thoughts)? {
            Scaffold::None => Ok(Vec::new()),
            Scaffold::Fixed(tokens) => Ok(tokens),
            // Models whose template knows no thoughts write none.
            Scaffold::Optional(tokens) => match self.chat_template()? {
                Some(template) if template.reads("enable_thinking") => Ok(tokens),
                _ => Ok(Vec::new()),
            },
            Scaffold::Until(_) | Scaffold::Between { .. } => {
                let problem =
                    "a known text cannot follow a thought of unknown length: turn thinking off";
                Err(Error::parameter(parameter, problem))
            }
        }
    }

    fn answer(&self, blank: &FilledBlank, gap: &Gap) -> Result<BlankAnswer> {
        let text = match (&gap.choices, blank.choice) {
            (Some(choices), Some(index)) => choices[index].clone(),
            _ => {
                let text = self.vocab().detokenize(&blank.tokens, false)?;
                match gap.takes_space {
                    true => text.strip_prefix(' ').map_or(text.clone(), str::to_owned),
                    false => text,
                }
            }
        };
        let texts = gap.choices.iter().flatten();
        Ok(BlankAnswer {
            name: blank.name.clone(),
            text,
            choice: blank.choice,
            logprob: blank.logprob,
            probability: blank.probability,
            entropy: blank.entropy,
            allowed_mass: blank.allowed_mass,
            standard_error: blank.standard_error,
            choices: texts
                .zip(&blank.choices)
                .map(|(text, choice)| ChoiceAnswer {
                    text: text.clone(),
                    logprob: choice.logprob,
                    probability: choice.probability,
                    standard_error: choice.standard_error,
                })
                .collect(),
        })
    }

    /// The pieces of a form. Decides which blanks take the space before them.
    fn pieces(&self, gaps: &mut [Gap], rest: &str) -> Result<Vec<Piece>> {
        let (any, spaced) = self.text_sets()?;
        let has_spaced = spaced.iter().next().is_some();
        for gap in gaps.iter_mut() {
            gap.takes_space = has_spaced && gap.choices.is_none() && gap.before.ends_with(' ');
        }
        let gaps = &*gaps;
        // The known texts, without the spaces that blanks take.
        let mut texts: Vec<&str> = Vec::new();
        for gap in gaps {
            let cut = usize::from(gap.takes_space);
            texts.push(&gap.before[..gap.before.len() - cut]);
        }
        texts.push(rest);
        let known = texts.iter().map(|text| self.spell(text));
        let known: Vec<Vec<Token>> = known.collect::<Result<_>>()?;
        let tokens: usize = known.iter().map(Vec::len).sum();
        let canvas = self.model().canvas_length().unwrap_or(usize::MAX);
        // Each choice is spelled with the texts around it, which it never makes half as long.
        if gaps.iter().any(|gap| gap.choices.is_some()) && tokens / 2 > canvas {
            return Err(refusal(format!(
                "its text has {tokens} tokens, but a canvas has {canvas}: shorten it"
            )));
        }
        for gap in gaps {
            let (count, max) = (
                gap.choices.as_ref().map_or(0, Vec::len),
                FormParams::MAX_ROWS,
            );
            if count > max {
                return Err(refusal(format!(
                    "blank '{}': it has {count} choices, but may have {max}: give fewer",
                    gap.name
                )));
            }
        }
        let choices = self.spelled_choices(gaps, &texts, &known)?;
        let mut pieces = Vec::new();
        let mut taken = 0;
        for (index, (gap, choices)) in gaps.iter().zip(choices).enumerate() {
            let (kept, after, kind) = match (choices, &gap.regex) {
                (
                    Some(Spelled {
                        before,
                        after,
                        choices,
                    }),
                    _,
                ) => (before, after, BlankKind::Choices(choices)),
                (None, Some(pattern)) => {
                    let kind = BlankKind::Language {
                        language: self.blank_language(gap, pattern)?,
                        tokens: gap.tokens,
                    };
                    (known[index].len(), 0, kind)
                }
                (None, None) => {
                    let mut sets = vec![Some(any.clone()); gap.tokens];
                    if gap.takes_space {
                        sets[0] = Some(spaced.clone());
                    }
                    (known[index].len(), 0, BlankKind::Free(sets))
                }
            };
            pieces.push(Piece::Text(known[index][taken..kept].to_vec()));
            pieces.push(Piece::Blank(Blank {
                name: gap.name.clone(),
                kind,
            }));
            taken = after;
        }
        pieces.push(Piece::Text(known[gaps.len()][taken..].to_vec()));
        Ok(pieces)
    }

    /// The texts that a regular expression allows in a blank.
    fn blank_language(&self, gap: &Gap, pattern: &str) -> Result<Constraint> {
        let canvas = self.model().canvas_length().unwrap_or(gap.tokens);
        if gap.tokens > canvas {
            return Err(refusal(format!(
                "blank '{}': it has {} tokens, but a canvas has {canvas}: shorten it",
                gap.name, gap.tokens
            )));
        }
        let limits = constraint::Limits::default();
        let before = if gap.takes_space { " " } else { "" };
        let vocabulary = self.constraint_vocabulary()?;
        ByteAutomaton::from_regex(pattern, &limits)
            .map(|language| language.after(before.as_bytes()))
            .and_then(|language| TokenAutomaton::filling(&language, vocabulary, &limits))
            .map(Constraint::new)
            .map_err(|error| refusal(format!("blank '{}': {error}", gap.name)))
    }

    /// The tokens of the choices of each gap that has some.
    fn spelled_choices(
        &self,
        gaps: &[Gap],
        texts: &[&str],
        known: &[Vec<Token>],
    ) -> Result<Vec<Option<Spelled>>> {
        let mut all = Vec::new();
        for (index, gap) in gaps.iter().enumerate() {
            let sides = (&known[index][..], &known[index + 1][..]);
            all.push(match &gap.choices {
                Some(choices) => {
                    let around = (texts[index], texts[index + 1]);
                    Some(self.spell_choices(&gap.name, choices, around, sides)?)
                }
                None => None,
            });
        }
        // Two blanks may not both take a part of the text between them.
        let collides = all.windows(2).zip(&known[1..]).any(|(pair, between)| {
            let taken = pair[0].as_ref().map_or(0, |left| left.after);
            let kept = pair[1].as_ref().map_or(between.len(), |right| right.before);
            taken > kept
        });
        if !collides {
            return Ok(all);
        }
        let alone = |(index, gap): (usize, &Gap)| match &gap.choices {
            Some(choices) => {
                let tokens = choices.iter().map(|choice| self.spell(choice));
                Ok(Some(Spelled {
                    before: known[index].len(),
                    after: 0,
                    choices: tokens.collect::<Result<_>>()?,
                }))
            }
            None => Ok(None),
        };
        gaps.iter().enumerate().map(alone).collect()
    }

    /// The tokens of choices between two texts.
    fn spell_choices(
        &self,
        name: &str,
        choices: &[String],
        (left, right): (&str, &str),
        (before, after): (&[Token], &[Token]),
    ) -> Result<Spelled> {
        let mut whole = Vec::new();
        for (index, choice) in choices.iter().enumerate() {
            if choice.is_empty() {
                let problem = format!("blank '{name}': choice {index} is empty: give a text");
                return Err(refusal(problem));
            }
            whole.push(self.spell(&format!("{left}{choice}{right}"))?);
        }
        let common = |a: &[Token], b: &[Token]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let from_left = whole.iter().map(|tokens| common(tokens, before));
        let kept = from_left.min().unwrap_or(before.len());
        let from_right = whole.iter().map(|tokens| {
            let ends = tokens.iter().rev().zip(after.iter().rev());
            let same = ends.take_while(|(a, b)| a == b).count();
            same.min(tokens.len().saturating_sub(kept))
        });
        let same = from_right.min().unwrap_or(after.len());
        Ok(Spelled {
            before: kept,
            after: after.len() - same,
            choices: whole
                .into_iter()
                .map(|tokens| tokens[kept..tokens.len() - same].to_vec())
                .collect(),
        })
    }

    /// The tokens of a text, which spell it byte for byte.
    fn spell(&self, text: &str) -> Result<Vec<Token>> {
        let tokens = self.vocab().tokenize(text, false, false)?;
        match self.vocab().detokenize(&tokens, false)? == text {
            true => Ok(tokens),
            false => Err(Error::Tokenizer(format!(
                "the vocabulary cannot spell '{text}'"
            ))),
        }
    }

    /// The tokens of texts, and those of them that begin with a space.
    fn text_sets(&self) -> Result<(TokenSet, TokenSet)> {
        let (mut any, mut spaced) = (Vec::new(), Vec::new());
        for token in 0..self.vocab().len() as Token {
            if !self.vocab().is_text(token)? {
                continue;
            }
            any.push(token);
            if self.vocab().piece(token, false)?.starts_with(b" ") {
                spaced.push(token);
            }
        }
        Ok((any.into_iter().collect(), spaced.into_iter().collect()))
    }
}

/// Choices as tokens, with what they take of the known texts around them.
struct Spelled {
    /// Tokens that stay of the text before.
    before: usize,
    /// Tokens that are taken from the text after.
    after: usize,
    choices: Vec<Vec<Token>>,
}

/// The blanks of a text, and what follows the last one.
fn gaps(text: &str, blanks: &[BlankRequest]) -> Result<(Vec<Gap>, String)> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BLANK) {
        let trimmed = after.trim_start_matches(BLANK);
        let tokens = 1 + (after.len() - trimmed.len()) / BLANK.len_utf8();
        let request = blanks.get(gaps.len());
        let name = request.map_or_else(|| (gaps.len() + 1).to_string(), |blank| blank.name.clone());
        let choices = request.and_then(|blank| blank.choices.clone());
        let regex = request.and_then(|blank| blank.regex.clone());
        if choices.is_some() && regex.is_some() {
            let problem = format!("blank '{name}' has choices and a regex: omit one");
            return Err(refusal(problem));
        }
        if choices.is_some() && tokens > 1 {
            let problem = format!("blank '{name}' has choices: write it as a single {BLANK}");
            return Err(refusal(problem));
        }
        gaps.push(Gap {
            before: before.to_owned(),
            tokens,
            name,
            choices,
            regex,
            takes_space: false,
        });
        rest = trimmed;
    }
    if blanks.len() > gaps.len() {
        let (described, count) = (blanks.len(), gaps.len());
        let problem =
            format!("{described} blanks are described, but its text has {count} ({BLANK})");
        return Err(refusal(problem));
    }
    Ok((gaps, rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_runs_of_the_mark() {
        let blank = |name: &str, choices: Option<&[&str]>| BlankRequest {
            name: name.into(),
            choices: choices.map(|all| all.iter().map(|text| (*text).to_owned()).collect()),
            regex: None,
        };
        let (found, rest) = gaps("a ▢b▢▢▢ c", &[blank("x", Some(&["1", "2"]))]).unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|gap| (&gap.before[..], gap.tokens, &gap.name[..]))
            .collect();
        assert_eq!(shown, [("a ", 1, "x"), ("b", 3, "2")]);
        assert_eq!(rest, " c");
        assert_eq!(found[0].choices.as_ref().unwrap().len(), 2);
        let problem = |text, blanks: &[BlankRequest]| gaps(text, blanks).err().unwrap().to_string();
        assert_eq!(
            problem("▢▢", &[blank("x", Some(&["1"]))]),
            "form: blank 'x' has choices: write it as a single ▢"
        );
        let both = BlankRequest {
            regex: Some("1".into()),
            ..blank("x", Some(&["1"]))
        };
        assert_eq!(
            problem("▢", &[both]),
            "form: blank 'x' has choices and a regex: omit one"
        );
        assert_eq!(
            problem("a", &[blank("x", None)]),
            "form: 1 blanks are described, but its text has 0 (▢)"
        );
    }
}
