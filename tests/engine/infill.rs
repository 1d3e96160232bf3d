//! Gaps in texts: what surrounds them comes back byte for byte, whatever a model writes.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use llama_diffusion::chat::ChatTemplate;
use llama_diffusion::diffusion::OwnedDraft;
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::{
    CancelFlag, DiffusionParams, Event, GapPrompt, GapTokens, InfillAnswer, InfillExtra,
    InfillRequest, InfillStop, KvType, Result, Session, SessionBatch, SessionParams, TextModel,
    Token,
};
use llama_diffusion_testing::placements::on_cpu;

const CANVAS: usize = Geometry::tiny().canvas_length;

static TINY: LazyLock<TextModel> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, &Geometry::tiny(), types, 7).unwrap();
    load(&path)
});

fn load(path: &Path) -> TextModel {
    TextModel::load(path, &on_cpu(), &mut |_| ControlFlow::Continue(())).unwrap()
}

fn session() -> Session {
    let settings = SessionParams {
        threads: Some(1),
        ..SessionParams::default()
    };
    TINY.session(&settings).unwrap()
}

fn request(before: &str, after: &str, tokens: GapTokens) -> InfillRequest {
    InfillRequest {
        input_prefix: before.to_owned(),
        input_suffix: after.to_owned(),
        infill_tokens: tokens,
        seed: 5,
        ..InfillRequest::default()
    }
}

fn params(max_steps: u32) -> DiffusionParams {
    DiffusionParams {
        max_steps,
        ..DiffusionParams::default()
    }
}

fn infill(
    session: &mut Session,
    request: &InfillRequest,
    max_steps: u32,
) -> Result<Vec<InfillAnswer>> {
    let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
    let cancel = CancelFlag::default();
    let params = params(max_steps);
    TINY.infill(
        session,
        request,
        &GapPrompt::Document,
        &params,
        &cancel,
        go_on,
    )
}

/// Texts with what may stand at the edges of a gap.
fn texts() -> Vec<String> {
    let pieces = [
        "the", " ", "\t", "\r\n", "\n\n", "é", "🦙", "in", "a", "  ", "\"", "\\", "thin", "ß",
        "日本", ".", "0", "<turn|>", "e\u{301}", "\0", "____",
    ];
    let text = |number: usize| {
        let piece = |i: usize| pieces[(number * 7 + i * i * 5 + i) % pieces.len()];
        (0..6).map(piece).collect()
    };
    (0..50).map(text).collect()
}

fn bytes(tokens: &[Token]) -> Vec<u8> {
    let piece = |token: &Token| TINY.vocab().piece(*token, false).unwrap();
    tokens.iter().flat_map(piece).collect()
}

#[test]
fn whatever_is_cut_comes_back_byte_for_byte() {
    let mut session = session();
    let mut cuts = 0;
    for text in texts() {
        for (cut, _) in text.char_indices().chain([(text.len(), '\0')]) {
            let (before, after) = text.split_at(cut);
            let tokens = match cuts % 60 {
                0 => GapTokens::Auto,
                other => GapTokens::Given(other % 4),
            };
            let request = request(before, after, tokens);
            let gap = TINY.text_gap(&request, &GapPrompt::Document).unwrap();
            let recipe = gap.recipe(&request, &params(2), cuts as u32);
            let mut last = None;
            let on_event = &mut |event: Event<'_>| {
                if let Event::Draft(draft) = event {
                    last = Some(OwnedDraft::from(draft));
                }
                ControlFlow::Continue(())
            };
            let cancel = CancelFlag::default();
            let answer = session
                .generate(gap.prompt(), &recipe, &cancel, on_event)
                .unwrap();
            let filled = TINY.gap_text(&gap, &request, &recipe, &answer).unwrap();
            let whole = format!("{before}{}{after}", filled.content);
            // The prompt begins with a token of its own, and the canvas ends with one and padding.
            let prompt = bytes(&gap.prompt()[1..]);
            let canvases = &answer.generation.canvases;
            let written: Vec<Token> = canvases.iter().flat_map(|c| c.tokens.clone()).collect();
            let end = TINY.end_tokens().unwrap();
            let text_end = written.iter().position(|token| end.is_end(*token));
            let shown = [prompt, bytes(&written[..text_end.unwrap_or(written.len())])].concat();
            match text_end {
                Some(_) => assert_eq!(shown, whole.as_bytes(), "{text:?} at {cut}"),
                None => assert!(whole.as_bytes().starts_with(&shown), "{text:?} at {cut}"),
            }
            assert_eq!(last.unwrap().argmax, canvases.last().unwrap().tokens);
            cuts += 1;
        }
    }
    assert!(cuts > 500);
}

