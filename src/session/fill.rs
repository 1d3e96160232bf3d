//! Fills a form: its canvases are rows that share the cache of the prompt, and their logits decide what
//! stands in the blanks.

use std::ops::Range;
use std::sync::Arc;

use super::Session;
use super::rows::{CanvasRow, RowsRun};
use crate::constraint::Constraint;
use crate::diffusion::{AcceptanceRule, CancelFlag, DiffusionParams, Template, Token};
use crate::error::{Error, Result};
use crate::form::{
    Blank, BlankKind, ChoiceCanvas, ChoiceTally, FilledBlank, FilledForm, Form, FormParams, Frame,
    FreeTally, Judged, LanguageTally, Layout, RowLogits, Width, log_sum,
};
use crate::parameter::Parameter;

impl Session {
    /// Fills a form as the answer to `prompt`; `before` has what the model may write before its answer,
    /// such as an empty thought. Of several the model decides: the first known tokens of the form are left
    /// out, and what it expects at their positions counts. None is nothing.
    ///
    /// A blank whose texts all have the same number of tokens is read from [`FormParams::samples`] canvases
    /// after their last step. Choices of which some have several tokens, and texts of a language that differ in
    /// length, have canvases of their own, read after one step. Such blanks are filled first, in order, and the
    /// other blanks see what they are filled with.
    ///
    /// A choice of several tokens counts with the product of their probabilities, each given the tokens before
    /// it that tell the choice from others. Where choices, or the texts of a language, differ in length, up to 8
    /// known tokens after the blank are left out of their canvases, and what the model makes of the positions
    /// of these counts too.
    ///
    /// A text of a language counts with the product of the means, over the samples, of its tokens'
    /// probabilities. In the steps before the last, only the tokens that some text has at a position may stand
    /// there.
    ///
    /// # Errors
    /// Parameters out of range, a form that is longer than a canvas or has a token outside the
    /// vocabulary; as [`denoise_rows`](Self::denoise_rows).
    pub fn fill(
        &mut self,
        prompt: &[Token],
        before: &[Vec<Token>],
        form: &Form,
        params: &FormParams,
        cancel: &CancelFlag,
    ) -> Result<FilledForm> {
        let mut run = self.begin_fill(prompt, before, form, params)?;
        loop {
            if let Some(filled) = run.advance(self, cancel)? {
                return Ok(filled);
            }
        }
    }

    /// Prepares to [fill a form](Self::fill) one forward pass at a time.
    ///
    /// # Errors
    /// Those of [`fill`](Self::fill) that are known before the first pass.
    pub fn begin_fill(
        &self,
        prompt: &[Token],
        before: &[Vec<Token>],
        form: &Form,
        params: &FormParams,
    ) -> Result<FormRun> {
        let frame = Frame::within(&self.limits(), form, before, &self.end, params)?;
        let widths = form.blanks().map(|blank| Width::Open(blank.longest()));
        let mut run = FormRun {
            prompt: prompt.to_vec(),
            before: before.to_vec(),
            form: form.clone(),
            params: params.clone(),
            widths: widths.collect(),
            answers: vec![None; form.blanks().count()],
            report: FilledForm {
                tokens: Vec::new(),
                blanks: Vec::new(),
                canvas: frame.canvas,
                rows: 0,
                passes: 0,
                reused: 0,
            },
            frame,
            purpose: None,
        };
        run.purpose = run.next(self)?;
        Ok(run)
    }
}

/// A form that is being filled, a forward pass at a time. Other sessions may work between the passes.
pub struct FormRun {
    prompt: Vec<Token>,
    /// What the model may write before the form, as long as it has not decided.
    before: Vec<Vec<Token>>,
    form: Form,
    params: FormParams,
    frame: Frame,
    /// What the canvases have in each blank, and what it is filled with.
    widths: Vec<Width>,
    answers: Vec<Option<FilledBlank>>,
    report: FilledForm,
    /// The canvases at work, and what they are read for; `None` after the last ones, and after an error.
    purpose: Option<(RowsRun, Purpose)>,
}

/// A canvas, of which each sample has a row.
struct Canvas {
    template: Arc<Template>,
    /// The positions that are read.
    read: Vec<usize>,
}

/// What canvases are read for.
enum Purpose {
    /// What the model would write before the text: for each text a layout, and a score of each sample.
    Before {
        layouts: Vec<Layout>,
        scores: Vec<Vec<f64>>,
    },
    /// A blank with choices of which some have several tokens.
    Choices {
        index: usize,
        canvases: Vec<ChoiceCanvas>,
        tally: ChoiceTally,
    },
    /// A blank with a language whose texts differ in length: for each length a layout.
    Lengths {
        index: usize,
        lengths: Vec<usize>,
        layouts: Vec<Layout>,
        tally: Box<LanguageTally>,
    },
    /// The other blanks, all from the same canvases.
    Open {
        blanks: Vec<OpenBlank>,
        /// For each position that is read the number of the blank, and the index in it.
        read: Vec<(usize, usize, usize)>,
    },
}

