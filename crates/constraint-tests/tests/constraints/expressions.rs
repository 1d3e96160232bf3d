//! Random regular expressions: whatever the model wants, its answers match as a whole, within every budget.

use llama_diffusion::constraint::{
    ByteAutomaton, ConstraintError, Limits, Scaffold, TokenAutomaton,
};
use regex::bytes::Regex;

use crate::answer::{ALL_LOGITS, Writer, check_refusal, end_token, tokens, vocabulary};
use crate::judges::Court;
use crate::random::Random;

const EXPRESSIONS: u64 = 300;

#[test]
fn answers_match_random_expressions() {
    let court = Court::new();
    let tokens = tokens();
    let (mut answers, mut judged) = (0, 0);
    for seed in 0..EXPRESSIONS {
        let mut random = Random::new(seed);
        let pattern = expression(&mut random, 3);
        let automaton = automaton(&pattern, &tokens);
        let matches = Regex::new(&format!("^(?:{pattern})$")).unwrap();
        let grammar = court.expression(&pattern);
        let needed = automaton.min_tokens(automaton.start());
        check_refusal(&automaton, needed);
        for (index, logits) in ALL_LOGITS.into_iter().enumerate() {
            let canvas = 16 * (1 + random.below(16));
            let four = 4 * canvas;
            let writer = Writer {
                automaton: &automaton,
                tokens: &tokens,
                logits,
                best: (seed as usize + index).is_multiple_of(2),
                canvas,
            };
            for budget in [needed, needed + random.below(four), needed.max(four)] {
                let (text, _) = writer
                    .answer(budget, &mut random)
                    .unwrap_or_else(|error| panic!("{pattern}: {error}"));
                let shown = String::from_utf8_lossy(&text);
                let place =
                    format!("seed {seed}, {logits:?}, {canvas}, {budget}: {pattern}: {shown:?}");
                assert!(str::from_utf8(&text).is_ok(), "{place}");
                assert!(matches.is_match(&text), "{place}");
                if let Some(grammar) = &grammar {
                    grammar
                        .reads(&text)
                        .unwrap_or_else(|error| panic!("{place}: {error}"));
                    judged += 1;
                }
                answers += 1;
            }
            if index == 0 && needed > 0 {
                let damaged = writer.with_nan(&mut random);
                let is_named = matches!(damaged, Err(ConstraintError::NotFinite { .. }));
                assert!(is_named, "{pattern}");
            }
        }
    }
    println!("{answers} answers, {judged} of them judged by llguidance");
    assert_eq!(answers, EXPRESSIONS as usize * ALL_LOGITS.len() * 3);
    assert_eq!(judged, answers);
}

fn automaton(pattern: &str, tokens: &[Option<Vec<u8>>]) -> TokenAutomaton {
    let limits = Limits::default();
    let language = ByteAutomaton::from_regex(pattern, &limits);
    let language = language.unwrap_or_else(|error| panic!("{pattern}: {error}"));
    let end = [end_token(tokens)];
    let vocabulary = vocabulary(tokens);
    TokenAutomaton::new(&language, &vocabulary, &Scaffold::None, &end, &limits).unwrap()
}

/// An expression of at most so many levels, in the syntax that both implementations read.
fn expression(random: &mut Random, depth: usize) -> String {
    const ATOMS: [&str; 14] = [
        "a",
        "foo",
        "name: ",
        "é",
        "😀",
        "[a-f]",
        "[^\"\\n]",
        "[é-ü]",
        "[0-9]",
        r"\d",
        r"\w",
        r"[\w-]",
        ".",
        "(?i:true)",
    ];
    if depth == 0 || random.once_in(4) {
        return random.one_of(&ATOMS).to_owned();
    }
    let count = 1 + random.below(3);
    let parts = |random: &mut Random| -> Vec<String> {
        (0..count).map(|_| expression(random, depth - 1)).collect()
    };
    match random.below(6) {
        0 | 1 => parts(random).concat(),
        2 => format!("(?:{})", parts(random).join("|")),
        3 => format!("(?:{})?", expression(random, depth - 1)),
        4 => {
            let repetition = random.one_of(&["*", "+"]);
            format!("(?:{}){repetition}", expression(random, depth - 1))
        }
        _ => {
            let first = random.below(4);
            let last = first + 1 + random.below(4);
            format!("(?:{}){{{first},{last}}}", expression(random, depth - 1))
        }
    }
}
