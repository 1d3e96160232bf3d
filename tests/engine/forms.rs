//! Forms, against a host computation from full logits.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use llama_diffusion::constraint::{
    ByteAutomaton, Constraint, Limits, Scaffold, TokenAutomaton, Vocabulary,
};
use llama_diffusion::diffusion::{
    AcceptanceRule, Allowed, CounterNoise, Denoiser, DrawRule, Draws, Filter, NoiseSource,
    OwnedDraft, StepInput, Template,
};
use llama_diffusion::form::{Blank, BlankKind, Form, FormParams, Piece};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::model::MaskedModel;
use llama_diffusion::{
    CancelFlag, CanvasRow, DiffusionParams, EndTokens, Error, Event, KvType, Model, Session,
    SessionParams, Token,
};
use llama_diffusion_testing::placements::on_cpu;
use llama_diffusion_testing::steps::prompt;

const TRAINED: usize = 64;
const SEED: u64 = 5;
const PAD: Token = 0;
const END: [Token; 2] = [1, 6];

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let geometry = Geometry {
        canvas_length: TRAINED,
        ..Geometry::tiny()
    };
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, &geometry, types, 7).unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    Arc::new(Model::load(&path, &on_cpu(), go_on).unwrap())
});

fn end() -> EndTokens {
    EndTokens {
        ids: END.to_vec(),
        pad: Some(PAD),
    }
}

fn session() -> Session {
    let params = SessionParams {
        threads: Some(1),
        kv_type: KvType::F32,
        ..SessionParams::default()
    };
    Session::new(&*MODEL, end(), &params).unwrap()
}

fn text(tokens: &[Token]) -> Piece {
    Piece::Text(tokens.to_vec())
}

fn choices(name: &str, choices: &[&[Token]]) -> Piece {
    Piece::Blank(Blank {
        name: name.into(),
        kind: BlankKind::Choices(choices.iter().map(|choice| choice.to_vec()).collect()),
    })
}

fn free(name: &str, tokens: usize) -> Piece {
    Piece::Blank(Blank {
        name: name.into(),
        kind: BlankKind::Free(vec![None; tokens]),
    })
}

fn params(samples: usize) -> FormParams {
    FormParams {
        samples,
        seed: SEED,
        ..FormParams::default()
    }
}

/// The log-probabilities `[canvas][vocab]` of one step over a canvas with these tokens; `None` is the
/// noise of a sample.
fn log_probabilities(session: &mut Session, known: &[Option<Token>], sample: u32) -> Vec<Vec<f64>> {
    let vocab = session.limits().vocab;
    let noise = CounterNoise::new(SEED, vocab).unwrap();
    let mut canvas = vec![0; known.len()];
    noise.initial_canvas(sample, &mut canvas).unwrap();
    for (token, known) in canvas.iter_mut().zip(known) {
        *token = known.unwrap_or(*token);
    }
    session.prefill(&prompt(9)).unwrap();
    let denoiser = session.canvas_denoiser().unwrap();
    denoiser.begin_canvas(known.len()).unwrap();
    let input = StepInput {
        canvas: &canvas,
        free: &vec![true; known.len()],
        allowed: Allowed::All,
        filter: Filter::NONE,
        rule: DrawRule::Inverse {
            temperature: 1.0,
            uniforms: &vec![0.0; known.len()],
        },
        guidance: 0.0,
        average: 0.0,
        language: None,
        targets: &[],
    };
    denoiser
        .step(&input, &mut Draws::new(known.len(), 0))
        .unwrap();
    let logits = denoiser.logits().unwrap();
    let row = |row: &[f32]| -> Vec<f64> {
        let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        row.iter().map(|x| f64::from(*x) - total.ln()).collect()
    };
    logits.chunks_exact(vocab).map(row).collect()
}

fn close(found: f64, expected: f64, what: &str) {
    assert!(
        (found - expected).abs() < 1e-5,
        "{what}: {found}, not {expected}"
    );
}

