//! Gaps in texts that a scripted denoiser knows.

use std::ops::ControlFlow;

use super::*;
use crate::constraint::{ByteAutomaton, Limits as ConstraintLimits, TokenAutomaton, Vocabulary};
use crate::diffusion::{
    CancelFlag, CounterNoise, Denoiser, Draws, Event, FinishReason, Generation, Generator,
    OwnedDraft, StepInput, generate,
};

const CANVAS: usize = 32;
const PAD: Token = 0;
const END: Token = 1;
const PROMPT: usize = 3;

/// The token of a letter: `a` to `z`.
fn token(letter: u8) -> Token {
    Token::from(letter - b'a') + 2
}

fn tokens(text: &str) -> Vec<Token> {
    text.bytes().map(token).collect()
}

/// Two control tokens and the letters.
fn vocabulary() -> Vocabulary {
    let letters = (b'a'..=b'z').map(|letter| Some(vec![letter]));
    Vocabulary::new([None, None].into_iter().chain(letters))
}

/// A gap after `before`, of which one letter is on the canvas, and before `after`, of which one is in the
/// language.
fn gap(before: &str, after: &str) -> Gap {
    let (before, after) = (before.as_bytes(), after.as_bytes());
    let tail = &before[before.len().saturating_sub(1)..];
    let head = &after[..after.len().min(1)];
    let limits = ConstraintLimits::default();
    let language = ByteAutomaton::around_gap(tail, head, &limits).unwrap();
    let automaton = TokenAutomaton::filling(&language, &vocabulary(), &limits).unwrap();
    let rest = after[head.len()..].iter().copied().map(token).collect();
    let around = tail.len() + head.len();
    Gap::new(Constraint::new(automaton), around, rest, Some(END))
}

/// What a comparison of lengths read: a canvas and the targets.
type Compared = (Vec<Token>, Vec<(usize, Token)>);

/// A model that knows the text from the first canvas on. It needs three steps for a canvas.
struct Script {
    /// How many canvases it reads at once.
    rows: usize,
    text: Vec<Token>,
    prefix: usize,
    step: usize,
    begun: usize,
    /// The canvases of steps with targets, and the targets.
    compared: Vec<Compared>,
}

impl Script {
    fn new(text: &str) -> Self {
        Self {
            rows: 1,
            text: tokens(text),
            prefix: PROMPT,
            step: 0,
            begun: 0,
            compared: Vec::new(),
        }
    }

    fn at(&self, position: usize) -> Token {
        let text = self.prefix - PROMPT + position;
        match text.cmp(&self.text.len()) {
            std::cmp::Ordering::Less => self.text[text],
            std::cmp::Ordering::Equal => END,
            std::cmp::Ordering::Greater => PAD,
        }
    }
}

impl Denoiser for Script {
    fn limits(&self) -> Limits {
        Limits {
            canvas: Some(CANVAS * self.rows),
            context: 1000,
            vocab: 28,
            pass: 64,
            mask: None,
            draws: DrawFeatures {
                fixed_positions: true,
                averages: true,
                languages: true,
                scores: true,
                ..DrawFeatures::default()
            },
        }
    }

    fn prefix_len(&self) -> usize {
        self.prefix
    }

    fn prefill(&mut self, tokens: &[Token]) -> Result<()> {
        self.prefix += tokens.len();
        Ok(())
    }

    fn begin_canvas(&mut self, len: usize) -> Result<()> {
        self.begin_canvases(len, 1)
    }

    fn begin_canvases(&mut self, len: usize, count: usize) -> Result<()> {
        assert!(len == CANVAS && (1..=self.rows).contains(&count));
        self.step = 0;
        self.begun += 1;
        Ok(())
    }

    fn step(&mut self, input: &StepInput<'_>, draws: &mut Draws) -> Result<()> {
        let logprob =
            |&(position, token): &(usize, Token)| match token == self.at(position % CANVAS) {
                true => -0.25,
                false => -9.0 - (position % CANVAS) as f32 / 100.0,
            };
        draws.target_logprobs = input.targets.iter().map(logprob).collect();
        for position in (0..input.canvas.len()).filter(|position| input.free[*position]) {
            draws.argmax[position] = self.at(position % CANVAS);
            draws.sampled[position] = self.at(position % CANVAS);
            draws.entropy[position] = if self.step < 1 { 1.0 } else { 0.0 };
        }
        if !input.targets.is_empty() {
            assert_eq!(self.step, 0, "a comparison without self-conditioning");
            self.compared
                .push((input.canvas.to_vec(), input.targets.to_vec()));
        }
        self.step += 1;
        Ok(())
    }
}

