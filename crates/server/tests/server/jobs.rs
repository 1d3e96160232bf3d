//! Edits and forms.

use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::diffusion::Template;
use llama_diffusion::{
    CancelFlag, CanvasRow, DiffusionParams, Event, FormRequest, SamplerOverrides, Session,
    SessionParams, TextModel, Thoughts, Token, edit_message,
};
use serde_json::{Value, json};

use crate::process::{ANSWER, QUESTION, Server, chat, endless};

/// The demo model without a server.
struct Alone {
    model: TextModel,
    session: Session,
}

impl Alone {
    fn new() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo-model/demo-q8_0.gguf");
        let go_on = &mut |_| ControlFlow::Continue(());
        let model = TextModel::load(Path::new(path), &Default::default(), go_on).unwrap();
        let settings = SessionParams {
            threads: Some(1),
            ..SessionParams::default()
        };
        let session = model.session(&settings).unwrap();
        Self { model, session }
    }

    fn prompt(&self, text: &str) -> Vec<Token> {
        let template = self.model.chat_template().unwrap();
        let messages = [Message::new(Role::User, text)];
        self.model
            .prompt(template.as_ref(), &messages, Default::default())
            .unwrap()
    }

    fn edit(&mut self, text: &str, instruction: &str, strength: f32, seed: u64) -> String {
        let original = self.model.original(text, &[], strength).unwrap();
        let prompt = self.prompt(&edit_message(instruction, text));
        let file = self.model.model().overrides();
        let params = DiffusionParams::resolve(&SamplerOverrides::default(), &file).unwrap();
        let params = DiffusionParams { seed, ..params };
        let cancel = CancelFlag::default();
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let answer = self
            .session
            .edit(&prompt, &original, &params, &cancel, go_on)
            .unwrap();
        let text = self.model.answer_text(&prompt, &answer.generation.tokens);
        text.unwrap().text
    }
}

const FOX: &str = "Tom takes a red fox.";
const TENSE: &str = "Rewrite in the past tense";

#[test]
fn an_edit_is_that_of_the_model_alone() {
    let server = Server::start("-np 2 -c 4096");
    let mut alone = Alone::new();
    for (seed, strength) in [(1, 0.2), (2, 0.6), (3, 1.0)] {
        let body = json!({"text": format!("{FOX}\n"), "instruction": TENSE, "strength": strength, "seed": seed});
        let answer = server.ask("/diffusion/edit", &body);
        let expected = alone.edit(FOX, TENSE, strength as f32, seed);
        assert_eq!(answer["content"], format!("{expected}\n"), "seed {seed}");
        assert_eq!(answer["diffusion"]["seed"], seed);
        assert_eq!(
            answer["changes"],
            json!([{"before": [1, 1], "after": [1, 1]}])
        );
        assert_eq!(answer["stop_type"], "eos");
        assert!(answer["usage"]["completion_tokens"].as_u64() > Some(0));
        assert!(answer["timings"]["predicted_n"].as_u64() > Some(0));
    }
    let body = json!({"text": FOX, "instruction": TENSE, "n": 2, "seed": 1, "strength": 0.2});
    let answers = server.ask("/diffusion/edit", &body);
    let expected = [1, 2].map(|seed| alone.edit(FOX, TENSE, 0.2, seed));
    let found: Vec<&Value> = answers.as_array().unwrap().iter().collect();
    assert_eq!(found.len(), 2);
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["content"], expected);
    }
}

