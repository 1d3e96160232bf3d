//! The events of an answer as an iterator, and as text.

use llama_diffusion::diffusion::{Algorithm, Filter, PromptProgress, Recipe, TransferSchedule};
use llama_diffusion::{AnswerLength, FinishReason, MaskedParams};

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
