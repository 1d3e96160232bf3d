//! How a form lies on a canvas.

use super::blank::{Blank, BlankKind, Form, FormParams, Piece, refusal};
use super::tally::RowLogits;
use crate::diffusion::{
    EndTokens, Limits, Template, Token, TokenSet, check_canvas_length, shortest_canvas,
};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// Known tokens after a blank that are left out to judge its length.
const HELD_OUT: usize = 8;

/// What surrounds a form on its canvas.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// What comes before the text.
    pub(crate) before: Vec<Token>,
    /// What comes after it.
    pub(crate) end: EndTokens,
    /// Tokens of the canvas.
    pub(crate) canvas: usize,
}

impl Frame {
    /// For a form after the longest of `before`, in a session with these limits.
    ///
    /// # Errors
    /// Parameters out of range, a model of a masked family, a token outside the vocabulary; as
    /// [`new`](Self::new).
    pub(crate) fn within(
        limits: &Limits,
        form: &Form,
        before: &[Vec<Token>],
        end: &EndTokens,
        params: &FormParams,
    ) -> Result<Self> {
        params.validate()?;
        let trained = limits.canvas.ok_or_else(|| {
            let problem =
                "its model is of a masked family, which cannot fill a form: use a canvas model";
            Error::parameter(Parameter::Session, problem)
        })?;
        form.check_tokens(limits.vocab)?;
        let longest = before.iter().max_by_key(|tokens| tokens.len());
        let longest = longest.map_or(&[][..], |tokens| tokens);
        Self::new(form, longest, end, params.canvas, trained)
    }

    /// For a form on the shortest canvas that holds it, or on one of `canvas` tokens.
    ///
    /// # Errors
    /// The form is longer than the canvas, or the length is not one of the model's.
    pub(crate) fn new(
        form: &Form,
        before: &[Token],
        end: &EndTokens,
        canvas: Option<usize>,
        trained: usize,
    ) -> Result<Self> {
        let tokens = before.len() + form.longest();
        let canvas = canvas.unwrap_or_else(|| shortest_canvas(tokens + 1, trained));
        check_canvas_length(canvas, trained)?;
        if tokens > canvas {
            return Err(refusal(format!(
                "it has up to {tokens} tokens, but a canvas has {canvas}: shorten it"
            )));
        }
        Ok(Self {
            before: before.to_vec(),
            end: end.clone(),
            canvas,
        })
    }
}

/// What a canvas has in a blank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Width {
    /// These tokens.
    Known(Vec<Token>),
    /// These tokens, and then this number of unknown ones.
    Begun(Vec<Token>, usize),
    /// This number of unknown ones.
    Open(usize),
}

/// What is judged by known tokens that a canvas leaves out: what comes before them is right if the model
/// expects them at their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Nothing is left out.
    Nothing,
    /// What the model writes before the text, which is left out itself.
    Before,
    /// What stands in a blank.
    Blank {
        /// The index of the blank.
        index: usize,
        /// Number of positions that are left out as well, although nothing is judged by them: canvases on
        /// which the blank has other lengths then show the same of what follows it.
        spare: usize,
    },
}

/// A known token that a canvas does not show, to see whether the model expects it there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum HeldOut {
    /// This token.
    Text(Token),
    /// Any end token.
    End,
}

/// A form on a canvas.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    pub(crate) template: Template,
    /// The first position of each blank.
    pub(crate) starts: Vec<usize>,
    /// The positions whose tokens are left out.
    pub(crate) held_out: Vec<(usize, HeldOut)>,
}

impl Layout {
    /// The form with these widths of its blanks, and known tokens left out where something is judged.
    /// `restricts` limits open positions to what may stand there, which only matters for canvases of
    /// several steps.
    pub(crate) fn new(
        form: &Form,
        frame: &Frame,
        widths: &[Width],
        judged: Judged,
        restricts: bool,
    ) -> Self {
        let mut this = Self {
            template: Template::new(),
            starts: Vec::new(),
            held_out: Vec::new(),
        };
        let mut room = HELD_OUT;
        let mut spare = match judged {
            Judged::Blank { spare, .. } => spare,
            Judged::Nothing | Judged::Before => 0,
        };
        match judged {
            Judged::Before => {
                frame
                    .before
                    .iter()
                    .for_each(|token| this.hold_out(HeldOut::Text(*token)));
            }
            Judged::Nothing | Judged::Blank { .. } => {
                this.template.fixed(&frame.before);
            }
        }
        for piece in form.pieces() {
            match piece {
                Piece::Text(tokens) => {
                    let is_judged = judged.applies_after(this.starts.len());
                    let left_out = if is_judged { tokens.len().min(room) } else { 0 };
                    room -= left_out;
                    for token in &tokens[..left_out] {
                        this.hold_out(HeldOut::Text(*token));
                    }
                    let shown = &tokens[left_out..];
                    let hidden = if is_judged { shown.len().min(spare) } else { 0 };
                    spare -= hidden;
                    this.hide(hidden);
                    this.template.fixed(&shown[hidden..]);
                }
                Piece::Blank(blank) => {
                    let width = &widths[this.starts.len()];
                    this.starts.push(this.template.slots().len());
                    this.put(blank, width, restricts);
                }
            }
        }
        let is_judged = judged.applies_after(this.starts.len());
        this.close(
            frame,
            is_judged && room > 0,
            if is_judged { spare } else { 0 },
        );
        this
    }