/// A blank that is read from the canvases of all such blanks.
struct OpenBlank {
    index: usize,
    length: usize,
    tally: Tally,
}

/// What canvases say of a blank whose texts all have the same number of tokens, choices one.
enum Tally {
    Choices(ChoiceTally),
    Free(FreeTally),
    Language(Box<LanguageTally>),
}

impl Tally {
    fn new(blank: &Blank, samples: usize) -> Self {
        match &blank.kind {
            BlankKind::Choices(choices) => Self::Choices(ChoiceTally::new(choices, 1, samples)),
            BlankKind::Free(sets) => Self::Free(FreeTally::new(sets, samples)),
            BlankKind::Language { language, .. } => {
                let tally = LanguageTally::new(language, &blank.lengths(), samples);
                Self::Language(Box::new(tally))
            }
        }
    }

    /// Takes position `index` of the blank, which has `length` tokens, from a sample's canvas.
    fn take(
        &mut self,
        sample: usize,
        length: usize,
        index: usize,
        row: &RowLogits<'_>,
    ) -> Result<()> {
        match self {
            Self::Choices(tally) => tally.take_position(sample, row),
            Self::Free(tally) => tally.take(index, row),
            Self::Language(tally) => return tally.take(sample, length, index, row),
        }
        Ok(())
    }

    fn answer(&self, name: &str) -> FilledBlank {
        match self {
            Self::Choices(tally) => tally.answer(name),
            Self::Free(tally) => tally.answer(name),
            Self::Language(tally) => tally.answer(name),
        }
    }
}

impl FormRun {
    /// Does the next forward pass. Returns the form once it is filled. All calls take the same session, whose
    /// prompt and canvases nothing else changes between them.
    ///
    /// # Errors
    /// As [`Session::fill`]. Each further call is an error then.
    pub fn advance(
        &mut self,
        session: &mut Session,
        cancel: &CancelFlag,
    ) -> Result<Option<FilledForm>> {
        let Some((mut rows, mut purpose)) = self.purpose.take() else {
            let problem = "it is filled already, or has failed: begin again";
            return Err(Error::parameter(Parameter::Form, problem));
        };
        if !self.pass(&mut rows, &mut purpose, session, cancel)? {
            self.purpose = Some((rows, purpose));
            return Ok(None);
        }
        let report = rows.report();
        if self.report.rows == 0 {
            self.report.reused = report.reused;
        }
        self.report.rows += rows.len();
        self.report.passes += report.passes;
        self.conclude(purpose);
        self.purpose = self.next(session)?;
        Ok(self.purpose.is_none().then(|| self.filled()))
    }

    fn filled(&self) -> FilledForm {
        let blanks: Vec<FilledBlank> = self.answers.iter().flatten().cloned().collect();
        let tokens: Vec<&[Token]> = blanks.iter().map(|blank| &blank.tokens[..]).collect();
        FilledForm {
            tokens: self.form.filled(&tokens),
            blanks,
            ..self.report.clone()
        }
    }

    /// What is read next: the text before the form, then each blank that has canvases of its own, in order,
    /// then all others together.
    fn next(&self, session: &Session) -> Result<Option<(RowsRun, Purpose)>> {
        let judged = self.form.blanks().enumerate();
        let mut judged = judged
            .filter(|(index, blank)| self.answers[*index].is_none() && blank.is_judged())
            .filter_map(|(index, blank)| match &blank.kind {
                BlankKind::Choices(choices) => Some(self.choices(index, blank, choices)),
                BlankKind::Language { language, .. } => {
                    Some(Ok(self.lengths(index, blank, language)))
                }
                BlankKind::Free(_) => None,
            });
        let (canvases, purpose) = match self.before.len() {
            0 | 1 => match judged.next().or_else(|| self.open().map(Ok)) {
                Some(next) => next?,
                None => return Ok(None),
            },
            _ => self.texts_before(),
        };
        let rows = canvases.len().saturating_mul(self.params.samples);
        if rows > FormParams::MAX_ROWS {
            return Err(too_many(purpose.blank(&self.form), rows));
        }
        let params = DiffusionParams {
            max_steps: self.steps(&purpose),
            canvas: Some(self.frame.canvas),
            seed: self.params.seed,
            acceptance: AcceptanceRule::Bounded,
            ..DiffusionParams::default()
        };
        let rows = canvases.iter().flat_map(|canvas| self.samples_of(canvas));
        let rows = session.begin_rows(&self.prompt, rows.collect(), &params)?;
        Ok(Some((rows, purpose)))
    }