/// Known tokens, an end token if there is only one way, and padding.
fn closed(tokens: &[Option<Token>], canvas: usize) -> Vec<Option<Token>> {
    let mut all = tokens.to_vec();
    all.push(None);
    all.resize(canvas, Some(PAD));
    all
}

#[test]
fn answers_equal_a_host_computation_from_full_logits() {
    const SAMPLES: usize = 6;
    let one: [&[Token]; 3] = [&[20], &[21], &[22]];
    let two: [&[Token]; 3] = [&[30, 31], &[32, 33], &[30, 33]];
    let form = Form::new(vec![
        text(&[10, 11]),
        choices("one", &one),
        text(&[12]),
        choices("two", &two),
        free("free", 2),
    ]);
    let mut session = session();
    let cancel = CancelFlag::default();
    let filled = session
        .fill(
            &prompt(9),
            &[vec![9]],
            &form.unwrap(),
            &params(SAMPLES),
            &cancel,
        )
        .unwrap();
    // Four canvases of 16 in a pass: of the choices of two tokens, the first tokens, then the second ones
    // after 30 and after 32; then the other blanks.
    assert_eq!(
        (filled.canvas, filled.rows, filled.passes),
        (16, 4 * SAMPLES, 5 + 2)
    );

    let second: Vec<Option<Token>> = filled.blanks[1].tokens.iter().copied().map(Some).collect();
    let mut canvases = |two: [Option<Token>; 2]| -> Vec<Vec<Vec<f64>>> {
        let known = [Some(9), Some(10), Some(11), None, Some(12)];
        let known = [&known[..], &two, &[None, None]].concat();
        (0..SAMPLES as u32)
            .map(|sample| log_probabilities(&mut session, &closed(&known, 16), sample))
            .collect()
    };
    let (open, after_30, after_32) = (
        canvases([None, None]),
        canvases([Some(30), None]),
        canvases([Some(32), None]),
    );
    let rows = canvases([second[0], second[1]]);
    let mean = |score: &dyn Fn(usize) -> f64| {
        (0..SAMPLES).map(|sample| score(sample).exp()).sum::<f64>() / SAMPLES as f64
    };
    for (blank, all) in [(0, &one[..]), (1, &two[..])] {
        let score = |sample: usize, choice: &[Token]| -> f64 {
            let [first, .., last] = choice else {
                return rows[sample][3][choice[0] as usize];
            };
            let after = match first {
                30 => &after_30,
                _ => &after_32,
            };
            open[sample][5][*first as usize] + after[sample][6][*last as usize]
        };
        let means: Vec<f64> = all
            .iter()
            .map(|c| mean(&|sample| score(sample, c)))
            .collect();
        let mass: f64 = means.iter().sum();
        let found = &filled.blanks[blank];
        close(found.allowed_mass, mass, "mass");
        let best = (0..3)
            .max_by(|a, b| means[*a].total_cmp(&means[*b]))
            .unwrap();
        assert_eq!((found.choice, &found.tokens[..]), (Some(best), all[best]));
        let mut entropy = 0.0;
        for (index, choice) in all.iter().enumerate() {
            let p = means[index] / mass;
            close(found.choices[index].probability, p, "probability");
            close(found.choices[index].logprob, p.ln(), "logprob");
            entropy -= p * p.ln();
            let of_samples = (0..SAMPLES).map(|sample| {
                let total: f64 = all.iter().map(|c| score(sample, c).exp()).sum();
                score(sample, choice).exp() / total
            });
            let of_samples: Vec<f64> = of_samples.collect();
            let center = of_samples.iter().sum::<f64>() / SAMPLES as f64;
            let squares: f64 = of_samples.iter().map(|p| (p - center).powi(2)).sum();
            let n = SAMPLES as f64;
            let error = (squares / (n - 1.0) / n).sqrt();
            close(found.choices[index].standard_error.unwrap(), error, "error");
        }
        close(found.entropy, entropy, "entropy");
    }
    let found = &filled.blanks[2];
    let mut logprob = 0.0;
    for (i, token) in found.tokens.iter().enumerate() {
        let vocab = rows[0][0].len();
        let means: Vec<f64> = (0..vocab)
            .map(|t| mean(&|sample| rows[sample][7 + i][t]))
            .collect();
        let best = (0..means.len()).max_by(|a, b| means[*a].total_cmp(&means[*b]));
        assert_eq!(*token as usize, best.unwrap());
        logprob += means[best.unwrap()].ln();
    }
    close(found.logprob, logprob, "logprob of free tokens");
    let whole: Vec<Token> = [
        &[10, 11][..],
        &filled.blanks[0].tokens,
        &[12],
        &filled.blanks[1].tokens,
        &found.tokens,
    ]
    .concat();
    assert_eq!(filled.tokens, whole);
}