    /// What is left out at a position.
    pub(crate) fn held_out_at(&self, position: usize) -> Option<&HeldOut> {
        let mut all = self.held_out.iter();
        all.find(|(known, _)| *known == position)
            .map(|(_, token)| token)
    }

    fn put(&mut self, blank: &Blank, width: &Width, restricts: bool) {
        match width {
            Width::Known(tokens) => {
                self.template.fixed(tokens);
            }
            Width::Begun(tokens, open) => {
                self.template.fixed(tokens);
                self.hide(*open);
            }
            Width::Open(len) => {
                let sets = match restricts {
                    true => blank.allowed(*len),
                    false => vec![None; *len],
                };
                for set in sets {
                    match set {
                        Some(set) => self.template.within(set),
                        None => self.template.free(),
                    };
                }
            }
        }
    }

    fn hold_out(&mut self, token: HeldOut) {
        self.held_out.push((self.template.slots().len(), token));
        self.template.free();
    }

    /// Leaves positions out by which nothing is judged.
    fn hide(&mut self, count: usize) {
        (0..count).for_each(|_| {
            self.template.free();
        });
    }

    /// Puts an end token and padding after the text, of which `spare` positions are left out.
    fn close(&mut self, frame: &Frame, is_judged: bool, mut spare: usize) {
        let used = self.template.slots().len();
        if used == frame.canvas || frame.end.ids.is_empty() {
            return;
        }
        match (is_judged, &frame.end.ids[..]) {
            (true, _) => self.hold_out(HeldOut::End),
            (false, _) if spare > 0 => {
                spare -= 1;
                self.hide(1);
            }
            (false, [only]) => {
                self.template.fixed(&[*only]);
            }
            (false, several) => {
                self.template.within(several.iter().copied().collect());
            }
        }
        if let Some(pad) = frame.end.pad {
            let padding = frame.canvas - used - 1;
            let hidden = padding.min(spare);
            self.hide(hidden);
            self.template.fixed(&vec![pad; padding - hidden]);
        }
    }
}

impl HeldOut {
    /// How likely the model takes it to be, in nats; `ends` are the end tokens.
    pub(crate) fn logprob(&self, logits: &RowLogits<'_>, ends: &[Token]) -> f64 {
        match self {
            Self::Text(token) => logits.logprob(*token),
            Self::End => logits.logprob_of(ends),
        }
    }
}

impl Judged {
    /// Whether known tokens are left out after this number of blanks.
    fn applies_after(self, blanks: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Before => true,
            Self::Blank { index, .. } => blanks == index + 1,
        }
    }
}

