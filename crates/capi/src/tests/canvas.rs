//! What is known about answers in advance: constraints and templates; checks and edits of texts.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::slice;

use crate::*;

const QUESTION: &str = "What is the capital of Norway?";
const ANSWER: &str = "The capital of Norway is Oslo.";

/// The demo model with a context.
struct Demo {
    model: *mut diffusion_model,
    context: *mut diffusion_context,
}

impl Demo {
    fn new() -> Self {
        let path = CString::new(llama_diffusion_demo_model::PATH).unwrap();
        let (mut model, mut context) = (null_mut(), null_mut());
        let settings = diffusion_context_params {
            threads: 1,
            ..diffusion_context_params::default()
        };
        // SAFETY: valid pointers; both objects are freed once, by `drop`.
        unsafe {
            let loaded = diffusion_model_load(path.as_ptr(), null(), &mut model, null_mut());
            assert_eq!(loaded, diffusion_status::Ok);
            let made = diffusion_context_new(model, &settings, &mut context, null_mut());
            assert_eq!(made, diffusion_status::Ok);
        }
        Self { model, context }
    }

    fn params(&self) -> diffusion_params {
        // SAFETY: a live model.
        diffusion_params::of_model(unsafe { &*self.model }).unwrap()
    }

    /// The tokens of a text, without the template of the chat.
    fn tokens(&self, text: &str) -> Vec<i32> {
        // SAFETY: a live model.
        let model = unsafe { &*self.model };
        model
            .text()
            .unwrap()
            .vocab()
            .tokenize(text, false, true)
            .unwrap()
    }

    /// The answer to the question.
    fn ask(&self, params: &diffusion_params) -> Result<String, String> {
        let (mut text, mut error) = (null_mut(), null_mut());
        // SAFETY: live objects, and what they say of their lengths.
        let status = unsafe {
            let (question, length) = (QUESTION.as_ptr().cast(), QUESTION.len());
            diffusion_generate_text(
                self.context,
                question,
                length,
                params,
                &mut text,
                null_mut(),
                &mut error,
            )
        };
        taken(status, text, error)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe {
            diffusion_context_free(self.context);
            diffusion_model_free(self.model);
        }
    }
}

/// The text or the message of a call, freed.
fn taken(
    status: diffusion_status,
    text: *mut c_char,
    error: *mut diffusion_error,
) -> Result<String, String> {
    let owned = |text: *const c_char| {
        // SAFETY: a live string that ends at a zero byte.
        unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
    };
    // SAFETY: what the library has written, freed once.
    unsafe {
        match status {
            diffusion_status::Ok => {
                let copy = owned(text);
                diffusion_string_free(text);
                Ok(copy)
            }
            status => {
                assert_eq!(diffusion_error_status(error), status);
                let copy = owned(diffusion_error_message(error));
                diffusion_error_free(error);
                Err(copy)
            }
        }
    }
}

#[test]
fn answers_follow_a_schema_or_an_expression() {
    let demo = Demo::new();
    let schema =
        cr#"{"type": "object", "properties": {"city": {"enum": ["Oslo", "Bern"]}}, "required": ["city"]}"#;
    let mut params = demo.params();
    params.json_schema = schema.as_ptr();
    for at in [diffusion_constrain_at::Step, diffusion_constrain_at::Commit] {
        params.constrain_at = at as i32;
        let value: serde_json::Value = serde_json::from_str(&demo.ask(&params).unwrap()).unwrap();
        assert!(["Oslo", "Bern"].contains(&value["city"].as_str().unwrap()));
    }
    let mut params = demo.params();
    params.regex = c"The capital of [A-Z][a-z]+ is (Bern|Paris)\\.".as_ptr();
    let answer = demo.ask(&params).unwrap();
    let expression = regex::Regex::new("^The capital of [A-Z][a-z]+ is (Bern|Paris)\\.$").unwrap();
    assert!(expression.is_match(&answer), "{answer}");
}

#[test]
fn the_encoder_writes_the_first_tokens() {
    let demo = Demo::new();
    let mut params = demo.params();
    for ahead in [1, 3, 100] {
        params.ahead = ahead;
        assert_eq!(demo.ask(&params).unwrap(), ANSWER);
    }
}

#[test]
fn the_encoder_checks_an_answer() {
    let demo = Demo::new();
    let mut params = demo.params();
    params.scorer = diffusion_scorer::Encoder as i32;
    params.min_logprob = -4.0;
    assert_eq!(demo.ask(&params).unwrap(), ANSWER);
}

