//! A thousand random schemas: whatever the model wants, its answers obey, within every budget.

use std::collections::BTreeMap;

use llama_diffusion::constraint::{
    ConstraintError, Limits, Scaffold, SchemaOptions, TokenAutomaton, json_schema,
};
use serde_json::Value;

use crate::answer::{ALL_LOGITS, Writer, check_refusal, end_token, tokens, vocabulary};
use crate::generator::{KEYWORDS, document};
use crate::judges::{Court, Rejection};
use crate::random::Random;

const SCHEMAS: u64 = 1000;

/// What the test has seen.
#[derive(Debug, Default)]
struct Count {
    answers: usize,
    canvases: usize,
    without_llguidance: usize,
    disputed_decimals: usize,
    keywords: BTreeMap<String, usize>,
}

#[test]
fn answers_obey_random_schemas() {
    let court = Court::new();
    let tokens = tokens();
    let mut count = Count::default();
    for seed in 0..SCHEMAS {
        let mut random = Random::new(seed);
        let schema = document(&mut random);
        count.keywords_of(&schema);
        let automaton = automaton(&schema, &tokens);
        let judges = court.judges(&schema);
        count.without_llguidance += usize::from(!judges.has_grammar());
        let needed = automaton.min_tokens(automaton.start());
        check_refusal(&automaton, needed);
        for (index, logits) in ALL_LOGITS.into_iter().enumerate() {
            let canvas = 16 * (1 + random.below(16));
            let (best, four) = ((seed as usize + index).is_multiple_of(2), 4 * canvas);
            let writer = Writer {
                automaton: &automaton,
                tokens: &tokens,
                logits,
                best,
                canvas,
            };
            for budget in [needed, needed + random.below(four), needed.max(four)] {
                let (text, canvases) = writer
                    .answer(budget, &mut random)
                    .unwrap_or_else(|error| panic!("{schema}: {error}"));
                match judges.judge(&text) {
                    Ok(()) => {}
                    Err(Rejection::Llguidance(_)) if has_decimals(&schema) => {
                        count.disputed_decimals += 1
                    }
                    Err(rejection) => panic!(
                        "seed {seed}, {logits:?}, canvas {canvas}, budget {budget}: {rejection:?}\n{schema}\n{}",
                        String::from_utf8_lossy(&text)
                    ),
                }
                count.answers += 1;
                count.canvases += canvases;
            }
            if index == 0 {
                assert!(
                    matches!(
                        writer.with_nan(&mut random),
                        Err(ConstraintError::NotFinite { .. })
                    ),
                    "{schema}"
                );
            }
        }
    }
    println!("{count:#?}");
    for keyword in KEYWORDS {
        assert!(
            count.keywords.get(keyword).is_some_and(|&uses| uses >= 10),
            "{keyword} is hardly used"
        );
    }
    assert!(
        count.disputed_decimals * 20 < count.answers,
        "llguidance disputes too many"
    );
    assert!(
        count.without_llguidance * 10 < SCHEMAS as usize,
        "llguidance has judged too few"
    );
}

fn automaton(schema: &Value, tokens: &[Option<Vec<u8>>]) -> TokenAutomaton {
    let mut options = SchemaOptions::default();
    options.depth = 3;
    let limits = Limits::default();
    let language = json_schema(schema, &options).and_then(|language| language.automaton(&limits));
    let language = language.unwrap_or_else(|error| panic!("{schema}: {error}"));
    let end = [end_token(tokens)];
    TokenAutomaton::new(
        &language,
        &vocabulary(tokens),
        &Scaffold::None,
        &end,
        &limits,
    )
    .unwrap()
}

/// Whether a schema has bounds of decimals, or a constant with an exponent: of such numbers llguidance
/// takes some only. It rejects 3.8 between 3.625 and 3.875, for example, and 2.000 from 2 to 2.
fn has_decimals(schema: &Value) -> bool {
    match schema {
        Value::Number(number) => number.to_string().contains('e'),
        Value::Array(items) => items.iter().any(has_decimals),
        Value::Object(members) => {
            let bound = |keyword| members.get(keyword).is_some_and(Value::is_number);
            let bounded = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
                .into_iter()
                .any(bound);
            bounded && members.get("type").is_some_and(|kind| kind == "number")
                || members.values().any(has_decimals)
        }
        _ => false,
    }
}

impl Count {
    fn keywords_of(&mut self, schema: &Value) {
        match schema {
            Value::Object(members) => {
                for (name, value) in members {
                    if KEYWORDS.contains(&name.as_str()) {
                        *self.keywords.entry(name.clone()).or_default() += 1;
                    }
                    self.keywords_of(value);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.keywords_of(item)),
            _ => {}
        }
    }
}
