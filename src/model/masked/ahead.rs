//! Canvases that a pass has read before their steps.

use std::time::Duration;

use super::pace::Pace;
use crate::diffusion::{Lookahead, Token};

/// Texts of a pass begin at multiples of this number of tokens. On a CPU they then have the same logits in
/// each place: sums over the keys take the same numbers into each part of a vector register.
const ALIGNMENT: usize = 64;

/// Maximum number of tokens of a pass whose number of texts is measured: libllama's default, which memory
/// is planned for. A pass over more tokens rarely takes less time than several.
const MEASURED_TOKENS: usize = 512;

/// The latest pass, and what the next one should read.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Tokens of prompt and canvas.
    text: usize,
    canvases: Vec<Vec<Token>>,
    stride: usize,
    /// The canvas that the next step uses.
    next: Option<usize>,
    /// The canvas that the latest step used: steps are guessed by its logits.
    latest: Option<usize>,
    pace: Pace,
    /// Numbers of canvases in a pass in which they proved to have the logits that they have alone, bit for
    /// bit.
    exact: Vec<usize>,
    is_inexact: bool,
}

impl Ahead {
    /// A canvas of a text of this number of tokens begins.
    pub(super) fn begin(&mut self, text: usize) {
        self.forget();
        self.pace.restart();
        if text != self.text {
            self.text = text;
            self.exact.clear();
            self.is_inexact = false;
        }
    }

    /// The latest pass is of no use.
    pub(super) fn forget(&mut self) {
        self.canvases.clear();
        self.next = None;
        self.latest = None;
    }

    /// Tokens from the beginning of a text to that of the next one in the latest pass.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The same in a pass of this number of texts.
    pub(super) fn stride_of(&self, texts: usize) -> usize {
        match texts {
            1 => self.text,
            _ => self.text.next_multiple_of(ALIGNMENT),
        }
    }

    /// Maximum number of canvases that passes may read.
    pub(super) fn limit(&self, lookahead: Lookahead) -> usize {
        match lookahead {
            _ if self.is_inexact => 1,
            Lookahead::Canvases(count) => count,
            Lookahead::Auto if !self.text.is_multiple_of(ALIGNMENT) => 1,
            Lookahead::Auto => (MEASURED_TOKENS / self.text.max(1)).clamp(1, Pace::MAX),
        }
    }

    /// The number of canvases that the next pass reads.
    pub(super) fn number(&mut self, lookahead: Lookahead) -> usize {
        let limit = self.limit(lookahead);
        match lookahead {
            Lookahead::Canvases(_) => limit,
            Lookahead::Auto => self.pace.next(limit),
        }
    }

    /// Whether the latest pass has read a canvas: the next step uses it.
    pub(super) fn finds(&mut self, canvas: &[Token]) -> bool {
        self.next = self.canvases.iter().position(|read| read == canvas);
        self.next.is_some()
    }

    /// The canvas that the step uses which is about to be taken.
    pub(super) fn take(&mut self) -> Option<usize> {
        let next = self.next.take()?;
        self.latest = Some(next);
        self.pace.stepped();
        Some(next)
    }

    /// The canvas whose logits guess, with its number.
    pub(super) fn latest(&self) -> Option<(usize, &[Token])> {
        let number = self.latest?;
        Some((number, &self.canvases[number]))
    }

    /// A pass has read canvases, in this time; the next step uses the first.
    pub(super) fn passed(&mut self, canvases: Vec<Vec<Token>>, stride: usize, time: Duration) {
        self.pace.passed(canvases.len(), time);
        self.canvases = canvases;
        self.stride = stride;
        self.next = Some(0);
        self.latest = None;
    }

    /// Whether it is known that this number of canvases in a pass changes no logits.
    pub(super) fn is_exact(&self, number: usize) -> bool {
        number == 1 || self.exact.contains(&number)
    }

    /// What a comparison with logits of a pass of their own has shown.
    pub(super) fn compared(&mut self, number: usize, is_exact: bool) {
        tracing::debug!(number, is_exact, "canvases of one pass");
        match is_exact {
            true => self.exact.push(number),
            false => self.is_inexact = true,
        }
    }
}
