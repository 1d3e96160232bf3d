//! Constraints over a vocabulary of 262,144 generated tokens: how long an automaton takes to build, how large
//! it is, what a step's projection costs, and a step of a model with it.
//!
//! `cargo bench --bench constraint`.

use std::fmt::Write as _;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use llama_diffusion::constraint::{
    ByteAutomaton, CanvasLanguage, ClassTables, Limits, Scaffold, TokenAutomaton, Vocabulary, Work,
};
use llama_diffusion::diffusion::{
    Allowed, ConstrainAt, Denoiser, DrawRule, Draws, Filter, Steering, StepInput,
};
use llama_diffusion::internal::synthetic::{Geometry, synthetic_file};
use llama_diffusion::model::{DenoiserParams, SequenceDenoiser};
use llama_diffusion::{FlashAttention, KvType, Model, ModelParams, Token};

const TOKENS: usize = 262_144;
const CANVAS: usize = 256;
const END: Token = 1;
/// Steps of each kind.
const ROUNDS: usize = 9;

/// Numbers that look random (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }
}

/// The kinds of tokens that large vocabularies have: control tokens, bytes, punctuation and runs of it, digits,
/// words and their parts with and without a space, other scripts.
fn vocabulary() -> Vocabulary {
    let mut tokens: Vec<Option<Vec<u8>>> = vec![None; 256];
    tokens.extend((0..=255).map(|byte| Some(vec![byte])));
    let mut add = |text: String| tokens.push(Some(text.into_bytes()));
    let marks: Vec<char> = "{}[]\":,.;!?()'`-_/\\<>=+*&%$#@|~^\n\t ".chars().collect();
    for &a in &marks {
        for &b in &marks {
            add(format!("{a}{b}"));
            for c in ['"', ' ', '\n', '{', '}', '[', ']', ':', ','] {
                add(format!("{a}{b}{c}"));
            }
        }
        (2..32).for_each(|n| add(a.to_string().repeat(n)));
    }
    (0..10).for_each(|digit| add(digit.to_string()));
    let mut numbers = Numbers(1);
    let syllables: Vec<String> = "b c d f g h j k l m n p qu r s t v w x z th ch sh st tr br gr pl"
        .split(' ')
        .flat_map(|onset| {
            ["a", "e", "i", "o", "u", "er", "in", "an"].map(|rime| format!("{onset}{rime}"))
        })
        .collect();
    let scripts = [
        0x3b1..0x3ca,
        0x430..0x450,
        0x5d0..0x5eb,
        0x627..0x64b,
        0x905..0x93a,
        0x3041..0x3097,
        0x4e00..0x9fa6,
        0xac00..0xd7a4_u32,
    ];
    while tokens.len() < TOKENS {
        let kind = numbers.below(10);
        let mut text = String::new();
        if kind < 7 {
            (0..1 + numbers.below(4))
                .for_each(|_| text += &syllables[numbers.below(syllables.len())]);
            match numbers.below(8) {
                0 => text = text.to_uppercase(),
                1 | 2 => text[..1].make_ascii_uppercase(),
                _ => {}
            }
        } else {
            let script = &scripts[numbers.below(scripts.len())];
            for _ in 0..1 + numbers.below(4) {
                text.extend(char::from_u32(
                    script.start + numbers.below(script.len()) as u32,
                ));
            }
        }
        if numbers.below(2) == 0 {
            text.insert(0, ' ');
        }
        tokens.push(Some(text.into_bytes()));
    }
    Vocabulary::new(tokens)
}

const STRING: &str = r#""(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?:[0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))*""#;
const INTEGER: &str = "-?(?:0|[1-9][0-9]{0,17})";
const NUMBER: &str = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?(?:[eE][+-]?[0-9]{1,2})?";
const SPACE: &str = r"(?:\n {0,24}| )?";

