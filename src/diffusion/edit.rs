//! Editing: a text is the beginning of the canvases, a share of its tokens is noise, and the steps
//! begin late in the schedule (SDEdit, Meng et al. 2021, arXiv:2108.01073, for uniform noise).

use super::Token;
use super::event::FinishedCanvas;
use super::params::DiffusionParams;
use super::random::NoiseSource;
use super::run::EndTokens;
use super::template::Template;
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
    strength: f32,
}

impl Original {
    /// The tokens of a text, with which of them stay as they are. `strength`, from 0 to 1, is the
    /// share of the other positions of a canvas that begin as noise. 0 shows the model the whole text,
    /// 1 nothing of it.
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
            strength,
        })
    }

    /// The tokens.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether nothing is left of the text from a position on.
    pub(crate) fn ends_at(&self, offset: usize) -> bool {
        offset >= self.tokens.len()
    }

    /// Whether a protected token is left.
    pub(crate) fn protects_after(&self, offset: usize) -> bool {
        self.protected.iter().skip(offset).any(|is| *is)
    }

    /// What canvas number `block`, of `len` tokens, begins with: the text from `offset` on, an end token
    /// and padding, with noise for the share of positions.
    ///
    /// # Errors
    /// The errors of `noise`.
    pub(crate) fn template(
        &self,
        offset: usize,
        len: usize,
        block: u32,
        max_steps: u32,
        end: &EndTokens,
        noise: &dyn NoiseSource,
    ) -> Result<Template> {
        let mut template = Template::new();
        if self.ends_at(offset) {
            return Ok(template);
        }
        let slice = &self.tokens[offset..self.tokens.len().min(offset + len)];
        let mut tokens: Vec<Option<Token>> = slice.iter().copied().map(Some).collect();
        if tokens.len() < len {
            tokens.push(end.ids.first().copied());
            tokens.resize(len, end.pad);
        }
        for (position, token) in slice.iter().enumerate() {
            match self.protected[offset + position] {
                true => template.fixed(&[*token]),
                false => template.free(),
            };
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
            .begin_at(first_step(self.strength, max_steps));
        Ok(template)
    }

    /// The position from which the text goes on after a canvas that began at `offset`: where the
    /// canvas and the text have most in common. It never leaves a protected token out.
    pub(crate) fn after(&self, offset: usize, canvas: &FinishedCanvas) -> usize {
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

impl DiffusionParams {
    /// The parameters of one canvas of an edit.
    pub(crate) fn of_canvas(&self, template: Template) -> Self {
        Self {
            templates: vec![template],
            max_tokens: None,
            max_canvases: Some(1),
            ..self.clone()
        }
    }
}
