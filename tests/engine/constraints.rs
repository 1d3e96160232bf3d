//! Answers that follow a language by construction.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use llama_diffusion::constraint::rows::{Given, Row, RowTable};
use llama_diffusion::constraint::{CanvasLanguage, ClassTables, Constraint, Work};
use llama_diffusion::diffusion::{
    Allowed, ConstrainAt, Denoiser, DrawRule, Draws, Filter, Lookahead, Scoring, Steering,
    StepInput, Template, TokenSet,
};
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::quantize::{FileType, Plan, QuantizeParams};
use llama_diffusion::{
    AnswerLength, CancelFlag, DiffusionParams, Event, FinishReason, Generation, MaskedParams,
    ModelParams, Result, Session, SessionParams, TextModel, Thoughts, Token,
};
use llama_diffusion_testing::placements::on_cpu;
use regex::Regex;

fn load(path: &Path, params: &ModelParams) -> TextModel {
    TextModel::load(path, params, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn demo_model(params: &ModelParams) -> TextModel {
    load(Path::new(llama_diffusion_demo_model::PATH), params)
}

static DEMO: LazyLock<TextModel> = LazyLock::new(|| demo_model(&on_cpu()));

fn one_thread() -> SessionParams {
    SessionParams {
        threads: Some(1),
        ..SessionParams::default()
    }
}

fn session() -> Session {
    DEMO.session(&one_thread()).unwrap()
}

/// The demo model, with weights in F32.
fn in_f32(folder: &Path) -> TextModel {
    let file = folder.join("demo-f32.gguf");
    let params = QuantizeParams {
        allow_requantize: true,
        ..QuantizeParams::new(FileType::F32)
    };
    let plan = Plan::new(Path::new(llama_diffusion_demo_model::PATH), params).unwrap();
    plan.write(&file, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    load(&file, &on_cpu())
}

fn chat(question: &str) -> Vec<Token> {
    use llama_diffusion::chat::{Message, Role};
    let template = DEMO.chat_template().unwrap();
    let messages = [Message::new(Role::User, question)];
    DEMO.prompt(template.as_ref(), &messages, Default::default())
        .unwrap()
}

fn answer(question: &str, params: &DiffusionParams) -> Result<Generation> {
    let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
    let answer = session().generate(&chat(question), params, &CancelFlag::default(), go_on)?;
    Ok(answer.generation)
}

fn constraint(pattern: &str) -> Constraint {
    DEMO.regex(pattern, &[], Thoughts::None).unwrap()
}

fn text(generation: &Generation) -> String {
    DEMO.vocab().detokenize(&generation.tokens, false).unwrap()
}

const QUESTION: &str = "What is the capital of Norway?";

/// Repairs stay in the language, over several canvases and whatever is doubted.
#[test]
fn repairs_of_constrained_canvases_follow_the_constraint() {
    for pattern in [
        "The capital of Norway is (Bern|Oslo)\\.",
        r#"\{"name": "[A-Za-z ]{1,40}", "year": [0-9]{1,4}\}"#,
        "[^a-z]{3,60}",
    ] {
        let expected = Regex::new(&format!("^(?:{pattern})$")).unwrap();
        for (seed, min_logprob) in [(0, -1e-30), (1, -1e-30), (2, -1.0), (3, -3.0)] {
            let params = DiffusionParams {
                constraint: Some(constraint(pattern)),
                canvas: Some(16),
                scoring: Some(Scoring {
                    min_logprob: Some(min_logprob),
                    ..Scoring::default()
                }),
                seed,
                ..DiffusionParams::default()
            };
            let mut rounds = 0;
            let on_event = &mut |event: Event<'_>| {
                if let Event::Scored(canvas) = event {
                    rounds += canvas.round;
                }
                ControlFlow::Continue(())
            };
            let prompt = chat(QUESTION);
            let answer = session().generate(&prompt, &params, &CancelFlag::default(), on_event);
            let text = text(&answer.unwrap().generation);
            assert!(expected.is_match(&text), "{pattern}: {text:?}");
            assert!(rounds > 0 || min_logprob < -0.5, "nothing was repaired");
        }
    }
}

#[test]
fn answers_match_whatever_the_model_wants() {
    for pattern in [
        "[0-9]{4}-[0-9]{2}-[0-9]{2}",
        r#"\{"name": "[A-Za-z ]{1,40}", "year": [0-9]{1,4}\}"#,
        "(yes|no)",
        "(The capital of Norway is [A-Z][a-z]+\\.)",
        "[^a-z]{3,60}",
    ] {
        let expected = Regex::new(&format!("^(?:{pattern})$")).unwrap();
        for at in [ConstrainAt::Step, ConstrainAt::Commit] {
            for seed in 0..4 {
                let params = DiffusionParams {
                    constraint: Some(constraint(pattern)),
                    constrain_at: at,
                    seed,
                    ..DiffusionParams::default()
                };
                let generation = answer(QUESTION, &params).unwrap();
                let text = text(&generation);
                assert!(expected.is_match(&text), "{pattern}, {at:?}: {text:?}");
                assert_eq!(generation.finish, FinishReason::EndOfText, "{pattern}");
            }
        }
    }
}

#[test]
fn every_draft_follows_the_language() {
    let expected = Regex::new("^[0-9]{4}-[0-9]{2}-[0-9]{2}$").unwrap();
    let constraint = constraint("[0-9]{4}-[0-9]{2}-[0-9]{2}");
    let params = DiffusionParams {
        constraint: Some(constraint.clone()),
        ..DiffusionParams::default()
    };
    let automaton = constraint.automaton();
    let on_event = &mut |event: Event<'_>| {
        if let Event::Draft(draft) = event {
            let canvas = draft.argmax.len();
            let language = CanvasLanguage::new(automaton, automaton.start(), canvas, 256).unwrap();
            for tokens in [draft.argmax, draft.sampled] {
                let reading = language.read(tokens).expect("a canvas of the language");
                let text = DEMO.vocab().detokenize(&tokens[..reading.text], false);
                assert!(expected.is_match(&text.unwrap()));
            }
        }
        ControlFlow::Continue(())
    };
    let prompt = chat(QUESTION);
    let answer = session().generate(&prompt, &params, &CancelFlag::default(), on_event);
    assert!(answer.unwrap().generation.steps > 0);
}

#[test]
fn a_layout_that_the_model_knows_changes_nothing() {
    let free = answer(QUESTION, &DiffusionParams::default()).unwrap();
    for pattern in ["(?s).*", "The capital of [A-Z][a-z]+ is [A-Z][a-z]+\\."] {
        let params = DiffusionParams {
            constraint: Some(constraint(pattern)),
            ..DiffusionParams::default()
        };
        let constrained = answer(QUESTION, &params).unwrap();
        assert_eq!(text(&constrained), text(&free), "{pattern}");
        assert!(constrained.steps <= free.steps + 1, "{pattern}");
    }
}

#[test]
fn no_budget_cuts_a_text() {
    // Longer than two canvases of 32 tokens.
    let pattern = "[a-z]( [a-z]){69}";
    let expected = Regex::new(&format!("^{pattern}$")).unwrap();
    let constraint = constraint(pattern);
    let needed = constraint
        .automaton()
        .min_tokens(constraint.automaton().start());
    assert!((65..=140).contains(&needed), "{needed}");
    for max_tokens in [needed, needed + 1, 96.max(needed), 300] {
        let params = DiffusionParams {
            constraint: Some(constraint.clone()),
            max_tokens: Some(max_tokens),
            ..DiffusionParams::default()
        };
        let generation = answer("Count from one to nine.", &params).unwrap();
        assert!(generation.tokens.len() <= max_tokens);
        assert!(expected.is_match(&text(&generation)), "{max_tokens}");
        assert_eq!(generation.finish, FinishReason::EndOfText);
    }
    for (max_tokens, max_canvases, allowed, advice) in [
        (needed - 1, None, needed - 1, "raise `max_tokens`"),
        (300, Some(2), 64, "raise `max_canvases`"),
    ] {
        let params = DiffusionParams {
            constraint: Some(constraint.clone()),
            max_tokens: Some(max_tokens),
            max_canvases,
            ..DiffusionParams::default()
        };
        let error = answer("Count.", &params).unwrap_err().to_string();
        let expected = format!(
            "constraint: the constraint needs at least {needed} tokens, but only {allowed} may be written"
        );
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.ends_with(&format!(": {advice}")), "{error}");
    }
}