fn fill(script: &mut Script, infill: &Infill) -> Result<(Generation, Vec<OwnedDraft>)> {
    let noise = CounterNoise::new(infill.seed(), 28)?;
    let end = EndTokens {
        ids: vec![END],
        pad: Some(PAD),
    };
    let generator = Generator::new(infill.boxed(), &[5; PROMPT], PROMPT, &end, script.limits())?;
    let mut drafts = Vec::new();
    let on_event = &mut |event: Event<'_>| {
        if let Event::Draft(draft) = event {
            drafts.push(draft.into());
        }
        ControlFlow::Continue(())
    };
    let generation = generate(generator, script, &noise, &CancelFlag::default(), on_event)?;
    Ok((generation, drafts))
}

fn params(max_tokens: Option<usize>) -> DiffusionParams {
    DiffusionParams {
        max_tokens,
        ..DiffusionParams::default()
    }
}

/// Fills the gap in a text of which the prompt ends within `before`.
fn fill_text(before: &str, hidden: &str, after: &str) -> (Generation, Infill) {
    let from = before.len().saturating_sub(1);
    let mut script = Script::new(&format!("{}{hidden}{after}", &before[from..]));
    let infill = Infill::new(params(None), gap(before, after), None);
    let (generation, _) = fill(&mut script, &infill).unwrap();
    (generation, infill)
}

const AFTER: &str = "thequickbrownfox";

#[test]
fn the_length_is_found_by_what_comes_after() {
    for (hidden, after) in [
        ("", AFTER),
        ("x", AFTER),
        ("jumpsover", AFTER),
        ("abcdefghijklmnopqrstu", AFTER),
        ("jumps", "t"),
        ("jumps", ""),
        ("", ""),
    ] {
        let (generation, infill) = fill_text("ab", hidden, after);
        let head = &after[..after.len().min(1)];
        assert_eq!(
            generation.tokens,
            tokens(&format!("b{hidden}{head}")),
            "{hidden} {after}"
        );
        assert_eq!(generation.finish, FinishReason::EndOfText);
        let report = infill.report();
        let best = report.lengths[0];
        assert_eq!((best.tokens, best.logprob), (hidden.len(), -0.25));
        assert!(report.lengths[1..].iter().all(|other| other.logprob < -1.0));
        assert!(!report.doubtful && !report.timed_out);
    }
}

#[test]
fn a_document_may_begin_with_its_gap() {
    let (generation, infill) = fill_text("", "jumps", AFTER);
    assert_eq!(generation.tokens, tokens("jumpst"));
    assert_eq!(infill.report().lengths[0].tokens, 5);
}

#[test]
fn the_canvas_holds_what_comes_after_in_every_draft_of_it() {
    let mut script = Script::new(&format!("bjumps{AFTER}"));
    let infill = Infill::new(params(None), gap("ab", AFTER), None);
    let (generation, drafts) = fill(&mut script, &infill).unwrap();
    let mut after = tokens(&AFTER[1..]);
    after.push(END);
    after.resize(CANVAS - 7, PAD);
    assert_eq!(generation.canvases[0].tokens[7..], after);
    let compared = script.compared.len();
    assert_eq!(compared, 1 + 8 * 2);
    for draft in &drafts[compared..] {
        assert_eq!(draft.argmax[7..], after);
        assert_eq!(draft.canvas[7..], after);
        assert!(draft.accepted[7..].iter().all(|accepted| *accepted));
    }
    let steps: Vec<u32> = drafts.iter().map(|draft| draft.step).collect();
    assert_eq!(steps, (0..drafts.len() as u32).collect::<Vec<_>>());
    assert_eq!(generation.steps, drafts.len() as u64);
    assert_eq!(generation.canvases[0].steps as usize, drafts.len());
    // One canvas for each comparison, and one to write.
    assert_eq!(script.begun, compared + 1);
}

