//! Editing: a text is the beginning of the canvases, a share of its tokens is noise, and the steps
//! begin late in the schedule (SDEdit, Meng et al. 2021, arXiv:2108.01073, for uniform noise). The rest of
//! the text comes back in each step where the model is not certain of another token.

use super::Token;
use super::canvas::CanvasRun;
use super::canvas_length::check_canvas_length;
use super::continued::{Continued, check_constraint};
use super::event::FinishedCanvas;
use super::params::{AcceptanceRule, DiffusionParams};
use super::random::NoiseSource;
use super::repair::Repair;
use super::run::{Blank, Budget, Recipe, Run};
use super::score::Scoring;
use super::step::{DrawFeatures, Limits, TokenSet};
use super::template::Template;
use crate::constraint::Constraint;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// Minimum number of steps of an edited canvas, unless the parameters have fewer.
const MIN_STEPS: u32 = 4;

/// The step whose noise chooses the tokens that are replaced: no canvas has as many steps.
const CHOICE: u32 = u32::MAX;

/// A text to edit.
#[derive(Debug, Clone, PartialEq)]
pub struct Original {
    tokens: Vec<Token>,
    protected: Vec<bool>,
    end: Option<Token>,
    strength: f32,
}

impl Original {
    /// The tokens of a text, with which of them stay as they are. `strength`, from 0 to 1, is the
    /// share of the other positions of a canvas that begin as noise. 0 shows the model the whole text,
    /// 1 nothing of it. What it shows stays until the model is certain of another token.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if there are no tokens, not one mark for each, or the strength is
    /// out of range.
    pub fn new(tokens: Vec<Token>, protected: Vec<bool>, strength: f32) -> Result<Self> {
        if tokens.is_empty() {
            let problem = "there are none: give the text to edit";
            return Err(Error::parameter(Parameter::Tokens, problem));
        }
        if protected.len() != tokens.len() {
            let (marks, tokens) = (protected.len(), tokens.len());
            let problem = format!("there are {marks} marks for {tokens} tokens");
            return Err(Error::parameter(Parameter::Tokens, problem));
        }
        if !(0.0..=1.0).contains(&strength) {
            let problem = format!("is {strength}, but must be from 0 to 1");
            return Err(Error::parameter(Parameter::Strength, problem));
        }
        Ok(Self {
            tokens,
            protected,
            end: None,
            strength,
        })
    }

    /// Shows the model this token after the text, in place of the first of its end tokens.
    #[must_use]
    pub fn ending_with(mut self, end: Option<Token>) -> Self {
        self.end = end;
        self
    }

    /// The tokens.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether nothing is left of the text from a position on.
    fn ends_at(&self, offset: usize) -> bool {
        offset >= self.tokens.len()
    }

    /// Whether a protected token is left.
    fn protects_after(&self, offset: usize) -> bool {
        self.protected.iter().skip(offset).any(|is| *is)
    }

    /// Whether the end of the text is protected: nothing comes after it.
    fn protects_end(&self) -> bool {
        self.protected.last() == Some(&true)
    }

    /// Whether these tokens have all that is protected, in order.
    pub(crate) fn is_kept_in(&self, tokens: &[Token]) -> bool {
        let mut rest = tokens;
        self.passages().into_iter().all(|passage| {
            let found = rest
                .windows(passage.len())
                .position(|window| window == passage);
            found.is_some_and(|at| {
                rest = &rest[at + passage.len()..];
                true
            })
        })
    }

    /// The protected tokens, as many together as there are side by side.
    fn passages(&self) -> Vec<&[Token]> {
        let marks = self.protected.chunk_by(|a, b| a == b);
        let mut start = 0;
        let parts = marks.map(|marks| {
            let part = &self.tokens[start..start + marks.len()];
            start += marks.len();
            marks[0].then_some(part)
        });
        parts.flatten().collect()
    }

    /// Checks that there is a text of a constraint with what is protected.
    fn check_passages(&self, constraint: &Constraint) -> Result<()> {
        let passages = self.passages();
        let automaton = constraint.automaton();
        match automaton.first_missing(&passages, self.protected[0]) {
            None => Ok(()),
            Some(number) => {
                let (number, count) = (number + 1, passages.len());
                let problem = format!(
                    "the constraint allows no text with all that is protected: part {number} of {count} fits \
                     nowhere, protect less or allow more"
                );
                Err(Error::parameter(Parameter::Protected, problem))
            }
        }
    }