/// Brute force: of every choice its first token on a canvas of its length, and the others, with what follows
/// them, after the tokens that tell it from others.
#[test]
fn choices_of_different_lengths_are_ranked_as_by_brute_force() {
    const SAMPLES: usize = 3;
    // With the tokens that tell each from the others.
    let all: [&[Token]; 5] = [&[20], &[21, 22, 23], &[24, 25], &[26], &[21, 22]];
    let telling = [1, 3, 1, 1, 2];
    let after = [40, 41];
    let form = |order: &[usize]| {
        let ordered: Vec<&[Token]> = order.iter().map(|index| all[*index]).collect();
        let pieces = vec![
            text(&[10]),
            choices("a", &ordered),
            text(&after),
            free("b", 1),
        ];
        Form::new(pieces).unwrap()
    };
    let mut session = session();
    let cancel = CancelFlag::default();
    let params = params(SAMPLES);
    let filled = session
        .fill(&prompt(9), &[], &form(&[0, 1, 2, 3, 4]), &params, &cancel)
        .unwrap();
    // Three lengths; after 20, 24, 26, 21 22 23, and at two lengths 21 and 21 22; then the other blank.
    assert_eq!(filled.rows, (3 + 8 + 1) * SAMPLES);

    let mut scores = [0.0; 5];
    let mut of_lengths = 0.0;
    for sample in 0..SAMPLES as u32 {
        // The blank, which begins with known tokens, the text after it that is left out, and the other blank.
        let mut row = |begun: &[Token], length: usize| {
            let mut known = vec![Some(10)];
            known.extend(begun.iter().copied().map(Some));
            known.resize(1 + length + after.len() + 1, None);
            log_probabilities(&mut session, &closed(&known, 16), sample)
        };
        let left_out = |row: &[Vec<f64>], length: usize| {
            let each = after.iter().enumerate();
            each.map(|(i, token)| row[1 + length + i][*token as usize])
                .sum::<f64>()
        };
        for length in 1..=3 {
            of_lengths += left_out(&row(&[], length), length).exp();
        }
        for ((score, choice), telling) in scores.iter_mut().zip(all).zip(telling) {
            let len = choice.len();
            let known = |i: usize| &choice[..i.min(telling)];
            let own = (0..len).map(|i| row(known(i), len)[1 + i][choice[i] as usize]);
            let own: f64 = own.collect::<Vec<f64>>().iter().sum();
            *score += (own + left_out(&row(known(len), len), len)).exp();
        }
    }
    let total: f64 = scores.iter().sum();
    let blank = &filled.blanks[0];
    for (choice, score) in blank.choices.iter().zip(scores) {
        close(choice.probability, score / total, "probability");
    }
    close(blank.allowed_mass, total / of_lengths, "mass");
    let best = (0..5)
        .max_by(|a, b| scores[*a].total_cmp(&scores[*b]))
        .unwrap();
    assert_eq!((blank.choice, &blank.tokens[..]), (Some(best), all[best]));
    // The order of the choices changes nothing.
    let other = session
        .fill(&prompt(9), &[], &form(&[2, 0, 4, 3, 1]), &params, &cancel)
        .unwrap();
    assert_eq!(other.tokens, filled.tokens);
    for (index, original) in [2, 0, 4, 3, 1].into_iter().enumerate() {
        let (found, expected) = (&other.blanks[0].choices[index], &blank.choices[original]);
        close(found.probability, expected.probability, "reordered");
    }
}