#[test]
fn comparisons_hold_out_what_they_score() {
    let mut script = Script::new(&format!("bjumps{AFTER}"));
    let infill = Infill::new(params(None), gap("ab", AFTER), None);
    fill(&mut script, &infill).unwrap();
    let rest = tokens(&AFTER[1..]);
    let (_, targets) = &script.compared[0];
    assert_eq!(targets[..8], (2..10).zip(rest.clone()).collect::<Vec<_>>());
    let mut drawn = Vec::new();
    for (canvas, targets) in &script.compared[1..] {
        let first = targets[0].0;
        assert_eq!(
            *targets,
            (first..first + 8).zip(rest.clone()).collect::<Vec<_>>()
        );
        let known = (CANVAS - first - 8).min(rest.len() - 8);
        assert_eq!(canvas[first + 8..first + 8 + known], rest[8..8 + known]);
        drawn.push((first, canvas[..first + 8].to_vec()));
    }
    // Two draws of noise, the same for all lengths.
    let of_draw = |half: usize| &drawn[half * 8..][..8];
    for half in [0, 1] {
        for (_, noise) in of_draw(half) {
            let longest = of_draw(half).iter().max_by_key(|(first, _)| first).unwrap();
            assert_eq!(*noise, longest.1[..noise.len()]);
        }
    }
    assert_ne!(drawn[0].1, drawn[8].1);
    assert_eq!(drawn[0].0, drawn[8].0);
}

#[test]
fn several_lengths_are_compared_in_a_pass_where_the_model_reads_several_canvases() {
    let run = |rows: usize, text: &str, max_tokens: Option<usize>| {
        let mut script = Script {
            rows,
            ..Script::new(text)
        };
        let params = DiffusionParams {
            canvas: Some(CANVAS),
            ..params(max_tokens)
        };
        let infill = Infill::new(params, gap("ab", AFTER), None);
        let (generation, drafts) = fill(&mut script, &infill).unwrap();
        assert!(drafts.iter().all(|draft| draft.canvas.len() == CANVAS));
        let passes = script.compared.len();
        // Each canvas with its targets, as if it had been read alone.
        let mut alone: Vec<Compared> = Vec::new();
        for (canvas, targets) in script.compared {
            for (row, canvas) in canvas.chunks(CANVAS).enumerate() {
                let of_row = |(position, _): &&(usize, Token)| position / CANVAS == row;
                let targets = targets.iter().filter(of_row);
                let targets = targets.map(|(position, token)| (position % CANVAS, *token));
                alone.push((canvas.to_vec(), targets.collect()));
            }
        }
        (passes, alone, generation.tokens, infill.report())
    };
    // All of the lengths, which needs no search, and the likeliest ones.
    for (max_tokens, compared, passes) in [(Some(6), 7 * 2, 4), (None, 1 + 8 * 2, 1 + 4)] {
        let text = format!("bjumps{AFTER}");
        let (one_by_one, expected, tokens, report) = run(1, &text, max_tokens);
        assert_eq!(one_by_one, compared);
        assert_eq!(report.lengths[0].tokens, 5);
        assert_eq!(
            run(4, &text, max_tokens),
            (passes, expected, tokens, report)
        );
    }
}

#[test]
fn a_gap_longer_than_a_canvas_goes_on_after_it() {
    for length in [CANVAS, 70, 100] {
        let hidden: String = (0..length)
            .map(|i| char::from(b'a' + (i * 7 % 26) as u8))
            .collect();
        let (generation, _) = fill_text("ab", &hidden, AFTER);
        assert_eq!(generation.tokens, tokens(&format!("b{hidden}t")));
        assert_eq!(generation.finish, FinishReason::EndOfText);
        assert_eq!(generation.canvases.len(), (length + 2).div_ceil(CANVAS));
    }
}

#[test]
fn limits_close_the_gap_and_say_so() {
    let hidden = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrst";
    for (max_tokens, max_canvases) in [(Some(12), None), (Some(40), None), (None, Some(1))] {
        let mut script = Script::new(&format!("b{hidden}{AFTER}"));
        let params = DiffusionParams {
            max_canvases,
            ..params(max_tokens)
        };
        let infill = Infill::new(params, gap("ab", AFTER), None);
        let (generation, _) = fill(&mut script, &infill).unwrap();
        assert_eq!(generation.finish, FinishReason::EndOfText);
        assert!(infill.report().doubtful);
        let last = generation.canvases.last().unwrap();
        assert!(last.tokens[last.answer.len()..].starts_with(&tokens(&AFTER[1..2])));
        let limit = max_tokens.unwrap_or(CANVAS);
        assert!(generation.tokens.len() <= limit + 2, "{max_tokens:?}");
    }
}

