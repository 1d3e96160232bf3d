//! Whatever the model says, what the canvases hold together is a text of the language.

use super::*;
use crate::constraint::bytes::tests::expressions;

/// Which of the two canvases of a step is committed.
#[derive(Debug, Clone, Copy)]
enum Commit {
    Best,
    Sampled,
}

/// Writes a text over several canvases. Returns its tokens.
fn write(
    automaton: &TokenAutomaton,
    len: usize,
    budget: usize,
    kind: Logits,
    commit: Commit,
    seed: u64,
) -> Vec<Token> {
    let (mut text, mut state) = (Vec::new(), automaton.start());
    let (mut work, mut uniforms) = (Work::default(), Uniforms(seed));
    loop {
        let left = budget - text.len();
        let language = CanvasLanguage::new(automaton, state, len, left).unwrap();
        let seed = seed.wrapping_add(text.len() as u64);
        let mut rows = log_probabilities(kind, len, automaton.classes().len(), seed);
        let tables = tables(automaton, &mut rows);
        let projection = language
            .project(&tables, &uniforms.take(len), &mut work)
            .unwrap();
        let canvas = match commit {
            Commit::Best => best_tokens(automaton, &projection.best, &rows),
            Commit::Sampled => sampled_tokens(automaton, &projection, &rows),
        };
        let reading = language.read(&canvas).expect("a valid canvas");
        text.extend_from_slice(&canvas[..reading.text]);
        state = reading.state;
        let spent = text.len() == budget && automaton.accepts(state);
        if reading.ended || automaton.is_complete(state) || spent {
            return text;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn texts_match_over_several_canvases(
        pattern in expressions(),
        len in 1..9_usize,
        canvases in 0..5_usize,
        kind in prop::sample::select(vec![Logits::Equal, Logits::Mild, Logits::Peaked]),
        seed: u64,
    ) {
        let tokens = twelve_tokens();
        let Ok(automaton) = tokens.automaton(&pattern) else {
            return Ok(());
        };
        let oracle = Oracle::new(&pattern, &tokens);
        let needed = automaton.min_tokens(automaton.start());
        let budget = needed.max(canvases * len);
        for commit in [Commit::Best, Commit::Sampled] {
            let text = write(&automaton, len, budget, kind, commit, seed);
            prop_assert!(text.len() <= budget);
            prop_assert!(oracle.matches(&text_of(&tokens, &text)), "{} {:?}: {:?}", pattern, commit, text);
        }
        if needed > 0 {
            let refused = CanvasLanguage::new(&automaton, automaton.start(), len, needed - 1);
            let expected = ConstraintError::Budget { needed, budget: needed - 1 };
            prop_assert_eq!(refused.err(), Some(expected));
        }
    }
}

#[test]
fn a_budget_of_the_minimum_is_enough() {
    let tokens = twelve_tokens();
    for (pattern, needed) in [("(?:ab){6}", 6), ("éa|(?:abab)+", 1), ("", 0), ("é{3}", 6)] {
        let automaton = tokens.automaton(pattern).unwrap();
        assert_eq!(automaton.min_tokens(automaton.start()), needed, "{pattern}");
        for len in 1..=8 {
            let text = write(&automaton, len, needed, Logits::Mild, Commit::Sampled, 7);
            assert_eq!(text.len(), needed, "{pattern}");
        }
    }
}

#[test]
fn languages_without_texts_are_errors() {
    let tokens = twelve_tokens();
    let error = |pattern: &str| tokens.automaton(pattern).unwrap_err();
    assert_eq!(error("a^b"), ConstraintError::Empty);
    assert_eq!(error("c+"), ConstraintError::EmptyForVocabulary);
    assert_eq!(error("\u{e9}+c"), ConstraintError::EmptyForVocabulary);
    let mut endless = tokens.clone();
    endless.end.clear();
    assert_eq!(
        endless.automaton("a").unwrap_err(),
        ConstraintError::NoEndToken
    );
    endless.end.push(12);
    let error = endless.automaton("a").unwrap_err().to_string();
    assert!(
        error.contains("has 12 tokens, but token 12 is needed"),
        "{error}"
    );
}

#[test]
fn scaffolds_come_before_the_text() {
    let tokens = twelve_tokens();
    let limits = Limits::default();
    let language = ByteAutomaton::from_regex("a+b", &limits).unwrap();
    let build = |scaffold| {
        TokenAutomaton::new(
            &language,
            &tokens.vocabulary(),
            &scaffold,
            &tokens.end,
            &limits,
        )
        .unwrap()
    };

    // A control token, then one that is also text.
    let fixed = build(Scaffold::Fixed(vec![5, 0]));
    assert_eq!(fixed.min_tokens(fixed.start()), 3);
    let canvases = CanvasLanguage::new(&fixed, fixed.start(), 5, 9).unwrap();
    assert!(
        canvases
            .read(&[5, 0, 3, 1, 9])
            .is_some_and(|r| r.ended && r.text == 3)
    );
    assert!(canvases.read(&[5, 0, 0, 0, 2]).is_some_and(|r| !r.ended));
    for invalid in [
        [5, 0, 1, 1, 1],
        [0, 0, 3, 1, 1],
        [5, 10, 3, 1, 1],
        [5, 5, 0, 3, 1],
    ] {
        assert_eq!(canvases.read(&invalid), None, "{invalid:?}");
    }

    let until = build(Scaffold::Until(5));
    assert_eq!(until.min_tokens(until.start()), 2);
    let canvases = CanvasLanguage::new(&until, until.start(), 5, 9).unwrap();
    assert!(
        canvases
            .read(&[9, 11, 5, 3, 8])
            .is_some_and(|r| r.ended && r.text == 4)
    );
    assert!(canvases.read(&[9, 9, 9, 9, 9]).is_some_and(|r| !r.ended));
    for invalid in [[9, 8, 5, 3, 8], [5, 5, 3, 8, 8], [8, 8, 8, 8, 8]] {
        assert_eq!(canvases.read(&invalid), None, "{invalid:?}");
    }
    let between = build(Scaffold::Between { open: 5, close: 6 });
    assert_eq!(between.min_tokens(between.start()), 1);
    let canvases = CanvasLanguage::new(&between, between.start(), 5, 9).unwrap();
    for (canvas, text) in [
        ([5, 6, 3, 8, 1], Some(3)),
        ([5, 9, 6, 3, 8], Some(4)),
        ([5, 5, 6, 3, 8], Some(4)),
        ([3, 8, 1, 1, 1], Some(1)),
        ([0, 3, 8, 1, 1], Some(2)),
        ([5, 9, 9, 9, 9], None),
    ] {
        let reading = canvases.read(&canvas).unwrap();
        assert_eq!(reading.ended.then_some(reading.text), text, "{canvas:?}");
    }
    for invalid in [
        [9, 5, 6, 3, 8], // something before the thought
        [6, 3, 8, 1, 1],
        [5, 9, 8, 3, 8], // an end within it
        [5, 6, 5, 6, 3],
        [3, 5, 6, 3, 8],
    ] {
        assert_eq!(canvases.read(&invalid), None, "{invalid:?}");
    }
    let optional = build(Scaffold::Optional(vec![5, 0]));
    assert_eq!(optional.min_tokens(optional.start()), 1);
    let canvases = CanvasLanguage::new(&optional, optional.start(), 5, 9).unwrap();
    for (canvas, text) in [
        ([5, 0, 3, 1, 9], 3),
        ([3, 8, 1, 1, 1], 1),
        ([0, 3, 8, 1, 1], 2),
    ] {
        let reading = canvases.read(&canvas);
        assert!(
            reading.is_some_and(|r| r.ended && r.text == text),
            "{canvas:?}"
        );
    }
    assert_eq!(canvases.read(&[5, 3, 8, 1, 1]), None);
    let empty = ByteAutomaton::from_regex("a*", &limits).unwrap();
    let scaffold = Scaffold::Optional(vec![5]);
    let vocabulary = tokens.vocabulary();
    let made = TokenAutomaton::new(&empty, &vocabulary, &scaffold, &tokens.end, &limits);
    let automaton = made.unwrap();
    assert!(automaton.accepts(automaton.start()));

    for automaton in [fixed, until] {
        for seed in 0..20 {
            let tokens_before = 1 + seed as usize % 6;
            let budget = automaton.min_tokens(automaton.start()) + tokens_before;
            let text = write(&automaton, 3, budget, Logits::Peaked, Commit::Sampled, seed);
            let begin = text.iter().position(|&t| t == 5).unwrap() + 1;
            let begin = begin + usize::from(automaton.state_count() > until_states());
            let written = text_of(&tokens, &text[begin..]);
            assert!(language.matches(&written), "{text:?}");
        }
    }
}

/// States of `a+b` after a scaffold of one state.
fn until_states() -> usize {
    4
}