/// Tokens with text, from number 20 on.
const TEXTS: [&str; 5] = ["a", "b", "ab", "ba", "abb"];

/// The texts of an expression; without end tokens they fill their positions.
fn automaton(pattern: &str, end: &[Token]) -> TokenAutomaton {
    let limits = Limits::default();
    let bytes = ByteAutomaton::from_regex(pattern, &limits).unwrap();
    let texts = TEXTS.iter().map(|text| Some(text.as_bytes().to_vec()));
    let vocabulary = Vocabulary::new(std::iter::repeat_n(None, 20).chain(texts));
    match end.is_empty() {
        true => TokenAutomaton::filling(&bytes, &vocabulary, &limits).unwrap(),
        false => TokenAutomaton::new(&bytes, &vocabulary, &Scaffold::None, end, &limits).unwrap(),
    }
}

fn in_language(name: &str, pattern: &str, tokens: usize) -> Piece {
    Piece::Blank(Blank {
        name: name.into(),
        kind: BlankKind::Language {
            language: Constraint::new(automaton(pattern, &[])),
            tokens,
        },
    })
}

/// Brute force: a canvas for each length, and every text of the language scored by the means.
#[test]
fn texts_of_a_language_are_ranked_as_by_brute_force() {
    const SAMPLES: usize = 3;
    const MAX: usize = 3;
    let pattern = "(?:ab|ba)+|b+a";
    let regex = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
    let after = [40, 41];
    let pieces = vec![text(&[10]), in_language("a", pattern, MAX), text(&after)];
    let form = Form::new(pieces).unwrap();
    let mut session = session();
    let (cancel, params) = (CancelFlag::default(), params(SAMPLES));
    let filled = session
        .fill(&prompt(9), &[], &form, &params, &cancel)
        .unwrap();
    assert_eq!(filled.rows, MAX * SAMPLES);

    let mut best: (f64, Vec<Token>) = (0.0, Vec::new());
    let (mut total, mut entropy, mut of_lengths) = (0.0, 0.0, 0.0);
    for length in 1..=MAX {
        let mut known = vec![Some(10)];
        known.resize(1 + length + after.len(), None);
        let rows: Vec<_> = (0..SAMPLES as u32)
            .map(|sample| log_probabilities(&mut session, &closed(&known, 16), sample))
            .collect();
        let mean = |log: &dyn Fn(&Vec<Vec<f64>>) -> f64| {
            rows.iter().map(|row| log(row).exp()).sum::<f64>() / SAMPLES as f64
        };
        let left_out =
            mean(&|row| row[1 + length][40] + row[2 + length][41] + end_log(&row[3 + length]));
        of_lengths += left_out;
        for number in 0..TEXTS.len().pow(length as u32) {
            let pieces = (0..length as u32).map(|i| number / TEXTS.len().pow(i) % TEXTS.len());
            let pieces: Vec<usize> = pieces.collect();
            let whole: String = pieces.iter().map(|piece| TEXTS[*piece]).collect();
            if !regex.is_match(&whole) {
                continue;
            }
            let each = pieces.iter().enumerate();
            let score: f64 = each
                .map(|(i, piece)| mean(&|row| row[1 + i][20 + piece]))
                .product();
            let score = score * left_out;
            total += score;
            entropy -= score * score.ln();
            if score > best.0 {
                best = (
                    score,
                    pieces.iter().map(|piece| 20 + *piece as Token).collect(),
                );
            }
        }
    }
    let blank = &filled.blanks[0];
    assert_eq!(blank.tokens, best.1);
    let expected = [&[10][..], &best.1, &after].concat();
    assert_eq!(filled.tokens, expected);
    close(blank.logprob, (best.0 / total).ln(), "logprob");
    close(blank.entropy, entropy / total + total.ln(), "entropy");
    assert!((blank.allowed_mass * of_lengths / total - 1.0).abs() < 1e-5);
    assert!(blank.standard_error.is_some());
}