#[test]
fn lengths_compared_in_one_pass_score_as_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let len = 2 * CANVAS;
    let geometry = Geometry {
        canvas_length: 4 * len,
        ..Geometry::tiny()
    };
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, &geometry, types, 7).unwrap();
    let model = load(&path);
    let before =
        "The night is long and the fire is small, so that nobody sees who comes. ".repeat(2);
    let request = request(&before, "\tthe end of the night", GapTokens::Auto);
    let params = DiffusionParams {
        canvas: Some(len),
        max_canvases: Some(1),
        ..params(2)
    };
    // Without room for a second canvas after the prompt, and with room for all that a pass reads.
    let prompt = model.text_gap(&request, &GapPrompt::Document).unwrap();
    let contexts = [1, 4].map(|canvases| prompt.prompt().len() + canvases * len);
    let [one_by_one, at_once] = contexts.map(|context| {
        let settings = SessionParams {
            context: Some(context),
            threads: Some(1),
            kv_type: KvType::F32,
            ..SessionParams::default()
        };
        let gap = model.text_gap(&request, &GapPrompt::Document).unwrap();
        let recipe = gap.recipe(&request, &params, 5);
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let answer = model.session(&settings).unwrap().generate(
            gap.prompt(),
            &recipe,
            &CancelFlag::default(),
            go_on,
        );
        (answer.unwrap().generation, recipe.report().lengths)
    });
    // The search and 16 scores, or as many by four; then the canvas.
    let written = one_by_one.0.steps - (1 + 16);
    assert_eq!(at_once.0.steps, 1 + 4 + written);
    assert_eq!(at_once.0.tokens, one_by_one.0.tokens);
    assert_eq!(at_once.1.len(), 8);
    for (a, b) in at_once.1.iter().zip(&one_by_one.1) {
        assert_eq!(a.tokens, b.tokens);
        assert!((a.logprob - b.logprob).abs() < 1e-4, "{a:?} {b:?}");
    }
}

#[test]
fn an_answer_is_the_same_alone_and_in_a_batch() {
    let requests: Vec<InfillRequest> = ["the ", "in\r\n", "é"]
        .iter()
        .map(|before| request(before, "\tthe end", GapTokens::Auto))
        .collect();
    let alone: Vec<InfillAnswer> = requests
        .iter()
        .flat_map(|request| infill(&mut session(), request, 6).unwrap())
        .collect();
    let mut batch = SessionBatch::new((0..3).map(|_| session()).collect()).unwrap();
    let mut members = Vec::new();
    for request in &requests {
        let gap = TINY.text_gap(request, &GapPrompt::Document).unwrap();
        let recipe = gap.recipe(request, &params(6), 0);
        let id = batch.join(gap.prompt(), &recipe, &CancelFlag::default());
        members.push((id.unwrap(), gap, recipe));
    }
    let go_on = &mut |_, _: Event<'_>| ControlFlow::Continue(());
    let mut done = 0;
    while done < 3 {
        for finished in batch.step(go_on).unwrap() {
            let index = members
                .iter()
                .position(|(id, ..)| *id == finished.id)
                .unwrap();
            let (_, gap, recipe) = &members[index];
            let answer = finished.answer.unwrap();
            let filled = TINY
                .gap_text(gap, &requests[index], recipe, &answer)
                .unwrap();
            assert_eq!(filled.content, alone[index].content);
            assert_eq!(filled.timings.steps, alone[index].timings.steps);
            done += 1;
        }
    }
}

#[test]
fn several_answers_have_seeds_of_their_own() {
    let mut several = request("the", "in", GapTokens::Given(5));
    several.n_cmpl = 3;
    let answers = infill(&mut session(), &several, 3).unwrap();
    let seeds: Vec<u64> = answers.iter().map(|answer| answer.seed).collect();
    assert_eq!(seeds, [5, 6, 7]);
    for answer in &answers {
        let mut single = request("the", "in", GapTokens::Given(5));
        single.seed = answer.seed as i64;
        let alone = infill(&mut session(), &single, 3).unwrap();
        assert_eq!(alone[0].content, answer.content);
        assert_eq!(
            (answer.stop, answer.tokens_predicted),
            (InfillStop::Complete, 5)
        );
    }
    assert_ne!(answers[0].content, answers[1].content);
}

