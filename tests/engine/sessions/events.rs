//! The events of an answer as an iterator, and as text.

use llama_diffusion::diffusion::{Algorithm, Filter, PromptProgress, Recipe, TransferSchedule};
use llama_diffusion::{AnswerLength, Error, FinishReason, MaskedParams, SessionBatch};
use llama_diffusion_testing::model_file::Editable;

use super::*;

fn masked_params() -> MaskedParams {
    MaskedParams {
        length: AnswerLength::Tokens(8),
        schedule: TransferSchedule::Timestep {
            steps: 4,
            eps: 0.01,
        },
        algorithm: Algorithm::Entropy,
        algorithm_temperature: 0.3,
        temperature: 0.7,
        filter: Filter::NONE,
        guidance: 0.5,
        gumbel_noise: true,
        seed: 3,
        ..MaskedParams::default()
    }
}

#[test]
fn the_iterator_yields_what_the_callback_receives() {
    let canvases: &dyn Fn() -> Session = &|| session(&*MODEL, &settings());
    let model = masked(MaskedFamily::Rnd1);
    let unmasked: &dyn Fn() -> Session = &|| session(&model, &settings());
    let params: [(&dyn Fn() -> Session, &dyn Recipe, usize); 2] = [
        // Three passes of the prompt; for each of two canvases its beginning, three steps, its end.
        (canvases, &request(2, 3), 3 + 2 * 5),
        (unmasked, &masked_params(), 1 + 6),
    ];
    for (new, params, count) in params {
        let prompt = text(2 * PASS + 1, 0);
        let (answer, received) = answer(&mut new(), &prompt, params);
        assert_eq!(received.len(), count);
        let mut session = new();
        let mut events = session.events(&prompt, params).unwrap();
        let pulled: Vec<OwnedEvent> = events.by_ref().map(Result::unwrap).collect();
        assert_eq!(pulled, received);
        assert!(events.next().is_none());
        let pulled_answer = events.finish();
        assert_eq!(pulled_answer.reused, 0);
        let [own, other] = [&pulled_answer, &answer].map(|answer| &answer.generation);
        assert_eq!(own.tokens, other.tokens);
        assert_eq!(own.canvases, other.canvases);
        assert_eq!((own.steps, own.finish), (other.steps, other.finish));

        for event in &received {
            let line = serde_json::to_string(event).unwrap();
            let back: OwnedEvent = serde_json::from_str(&line).unwrap();
            assert_eq!(back, *event, "{line}");
        }
    }
}

#[test]
fn the_prompt_is_reported_pass_by_pass() {
    let mut session = session(&*MODEL, &settings());
    session.prefill(&text(PASS, 0)).unwrap();
    let prompt = text(2 * PASS + 1, 0);
    let events = session.events(&prompt, &request(1, 1)).unwrap();
    let passes: Vec<PromptProgress> = events
        .map_while(|event| match event.unwrap() {
            OwnedEvent::PromptEncoded(progress) => Some(progress),
            _ => None,
        })
        .collect();
    let expected = [2 * PASS, 2 * PASS + 1].map(|encoded| PromptProgress {
        reused: PASS,
        encoded,
        total: 2 * PASS + 1,
    });
    assert_eq!(passes, expected);
    let line = serde_json::to_value(OwnedEvent::PromptEncoded(expected[0])).unwrap();
    let written = serde_json::json!({
        "event": "prompt_encoded", "reused": 30, "encoded": 60, "total": 61,
    });
    assert_eq!(line, written);
}

#[test]
fn an_iterator_is_cancelled_or_dropped_at_any_event() {
    let prompt = text(PASS + 1, 0);
    let whole = drafts(&mut session(&*MODEL, &settings()), &prompt);
    let mut session = session(&*MODEL, &settings());
    for count in 0..7 {
        session.reset().unwrap();
        let mut events = session.events(&prompt, &request(1, 3)).unwrap();
        assert_eq!(events.by_ref().take(count).count(), count);
        let cancel = events.cancel_flag();
        std::thread::spawn(move || cancel.cancel()).join().unwrap();
        // The last step and the end of its canvas come together.
        let rest = events.by_ref().count();
        assert_eq!(rest, usize::from(count == 6), "{count}");
        let finish = events.finish().generation.finish;
        match count {
            6 => assert_eq!(finish, FinishReason::Length),
            _ => assert_eq!(finish, FinishReason::Cancelled, "{count}"),
        }
        // Dropped, and the session continues.
        let mut dropped = session.events(&prompt, &request(1, 3)).unwrap();
        dropped.by_ref().take(count).for_each(drop);
        drop(dropped);
        assert_eq!(drafts(&mut session, &prompt), whole, "{count}");
    }
    assert!(session.events(&[], &request(1, 3)).is_err());
}