/// The log-probability of any end token.
fn end_log(row: &[f64]) -> f64 {
    END.map(|token| row[token as usize].exp())
        .iter()
        .sum::<f64>()
        .ln()
}

#[test]
fn what_a_language_allows_stands_in_its_blank_after_any_number_of_steps() {
    let mut session = session();
    for (pattern, tokens) in [("(?:ab){2}", 4), ("abb?|ba", 1), ("a{3}b*", 6), ("b{5}", 5)] {
        let regex = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        for steps in 1..4 {
            let form = Form::new(vec![
                free("x", 1),
                in_language("a", pattern, tokens),
                text(&[12]),
                choices("b", &[&[13], &[14]]),
            ]);
            let params = FormParams { steps, ..params(2) };
            let cancel = CancelFlag::default();
            let filled = session.fill(&prompt(9), &[], &form.unwrap(), &params, &cancel);
            let written = &filled.unwrap().blanks[1].tokens;
            let text: String = written.iter().map(|t| TEXTS[*t as usize - 20]).collect();
            assert!(regex.is_match(&text), "{pattern}: {text}");
            assert!((1..=tokens).contains(&written.len()));
        }
    }
}

/// What comes before the text is the candidate that the model expects, by brute force.
#[test]
fn the_model_decides_what_comes_before_the_text() {
    const SAMPLES: usize = 3;
    let text_tokens = [10, 11];
    let form = Form::new(vec![text(&text_tokens), choices("a", &[&[20], &[21]])]).unwrap();
    let mut session = session();
    for candidates in [
        [vec![9, 8], vec![]],
        [vec![], vec![30]],
        [vec![31, 32, 33], vec![9]],
    ] {
        let mut scores = Vec::new();
        for before in &candidates {
            // Before, text, the blank and an end token are all left out.
            let known = vec![None; before.len() + 3];
            let mut score = 0.0;
            for sample in 0..SAMPLES as u32 {
                let row = log_probabilities(&mut session, &closed(&known, 16), sample);
                let expected = before.iter().chain(&text_tokens).enumerate();
                let of_text: f64 = expected.map(|(i, token)| row[i][*token as usize]).sum();
                let ends = END.map(|token| row[before.len() + 3][token as usize].exp());
                score += (of_text + ends.iter().sum::<f64>().ln()).exp();
            }
            scores.push(score);
        }
        let best = usize::from(scores[1] > scores[0]);
        let cancel = CancelFlag::default();
        let params = FormParams {
            // One length for all, whatever comes before.
            canvas: Some(16),
            ..params(SAMPLES)
        };
        let mut fill = |before: &[Vec<Token>]| {
            session
                .fill(&prompt(9), before, &form, &params, &cancel)
                .unwrap()
        };
        let (chosen, alone) = (fill(&candidates), fill(&candidates[best..=best]));
        assert_eq!(chosen.rows, alone.rows + 2 * SAMPLES);
        assert_eq!(chosen.blanks, alone.blanks, "{candidates:?}");
    }
}