#[test]
fn lengths_are_listed_on_request_and_limits_named() {
    let mut asked = request("the", "in", GapTokens::Auto);
    asked.infill_lengths = true;
    asked.n_predict = 4;
    let answer = &infill(&mut session(), &asked, 3).unwrap()[0];
    assert!((1..=8).contains(&answer.lengths.len()), "{answer:?}");
    assert!(answer.lengths.is_sorted_by(|a, b| a.logprob >= b.logprob));
    // The scores are those of a random model: no length fits.
    assert_eq!(answer.stop, InfillStop::Limit);
    assert!(answer.tokens_predicted <= 4);
    asked.infill_lengths = false;
    assert_eq!(infill(&mut session(), &asked, 3).unwrap()[0].lengths, []);
}

#[test]
fn no_tokens_only_read_the_prompt() {
    let mut session = session();
    let mut nothing = request("the end", "in", GapTokens::Auto);
    nothing.n_predict = 0;
    let answer = &infill(&mut session, &nothing, 3).unwrap()[0];
    assert_eq!((answer.content.as_str(), answer.timings.steps), ("", 0));
    nothing.n_predict = 4;
    let answer = &infill(&mut session, &nothing, 3).unwrap()[0];
    assert_eq!(answer.timings.prompt_n, 0, "the prompt was cached");
}

#[test]
fn the_time_cuts_at_a_line() {
    let mut timed = request("the", "in", GapTokens::Given(CANVAS - 8));
    timed.t_max_predict_ms = 1;
    let mut seen = Vec::new();
    for seed in 0..20 {
        timed.seed = seed;
        let go_on = &mut |event: Event<'_>| {
            if let Event::Draft(_) = event {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            ControlFlow::Continue(())
        };
        let prompt = &GapPrompt::Document;
        let cancel = CancelFlag::default();
        let answers = TINY.infill(&mut session(), &timed, prompt, &params(50), &cancel, go_on);
        let answer = answers.unwrap().remove(0);
        assert_eq!(answer.stop, InfillStop::Time);
        assert!(answer.timings.steps <= 2);
        seen.push(answer.content);
    }
    let cut = seen.iter().filter(|content| content.contains('\n'));
    assert!(cut.clone().count() > 0, "{seen:?}");
    assert!(cut.clone().all(|content| content.ends_with('\n')));
}

#[test]
fn a_chat_shows_the_gap_and_begins_the_turn_with_what_comes_before() {
    let template = TINY.chat_template().unwrap().unwrap();
    let chat = |template| GapPrompt::Chat {
        template,
        opening: Vec::new(),
        variables: Default::default(),
    };
    let request = request("in the ", "the end", GapTokens::Auto);
    let gap = TINY.text_gap(&request, &chat(&template)).unwrap();
    let text = TINY.vocab().detokenize(gap.prompt(), true).unwrap();
    let expected =
        "<bos><|turn>user\nFill in the gap:\nin the ____the end<turn|>\n<|turn>model\nin the";
    assert_eq!(text, expected);
    // A model that can think does not.
    let source = "{% if enable_thinking %}<|think|>{% endif %}<|turn>user\n\
        {{ messages[0].content }}<turn|>\n{{ '<|turn>model\n' }}";
    let thinker = ChatTemplate::new(source).unwrap();
    let gap = TINY.text_gap(&request, &chat(&thinker)).unwrap();
    let text = TINY.vocab().detokenize(gap.prompt(), true).unwrap();
    assert!(
        text.ends_with("<|turn>model\n<|channel>thought\n<channel|>in the"),
        "{text}"
    );
}