#[test]
fn a_given_length_is_kept_without_a_comparison() {
    let hidden = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrst";
    for length in [0, 1, 14, 30, 46] {
        let mut script = Script::new(&format!("b{}{AFTER}", &hidden[..length]));
        let infill = Infill::new(params(None), gap("ab", AFTER), Some(length));
        let (generation, _) = fill(&mut script, &infill).unwrap();
        assert_eq!(
            generation.tokens,
            tokens(&format!("b{}t", &hidden[..length]))
        );
        assert!(script.compared.is_empty());
        assert_eq!(infill.report(), GapReport::default());
    }
}

#[test]
fn when_the_time_is_up_one_step_writes_the_best_so_far() {
    let run = |time| {
        let mut script = Script::new(&format!("bjumps{AFTER}"));
        let infill = Infill::new(params(None), gap("ab", AFTER), None).within(Some(time));
        let (generation, _) = fill(&mut script, &infill).unwrap();
        (generation, infill.report())
    };
    let (generation, report) = run(Duration::ZERO);
    // The search alone, and one step.
    assert_eq!(generation.steps, 2);
    assert_eq!(generation.tokens, tokens("bjumpst"));
    assert_eq!(generation.finish, FinishReason::EndOfText);
    assert!(report.timed_out);
    let (generation, report) = run(Duration::from_secs(3600));
    assert!(generation.steps > 17 && !report.timed_out);
    // A part of a longer gap that is cut is not followed by another.
    let mut script = Script::new(&"abc".repeat(40));
    let infill = Infill::new(params(None), gap("ab", AFTER), None).within(Some(Duration::ZERO));
    let (generation, _) = fill(&mut script, &infill).unwrap();
    assert_eq!(generation.canvases.len(), 1);
    assert!(infill.report().timed_out);
}

#[test]
fn what_cannot_work_is_named() {
    let refused = |infill: &Infill| {
        let error = infill.validate(&Script::new("").limits()).unwrap_err();
        error.to_string()
    };
    let with = |change: fn(&mut DiffusionParams)| {
        let mut params = params(Some(5));
        change(&mut params);
        refused(&Infill::new(params, gap("ab", AFTER), None))
    };
    assert!(with(|p| p.t_min = -1.0).starts_with("t_min: "));
    assert!(with(|p| p.scoring = Some(Default::default())).starts_with("recipe: gaps are not"));
    assert!(with(|p| p.templates = vec![Template::new()]).starts_with("template: "));
    assert!(with(|p| p.constraint = Some(gap("a", "b").language)).starts_with("constraint: "));
    assert!(with(|p| p.canvas = Some(20)).starts_with("canvas: "));
    let length = refused(&Infill::new(params(Some(5)), gap("ab", AFTER), Some(6)));
    assert_eq!(length, "gap_length: is 6, but `max_tokens` is 5");
    let unknown = Gap::new(gap("ab", "").language, 2, vec![99], None);
    assert!(refused(&Infill::new(params(None), unknown, None)).starts_with("template: "));
    let endless = Gap::new(gap("ab", "").language, 2, Vec::new(), None);
    assert!(refused(&Infill::new(params(None), endless, None)).contains("give its length"));
    let masked = Limits {
        canvas: None,
        mask: Some(3),
        ..Script::new("").limits()
    };
    let infill = Infill::new(params(None), gap("ab", AFTER), None);
    let error = infill.validate(&masked).unwrap_err().to_string();
    assert!(error.contains("masked family"), "{error}");
}

#[test]
fn a_length_that_nothing_has_room_for_is_named_before_the_first_step() {
    let limits = Script::new("").limits();
    let most = |max_canvases: Option<usize>| max_canvases.unwrap_or(31) * CANVAS - 2;
    for (max_canvases, advice) in [(None, "`context`"), (Some(2), "`max_canvases`")] {
        let infill = |length| {
            let params = DiffusionParams {
                max_canvases,
                ..params(None)
            };
            Infill::new(params, gap("ab", AFTER), Some(length))
        };
        let longest = most(max_canvases);
        let text = format!("b{}{AFTER}", "x".repeat(longest));
        let (generation, _) = fill(&mut Script::new(&text), &infill(longest)).unwrap();
        assert_eq!(generation.tokens.len(), longest + 2);
        for length in [longest + 1, usize::MAX] {
            let error = Generator::check_answer(&infill(length), PROMPT, &limits).unwrap_err();
            let problem = format!("gap_length: is {length}, but there is no room");
            let error = error.to_string();
            assert!(error.starts_with(&problem), "{error}");
            assert!(error.contains(&format!("raise {advice}")), "{error}");
        }
    }
}