fn object(fields: &[(String, String)]) -> String {
    let field = |(name, value): &(String, String)| format!("\"{name}\": ?{value}");
    let fields: Vec<String> = fields.iter().map(field).collect();
    format!(r"\{{{SPACE}{}{SPACE}\}}", fields.join(&format!(",{SPACE}")))
}

fn any_json(depth: usize) -> String {
    let scalar = format!("{STRING}|{NUMBER}|true|false|null");
    if depth == 0 {
        return format!("(?:{scalar})");
    }
    let value = any_json(depth - 1);
    let list = |item: &str| format!("(?:{item}(?:,{SPACE}{item})*)?");
    let member = format!("{STRING}: ?{value}");
    format!(
        r"(?:{scalar}|\[{SPACE}{}{SPACE}\]|\{{{SPACE}{}{SPACE}\}})",
        list(&value),
        list(&member)
    )
}

/// The constraints, by name.
fn constraints() -> Vec<(&'static str, String)> {
    let string = || STRING.to_owned();
    let named = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(a, b)| (a.to_string(), b.to_string()))
            .collect();
        object(&pairs)
    };
    let person = named(&[("name", STRING), ("age", INTEGER), ("city", STRING)]);
    let twenty: Vec<(String, String)> = (0..20)
        .map(|index| {
            let value = match index % 4 {
                0 => string(),
                1 => INTEGER.to_owned(),
                2 => "(?:true|false)".to_owned(),
                _ => r#""(?:red|green|blue|yellow)""#.to_owned(),
            };
            (format!("field_{index}"), value)
        })
        .collect();
    let date = "[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])";
    let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    let limited = STRING.replace(")*\"", "){1,100}\"");
    let mut suffix = String::new();
    (0..8).for_each(|n| write!(suffix, "// suffix {n}").unwrap());
    vec![
        ("name, age, city", person.clone()),
        (
            "enum and free reason",
            named(&[("label", "\"(?:spam|ham|unsure)\""), ("reason", STRING)]),
        ),
        (
            "date and uuid",
            named(&[
                ("date", &format!("\"{date}\"")),
                ("id", &format!("\"{uuid}\"")),
            ]),
        ),
        ("20 fields", object(&twenty)),
        (
            "array of objects",
            format!(r"\[{SPACE}{person}(?:,{SPACE}{person})*{SPACE}\]"),
        ),
        (
            "string of 1 to 100, integer",
            named(&[("text", &limited), ("n", INTEGER)]),
        ),
        ("any JSON to depth 4", any_json(4)),
        (
            "anything, then 80 bytes",
            format!("(?s:.)*{}", &suffix[..80]),
        ),
    ]
}

fn build(pattern: &str, vocabulary: &Vocabulary) -> TokenAutomaton {
    let limits = Limits::default();
    let language = ByteAutomaton::from_regex(pattern, &limits).unwrap();
    TokenAutomaton::new(&language, vocabulary, &Scaffold::None, &[END], &limits).unwrap()
}

/// What an unsure model says: classes differ by up to 12 in the logarithm.
fn tables(automaton: &TokenAutomaton) -> ClassTables {
    let (classes, mut numbers) = (automaton.class_count(), Numbers(2));
    let mut log_sum = Vec::new();
    for _ in 0..CANVAS {
        let row: Vec<f32> = (0..classes).map(|_| 12.0 * numbers.uniform()).collect();
        let norm = row.iter().map(|log| log.exp()).sum::<f32>().ln();
        log_sum.extend(row.iter().map(|log| log - norm));
    }
    ClassTables {
        classes,
        log_max: log_sum.iter().map(|log| log - 1.0).collect(),
        log_sum,
        log_row_max: vec![-2.0; CANVAS],
    }
}