#[test]
fn constraints_that_cannot_work_are_named() {
    let demo = Demo::new();
    let problem = |set: fn(&mut diffusion_params)| {
        let mut params = demo.params();
        set(&mut params);
        demo.ask(&params).unwrap_err()
    };
    for (set, expected) in [
        (
            (|p| p.json_schema = c"{".as_ptr()) as fn(&mut diffusion_params),
            "json_schema: it is not JSON: ",
        ),
        (
            |p| p.json_schema = cr#"{"type": "array", "uniqueItems": true}"#.as_ptr(),
            "json_schema: the schema at '#': 'uniqueItems' can be kept",
        ),
        (
            |p| {
                p.json_schema = c"{}".as_ptr();
                p.json_depth = 0;
            },
            "json_depth: is 0",
        ),
        (
            |p| {
                p.json_schema = c"{}".as_ptr();
                p.json_depth = 8;
            },
            "json_schema: the schema at '#': needs too many states: lower minItems, maxItems, minLength, maxLength \
             or json_depth, or ",
        ),
        (
            |p| p.json_schema = c"{\"minimum\": 1e400}".as_ptr(),
            "json_schema: it is not JSON: the number at '/minimum' is out of range: ",
        ),
        (
            |p| {
                p.min_logprob = -1.0;
                p.top_logprobs = 99_999;
            },
            "top_logprobs: is 99999, but the vocabulary has ",
        ),
        (
            |p| {
                p.json_schema = c"{}".as_ptr();
                p.regex = c"a".as_ptr();
            },
            "regex: `json_schema` is a constraint already",
        ),
        (
            |p| p.json_schema = c"\xff".as_ptr(),
            "json_schema: the byte at offset 0 is not UTF-8",
        ),
        (
            |p| p.regex = c"(".as_ptr(),
            "regex: the regular expression '('",
        ),
        (|p| p.constrain_at = 2, "constrain_at: 2 is none"),
        (|p| p.thoughts = -1, "thoughts: -1 is none"),
        (
            |p| {
                p.regex = c"[ab]{40}".as_ptr();
                p.max_tokens = 2;
            },
            "constraint: the constraint needs at least ",
        ),
        (
            |p| {
                p.regex = c"a".as_ptr();
                p.ahead = 1;
            },
            "ahead: the encoder follows neither",
        ),
        (|p| p.template_count = 1, "templates: must not be NULL"),
        (|p| p.scorer = 2, "scorer: 2 is none"),
    ] {
        let problem = problem(set);
        assert!(
            problem.starts_with(expected),
            "{problem}\ninstead of {expected}"
        );
    }
    let too_short = problem(|p| {
        p.regex = c"[ab]{40}".as_ptr();
        p.max_tokens = 2;
    });
    assert!(too_short.ends_with(": raise max_tokens"), "{too_short}");
}

/// What drafts must hold.
struct Known {
    fixed: Vec<i32>,
    set: Vec<i32>,
    drafts: usize,
}

unsafe extern "C" fn on_step(draft: *const diffusion_draft, user_data: *mut c_void) -> bool {
    // SAFETY: what the test passes, and arrays of the length that the draft states.
    unsafe {
        let (draft, known) = (&*draft, &mut *user_data.cast::<Known>());
        known.drafts += 1;
        let argmax = slice::from_raw_parts(draft.argmax, draft.length);
        let canvas = slice::from_raw_parts(draft.canvas, draft.length);
        let last = known.fixed.len();
        for tokens in [argmax, canvas] {
            assert_eq!(tokens[..last], known.fixed);
        }
        assert!(known.set.contains(&argmax[last]));
    }
    true
}

#[test]
fn fixed_tokens_are_in_every_draft_and_others_come_from_their_set() {
    let demo = Demo::new();
    let [berlin, paris] = [" Berlin", " Paris"].map(|word| {
        let tokens = demo.tokens(&format!("a{word}"));
        assert_eq!(tokens.len(), 2);
        tokens[1]
    });
    let mut known = Known {
        fixed: demo.tokens("The capital of Norway is"),
        set: vec![berlin, paris],
        drafts: 0,
    };
    let positions = known.fixed.len() + 1;
    let mut fixed = known.fixed.clone();
    fixed.push(-1);
    let mut set_of = vec![-1; positions];
    set_of[positions - 1] = 0;
    let sets = [diffusion_token_set {
        tokens: known.set.as_ptr(),
        count: 2,
    }];
    let mut template = diffusion_template {
        length: positions,
        fixed: fixed.as_ptr(),
        set_of: set_of.as_ptr(),
        sets: sets.as_ptr(),
        set_count: 1,
        ..diffusion_template::default()
    };
    let ask = |template: &diffusion_template, known: &mut Known| {
        let mut params = demo.params();
        let templates = [&raw const *template];
        params.templates = templates.as_ptr();
        params.template_count = 1;
        params.on_step = Some(on_step);
        params.user_data = std::ptr::from_mut(known).cast();
        demo.ask(&params)
    };
    let answer = ask(&template, &mut known).unwrap();
    assert!(known.drafts > 0);
    let is = |city: &str| answer.starts_with(&format!("The capital of Norway is {city}"));
    assert!(is("Berlin") || is("Paris"), "{answer}");

    template.set_count = 0;
    let problem = ask(&template, &mut known).unwrap_err();
    assert!(problem.starts_with("set_of: position "), "{problem}");
    template.set_of = null();
    template.struct_size = 8;
    let problem = ask(&template, &mut known).unwrap_err();
    assert!(
        problem.starts_with("diffusion_template.struct_size: is 8"),
        "{problem}"
    );
    template.struct_size = size_of::<diffusion_template>();
    fixed[0] = 1 << 20;
    template.fixed = fixed.as_ptr();
    let problem = ask(&template, &mut known).unwrap_err();
    assert!(
        problem.starts_with("templates: position 0: 1048576 is not a token"),
        "{problem}"
    );
}