#[test]
fn a_handler_that_breaks_in_the_prompt_ends_the_answer() {
    let prompt = text(2 * PASS + 1, 0);
    for (passes, encoded) in [(1, PASS), (2, 2 * PASS), (3, 2 * PASS + 1)] {
        let stop = || {
            let mut events = 0;
            move |event: &Event<'_>| {
                assert!(matches!(event, Event::PromptEncoded(_)));
                events += 1;
                match events == passes {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            }
        };
        let mut single = session(&*MODEL, &settings());
        let (cancel, mut handler) = (CancelFlag::default(), stop());
        let answer = single.generate(&prompt, &request(1, 3), &cancel, &mut |event| {
            handler(&event)
        });
        let alone = answer.unwrap().generation;

        let mut batch = SessionBatch::new(vec![session(&*MODEL, &settings())]).unwrap();
        batch.join(&prompt, &request(1, 3), &cancel).unwrap();
        let (mut handler, mut finished) = (stop(), Vec::new());
        while !batch.is_empty() {
            finished.extend(batch.step(&mut |_, event| handler(&event)).unwrap());
        }
        let member = finished.pop().unwrap().answer.unwrap().generation;
        for answer in [alone, member] {
            assert_eq!(answer.finish, FinishReason::Cancelled, "{passes} passes");
            assert_eq!((answer.steps, answer.canvases.len()), (0, 0));
        }
        for session in [&single, batch.idle(0).unwrap()] {
            assert_eq!(session.cached(), &prompt[..encoded], "{passes} passes");
        }
    }
}

#[test]
fn a_damaged_tensor_ends_an_answer_with_its_name() {
    const DAMAGED: &str = "blk.0.attn_q.weight";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.gguf");
    let mut file = Editable::generated(&GEOMETRY);
    let tensor = file.tensors.iter_mut().find(|t| t.name == DAMAGED);
    let first = &mut tensor.unwrap().data[..4];
    first.copy_from_slice(&f32::NAN.to_le_bytes());
    file.save(&path);
    let go_on = &mut |_| ControlFlow::Continue(());
    let model = Arc::new(Model::load(&path, &Default::default(), go_on).unwrap());
    let names_it = |error: Error| {
        let error = error.to_string();
        assert!(
            error.contains(DAMAGED) && error.contains("not finite"),
            "{error}"
        );
    };

    let mut single = session(&model, &settings());
    let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
    let answer = single.generate(&text(5, 0), &request(1, 3), &CancelFlag::default(), go_on);
    names_it(answer.unwrap_err());
    let mut events = single.events(&text(6, 0), &request(1, 3)).unwrap();
    assert!(matches!(
        events.next(),
        Some(Ok(OwnedEvent::PromptEncoded(_)))
    ));
    assert!(matches!(
        events.next(),
        Some(Ok(OwnedEvent::CanvasBegun { .. }))
    ));
    names_it(events.next().unwrap().unwrap_err());
    assert!(events.next().is_none(), "an error ends it");

    let sessions = [0, 1].map(|_| session(&model, &settings()));
    let mut batch = SessionBatch::new(sessions.into()).unwrap();
    for n in 0..2 {
        let joined = batch.join(&text(5, n), &request(1, 3), &CancelFlag::default());
        joined.unwrap();
    }
    let mut ended = 0;
    while !batch.is_empty() {
        for member in batch.step(&mut |_, _| ControlFlow::Continue(())).unwrap() {
            names_it(member.answer.unwrap_err());
            assert!(batch.idle(member.session).is_some());
            ended += 1;
        }
    }
    assert_eq!(ended, 2);
}