fn constraint(criterion: &mut Criterion) {
    let vocabulary = vocabulary();
    let uniforms = vec![0.5; CANVAS];
    for (name, pattern) in constraints() {
        let automaton = build(&pattern, &vocabulary);
        println!(
            "{name}: {} states, {} classes, {} groups, {} pairs, {} KiB",
            automaton.state_count(),
            automaton.class_count(),
            automaton.group_count(),
            automaton.pair_count(),
            automaton.bytes() >> 10,
        );
        let mut group = criterion.benchmark_group(format!("constraint/{name}"));
        group.sample_size(10);
        group.bench_function("build", |bencher| {
            bencher.iter(|| black_box(build(&pattern, &vocabulary)));
        });
        let language =
            CanvasLanguage::new(&automaton, automaton.start(), CANVAS, 4 * CANVAS).unwrap();
        let (tables, mut work) = (tables(&automaton), Work::default());
        group.bench_function("best path", |bencher| {
            bencher.iter(|| black_box(language.best_path(&tables, &mut work).unwrap()));
        });
        group.bench_function("projection", |bencher| {
            bencher.iter(|| black_box(language.project(&tables, &uniforms, &mut work).unwrap()));
        });
    }
}

/// A step of a model of about 200 million parameters with this vocabulary, free and constrained: medians, and those of
/// the ratios of neighbouring steps. Criterion would measure one kind after the other.
fn step(_: &mut Criterion) {
    let geometry = Geometry {
        vocab_size: TOKENS,
        n_layers: 4,
        ..Geometry::medium()
    };
    let file = synthetic_file(&geometry, "q8_0".parse().unwrap(), 1).unwrap();
    let on_cpu = ModelParams {
        devices: Some(Vec::new()),
        ..ModelParams::default()
    };
    let model = Model::from_file(file, &on_cpu, &mut |_| ControlFlow::Continue(())).unwrap();
    let params = DenoiserParams {
        context: 512,
        batch: 256,
        threads: 2,
        prefill_threads: 2,
        kv_type: KvType::F16,
        flash_attention: FlashAttention::Auto,
        swa_full: false,
        checkpoints: 0,
    };
    let mut denoiser = SequenceDenoiser::new(&Arc::new(model), &params).unwrap();
    let (_, pattern) = constraints().swap_remove(3);
    let automaton = build(&pattern, &vocabulary());
    let language = CanvasLanguage::new(&automaton, automaton.start(), CANVAS, 2 * CANVAS).unwrap();
    denoiser.begin_canvas(CANVAS).unwrap();
    let canvas: Vec<Token> = (0..CANVAS as Token).collect();
    let (free, uniforms) = (vec![true; CANVAS], vec![0.5; CANVAS]);
    let mut draws = Draws::new(CANVAS, 0);
    let at = |at| Some(Steering { language, at });
    let kinds = [
        ("free", None),
        ("step", at(ConstrainAt::Step)),
        ("commit", at(ConstrainAt::Commit)),
    ];
    let mut run = |language| {
        let input = StepInput {
            canvas: &canvas,
            free: &free,
            allowed: Allowed::All,
            filter: Filter::NONE,
            rule: DrawRule::Inverse {
                temperature: 0.6,
                uniforms: &uniforms,
            },
            guidance: 0.0,
            average: 0.0,
            language,
            targets: &[],
        };
        denoiser.step(&input, &mut draws).unwrap();
    };
    // In turn, so that other load on the machine affects all kinds.
    let mut times = [const { Vec::new() }; 3];
    for round in 0..1 + ROUNDS {
        for ((_, language), times) in kinds.iter().zip(&mut times) {
            let start = Instant::now();
            run(*language);
            // The first round builds the graph.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let ratios = |of: &[f64]| median(of.iter().zip(&times[0]).map(|(own, free)| own / free));
    for ((name, _), own) in kinds.iter().zip(&times) {
        println!(
            "constraint/20 fields/step/{name}: {:.0} ms, {:.3} of a free step",
            1000.0 * median(own.iter().copied()),
            ratios(own),
        );
    }
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

criterion_group!(benches, constraint, step);
criterion_main!(benches);