/// All texts of three tokens of 36: their canvases are found without comparing each text with all others.
#[test]
fn tens_of_thousands_of_choices_are_read_from_few_canvases_or_refused() {
    const TOKENS: Token = 36;
    let tokens = 8..8 + TOKENS;
    let pairs = tokens
        .clone()
        .flat_map(|a| tokens.clone().map(move |b| [a, b]));
    let texts: Vec<Vec<Token>> = pairs
        .flat_map(|[a, b]| tokens.clone().map(move |c| vec![a, b, c]))
        .collect();
    let piece = Piece::Blank(Blank {
        name: "any".into(),
        kind: BlankKind::Choices(texts),
    });
    let form = Form::new(vec![text(&[20, 21]), piece]).unwrap();
    let fill = |samples: usize| {
        let cancel = CancelFlag::default();
        session().fill(&prompt(9), &[], &form, &params(samples), &cancel)
    };
    let filled = fill(1).unwrap();
    // What is known are no tokens, the first one, or the first two.
    assert_eq!(filled.rows, (1 + TOKENS + TOKENS * TOKENS) as usize);
    let total: f64 = filled.blanks[0]
        .choices
        .iter()
        .map(|choice| choice.probability)
        .sum();
    assert!((total - 1.0).abs() < 1e-6, "{total}");
    let error = fill(64).unwrap_err().to_string();
    assert!(
        error.starts_with("form: blank 'any' takes at least")
            && error.ends_with("may take 16384: give fewer samples or choices"),
        "{error}"
    );
}