#[test]
fn a_finished_text_is_checked_and_repaired() {
    let demo = Demo::new();
    let messages = cr#"[{"role": "user", "content": "What is the capital of Norway?"}]"#;
    let mut prompt = vec![0; 64];
    let mut length = 0;
    let wrong = demo.tokens("The capital of Norway is Bern.<turn|>");
    let check = |prompt: &[i32], text: &[i32], params: &diffusion_params, capacity: usize| {
        let (mut tokens, mut count, mut error) = (vec![0; 64], 0, null_mut());
        // SAFETY: live objects, and what they say of their lengths.
        let status = unsafe {
            diffusion_check(
                demo.context,
                prompt.as_ptr(),
                prompt.len(),
                text.as_ptr(),
                text.len(),
                params,
                tokens.as_mut_ptr(),
                capacity,
                &mut count,
                null_mut(),
                &mut error,
            )
        };
        match status {
            diffusion_status::Ok => Ok(tokens[..count].to_vec()),
            status => Err(taken(status, null_mut(), error).unwrap_err()),
        }
    };
    // SAFETY: live objects, and what they say of their lengths.
    unsafe {
        let made = diffusion_apply_chat_template(
            demo.model,
            messages.as_ptr(),
            null(),
            prompt.as_mut_ptr(),
            prompt.len(),
            &mut length,
            null_mut(),
        );
        assert_eq!(made, diffusion_status::Ok);
    }
    prompt.truncate(length);
    let mut params = demo.params();
    params.min_logprob = -1.0;
    let repaired = check(&prompt, &wrong, &params, 64).unwrap();
    assert_eq!(repaired, demo.tokens(ANSWER));
    for (params, capacity, expected) in [
        (demo.params(), 64, "params: it does not say how to score"),
        (params, 31, "capacity: is 31, but 32 are needed"),
        (
            diffusion_params {
                regex: c"a".as_ptr(),
                ..params
            },
            64,
            "params: `json_schema`, `regex`, `templates` and `ahead` do not apply",
        ),
    ] {
        let problem = check(&prompt, &wrong, &params, capacity).unwrap_err();
        assert!(problem.starts_with(expected), "{problem}");
    }
    let problem = check(&prompt, &[], &params, 64).unwrap_err();
    assert!(problem.starts_with("tokens: there are none"), "{problem}");
}

#[test]
fn a_text_is_edited_and_its_lines_stay() {
    let demo = Demo::new();
    let edit_by = |params: &diffusion_params,
                   text: &str,
                   instruction: &str,
                   strength,
                   lines: &[diffusion_lines]| {
        let (mut edited, mut error) = (null_mut(), null_mut());
        // SAFETY: live objects, and what they say of their lengths.
        let status = unsafe {
            diffusion_edit_text(
                demo.context,
                text.as_ptr().cast(),
                text.len(),
                instruction.as_ptr().cast(),
                instruction.len(),
                strength,
                lines.as_ptr(),
                lines.len(),
                params,
                &mut edited,
                null_mut(),
                &mut error,
            )
        };
        taken(status, edited, error)
    };
    let edit = |text: &str, instruction: &str, strength, lines: &[diffusion_lines]| {
        edit_by(&demo.params(), text, instruction, strength, lines)
    };
    let lines = |first, last| [diffusion_lines { first, last }];
    let text = "The cat is red.\n";
    let edited = edit(text, "Change red to blue", 0.5, &lines(1, 1)).unwrap();
    assert!(
        edited.starts_with("The cat is red.") && edited.ends_with('\n'),
        "{edited}"
    );
    for (text, instruction, strength, lines, expected) in [
        (text, " ", 0.5, lines(1, 1), "instruction: it is empty"),
        (text, "Change", 1.5, lines(1, 1), "strength: is 1.5"),
        (
            text,
            "Change",
            0.5,
            lines(2, 3),
            "line_ranges: the text has no lines 2-3",
        ),
        (
            "\n",
            "Change",
            0.5,
            lines(1, 1),
            "line_ranges: the text has no lines 1-1",
        ),
    ] {
        let problem = edit(text, instruction, strength, &lines).unwrap_err();
        assert!(problem.starts_with(expected), "{problem}");
    }
    let constrained = diffusion_params {
        regex: c"The cat is (blue|green)\\.".as_ptr(),
        ..demo.params()
    };
    let edited = edit_by(&constrained, text, "Change red to blue", 0.5, &[]).unwrap();
    let allowed = ["The cat is blue.\n", "The cat is green.\n"];
    assert!(allowed.contains(&&*edited), "{edited}");
    let ahead = diffusion_params {
        ahead: 1,
        ..demo.params()
    };
    for (params, lines, expected) in [
        (
            constrained,
            &lines(1, 1)[..],
            "line_ranges: the constraint allows no text with all that is protected",
        ),
        (
            ahead,
            &[],
            "params: `templates` and `ahead` do not apply to an edit",
        ),
    ] {
        let problem = edit_by(&params, text, "Change red to blue", 0.5, lines).unwrap_err();
        assert!(problem.starts_with(expected), "{problem}");
    }
}