#[test]
fn steps_are_projected_as_the_host_projects_their_logits() {
    let constraint = constraint(r#"\{"city": "[A-Za-z ]{1,30}"(, "year": [0-9]+)?\}"#);
    let automaton = constraint.automaton();
    for temperature in [0.4, 1.0] {
        let mut session = session();
        session.prefill(&chat(QUESTION)).unwrap();
        let denoiser = session.canvas_denoiser().unwrap();
        let n = denoiser.limits().canvas.unwrap();
        denoiser.begin_canvas(n).unwrap();
        let language = CanvasLanguage::new(automaton, automaton.start(), n, 64).unwrap();
        let mut work = Work::default();
        for step in 0..3 {
            let canvas: Vec<Token> = (0..n)
                .map(|p| (p * 31 + step) as Token % 900 + 20)
                .collect();
            let uniforms: Vec<f32> = (0..n).map(|p| (p * 13 % n) as f32 / n as f32).collect();
            let input = StepInput {
                canvas: &canvas,
                free: &vec![true; n],
                allowed: Allowed::All,
                filter: Filter::NONE,
                rule: DrawRule::Inverse {
                    temperature,
                    uniforms: &uniforms,
                },
                guidance: 0.0,
                average: 0.0,
                language: Some(Steering {
                    language,
                    at: ConstrainAt::Step,
                }),
                targets: &[],
            };
            let mut draws = Draws::new(n, 0);
            denoiser.step(&input, &mut draws).unwrap();
            let logits = denoiser.logits().unwrap();
            let vocab = denoiser.limits().vocab;
            let scores: Vec<f32> = logits.iter().map(|x| x / temperature).collect();
            let mut rows: Vec<(Vec<f32>, &[f32])> = Vec::new();
            for scores in scores.chunks_exact(vocab) {
                let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                rows.push((scores.iter().map(|z| (z - top).exp()).collect(), scores));
            }
            let tables: Vec<RowTable> = rows
                .iter_mut()
                .map(|(weights, scores)| {
                    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let exact = |_: &[f32], token: Token| scores[token as usize] - top;
                    RowTable::new(
                        &Row {
                            weights,
                            exact: &exact,
                        },
                        automaton,
                    )
                })
                .collect();
            let classes = ClassTables::from_rows(automaton.class_count(), tables.iter());
            let projection = language.project(&classes, &uniforms, &mut work).unwrap();
            for (position, (weights, scores)) in rows.iter_mut().enumerate() {
                let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exact = |_: &[f32], token: Token| scores[token as usize] - top;
                let given = Given::at(&projection, position, 1.0, 0.0);
                let mut row = Row {
                    weights,
                    exact: &exact,
                };
                let choice = tables[position].project(&mut row, automaton, &given);
                assert_eq!(draws.argmax[position], choice.argmax, "{step}, {position}");
                assert_eq!(
                    draws.sampled[position], choice.sampled,
                    "{step}, {position}"
                );
                assert!((draws.entropy[position] - choice.entropy).abs() < 1e-3);
                assert!((draws.probability[position] - choice.probability).abs() < 1e-3);
            }
        }
    }
}

#[test]
fn fixed_positions_and_a_language_hold_together() {
    let canvas = session().limits().canvas.unwrap();
    let token = DEMO.vocab().tokenize("7", false, false).unwrap();
    assert_eq!(token.len(), 1);
    let mut template = Template::new();
    template.free().fixed(&token);
    let params = DiffusionParams {
        constraint: Some(constraint("[0-9]{1,60}")),
        templates: vec![template],
        ..DiffusionParams::default()
    };
    let generation = answer(QUESTION, &params).unwrap();
    assert_eq!(generation.tokens[1], token[0]);
    assert!(text(&generation).bytes().all(|byte| byte.is_ascii_digit()));

    let mut template = Template::new();
    template.fixed(&vec![token[0]; canvas]);
    let params = DiffusionParams {
        constraint: Some(constraint("[a-z]{1,9}")),
        templates: vec![{
            let mut template = Template::new();
            template.fixed(&token).free();
            template
        }],
        ..DiffusionParams::default()
    };
    let error = answer(QUESTION, &params).unwrap_err().to_string();
    assert!(
        error.contains("the fixed positions of the canvas leave no text"),
        "{error}"
    );
}

/// A text that the model prefers by far does not go through a position that is fixed to another token.
#[test]
fn a_language_goes_on_from_a_fixed_position_whatever_the_model_wants_there() {
    let token = |text: &str| match DEMO.vocab().tokenize(text, false, false).unwrap()[..] {
        [token] => token,
        ref tokens => panic!("{text}: {tokens:?}"),
    };
    let mut template = Template::new();
    template.fixed(&[token("3")]);
    for constrain_at in [ConstrainAt::Step, ConstrainAt::Commit] {
        let params = DiffusionParams {
            constraint: Some(constraint("The capital of Norway is Oslo.|3[5-9]")),
            constrain_at,
            templates: vec![template.clone()],
            ..DiffusionParams::default()
        };
        let generation = answer(QUESTION, &params).unwrap();
        let text = text(&generation);
        assert!(
            ["35", "36", "37", "38", "39"].contains(&text.as_str()),
            "{text:?}"
        );
    }
}

/// A language that says nothing but which tokens each position has conditions the next step as sets of tokens do.
#[test]
fn what_a_language_leaves_conditions_the_next_step_as_allowed_sets_do() {
    // In F32: products of other types round a difference in the last bit to one of a thousandth.
    let folder = tempfile::tempdir().unwrap();
    let model = in_f32(folder.path());
    let texts = ["7", "%", "3"];
    let (language, len) = (constraint(&texts.concat()), texts.len());
    let automaton = language.automaton();
    // Each character is a token, and a byte that is one.
    let vocab = DEMO.vocab();
    let sets = texts.map(|text| -> TokenSet {
        let all = 0..vocab.len() as Token;
        let is_it = |token: &Token| vocab.detokenize(&[*token], false).is_ok_and(|t| t == text);
        all.filter(is_it).collect()
    });
    let logits = [true, false].map(|by_language| {
        let mut session = model.session(&one_thread()).unwrap();
        session.prefill(&chat(QUESTION)).unwrap();
        let denoiser = session.canvas_denoiser().unwrap();
        let n = denoiser.limits().canvas.unwrap();
        denoiser.begin_canvas(n).unwrap();
        let canvas: Vec<Token> = (0..n).map(|p| (p * 31) as Token % 900 + 20).collect();
        let of: Vec<Option<usize>> = (0..n).map(|p| (p < len).then_some(p)).collect();
        for _ in 0..2 {
            let input = StepInput {
                canvas: &canvas,
                free: &vec![true; n],
                allowed: match by_language {
                    true => Allowed::All,
                    false => Allowed::Sets {
                        sets: &sets,
                        of: &of,
                    },
                },
                filter: Filter::NONE,
                rule: DrawRule::Inverse {
                    temperature: 0.7,
                    uniforms: &vec![0.5; n],
                },
                guidance: 0.0,
                average: 0.0,
                language: by_language.then(|| Steering {
                    language: CanvasLanguage::new(automaton, automaton.start(), len, len).unwrap(),
                    at: ConstrainAt::Step,
                }),
                targets: &[],
            };
            denoiser.step(&input, &mut Draws::new(n, 0)).unwrap();
        }
        denoiser.logits().unwrap()
    });
    let [by_language, by_sets] = &logits;
    let far = by_language.iter().zip(by_sets).map(|(a, b)| (a - b).abs());
    let far = far.fold(0.0, f32::max);
    assert!(far < 1e-4, "{far}");
}

#[test]
fn an_empty_thought_may_come_before_a_constrained_answer() {
    let special = |text: &str| DEMO.vocab().tokenize(text, false, true).unwrap();
    let (thought, yes) = (special("<|channel>thought\n<channel|>"), special("yes"));
    let prompt = chat(QUESTION);
    let closed = [&prompt[..], &thought].concat();
    let accepts = |prompt: &[Token], thoughts, answer: &[&[Token]]| {
        let constraint = DEMO.regex("yes", prompt, thoughts).unwrap();
        let automaton = constraint.automaton();
        let tokens = answer.concat();
        let mut tokens = tokens.iter();
        let end = tokens.try_fold(automaton.start(), |state, t| automaton.next(state, *t));
        end.is_some_and(|state| automaton.accepts(state))
    };
    // Of models that do not think, some write an empty thought.
    assert!(accepts(&prompt, Thoughts::Off, &[&thought, &yes]));
    assert!(accepts(&prompt, Thoughts::Off, &[&yes]));
    assert!(!accepts(&prompt, Thoughts::Off, &[&thought[..1], &yes]));
    // Some templates write it.
    assert!(accepts(&closed, Thoughts::Off, &[&yes]));
    assert!(!accepts(&closed, Thoughts::Off, &[&thought, &yes]));
    assert!(!accepts(&prompt, Thoughts::None, &[&thought, &yes]));
    assert!(accepts(&prompt, Thoughts::On, &[&thought, &yes]));
    assert!(accepts(
        &prompt,
        Thoughts::On,
        &[&special("<|channel>so<channel|>"), &yes]
    ));
    // Asked to think, a model may still answer at once, but not write free text outside a thought.
    assert!(accepts(&prompt, Thoughts::On, &[&yes]));
    assert!(!accepts(&prompt, Thoughts::On, &[&special("so"), &yes]));
    assert!(!accepts(&prompt, Thoughts::On, &[&thought[..1], &yes]));
}

#[test]
fn what_comes_after_a_thought_or_without_one_follows_the_constraint() {
    let prompt = chat(QUESTION);
    let mark = |text: &str| DEMO.vocab().tokenize(text, false, true).unwrap()[0];
    let (open, close) = (mark("<|channel>"), mark("<channel|>"));
    for seed in 1..=3 {
        let params = DiffusionParams {
            constraint: Some(DEMO.regex("yes|no", &prompt, Thoughts::On).unwrap()),
            seed,
            ..DiffusionParams::default()
        };
        let tokens = answer(QUESTION, &params).unwrap().tokens;
        let thought = tokens.iter().position(|t| *t == close);
        assert_eq!(
            tokens.first() == Some(&open),
            thought.is_some(),
            "{tokens:?}"
        );
        let text = &tokens[thought.map_or(0, |end| end + 1)..];
        let text = DEMO.vocab().detokenize(text, false).unwrap();
        assert!(["yes", "no"].contains(&text.as_str()), "{text}");
    }
}

#[test]
fn expressions_that_cannot_work_say_why() {
    let refuse = |pattern: &str| {
        let made = DEMO.regex(pattern, &[], Thoughts::None);
        made.unwrap_err().to_string()
    };
    for (pattern, expected) in [
        ("(", "constraint: the regular expression '('"),
        (r"a\b", "constraint: the regular expression 'a\\b' contains"),
        ("[a&&b]", "constraint: no text satisfies the constraint"),
        (
            "(a{1000}){1000}",
            "constraint: the constraint needs more than",
        ),
    ] {
        let error = refuse(pattern);
        assert!(error.starts_with(expected), "{pattern}: {error}");
    }
}

#[test]
fn masked_models_follow_a_language() {
    let dir = tempfile::tempdir().unwrap();
    for family in [
        MaskedFamily::Dream,
        MaskedFamily::Llada,
        MaskedFamily::LladaMoe,
        MaskedFamily::Rnd1,
    ] {
        let path = dir.path().join(format!("{family:?}.gguf"));
        write_masked(&path, family, 11, &|_| ()).unwrap();
        let go_on = &mut |_| ControlFlow::Continue(());
        let model = TextModel::load(&path, &ModelParams::default(), go_on).unwrap();
        let settings = SessionParams {
            context: Some(128),
            threads: Some(1),
            ..SessionParams::default()
        };
        let pattern = "[0-9a-f]{4}(-[0-9a-f]{2}){0,6}";
        let expected = Regex::new(&format!("^{pattern}$")).unwrap();
        for (temperature, seed) in [(0.0, 0), (0.7, 1), (1.3, 2)] {
            for length in [24, 60] {
                let answer = |canvases: usize| {
                    let params = MaskedParams {
                        length: AnswerLength::Tokens(length),
                        temperature,
                        seed,
                        lookahead: Lookahead::Canvases(canvases),
                        constraint: Some(model.regex(pattern, &[], Thoughts::None).unwrap()),
                        ..MaskedParams::default()
                    };
                    let mut session = model.session(&settings).unwrap();
                    let on_event = &mut |_: Event<'_>| ControlFlow::Continue(());
                    let prompt = [2, 270, 31, 280, 99];
                    let cancel = CancelFlag::default();
                    let answer = session.generate(&prompt, &params, &cancel, on_event);
                    answer.unwrap().generation.tokens
                };
                let tokens = answer(1);
                assert_eq!(tokens, answer(3), "{family:?}, {temperature}, {length}");
                let text = model.vocab().detokenize(&tokens, false).unwrap();
                assert!(
                    expected.is_match(&text),
                    "{family:?}, {temperature}: {text:?}"
                );
            }
        }
    }
}