    /// The positions of a canvas with the text from `offset` on. Before what is protected `no_end` may stand,
    /// if it is given.
    fn slots(&self, offset: usize, len: usize, no_end: Option<&TokenSet>) -> Template {
        let mut template = Template::new();
        let within = self.tokens.len().min(offset + len);
        let last = (offset..self.tokens.len()).rfind(|p| self.protected[*p]);
        for position in offset..within {
            let is_before = last.is_some_and(|last| position < last);
            match no_end.filter(|_| is_before) {
                _ if self.protected[position] => template.fixed(&[self.tokens[position]]),
                Some(set) => template.within(set.clone()),
                None => template.free(),
            };
        }
        template
    }

    /// What canvas number `block` begins with, which was `blank`: the text from `offset` on, an end token
    /// and padding, with noise for the share of positions. `no_end` as in [`slots`](Self::slots).
    ///
    /// # Errors
    /// The errors of `noise`.
    fn template(
        &self,
        offset: usize,
        no_end: Option<&TokenSet>,
        (block, blank): (u32, &Blank<'_>),
        max_steps: u32,
        noise: &dyn NoiseSource,
    ) -> Result<Template> {
        let len = blank.len;
        if self.ends_at(offset) {
            return Ok(Template::new());
        }
        let mut template = self.slots(offset, len, no_end);
        let slice = &self.tokens[offset..self.tokens.len().min(offset + len)];
        let mut tokens: Vec<Option<Token>> = slice.iter().copied().map(Some).collect();
        if tokens.len() < len {
            tokens.push(self.end.or(blank.end.ids.first().copied()));
            tokens.resize(len, blank.end.pad);
            if self.protects_end() {
                let rest: Vec<Token> = tokens[slice.len()..].iter().map_while(|t| *t).collect();
                template.fixed(&rest);
            }
        }
        let mut order = vec![0.0; len];
        noise.uniforms(block, CHOICE, &mut order)?;
        let mut open: Vec<usize> = (0..len).filter(|p| !template.is_fixed(*p)).collect();
        open.sort_by(|a, b| order[*a].total_cmp(&order[*b]));
        let replaced = (self.strength * open.len() as f32).round() as usize;
        for position in &open[..replaced] {
            tokens[*position] = None;
        }
        template
            .begin_with(tokens)
            .keep_beginning()
            .begin_at(first_step(self.strength, max_steps));
        Ok(template)
    }

    /// The position from which the text goes on after a canvas that began at `offset`: where the
    /// canvas and the text have most in common. It never leaves a protected token out.
    fn after(&self, offset: usize, canvas: &FinishedCanvas) -> usize {
        let len = canvas.tokens.len();
        let within = (offset + len).min(self.tokens.len());
        let next_protected = (within..self.tokens.len()).find(|p| self.protected[*p]);
        let limit = (offset + 2 * len)
            .min(self.tokens.len())
            .min(next_protected.unwrap_or(usize::MAX));
        // What is protected stays in its place.
        let last = (offset..within).rfind(|p| self.protected[*p]);
        let start = last.map_or(offset, |last| last + 1);
        if canvas.ended {
            // The model left the rest out.
            return within;
        }
        let rest = canvas.answer.get(start - offset..).unwrap_or_default();
        // At least half of what it read, so that the text comes to its end.
        let least = (within - start).div_ceil(2);
        start + best_prefix(rest, &self.tokens[start..limit]).max(least)
    }
}

/// The step at which a canvas begins.
fn first_step(strength: f32, max_steps: u32) -> u32 {
    let latest = max_steps.saturating_sub(MIN_STEPS);
    let step = (f64::from(max_steps) * (1.0 - f64::from(strength))).round() as u32;
    step.min(latest)
}

/// How many tokens of `text` make the beginning that is closest to `edited`, by insertions, deletions
/// and replacements; of equals the one nearest in length.
fn best_prefix(edited: &[Token], text: &[Token]) -> usize {
    let mut row: Vec<usize> = (0..=text.len()).collect();
    for (i, token) in edited.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in text.iter().enumerate() {
            let replaced = diagonal + usize::from(token != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    let cost = |j: &usize| (row[*j], j.abs_diff(edited.len()));
    (0..=text.len()).min_by_key(cost).unwrap_or(0)
}

/// Parameters of an answer that edits a text.
///
/// Its canvases begin as parts of the text: after each, the text goes on from where the canvas has come to,
/// as an edit may make it longer or shorter. Protected tokens stay in order and unchanged, whatever the model
/// writes; between those of one canvas, the number of tokens stays.
///
/// A constraint is about the whole edited text. If what is protected contradicts it at its place in a canvas,
/// the answer ends in an error; where no text of the constraint has it, it does not begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    params: DiffusionParams,
    original: Original,
}

impl Edit {
    /// For `original`, by `params`, which apply to each canvas, but for their templates and limits: the edited
    /// text may be twice as long as the text, and two canvases more.
    pub fn new(params: DiffusionParams, original: Original) -> Self {
        let params = DiffusionParams {
            max_tokens: None,
            max_canvases: None,
            templates: Vec::new(),
            ..params
        };
        Self { params, original }
    }

    /// The position from which the text goes on after these canvases.
    fn offset(&self, canvases: &[FinishedCanvas]) -> usize {
        let after = |offset, canvas| self.original.after(offset, canvas);
        canvases.iter().fold(0, after)
    }

    /// What a canvas begins with that was `blank`.
    fn template(&self, block: u32, blank: &Blank<'_>, noise: &dyn NoiseSource) -> Result<Template> {
        let offset = self.offset(&blank.canvases[..block as usize]);
        // The text of a constraint does not go on after an end token.
        let needs_text = self.params.constraint.is_some() && self.original.protects_after(offset);
        let no_end: Option<TokenSet> = needs_text.then(|| {
            let all = 0..blank.limits.vocab as Token;
            all.filter(|token| !blank.end.is_end(*token)).collect()
        });
        let (canvas, max_steps) = ((block, blank), self.params.max_steps);
        self.original
            .template(offset, no_end.as_ref(), canvas, max_steps, noise)
    }
}

impl Recipe for Edit {
    fn validate(&self, limits: &Limits) -> Result<()> {
        let Some(trained) = limits.canvas else {
            return Err(Error::parameter(
                Parameter::Session,
                "its model is of a masked family, which cannot edit: use a canvas model",
            ));
        };
        self.params.validate_for(limits.vocab)?;
        let is_bounded = match self.params.acceptance {
            AcceptanceRule::Auto => self.original.protects_after(0),
            AcceptanceRule::Reference => false,
            AcceptanceRule::Bounded => true,
        };
        let constraint = self.params.constraint.as_ref();
        limits.draws.check(&DrawFeatures {
            fixed_positions: self.original.protects_after(0),
            allowed_sets: constraint.is_some() && self.original.protects_after(0),
            languages: constraint.is_some(),
            averages: is_bounded,
            scores: self.params.scoring.is_some(),
            ..DrawFeatures::default()
        })?;
        check_canvas_length(self.params.canvas.unwrap_or(trained), trained)?;
        let mut text = Template::new();
        text.fixed(self.original.tokens());
        text.check(None, limits.vocab)?;
        constraint.map_or(Ok(()), |constraint| {
            self.original.check_passages(constraint)
        })
    }

    fn canvas_len(&self, prompt: usize, limits: &Limits) -> Result<usize> {
        self.params.canvas_len(prompt, limits)
    }

    fn check_budget(&self, budget: Budget) -> Result<()> {
        let advice = "the text to edit is too short for it";
        check_constraint(self.params.constraint.as_ref(), budget, advice)
    }

    fn max_tokens(&self) -> Option<usize> {
        None
    }

    fn seed(&self) -> u64 {
        self.params.seed
    }

    fn boxed(&self) -> Box<dyn Recipe> {
        Box::new(self.clone())
    }

    fn canvas_limit(&self, canvas_len: usize) -> Option<usize> {
        // Each canvas takes up at least half of its part of the text.
        Some(2 * self.original.tokens().len().div_ceil(canvas_len) + 2)
    }

    fn begin(
        &self,
        block: u32,
        canvas: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Box<dyn Run>> {
        let template = self.template(block, canvas, noise)?;
        let run = CanvasRun::with_template(&self.params, template, block, canvas.len, noise)?;
        let constraint = Continued::of(self.params.constraint.as_ref(), canvas)?;
        Ok(Box::new(run.following(constraint)))
    }

    fn goes_on_after(&self, canvases: &[FinishedCanvas]) -> bool {
        let is_last = canvases.last().is_some_and(FinishedCanvas::is_last);
        let offset = self.offset(canvases);
        if self.original.protects_end() {
            return !self.original.ends_at(offset);
        }
        !is_last || self.original.protects_after(offset)
    }

    fn committed<'c>(&self, canvas: &'c FinishedCanvas) -> &'c [Token] {
        // The text may go on after an end.
        &canvas.answer
    }

    fn scoring(&self) -> Option<Scoring> {
        self.params.scoring
    }

    fn repair(
        &self,
        canvas: &FinishedCanvas,
        doubted: &[bool],
        round: u32,
        blank: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Option<Box<dyn Run>>> {
        let known = self.template(canvas.block, blank, noise)?;
        Repair::begin(&self.params, &known, canvas, doubted, round, blank, noise)
    }
}