/// Canvases are counted before there are any.
#[test]
fn what_is_read_from_too_many_canvases_is_named() {
    let language = Constraint::new(automaton("a+", &[]));
    let name = "long".into();
    let kind = BlankKind::Language {
        language,
        tokens: 40,
    };
    let long = Form::new(vec![Piece::Blank(Blank { name, kind })]).unwrap();
    let short = Form::new(vec![choices("short", &[&[20], &[21]])]).unwrap();
    let before: Vec<Vec<Token>> = (10..15).map(|token| vec![token]).collect();
    let (samples, session) = (FormParams::MAX_SAMPLES, session());
    for (form, before, expected) in [
        (&long, &[][..], "form: blank 'long' takes at least 163840"),
        (&short, &before, "form: what comes before it takes at least"),
    ] {
        let begun = session.begin_fill(&prompt(9), before, form, &params(samples));
        let error = begun.err().expect("too many canvases").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// Sessions that work between the passes of a form change nothing in it, and it nothing in them.
#[test]
fn a_form_is_filled_a_pass_at_a_time_beside_other_sessions() {
    let pieces = [
        text(&[20, 21]),
        choices("judged", &[&[30], &[31, 32]]),
        text(&[22]),
        free("open", 2),
    ];
    let form = Form::new(pieces.to_vec()).unwrap();
    let params = FormParams {
        steps: 3,
        ..params(2 * TRAINED)
    };
    let (before, cancel) = ([vec![40], Vec::new()], CancelFlag::default());
    let fill = |session: &mut Session, prompt: &[Token]| {
        session.fill(prompt, &before, &form, &params, &cancel)
    };
    let prompts = [prompt(9), prompt(70)];
    let expected = [&prompts[0], &prompts[1]].map(|prompt| fill(&mut session(), prompt).unwrap());
    let answer = |session: &mut Session| {
        let params = row_params();
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        session
            .generate(&prompt(5), &params, &cancel, go_on)
            .unwrap()
            .generation
            .tokens
    };
    let alone = answer(&mut session());
    let mut runs = [0, 1].map(|which| {
        let session = session();
        let filling = session.begin_fill(&prompts[which], &before, &form, &params);
        (session, filling.unwrap(), None)
    });
    let mut calls = 0;
    while runs.iter().any(|(_, _, filled)| filled.is_none()) {
        for (session, run, filled) in &mut runs {
            if filled.is_none() {
                *filled = run.advance(session, &cancel).unwrap();
            }
        }
        let mut other = session();
        if calls % 16 == 0 {
            assert_eq!(answer(&mut other), alone);
        }
        calls += 1;
    }
    let filled = runs.map(|(_, _, filled)| filled.unwrap());
    assert_eq!(filled, expected);
    assert!(calls >= expected[1].passes, "{calls}");
    // Cancelled between two passes.
    let mut late = session();
    let mut run = late
        .begin_fill(&prompts[0], &before, &form, &params)
        .unwrap();
    assert_eq!(run.advance(&mut late, &cancel).unwrap(), None);
    cancel.cancel();
    let error = run.advance(&mut late, &cancel).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    // What is half filled is not an answer, whoever asks again.
    let again = run.advance(&mut late, &CancelFlag::default());
    assert!(again.unwrap_err().to_string().contains("begin again"));
}

/// Rows of several steps, with fixed positions and a set.
fn row(noise: u32) -> CanvasRow {
    let mut template = Template::new();
    template
        .fixed(&[10, 11])
        .free()
        .within([20, 21, 22].into_iter().collect());
    template.free().fixed(&[12 + noise as Token]);
    CanvasRow {
        template: Arc::new(template),
        noise,
        read: vec![2, 3, 4],
    }
}

fn row_params() -> DiffusionParams {
    DiffusionParams {
        max_steps: 4,
        canvas: Some(16),
        seed: SEED,
        confidence_threshold: 0.0,
        acceptance: AcceptanceRule::Reference,
        max_canvases: Some(1),
        max_tokens: None,
        ..DiffusionParams::default()
    }
}

/// The logits that are read of each row.
fn read(session: &mut Session, rows: &[CanvasRow]) -> Vec<Vec<Vec<f32>>> {
    let mut all = vec![Vec::new(); rows.len()];
    let on_logits = &mut |row: usize, _, logits: &[f32]| {
        all[row].push(logits.to_vec());
        Ok(())
    };
    let (params, cancel) = (row_params(), CancelFlag::default());
    session
        .denoise_rows(&prompt(9), rows, &params, &cancel, on_logits)
        .unwrap();
    all
}

#[test]
fn rows_do_not_change_each_other_and_are_canvases_of_an_answer() {
    let mut session = session();
    let together = read(&mut session, &[row(0), row(1), row(2), row(3)]);
    // At the same place, whatever the others hold, to the bit.
    let first = read(&mut session, &[row(0), row(5), row(6), row(7)]);
    assert!(first[0] == together[0]);
    let third = read(&mut session, &[row(6), row(5), row(2), row(7), row(8)]);
    assert!(third[2] == together[2]);
    // Elsewhere keys have another order, which four steps of self-conditioning amplify.
    for (index, logits) in together.iter().enumerate() {
        let alone = read(&mut session, &[row(index as u32)]).remove(0);
        for (a, b) in logits.iter().flatten().zip(alone.iter().flatten()) {
            assert!((a - b).abs() < 2e-3, "row {index}: {a} {b}");
        }
    }
    // An answer whose first canvas has the template draws the same.
    let params = DiffusionParams {
        templates: vec![(*row(0).template).clone()],
        ..row_params()
    };
    let mut last: Option<OwnedDraft> = None;
    let on_event = &mut |event: Event<'_>| {
        if let Event::Draft(draft) = event {
            assert_eq!(
                [draft.canvas[0], draft.canvas[1], draft.canvas[5]],
                [10, 11, 12]
            );
            last = Some(draft.into());
        }
        ControlFlow::Continue(())
    };
    session
        .generate(&prompt(9), &params, &CancelFlag::default(), on_event)
        .unwrap();
    let last = last.unwrap();
    let argmax = |logits: &[f32], tokens: &mut dyn Iterator<Item = usize>| {
        tokens
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap() as Token
    };
    let vocab = session.limits().vocab;
    let found = [
        argmax(&together[0][0], &mut (0..vocab)),
        argmax(&together[0][1], &mut (20..23)),
        argmax(&together[0][2], &mut (0..vocab)),
    ];
    assert_eq!(found, last.argmax[2..5]);
}

#[test]
fn languages_that_no_blank_can_hold_are_named() {
    let refused = |automaton, tokens| {
        let language = Constraint::new(automaton);
        let kind = BlankKind::Language { language, tokens };
        let name = "a".into();
        Form::new(vec![Piece::Blank(Blank { name, kind })])
            .unwrap_err()
            .to_string()
    };
    for (automaton, tokens, expected) in [
        (
            automaton("(ab){3}", &[]),
            2,
            "its texts have at least 3 tokens, but it has 2",
        ),
        (automaton("", &[]), 2, "none of its texts has 1 to 2 tokens"),
        (automaton("a+", &END), 2, "its language has an end token"),
    ] {
        let error = refused(automaton, tokens);
        assert!(
            error.starts_with(&format!("form: blank 'a': {expected}")),
            "{error}"
        );
    }
    let limits = Limits::default();
    let bytes = ByteAutomaton::from_regex("a", &limits).unwrap();
    let texts = (0..=1 << 20).map(|token| (token == 1 << 20).then(|| b"a".to_vec()));
    let vocabulary = Vocabulary::new(texts);
    let kind = BlankKind::Language {
        language: Constraint::new(TokenAutomaton::filling(&bytes, &vocabulary, &limits).unwrap()),
        tokens: 1,
    };
    let name = "a".into();
    let form = Form::new(vec![Piece::Blank(Blank { name, kind })]).unwrap();
    let filled = session().fill(&prompt(9), &[], &form, &params(1), &CancelFlag::default());
    let error = filled.unwrap_err().to_string();
    assert!(
        error.starts_with("form: blank 'a': 1048576 is not a token"),
        "{error}"
    );
}

#[test]
fn what_cannot_work_is_named() {
    let mut session = session();
    let long = Form::new(vec![text(&[10; 64]), free("a", 1)]).unwrap();
    let unknown = Form::new(vec![choices("a", &[&[20], &[1 << 20]])]).unwrap();
    let fine = Form::new(vec![choices("a", &[&[20], &[21]])]).unwrap();
    let mut problem = |form: &Form, params: FormParams| {
        let cancel = CancelFlag::default();
        let filled = session.fill(&prompt(9), &[], form, &params, &cancel);
        filled.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(problem(&fine, params(1)), Ok(()));
    let with_canvas = |canvas| FormParams {
        canvas: Some(canvas),
        ..params(1)
    };
    for (form, params, expected) in [
        (
            &long,
            params(1),
            "form: it has up to 65 tokens, but a canvas has 64",
        ),
        (
            &unknown,
            params(1),
            "form: blank 'a': 1048576 is not a token",
        ),
        (&fine, params(0), "form: samples is 0"),
        (&fine, with_canvas(20), "canvas: has 20 tokens"),
        (&fine, with_canvas(128), "canvas: has 128 tokens"),
        (
            &fine,
            FormParams {
                steps: 0,
                ..params(1)
            },
            "form: steps is 0",
        ),
    ] {
        let error = problem(form, params).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let cancel = CancelFlag::default();
    cancel.cancel();
    let cancelled = session.fill(&prompt(9), &[], &fine, &params(1), &cancel);
    assert_eq!(cancelled.unwrap_err().to_string(), "cancelled");
    let empty = session.fill(&[], &[], &fine, &params(1), &CancelFlag::default());
    assert!(
        empty
            .unwrap_err()
            .to_string()
            .starts_with("prompt: it is empty")
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("masked.gguf");
    write_masked(&path, MaskedFamily::Dream, 7, &|_| ()).unwrap();
    let masked = MaskedModel::load(&path, &on_cpu(), &mut |_| ControlFlow::Continue(())).unwrap();
    let mut masked = Session::new(&Arc::new(masked), end(), &SessionParams::default()).unwrap();
    let error = masked.fill(&prompt(9), &[], &fine, &params(1), &CancelFlag::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("which cannot fill a form"), "{error}");
}