unsafe extern "C" fn stop_at_once(_: *const diffusion_draft, drafts: *mut c_void) -> bool {
    // SAFETY: what the test passes.
    unsafe { *drafts.cast::<usize>() += 1 };
    false
}

#[test]
fn a_gap_is_filled_by_a_request_in_json() {
    let demo = Demo::new();
    let fill = |request: &str, params: &diffusion_params| {
        let (mut answer, mut error) = (null_mut(), null_mut());
        // SAFETY: live objects, and what they say of their lengths.
        let status = unsafe {
            diffusion_infill(
                demo.context,
                request.as_ptr().cast(),
                request.len(),
                params,
                &mut answer,
                &mut error,
            )
        };
        taken(status, answer, error)
    };
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let params = demo.params();
    let found = r#"{"input_prefix":"Mia has a ","input_suffix":" hat.","infill_lengths":true}"#;
    let answer = json(fill(found, &params).unwrap());
    assert!(
        answer["content"].is_string() && answer["seed"] == 0,
        "{answer}"
    );
    assert!(answer["lengths"].as_array().unwrap().len() > 1, "{answer}");
    let given = r#"{"input_prefix":"Mia has a ","infill_tokens":2,"n_cmpl":2,"seed":7}"#;
    let answers = json(fill(given, &params).unwrap());
    assert_eq!(
        [
            &answers[0]["seed"],
            &answers[1]["seed"],
            &answers[0]["stop"]
        ],
        [
            &serde_json::json!(7),
            &serde_json::json!(8),
            &serde_json::json!("complete")
        ]
    );
    // A document is another prompt than a chat.
    let document = diffusion_params {
        thoughts: diffusion_thoughts::None as i32,
        ..params
    };
    let prompt = |answer: serde_json::Value| {
        let timings = &answer["timings"];
        timings["prompt_n"].as_u64().unwrap() + timings["cache_n"].as_u64().unwrap()
    };
    let shorter = prompt(json(fill(found, &document).unwrap()));
    assert!(shorter < prompt(answer));

    let mut drafts = 0_usize;
    let stopping = diffusion_params {
        on_step: Some(stop_at_once),
        user_data: (&raw mut drafts).cast(),
        ..params
    };
    let problem = fill(given, &stopping).unwrap_err();
    assert_eq!(problem, "cancelled, 0 of 2 answers complete");
    assert_eq!(drafts, 1);
    for (request, params, expected) in [
        ("[]", params, "request: it is not an object"),
        (r#"{"n_cmpl":0}"#, params, "n_cmpl: is 0"),
        (
            r#"{"infill_tokens":9,"n_predict":8}"#,
            params,
            "infill_tokens: is 9",
        ),
        (
            r#"{"infill_tokens":100000,"n_predict":-1}"#,
            params,
            "infill_tokens: is 100000",
        ),
        (
            found,
            diffusion_params {
                thoughts: diffusion_thoughts::On as i32,
                ..params
            },
            "thoughts: a gap cannot be filled after a thought",
        ),
        (
            found,
            diffusion_params {
                regex: c"a".as_ptr(),
                ..params
            },
            "params: `json_schema`, `regex`, `templates` and `ahead` do not apply to a gap",
        ),
        (
            found,
            diffusion_params {
                min_logprob: -1.0,
                ..params
            },
            "params: gaps are not scored",
        ),
    ] {
        let problem = fill(request, &params).unwrap_err();
        assert!(problem.starts_with(expected), "{request}: {problem}");
    }
}