impl Blank {
    /// The tokens that may stand at each position of it, when it has `len`; `None` is all.
    fn allowed(&self, len: usize) -> Vec<Option<TokenSet>> {
        match &self.kind {
            BlankKind::Free(sets) => sets.clone(),
            BlankKind::Choices(choices) => {
                let of_this_length = || choices.iter().filter(|choice| choice.len() == len);
                let at =
                    |index: usize| Some(of_this_length().map(|choice| choice[index]).collect());
                (0..len).map(at).collect()
            }
            BlankKind::Language { language, .. } => {
                let automaton = language.automaton();
                let classes = automaton.classes_at(len).into_iter();
                let set = |classes: Vec<u16>| Some(automaton.tokens_of(&classes).collect());
                classes.map(set).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Slot::{Fixed, Free, Within};

    fn form() -> Form {
        let blank = |name: &str, kind| {
            let name = name.into();
            Piece::Blank(Blank { name, kind })
        };
        let choices = BlankKind::Choices(vec![vec![1, 2], vec![3], vec![4, 5]]);
        let allowed = Some([8, 9].into_iter().collect());
        Form::new(vec![
            Piece::Text(vec![10, 11]),
            blank("a", choices),
            Piece::Text((20..23).collect()),
            blank("b", BlankKind::Free(vec![allowed])),
            Piece::Text((30..40).collect()),
        ])
        .unwrap()
    }

    fn judged(index: usize, spare: usize) -> Judged {
        Judged::Blank { index, spare }
    }

    fn frame(canvas: Option<usize>) -> Result<Frame> {
        let end = EndTokens {
            ids: vec![6, 7],
            pad: Some(0),
        };
        Frame::new(&form(), &[50], &end, canvas, 64)
    }

    #[test]
    fn a_form_takes_the_shortest_canvas_that_holds_it_with_an_end() {
        // 1 before it, and at most 18.
        assert_eq!(frame(None).unwrap().canvas, 32);
        assert_eq!(frame(Some(64)).unwrap().canvas, 64);
        let problem = |canvas| frame(Some(canvas)).unwrap_err().to_string();
        assert!(problem(16).starts_with("form: it has up to 19 tokens, but a canvas has 16"));
        assert!(problem(20).starts_with("canvas: has 20 tokens"));
    }

    #[test]
    fn known_tokens_are_fixed_and_the_canvas_is_closed() {
        let widths = [Width::Open(2), Width::Open(1)];
        let layout = Layout::new(
            &form(),
            &frame(None).unwrap(),
            &widths,
            Judged::Nothing,
            true,
        );
        assert_eq!(layout.starts, [3, 8]);
        assert_eq!(layout.held_out, []);
        let slots = layout.template.slots();
        assert_eq!(
            slots[..5],
            [Fixed(50), Fixed(10), Fixed(11), Within(0), Within(1)]
        );
        assert_eq!(slots[5..9], [Fixed(20), Fixed(21), Fixed(22), Within(2)]);
        assert_eq!(slots[18..21], [Fixed(39), Within(3), Fixed(0)]);
        assert_eq!(slots.len(), 32);
        let sets: Vec<Vec<Token>> = layout
            .template
            .sets()
            .iter()
            .map(|set| set.iter().collect())
            .collect();
        assert_eq!(sets, [vec![1, 4], vec![2, 5], vec![8, 9], vec![6, 7]]);
        // Sets do not matter in a single step.
        let layout = Layout::new(
            &form(),
            &frame(None).unwrap(),
            &widths,
            Judged::Nothing,
            false,
        );
        assert_eq!(layout.template.slots()[3], Free);
    }

    #[test]
    fn what_follows_a_judged_blank_is_left_out_up_to_the_next_blank_or_the_end() {
        let widths = [Width::Open(1), Width::Known(vec![8])];
        let layout = Layout::new(&form(), &frame(None).unwrap(), &widths, judged(0, 0), false);
        let text = [20, 21, 22].map(HeldOut::Text);
        let expected: Vec<_> = (4..7).zip(text).collect();
        assert_eq!(layout.held_out, expected);
        assert_eq!(
            layout.template.slots()[3..8],
            [Free, Free, Free, Free, Fixed(8)]
        );
        let layout = Layout::new(&form(), &frame(None).unwrap(), &widths, judged(1, 0), false);
        assert_eq!(layout.held_out.len(), 8);
        assert_eq!(layout.template.slots()[8 + 8], Fixed(38));
        // After them as many as are to spare: text, the end, padding.
        let spared = |spare| {
            let frame = frame(None).unwrap();
            let layout = Layout::new(&form(), &frame, &widths, judged(1, spare), false);
            assert_eq!(layout.held_out.len(), 8);
            let slots = layout.template.slots()[16..].iter();
            slots.filter(|slot| **slot == Free).count()
        };
        assert_eq!([0, 1, 3, 5, 99].map(spared), [0, 1, 3, 5, 16]);

        let blank = Blank {
            name: "a".into(),
            kind: BlankKind::Choices(vec![vec![1], vec![2, 3]]),
        };
        let last = Form::new(vec![Piece::Blank(blank), Piece::Text(vec![20])]).unwrap();
        let layout = Layout::new(
            &last,
            &frame(None).unwrap(),
            &[Width::Open(2)],
            judged(0, 0),
            false,
        );
        assert_eq!(layout.held_out, [(3, HeldOut::Text(20)), (4, HeldOut::End)]);
        // With the shorter choice, the canvas shows the same from the padding on.
        let shorter = |spare| {
            let widths = [Width::Begun(vec![1], 0)];
            Layout::new(
                &last,
                &frame(None).unwrap(),
                &widths,
                judged(0, spare),
                false,
            )
        };
        assert_eq!(shorter(0).template.slots()[4..6], [Fixed(0), Fixed(0)]);
        let begun = Layout::new(
            &last,
            &frame(None).unwrap(),
            &[Width::Begun(vec![2], 1)],
            judged(0, 0),
            false,
        );
        assert_eq!(begun.template.slots()[1..4], [Fixed(2), Free, Free]);
        assert_eq!(
            shorter(1).template.slots()[2..],
            begun.template.slots()[2..]
        );
        assert_eq!(shorter(1).held_out, shorter(0).held_out);
        // What comes before the text is left out, and all of the text as well.
        let frame = frame(None).unwrap();
        let layout = Layout::new(&last, &frame, &[Width::Open(2)], Judged::Before, false);
        let text = [(0, HeldOut::Text(50)), (3, HeldOut::Text(20))];
        assert_eq!(layout.held_out, [&text[..], &[(4, HeldOut::End)]].concat());
    }
}
