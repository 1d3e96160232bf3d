//! Fills a form: its canvases are rows that share the cache of the prompt, and their logits decide what
//! stands in the blanks.

use super::Session;
use super::rows::CanvasRow;
use crate::constraint::Constraint;
use crate::diffusion::{AcceptanceRule, CancelFlag, DiffusionParams, Template, Token};
use crate::error::{Error, Result};
use crate::form::{
    Blank, BlankKind, ChoiceCanvas, ChoiceTally, FilledBlank, FilledForm, Form, FormParams, Frame,
    FreeTally, Judged, LanguageTally, Layout, RowLogits, Width, log_sum,
};

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
        let frame = Frame::within(&self.limits(), form, before, &self.end, params)?;
        let widths = form.blanks().map(|blank| Width::Open(blank.longest()));
        Filling {
            prompt,
            form,
            params,
            cancel,
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
            session: self,
        }
        .run(before)
    }
}

/// A form that is being filled.
struct Filling<'a> {
    session: &'a mut Session,
    prompt: &'a [Token],
    form: &'a Form,
    params: &'a FormParams,
    cancel: &'a CancelFlag,
    frame: Frame,
    /// What the canvases have in each blank, and what it is filled with.
    widths: Vec<Width>,
    answers: Vec<Option<FilledBlank>>,
    report: FilledForm,
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