#[test]
fn protected_lines_stay_and_a_stream_is_the_whole() {
    let server = Server::start("");
    let text = "Anna sees a dog.\nTom takes a red fox.\n  Mia  buys it!\r\n\n";
    let body = json!({"text": text, "instruction": TENSE, "strength": 1.0, "seed": 4,
        "protected": [[1, 1], [3, 3]], "diffusion": {"drafts": "full", "min_interval_ms": 0}});
    let whole = server.ask("/diffusion/edit", &body);
    let edited = whole["content"].as_str().unwrap();
    assert!(edited.starts_with("Anna sees a dog.\n"), "{edited}");
    assert!(edited.contains("\n  Mia  buys it!"), "{edited}");
    assert!(edited.ends_with("\r\n\n"), "{edited}");
    let parts = server.stream("/diffusion/edit", &body);
    let contents = parts.iter().filter_map(|part| part["content"].as_str());
    assert_eq!(json!(contents.collect::<String>()), whole["content"]);
    let last = parts.last().unwrap();
    assert_eq!(
        (&last["stop"], &last["changes"]),
        (&json!(true), &whole["changes"])
    );
    let names = parts
        .iter()
        .filter_map(|part| part["diffusion"]["event"].as_str());
    let names: Vec<&str> = names.collect();
    for name in ["start", "begin", "draft", "canvas", "end"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
}

const PETS: &str = "Leo runs to the park.\nMia goes to the lake.\n";

#[test]
fn an_edited_text_follows_a_constraint() {
    let server = Server::start("");
    let pattern = r"Leo (?:walked|swam) to the [a-z]+\.\nMia [a-z ]+\.";
    let starts = ["Leo walked to the ", "Leo swam to the "];
    for strength in [0.0, 0.5, 1.0] {
        let body = json!({"text": PETS, "instruction": TENSE, "strength": strength, "seed": 3,
            "response_format": {"type": "regex", "pattern": pattern}});
        let answer = server.ask("/diffusion/edit", &body);
        let edited = answer["content"].as_str().unwrap();
        let is_past = starts.iter().any(|start| edited.starts_with(start));
        let has_lines = edited.contains(".\nMia ") && edited.ends_with(".\n");
        assert!(is_past && has_lines, "{edited:?}");
        let parts = server.stream("/diffusion/edit", &body);
        let contents = parts.iter().filter_map(|part| part["content"].as_str());
        assert_eq!(contents.collect::<String>(), edited);
    }
    let schema = json!({"type": "object", "required": ["name"], "additionalProperties": false,
        "properties": {"name": {"enum": ["Leo", "Mia"]}}});
    let mut body = json!({"text": r#"{"name": "Anna"}"#, "instruction": "Change Anna to Leo", "json_schema": schema});
    let answer = server.ask("/diffusion/edit", &body);
    let edited: Value = serde_json::from_str(answer["content"].as_str().unwrap()).unwrap();
    assert!(
        edited["name"] == "Leo" || edited["name"] == "Mia",
        "{edited}"
    );
    // The schema does not allow what is protected.
    body["protected"] = json!([[1, 1]]);
    let (status, error) = server.refused("/diffusion/edit", &body);
    assert_eq!((status, &error["param"]), (400, &json!("protected")));
}

/// The template opens a thought, and the model closes none.
#[test]
fn what_an_edit_protects_is_never_lost_in_a_thought() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template");
    let opens = "{{ bos_token }}{% for m in messages %}<|turn>{{ m['role'] }}\n{{ m['content'] }}<turn|>\n\
        {% endfor %}<|turn>model\n<|channel>";
    std::fs::write(&template, opens).unwrap();
    let server = Server::start(&format!("--chat-template-file {}", template.display()));
    let mut body =
        json!({"text": PETS, "instruction": TENSE, "strength": 1.0, "protected": [[2, 2]]});
    for seed in 0..4 {
        body["seed"] = seed.into();
        let answer = server.ask("/diffusion/edit", &body);
        let edited = answer["content"].as_str().unwrap();
        assert!(edited.ends_with("\nMia goes to the lake.\n"), "{edited:?}");
        assert!(!edited.contains("<think>"), "{edited:?}");
        let parts = server.stream("/diffusion/edit", &body);
        let contents = parts.iter().filter_map(|part| part["content"].as_str());
        assert_eq!(contents.collect::<String>(), edited);
    }
    // Nothing that must stay: all of it is a thought.
    body["protected"] = json!([]);
    let answer = server.ask("/diffusion/edit", &body);
    assert_eq!(answer["content"], "\n");
    assert_ne!(answer["reasoning_content"], Value::Null);
}

#[test]
fn an_edit_ends_when_its_time_is_up_or_its_client_hangs_up() {
    let server = Server::start("");
    let mut body = json!({"text": FOX.repeat(20), "instruction": TENSE, "strength": 1.0, "stream": true,
        "diffusion": {"confidence_threshold": 0.0, "max_steps": 100_000, "drafts": "text"}});
    let mut response = server.post("/diffusion/edit", &body).send().unwrap();
    response.read_exact(&mut [0; 16]).unwrap();
    drop(response);
    assert!(server.wait_until_idle() < Duration::from_secs(20));
    body["t_max_predict_ms"] = 100.into();
    body["stream"] = false.into();
    let answer = server.ask("/diffusion/edit", &body);
    assert_eq!(answer["stop_type"], "limit");
    body["n_predict"] = 0.into();
    let answer = server.ask("/diffusion/edit", &body);
    assert_eq!(
        (&answer["content"], &answer["usage"]["completion_tokens"]),
        (&json!(""), &json!(0))
    );
}

fn form() -> Value {
    json!({"form": "The capital of Norway is ▢. It is ▢▢ there.", "samples": 3, "steps": 2,
        "blanks": [{"name": "city", "choices": ["Paris", "Oslo", "Rome"]}, {"name": "how"}]})
}

/// What the library says, as the server writes it.
fn filled_alone(alone: &mut Alone, question: &str, seed: u64) -> Value {
    let prompt = alone.prompt(question);
    let mut form = form();
    form["seed"] = seed.into();
    let request = FormRequest::from_json(&form.to_string()).unwrap();
    let cancel = CancelFlag::default();
    let answer = alone.model.fill(
        &mut alone.session,
        &prompt,
        &request,
        Thoughts::Off,
        &cancel,
    );
    serde_json::to_value(answer.unwrap()).unwrap()
}

#[test]
fn a_form_is_that_of_the_model_alone_beside_others() {
    let server = Server::start("-np 2 -c 4096");
    let mut alone = Alone::new();
    let mut body = endless();
    body["stream"] = true.into();
    let mut other = server.post("/v1/chat/completions", &body).send().unwrap();
    other.read_exact(&mut [0; 16]).unwrap();
    for seed in [1, 2] {
        let question = "What is the capital of Norway?";
        let expected = filled_alone(&mut alone, question, seed);
        let mut body = chat(question);
        body.as_object_mut()
            .unwrap()
            .extend(form().as_object().unwrap().clone());
        body["seed"] = seed.into();
        let answer = server.ask("/diffusion/fill", &body);
        for name in [
            "text",
            "blanks",
            "canvas",
            "rows",
            "passes",
            "prompt_tokens",
        ] {
            assert_eq!(answer[name], expected[name], "{name}");
        }
        assert_eq!(answer["blanks"][0]["text"], "Oslo");
        assert_eq!(answer["diffusion"]["seed"], seed);
        assert_eq!(answer["usage"]["prompt_tokens"], expected["prompt_tokens"]);
        let cached = &answer["usage"]["prompt_tokens_details"]["cached_tokens"];
        assert!(cached.is_number() && expected["cached_tokens"].is_number());
        for other in ["cached_tokens", "reused_tokens"] {
            assert_eq!(answer[other], Value::Null, "{answer}");
        }
        let events = server.stream("/diffusion/fill", &body);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["blanks"], answer["blanks"]);
    }
    drop(other);
    server.wait_until_idle();
}

/// The longest form takes thousands of passes, of which others wait for one in each step.
#[test]
fn a_short_answer_does_not_wait_for_a_long_form() {
    let server = Server::start("-np 2 -c 4096 -t 1");
    let mut body = chat(QUESTION);
    let long = json!({"form": "It is ▢▢.", "samples": 64, "steps": 64});
    body.as_object_mut()
        .unwrap()
        .extend(long.as_object().unwrap().clone());
    let request = server.post("/diffusion/fill", &body);
    let form = std::thread::spawn(move || request.send());
    let steps = |server: &Server| {
        let slots = server.json("/slots");
        let mut busy = slots.as_array().unwrap().iter();
        let busy = busy.find(|slot| slot["is_processing"] == true);
        busy.and_then(|slot| slot["diffusion"]["step"].as_u64())
    };
    while steps(&server).is_none_or(|steps| steps < 3) {
        assert!(!form.is_finished(), "it has ended already");
        std::thread::sleep(Duration::from_millis(2));
    }
    let answer = server.ask("/v1/chat/completions", &chat(QUESTION));
    let text = answer["choices"][0]["message"]["content"].as_str();
    assert!(text.unwrap().contains(ANSWER), "{answer}");
    assert!(steps(&server).is_some(), "its slot is shown as free");
    assert!(!form.is_finished());
    drop(server);
    assert!(form.join().unwrap().is_err(), "the server has ended");
}

/// A form must not hold the engine, nor a thread of the server, before its first pass.
#[test]
fn a_form_of_many_choices_is_refused_at_once() {
    let server = Server::start("-np 2");
    let word = |n: u32| ["a", "be", "see", "do", "he", "if", "gg", "ha"][n as usize % 8];
    let choice = |n: u32| format!("{}{}{n}", word(n / 7), word(n));
    let choices: Vec<String> = (0..60_000).map(choice).collect();
    let form = |text: &str, choices: &[String]| {
        json!({"form": text, "samples": 64, "prompt": "Who?",
            "blanks": [{"name": "who", "choices": choices}]})
    };
    let start = Instant::now();
    let short = "It is ▢.";
    let long = "It was not. ".repeat(20_000) + short;
    for (text, choices, expected) in [
        (short, &choices[..], "blank 'who': it has 60000 choices"),
        (short, &choices[..16_000], "blank 'who' takes at least"),
        (&long, &choices[..], "tokens, but a canvas has"),
    ] {
        let (status, error) = server.refused("/diffusion/fill", &form(text, choices));
        let problem = error["message"].as_str().unwrap();
        assert_eq!(status, 400, "{problem}");
        assert!(problem.contains(expected), "{problem}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_form_may_follow_a_prompt_as_it_is() {
    let server = Server::start("");
    let body = json!({"prompt": "Oslo is the capital of", "form": " ▢.", "seed": 1,
        "blanks": [{"name": "country", "choices": ["Norway", "France"]}]});
    let answer = server.ask("/diffusion/fill", &body);
    assert_eq!(answer["blanks"][0]["name"], "country");
    assert!(answer["blanks"][0]["probability"].as_f64().unwrap() >= 0.5);
}

#[test]
fn what_cannot_be_edited_or_filled_is_refused() {
    let server = Server::start("");
    let mut edit = json!({"text": "a", "instruction": "b", "protected": [[1, 2]]});
    let (status, error) = server.refused("/diffusion/edit", &edit);
    assert_eq!((status, &error["param"]), (400, &json!("protected[0][1]")));
    edit["protected"] = json!([]);
    edit["text"] = "long ".repeat(20_000).into();
    assert_eq!(server.refused("/diffusion/edit", &edit).0, 400);
    let mut body = chat("Hi");
    for (form, part) in [("no blank", "form"), ("▢ ".repeat(300).as_str(), "canvas")] {
        body["form"] = form.into();
        let (status, error) = server.refused("/diffusion/fill", &body);
        assert_eq!(status, 400);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
    }
    body["form"] = "▢".into();
    body["reasoning_effort"] = "low".into();
    let (_, error) = server.refused("/diffusion/fill", &body);
    assert!(
        error["message"].as_str().unwrap().contains("thinking"),
        "{error}"
    );
}

/// The log-probability of tokens by their logits, and by those of some tokens alone.
fn logprobs(logits: &[f32], among: Option<&[Token]>) -> Vec<f64> {
    let all: Vec<Token> = (0..logits.len() as Token).collect();
    let among = among.unwrap_or(&all);
    let weights = among.iter().map(|id| f64::from(logits[*id as usize]).exp());
    let total = weights.sum::<f64>().ln();
    logits
        .iter()
        .map(|logit| f64::from(*logit) - total)
        .collect()
}

#[test]
fn a_canvas_is_read_as_clients_of_vllm_ask() {
    let server = Server::start("");
    let mut alone = Alone::new();
    let question = "What is the capital of Norway?";
    let vocab = alone.model.vocab();
    let spell = |text| vocab.tokenize(text, false, false).unwrap();
    let cities = [spell(" Oslo")[0], spell(" Rome")[0]];
    let mut canvas = spell("The capital of Norway is Oslo.");
    let (len, blank) = (
        canvas.len(),
        canvas.iter().position(|id| *id == cities[0]).unwrap(),
    );
    canvas.push(vocab.end_tokens().iter().next().copied().unwrap());
    canvas.resize(16, 0);
    canvas[blank] = 300;
    let pinned: Vec<usize> = (0..16).filter(|position| *position != blank).collect();

    let mut template = Template::new();
    for (position, token) in canvas.iter().enumerate() {
        match pinned.contains(&position) {
            true => template.fixed(&[*token]),
            false => template.free(),
        };
    }
    template.begin_with(canvas.iter().copied().map(Some).collect());
    let row = CanvasRow {
        template: Arc::new(template),
        noise: 0,
        read: (0..len).collect(),
    };
    let params = DiffusionParams {
        max_steps: 1,
        canvas: Some(16),
        seed: 7,
        ..DiffusionParams::default()
    };
    let prompt = alone.prompt(question);
    let mut expected = Vec::new();
    let read = &mut |_, _, logits: &[f32]| {
        expected.push(logits.to_vec());
        Ok(())
    };
    let cancel = CancelFlag::default();
    alone
        .session
        .denoise_rows(&prompt, &[row], &params, &cancel, read)
        .unwrap();

    let mut body = chat(question);
    let fields = json!({"max_tokens": len, "logprobs": true, "top_logprobs": 2, "logprob_token_ids": cities,
        "return_tokens_as_token_ids": true, "vllm_xargs": {"diffusion_seed_canvas": canvas,
        "diffusion_pinned": pinned, "diffusion_canvas_length": 16, "diffusion_max_steps": 1,
        "diffusion_read_only": true}});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let answer = server.ask("/v1/chat/completions", &body);
    let rows = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(rows.len(), len);
    for (row, logits) in rows.iter().zip(&expected) {
        let expected = logprobs(logits, None);
        let check = |entry: &Value| {
            let id: usize = entry["token"].as_str().unwrap()["token_id:".len()..]
                .parse()
                .unwrap();
            let found = entry["logprob"].as_f64().unwrap();
            assert!(
                (found - expected[id]).abs() < 1e-4,
                "{id}: {found}, not {}",
                expected[id]
            );
            id as Token
        };
        let best = check(row);
        let top: Vec<Token> = row["top_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(check)
            .collect();
        assert!(cities.iter().all(|city| top.contains(city)), "{top:?}");
        assert_eq!(best, top[0]);
    }
    assert_eq!(rows[blank]["token"], format!("token_id:{}", cities[0]));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], len);
    assert_eq!(answer["diffusion"]["steps"], 1);

    body["vllm_xargs"]["diffusion_constrained"] = true.into();
    let answer = server.ask("/v1/chat/completions", &body);
    let row = &answer["choices"][0]["logprobs"]["content"][blank];
    let expected = logprobs(&expected[blank], Some(&cities));
    let found: Vec<f64> = row["top_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["logprob"].as_f64().unwrap())
        .collect();
    let wanted = cities.map(|city| expected[city as usize]);
    let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-4;
    assert!(
        found.iter().zip(&wanted).all(close),
        "{found:?}, not {wanted:?}"
    );
    let total: f64 = found.iter().map(|logprob| logprob.exp()).sum();
    assert!((total - 1.0).abs() < 1e-4);
}

#[test]
fn an_answer_begins_with_what_is_pinned() {
    let server = Server::start("");
    let alone = Alone::new();
    let mut canvas = alone
        .model
        .vocab()
        .tokenize("Once in Rome", false, false)
        .unwrap();
    let pinned: Vec<usize> = (0..canvas.len()).collect();
    canvas.resize(32, 300);
    let mut body = chat("Tell a story about Grace and a white owl.");
    body["diffusion_seed_canvas"] = json!(canvas);
    body["diffusion_pinned"] = json!(pinned);
    let answer = server.ask("/v1/chat/completions", &body);
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.starts_with("Once in Rome"), "{text}");
    body["diffusion_seed_canvas"] = json!([5]);
    body["diffusion_pinned"] = json!([]);
    let (status, error) = server.refused("/v1/chat/completions", &body);
    assert_eq!(
        (status, &error["param"]),
        (400, &json!("diffusion_seed_canvas"))
    );
}