#[test]
fn of_texts_that_are_too_long_what_is_nearest_to_the_gap_is_read() {
    let template = TINY.chat_template().unwrap().unwrap();
    let chat = GapPrompt::Chat {
        template: &template,
        opening: Vec::new(),
        variables: Default::default(),
    };
    let lines = |range: std::ops::Range<usize>| -> String {
        range.map(|n| format!("the end {n}\n")).collect()
    };
    let before = lines(0..60) + "in ";
    let after = " thin\n".to_owned() + &lines(60..120);
    let mut long = request(&before, &after, GapTokens::Given(2));
    let extra = |text: String| InfillExtra {
        filename: "extra".into(),
        text,
    };
    long.input_extra = vec![extra(lines(0..200)), extra("near".into())];
    let whole = TINY.text_gap(&long, &chat).unwrap();
    let room = whole.prompt().len();
    let params = DiffusionParams::default();
    let one_canvas = InfillRequest {
        n_predict: CANVAS as i64,
        ..long.clone()
    };
    let within = |prompt: &GapPrompt<'_>, room: usize| {
        TINY.text_gap_within(&one_canvas, prompt, &params, room + CANVAS)
            .unwrap()
    };
    let kept = within(&chat, room);
    assert_eq!(kept.prompt(), whole.prompt());
    assert!(!whole.is_truncated() && !kept.is_truncated());
    // The texts around the gap, one by one, as far as there is room.
    let read = |room: usize| {
        let gap = within(&chat, room);
        assert!(gap.is_truncated() && gap.prompt().len() <= room);
        let text = TINY.vocab().detokenize(gap.prompt(), true).unwrap();
        let (extra, text) = text.split_once("Fill in the gap:\n").unwrap();
        let (shown, rest) = text.split_once("____").unwrap();
        let (rest, turn) = rest.split_once("<turn|>").unwrap();
        assert!(before.ends_with(shown) && after.starts_with(rest), "{text}");
        assert!(
            shown.starts_with("the end ") && rest.ends_with('\n'),
            "whole lines"
        );
        let turn = turn.split_once("model\n").unwrap().1;
        assert!(
            before.trim_end().ends_with(turn) && shown.contains(turn),
            "{turn}"
        );
        let used = gap.prompt().len();
        (extra.contains("near"), shown.len(), rest.len(), used)
    };
    let (_, some_before, some_after, used) = read(400);
    assert!(used > 300, "the room is used: {used}");
    assert!(some_before > some_after, "{some_before}, {some_after}");
    let (has_near, all_before, all_after, _) = read(room - 10);
    assert_eq!(
        (has_near, all_before, all_after),
        (true, before.len(), after.len())
    );
    // A document is what comes before.
    let gap = within(&GapPrompt::Document, 100);
    assert!(gap.is_truncated() && (50..=100).contains(&gap.prompt().len()));
    // More tokens take more canvases, up to half of the context.
    for (tokens, context, most) in [(CANVAS + 1, 600, 600 - 2 * CANVAS), (1000, 600, 300)] {
        let longer = InfillRequest {
            n_predict: tokens as i64,
            ..long.clone()
        };
        let gap = TINY.text_gap_within(&longer, &GapPrompt::Document, &params, context);
        let used = gap.unwrap().prompt().len();
        assert!((most - 50..=most).contains(&used), "{tokens}: {used}");
    }

    let short = SessionParams {
        context: Some(512),
        threads: Some(1),
        ..SessionParams::default()
    };
    let mut session = TINY.session(&short).unwrap();
    let answer = &infill(&mut session, &long, 2).unwrap()[0];
    assert!(answer.truncated);
    assert_eq!(
        (answer.stop, answer.tokens_predicted),
        (InfillStop::Complete, 2)
    );
    let fits = request("the", "in", GapTokens::Given(2));
    assert!(!infill(&mut session, &fits, 2).unwrap()[0].truncated);
}

#[test]
fn an_answer_that_is_stopped_is_the_last() {
    let mut several = request("the", "in", GapTokens::Given(5));
    several.n_cmpl = 3;
    let mut drafts = 0;
    let stop = &mut |event: Event<'_>| match event {
        Event::Draft(_) => {
            drafts += 1;
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    let (prompt, cancel) = (&GapPrompt::Document, CancelFlag::default());
    let answers = TINY.infill(&mut session(), &several, prompt, &params(9), &cancel, stop);
    let stops: Vec<InfillStop> = answers.unwrap().iter().map(|answer| answer.stop).collect();
    assert_eq!((stops, drafts), (vec![InfillStop::Cancelled], 1));
}

#[test]
fn what_cannot_be_filled_is_refused() {
    let refused =
        |request: &InfillRequest| infill(&mut session(), request, 3).unwrap_err().to_string();
    let mut wrong = request("a", "b", GapTokens::Given(9));
    wrong.n_predict = 8;
    assert!(
        refused(&wrong).starts_with("gap_length: is 9"),
        "{}",
        refused(&wrong)
    );
    let long = request("a", "b", GapTokens::Given(1_000_000));
    let mut long = long;
    long.n_predict = -1;
    assert!(
        refused(&long).starts_with("gap_length: is 1000000"),
        "{}",
        refused(&long)
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_masked(&path, MaskedFamily::Dream, 11, &|_| ()).unwrap();
    let masked = Arc::new(load(&path));
    let request = request("a", "b", GapTokens::Auto);
    let error = masked
        .text_gap(&request, &GapPrompt::Document)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("masked family, which cannot fill gaps"),
        "{error}"
    );
}