    fn steps(&self, purpose: &Purpose) -> u32 {
        match purpose {
            Purpose::Open { .. } => self.params.steps,
            _ => 1,
        }
    }

    /// Does a pass, and takes what is read. Returns whether it was the last one.
    fn pass(
        &self,
        rows: &mut RowsRun,
        purpose: &mut Purpose,
        session: &mut Session,
        cancel: &CancelFlag,
    ) -> Result<bool> {
        let (samples, ends) = (self.params.samples, &self.frame.end.ids);
        let steps = self.steps(purpose);
        rows.advance(session, cancel, &mut |row, position, logits| {
            // Each canvas has a row for each sample.
            let (canvas, sample) = (row / samples, row % samples);
            let logits = RowLogits::new(logits).ok_or(Error::NotFinite {
                block: sample as u32,
                step: steps - 1,
                position,
            })?;
            purpose.take(canvas, sample, (position, &logits), ends)
        })
    }

    /// Keeps what was read.
    fn conclude(&mut self, purpose: Purpose) {
        let names: Vec<&str> = self.form.blanks().map(|blank| &blank.name[..]).collect();
        let (index, answer) = match purpose {
            Purpose::Before { scores, .. } => {
                let sums = scores.iter().map(|scores| log_sum(scores.iter().copied()));
                // The first of equals.
                let best = sums
                    .enumerate()
                    .reduce(|best, other| match other.1 > best.1 {
                        true => other,
                        false => best,
                    });
                let best = best.map_or(0, |(index, _)| index);
                self.frame.before = self.before.swap_remove(best);
                self.before.clear();
                return;
            }
            Purpose::Open { blanks, .. } => {
                for blank in blanks {
                    self.answers[blank.index] = Some(blank.tally.answer(names[blank.index]));
                }
                return;
            }
            Purpose::Choices { index, tally, .. } => (index, tally.answer(names[index])),
            Purpose::Lengths { index, tally, .. } => (index, tally.answer(names[index])),
        };
        self.widths[index] = Width::Known(answer.tokens.clone());
        self.answers[index] = Some(answer);
    }

    /// The rows of a canvas.
    fn samples_of(&self, canvas: &Canvas) -> impl Iterator<Item = CanvasRow> {
        let row = |sample: usize| CanvasRow {
            template: Arc::clone(&canvas.template),
            noise: sample as u32,
            read: canvas.read.clone(),
        };
        (0..self.params.samples).map(row)
    }

    fn texts_before(&self) -> (Vec<Canvas>, Purpose) {
        let layouts = self.before.iter().map(|tokens| {
            let frame = Frame {
                before: tokens.clone(),
                ..self.frame.clone()
            };
            Layout::new(&self.form, &frame, &self.widths, Judged::Before, false)
        });
        let layouts: Vec<Layout> = layouts.collect();
        let canvases = layouts.iter().map(|layout| Canvas::judged(layout, 0..0));
        let canvases = canvases.collect();
        let scores = vec![vec![0.0; self.params.samples]; layouts.len()];
        (canvases, Purpose::Before { layouts, scores })
    }

    fn choices(
        &self,
        index: usize,
        blank: &Blank,
        choices: &[Vec<Token>],
    ) -> Result<(Vec<Canvas>, Purpose)> {
        let (lengths, longest) = (blank.lengths(), blank.longest());
        let layout = |known: &[Token], length: usize| {
            let mut widths = self.widths.clone();
            widths[index] = Width::Begun(known.to_vec(), length - known.len());
            let spare = longest - length;
            let judged = match lengths.len() {
                1 => Judged::Nothing,
                _ => Judged::Blank { index, spare },
            };
            Layout::new(&self.form, &self.frame, &widths, judged, false)
        };
        let most = FormParams::MAX_ROWS / self.params.samples;
        let canvases = ChoiceCanvas::of(choices, &lengths, index, most, &layout);
        let canvases =
            canvases.ok_or_else(|| too_many(Some(blank), (most + 1) * self.params.samples))?;
        let read = canvases.iter().map(|canvas| Canvas {
            template: Arc::clone(&canvas.template),
            read: canvas.positions(),
        });
        let read = read.collect();
        let purpose = Purpose::Choices {
            index,
            canvases,
            tally: ChoiceTally::new(choices, lengths.len(), self.params.samples),
        };
        Ok((read, purpose))
    }