impl Filling<'_> {
    fn run(mut self, before: &[Vec<Token>]) -> Result<FilledForm> {
        let form = self.form;
        if before.len() > 1 {
            self.frame.before = self.choose(before)?;
        }
        for (index, blank) in form.blanks().enumerate() {
            if blank.is_judged() {
                let answer = match &blank.kind {
                    BlankKind::Choices(choices) => self.judge_choices(index, blank, choices)?,
                    BlankKind::Language { language, .. } => {
                        self.judge_lengths(index, blank, language)?
                    }
                    BlankKind::Free(_) => continue,
                };
                self.widths[index] = Width::Known(answer.tokens.clone());
                self.answers[index] = Some(answer);
            }
        }
        self.read_open()?;
        let blanks: Vec<FilledBlank> = self.answers.into_iter().flatten().collect();
        let tokens: Vec<&[Token]> = blanks.iter().map(|blank| &blank.tokens[..]).collect();
        Ok(FilledForm {
            tokens: form.filled(&tokens),
            blanks,
            ..self.report
        })
    }

    /// What the model would write before the text, of these.
    fn choose(&mut self, before: &[Vec<Token>]) -> Result<Vec<Token>> {
        let samples = self.params.samples;
        let layouts: Vec<Layout> = before
            .iter()
            .map(|tokens| {
                let frame = Frame {
                    before: tokens.clone(),
                    ..self.frame.clone()
                };
                Layout::new(self.form, &frame, &self.widths, Judged::Before, false)
            })
            .collect();
        let rows: Vec<CanvasRow> = layouts
            .iter()
            .flat_map(|layout| self.judged_rows(layout, &[]))
            .collect();
        let mut scores = vec![vec![0.0; samples]; before.len()];
        let ends = self.frame.end.ids.clone();
        self.denoise(&rows, 1, &mut |row, position, logits| {
            let (which, sample) = (row / samples, row % samples);
            if let Some(held_out) = layouts[which].held_out_at(position) {
                scores[which][sample] += held_out.logprob(logits, &ends);
            }
            Ok(())
        })?;
        let mut best = 0;
        for (index, score) in scores.iter().enumerate() {
            if log_sum(score.iter().copied()) > log_sum(scores[best].iter().copied()) {
                best = index;
            }
        }
        Ok(before[best].clone())
    }

    /// A canvas of each sample, of which these positions are read.
    fn samples_of(&self, template: &Template, read: &[usize]) -> Vec<CanvasRow> {
        let row = |sample: usize| CanvasRow {
            template: template.clone(),
            noise: sample as u32,
            read: read.to_vec(),
        };
        (0..self.params.samples).map(row).collect()
    }

    /// A canvas of each sample, of which what is left out is read, and more.
    fn judged_rows(&self, layout: &Layout, more: &[usize]) -> Vec<CanvasRow> {
        let held_out = layout.held_out.iter().map(|(position, _)| *position);
        let read: Vec<usize> = more.iter().copied().chain(held_out).collect();
        self.samples_of(&layout.template, &read)
    }

    /// Fills a blank with choices of which some have several tokens.
    fn judge_choices(
        &mut self,
        index: usize,
        blank: &Blank,
        choices: &[Vec<Token>],
    ) -> Result<FilledBlank> {
        let (lengths, samples) = (blank.lengths(), self.params.samples);
        let longest = blank.longest();
        let layout = |known: &[Token], length: usize| {
            let mut widths = self.widths.clone();
            widths[index] = Width::Begun(known.to_vec(), length - known.len());
            let spare = longest - length;
            let judged = match lengths.len() {
                1 => Judged::Nothing,
                _ => Judged::Blank { index, spare },
            };
            Layout::new(self.form, &self.frame, &widths, judged, false)
        };
        let canvases = ChoiceCanvas::of(choices, &lengths, index, &layout);
        let rows = canvases.iter();
        let rows = rows.flat_map(|canvas| self.samples_of(&canvas.template, &canvas.positions()));
        let rows: Vec<CanvasRow> = rows.collect();
        let mut tally = ChoiceTally::new(choices, lengths.len(), samples);
        let ends = self.frame.end.ids.clone();
        self.denoise(&rows, 1, &mut |row, position, logits| {
            canvases[row / samples].take(&mut tally, row % samples, (position, logits), &ends);
            Ok(())
        })?;
        Ok(tally.answer(&blank.name))
    }

    /// Fills a blank with a language whose texts differ in length.
    fn judge_lengths(
        &mut self,
        index: usize,
        blank: &Blank,
        language: &Constraint,
    ) -> Result<FilledBlank> {
        let (lengths, samples) = (blank.lengths(), self.params.samples);
        let layouts: Vec<Layout> = lengths
            .iter()
            .map(|length| {
                let mut widths = self.widths.clone();
                widths[index] = Width::Open(*length);
                let judged = Judged::Blank { index, spare: 0 };
                Layout::new(self.form, &self.frame, &widths, judged, false)
            })
            .collect();
        let mut rows = Vec::new();
        for (layout, length) in layouts.iter().zip(&lengths) {
            let start = layout.starts[index];
            let own: Vec<usize> = (start..start + length).collect();
            rows.extend(self.judged_rows(layout, &own));
        }
        let mut tally = LanguageTally::new(language, &lengths, samples);
        let ends = self.frame.end.ids.clone();
        self.denoise(&rows, 1, &mut |row, position, logits| {
            let (which, sample) = (row / samples, row % samples);
            let (layout, length) = (&layouts[which], lengths[which]);
            match layout.held_out_at(position) {
                Some(held_out) => {
                    tally.take_held_out(sample, length, held_out.logprob(logits, &ends));
                    Ok(())
                }
                None => tally.take(sample, length, position - layout.starts[index], logits),
            }
        })?;
        Ok(tally.answer(&blank.name))
    }

    /// Fills the other blanks, all from the same canvases.
    fn read_open(&mut self) -> Result<()> {
        let (steps, samples) = (self.params.steps, self.params.samples);
        let layout = Layout::new(
            self.form,
            &self.frame,
            &self.widths,
            Judged::Nothing,
            steps > 1,
        );
        // For each of them its index and its number of tokens.
        let mut tallies: Vec<(usize, usize, Tally)> = Vec::new();
        // For each position that is read, the blank and the index in it.
        let mut read: Vec<(usize, usize, usize)> = Vec::new();
        for (index, blank) in self.form.blanks().enumerate() {
            if self.answers[index].is_some() {
                continue;
            }
            let start = layout.starts[index];
            let positions = (0..blank.longest()).map(|i| (start + i, tallies.len(), i));
            read.extend(positions);
            tallies.push((index, blank.longest(), Tally::new(blank, samples)));
        }
        if tallies.is_empty() {
            return Ok(());
        }
        let positions: Vec<usize> = read.iter().map(|(position, ..)| *position).collect();
        let rows = self.samples_of(&layout.template, &positions);
        self.denoise(&rows, steps, &mut |sample, position, logits| {
            let found = read.iter().find(|(p, ..)| *p == position);
            let Some((_, tally, index)) = found.copied() else {
                return Ok(());
            };
            let (_, length, tally) = &mut tallies[tally];
            tally.take(sample, *length, index, logits)
        })?;
        let names: Vec<&str> = self.form.blanks().map(|blank| &blank.name[..]).collect();
        for (index, _, tally) in tallies {
            self.answers[index] = Some(tally.answer(names[index]));
        }
        Ok(())
    }

    /// Denoises rows and reads their distributions.
    fn denoise(
        &mut self,
        rows: &[CanvasRow],
        steps: u32,
        on_row: &mut dyn FnMut(usize, usize, &RowLogits<'_>) -> Result<()>,
    ) -> Result<()> {
        let params = DiffusionParams {
            max_steps: steps,
            canvas: Some(self.frame.canvas),
            seed: self.params.seed,
            acceptance: AcceptanceRule::Bounded,
            ..DiffusionParams::default()
        };
        let (prompt, cancel) = (self.prompt, self.cancel);
        let on_logits = &mut |row: usize, position: usize, logits: &[f32]| {
            let distribution = RowLogits::new(logits).ok_or(Error::NotFinite {
                block: rows[row].noise,
                step: steps - 1,
                position,
            })?;
            on_row(row, position, &distribution)
        };
        let report = self
            .session
            .denoise_rows(prompt, rows, &params, cancel, on_logits)?;
        if self.report.rows == 0 {
            self.report.reused = report.reused;
        }
        self.report.rows += rows.len();
        self.report.passes += report.passes;
        Ok(())
    }
}