    fn lengths(
        &self,
        index: usize,
        blank: &Blank,
        language: &Constraint,
    ) -> (Vec<Canvas>, Purpose) {
        let lengths = blank.lengths();
        let layouts = lengths.iter().map(|length| {
            let mut widths = self.widths.clone();
            widths[index] = Width::Open(*length);
            let judged = Judged::Blank { index, spare: 0 };
            Layout::new(&self.form, &self.frame, &widths, judged, false)
        });
        let layouts: Vec<Layout> = layouts.collect();
        let canvases = layouts.iter().zip(&lengths).map(|(layout, length)| {
            let start = layout.starts[index];
            Canvas::judged(layout, start..start + length)
        });
        let canvases = canvases.collect();
        let tally = LanguageTally::new(language, &lengths, self.params.samples);
        let purpose = Purpose::Lengths {
            index,
            lengths,
            layouts,
            tally: Box::new(tally),
        };
        (canvases, purpose)
    }

    /// `None` if no blank is left.
    fn open(&self) -> Option<(Vec<Canvas>, Purpose)> {
        let FormParams { steps, samples, .. } = self.params;
        let layout = Layout::new(
            &self.form,
            &self.frame,
            &self.widths,
            Judged::Nothing,
            steps > 1,
        );
        let mut blanks = Vec::new();
        let mut read = Vec::new();
        for (index, blank) in self.form.blanks().enumerate() {
            if self.answers[index].is_some() {
                continue;
            }
            let (start, length) = (layout.starts[index], blank.longest());
            read.extend((0..length).map(|i| (start + i, blanks.len(), i)));
            blanks.push(OpenBlank {
                index,
                length,
                tally: Tally::new(blank, samples),
            });
        }
        if blanks.is_empty() {
            return None;
        }
        let canvas = Canvas {
            template: Arc::new(layout.template),
            read: read.iter().map(|(position, ..)| *position).collect(),
        };
        Some((vec![canvas], Purpose::Open { blanks, read }))
    }
}

impl Canvas {
    /// A canvas of which what is left out is read, and more.
    fn judged(layout: &Layout, more: Range<usize>) -> Self {
        let held_out = layout.held_out.iter().map(|(position, _)| *position);
        Self {
            template: Arc::new(layout.template.clone()),
            read: more.chain(held_out).collect(),
        }
    }
}

/// The error that a blank, or the text before the form, is read from too many canvases.
fn too_many(blank: Option<&Blank>, rows: usize) -> Error {
    let max = FormParams::MAX_ROWS;
    let what = blank.map_or("what comes before it".to_owned(), |blank| {
        format!("blank '{}'", blank.name)
    });
    let problem = format!(
        "{what} takes at least {rows} canvases, samples included, but may take {max}: give fewer samples or \
         choices"
    );
    Error::parameter(Parameter::Form, problem)
}

impl Purpose {
    /// The blank that has the canvases for itself.
    fn blank<'f>(&self, form: &'f Form) -> Option<&'f Blank> {
        match self {
            Self::Choices { index, .. } | Self::Lengths { index, .. } => form.blanks().nth(*index),
            Self::Before { .. } | Self::Open { .. } => None,
        }
    }

    /// Takes a position of a sample's canvas; `ends` are the end tokens.
    fn take(
        &mut self,
        canvas: usize,
        sample: usize,
        (position, row): (usize, &RowLogits<'_>),
        ends: &[Token],
    ) -> Result<()> {
        match self {
            Self::Before { layouts, scores } => {
                if let Some(held_out) = layouts[canvas].held_out_at(position) {
                    scores[canvas][sample] += held_out.logprob(row, ends);
                }
                Ok(())
            }
            Self::Choices {
                canvases, tally, ..
            } => {
                canvases[canvas].take(tally, sample, (position, row), ends);
                Ok(())
            }
            Self::Lengths {
                index,
                lengths,
                layouts,
                tally,
            } => {
                let (layout, length) = (&layouts[canvas], lengths[canvas]);
                match layout.held_out_at(position) {
                    Some(held_out) => {
                        tally.take_held_out(sample, length, held_out.logprob(row, ends));
                        Ok(())
                    }
                    None => tally.take(sample, length, position - layout.starts[*index], row),
                }
            }
            Self::Open { blanks, read } => {
                let found = read.iter().find(|(p, ..)| *p == position);
                let Some((_, blank, index)) = found.copied() else {
                    return Ok(());
                };
                let OpenBlank { length, tally, .. } = &mut blanks[blank];
                tally.take(sample, *length, index, row)
            }
        }
    }
}
