//! Batches whose answers begin, pause and end while others denoise.

use std::collections::BTreeMap;

use llama_diffusion::diffusion::{Algorithm, Filter, PromptProgress, Stage, TransferSchedule};
use llama_diffusion::{AnswerLength, MaskedParams, MemberId, SessionBatch};

use super::*;

fn batch(sessions: usize) -> SessionBatch {
    let sessions = (0..sessions).map(|_| session(&*MODEL, &settings()));
    SessionBatch::new(sessions.collect()).unwrap()
}

/// With its own length, number of steps and number of canvases.
fn prompt(n: usize) -> Vec<Token> {
    text([5, 70, 1, 250, 33, 120, 300][n], n)
}

fn params(n: usize) -> DiffusionParams {
    DiffusionParams {
        seed: n as u64,
        t_max: 0.9 - 0.05 * n as f32,
        ..request(1 + n % 4, 2 + n as u32 % 3)
    }
}

fn alone(n: usize) -> Answer {
    answer(&mut session(&*MODEL, &settings()), &prompt(n), &params(n)).0
}

fn nobody(_: MemberId, _: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn answers_that_come_and_go_are_those_of_each_alone() {
    const REQUESTS: usize = 7;
    let mut batch = batch(3);
    let (mut waiting, mut left, mut done) = (0..REQUESTS, 0, 0);
    let mut ids: BTreeMap<MemberId, usize> = BTreeMap::new();
    for step in 0.. {
        assert!(step < 200, "it does not end");
        if batch.len() < batch.capacity()
            && step % 2 == 0
            && let Some(n) = waiting.next()
        {
            let id = batch.join(&prompt(n), &params(n), &CancelFlag::default());
            ids.insert(id.unwrap(), n);
        }
        // Those with the numbers 1 and 4 leave early: in their prompt, and in a canvas.
        for (id, n) in ids.clone() {
            let leaves = match batch.stage(id) {
                Some(Stage::Prefilling) => n == 1 && step > 4,
                Some(Stage::Denoising) => n == 4,
                _ => false,
            };
            if leaves {
                let answer = batch.leave(id).unwrap();
                let whole = alone(n).generation.canvases;
                let part = answer.generation.canvases;
                assert_eq!(part, whole[..part.len()], "{n}");
                assert!(part.len() < whole.len(), "{n}");
                assert!(batch.leave(id).is_none() && batch.stage(id).is_none());
                ids.remove(&id);
                left += 1;
            }
        }
        for member in batch.step(&mut nobody).unwrap() {
            let n = ids.remove(&member.id).unwrap();
            let (own, alone) = (member.answer.unwrap().generation, alone(n).generation);
            assert_eq!(own.canvases, alone.canvases, "{n}");
            assert_eq!(own.tokens, alone.tokens, "{n}");
            assert_eq!((own.steps, own.finish), (alone.steps, alone.finish), "{n}");
            done += 1;
        }
        if batch.is_empty() && waiting.is_empty() {
            break;
        }
    }
    assert_eq!(done + left, REQUESTS);
    assert!(left >= 1, "{left}");
}

#[test]
fn an_answer_pauses_at_any_time_and_goes_on() {
    // In its prompt, before and in its canvases.
    for pause_at in 0..8 {
        let mut batch = batch(2);
        let a = batch.join(&prompt(1), &params(1), &CancelFlag::default());
        let a = a.unwrap();
        let b = batch.join(&prompt(3), &params(3), &CancelFlag::default());
        let b = b.unwrap();
        let mut finished = Vec::new();
        for step in 0.. {
            assert!(step < 200, "it does not end");
            if step == pause_at {
                assert!(batch.pause(a, true));
            }
            if step == pause_at + 4 {
                assert!(batch.pause(a, false));
            }
            let paused = (pause_at..pause_at + 4).contains(&step);
            let stage = batch.stage(a);
            let mut others = 0;
            let done = batch.step(&mut |id, _| {
                assert!(id != a || !paused, "step {step}");
                others += usize::from(id == b);
                ControlFlow::Continue(())
            });
            finished.extend(done.unwrap());
            if paused {
                assert_eq!(batch.stage(a), stage);
                assert!(others > 0, "the other one goes on in step {step}");
            }
            if batch.is_empty() {
                break;
            }
        }
        assert!(!batch.pause(a, true), "it is no longer at work");
        assert_eq!(finished.len(), 2);
        for member in finished {
            let n = if member.id == a { 1 } else { 3 };
            let (own, alone) = (member.answer.unwrap().generation, alone(n).generation);
            assert_eq!(own.canvases, alone.canvases, "{n}, paused at {pause_at}");
        }
    }
}

#[test]
fn a_paused_answer_is_cancelled_all_the_same() {
    let mut batch = batch(1);
    let cancel = CancelFlag::default();
    let id = batch.join(&prompt(0), &params(3), &cancel).unwrap();
    batch.step(&mut nobody).unwrap();
    batch.pause(id, true);
    assert!(batch.step(&mut nobody).unwrap().is_empty());
    cancel.cancel();
    let finished = batch.step(&mut nobody).unwrap();
    assert_eq!(finished.len(), 1);
    assert!(batch.is_empty());
}

#[test]
fn a_long_prompt_takes_its_turns_between_the_steps_of_the_others() {
    // The two canvases next to it have 32 tokens.
    for pass in [30, 48] {
        check_turns(pass);
    }
}

/// Prompts take one pass of this length between two steps.
fn check_turns(length: usize) {
    const LONG: usize = 500;
    let params = SessionParams {
        batch: Some(length),
        ..settings()
    };
    let sessions = (0..4).map(|_| session(&*MODEL, &params));
    let mut batch = SessionBatch::new(sessions.collect()).unwrap();
    let short = [0, 2].map(|n| {
        let joined = batch.join(&prompt(n), &request(40, 3), &CancelFlag::default());
        joined.unwrap()
    });
    while short
        .iter()
        .any(|id| batch.stage(*id) == Some(Stage::Prefilling))
    {
        batch.step(&mut nobody).unwrap();
    }
    let long = [8, 9].map(|n| {
        let joined = batch.join(&text(LONG, n), &request(1, 2), &CancelFlag::default());
        joined.unwrap()
    });
    let (mut drafts, mut passes) = (BTreeMap::new(), Vec::new());
    let steps_before = batch.counters().steps;
    let mut steps = 0;
    let mut progress: [Option<PromptProgress>; 2] = [None; 2];
    while long
        .iter()
        .any(|id| batch.stage(*id) == Some(Stage::Prefilling))
    {
        let before = passes.len();
        let finished = batch.step(&mut |id, event| {
            match event {
                Event::PromptEncoded(now) => {
                    let which = long.iter().position(|long| *long == id).unwrap();
                    let last = progress[which].replace(now);
                    passes.push(now.encoded - last.map_or(0, |last| last.encoded));
                }
                Event::Draft(_) => *drafts.entry(id).or_insert(0) += 1,
                _ => {}
            }
            ControlFlow::Continue(())
        });
        // The first of them answers while the second is encoded.
        let finished = finished.unwrap();
        assert!(finished.iter().all(|member| member.id == long[0]));
        assert_eq!(passes.len(), before + 1, "one pass in each step");
        steps += 1;
        for id in short {
            assert_eq!(drafts[&id], steps, "every canvas steps each time");
        }
    }
    // The passes are those of each prompt alone: others would change the last bits of the cache.
    let mut own = vec![length; LONG / length];
    own.push(LONG % length);
    assert_eq!(passes, own.repeat(2));
    assert_eq!(batch.counters().steps - steps_before, steps);

    for id in short {
        batch.leave(id).unwrap();
    }
    let mut answers = BTreeMap::new();
    while !batch.is_empty() {
        for member in batch.step(&mut nobody).unwrap() {
            answers.insert(member.id, member.answer.unwrap());
        }
    }
    let own = &answers[&long[1]].generation;
    let mut single = session(&*MODEL, &params);
    let (alone, _) = answer(&mut single, &text(LONG, 9), &request(1, 2));
    assert_eq!(own.canvases, alone.generation.canvases);
    // What the sessions themselves counted: two long prompts, two short ones and their canvases.
    let mut counted = [0; 4];
    for (index, count) in counted.iter_mut().enumerate() {
        *count = encoded(batch.idle(index).unwrap());
    }
    let of_long = counted.iter().filter(|count| **count == LONG).count();
    assert_eq!(of_long, 2, "{counted:?}");
}

/// An answer begins as soon as another one is complete, and takes its place in the graph.
#[test]
fn answers_that_follow_each_other_share_a_graph() {
    const SLOTS: usize = 4;
    let together: fn(usize) -> u32 = |_| 3;
    let apart: fn(usize) -> u32 = |n| 3 + (n * 5 % 7) as u32;
    // An answer that begins next to a single canvas may have to wait for a step.
    for (steps, graphs) in [(together, 1), (apart, 6)] {
        let request = |n: usize| (text(5 + n * 3 % 11, n), request(1, steps(n)));
        let mut batch = batch(SLOTS);
        let mut ids: Vec<MemberId> = Vec::new();
        let mut answers = BTreeMap::new();
        while batch.counters().steps < 60 {
            while batch.len() < SLOTS {
                let (prompt, params) = request(ids.len());
                let id = batch.join(&prompt, &params, &CancelFlag::default());
                ids.push(id.unwrap());
            }
            let finished = batch.step(&mut nobody).unwrap();
            answers.extend(finished.into_iter().map(|m| (m.id, m.answer.unwrap())));
        }
        assert!(batch.counters().graphs_built <= graphs);
        assert!(answers.len() > 25, "{}", answers.len());
        for (id, own) in answers {
            let n = ids.iter().position(|other| *other == id).unwrap();
            let (prompt, params) = request(n);
            let (alone, _) = answer(&mut session(&*MODEL, &settings()), &prompt, &params);
            assert_eq!(own.generation.canvases, alone.generation.canvases, "{n}");
        }
    }
}

#[test]
fn a_prompt_goes_to_the_session_that_holds_most_of_it() {
    let mut batch = batch(3);
    for (index, n) in [(0, 1), (1, 5), (2, 3)] {
        batch.idle(index).unwrap().prefill(&prompt(n)).unwrap();
    }
    let ask = |batch: &mut SessionBatch, n: usize| {
        let longer = [prompt(n), vec![3, 1, 4]].concat();
        batch
            .join(&longer, &params(0), &CancelFlag::default())
            .unwrap()
    };
    let ids = [3, 1, 5].map(|n| ask(&mut batch, n));
    for index in 0..3 {
        assert!(batch.idle(index).is_none(), "{index}");
    }
    assert!(batch.idle(3).is_none());
    let mut sessions = BTreeMap::new();
    while !batch.is_empty() {
        for member in batch.step(&mut nobody).unwrap() {
            let reused = member.answer.unwrap().reused;
            sessions.insert(member.id, (member.session, reused));
        }
    }
    let lengths = [3, 1, 5].map(|n| prompt(n).len());
    let expected = [(2, lengths[0]), (0, lengths[1]), (1, lengths[2])];
    assert_eq!(ids.map(|id| sessions[&id]), expected);
}

#[test]
fn masked_models_answer_in_a_batch_as_alone() {
    for family in [MaskedFamily::Dream, MaskedFamily::LladaMoe] {
        let model = masked(family);
        let settings = SessionParams {
            context: Some(64),
            threads: Some(1),
            ..SessionParams::default()
        };
        let params = |n: usize| MaskedParams {
            length: AnswerLength::Tokens(4 + n),
            schedule: TransferSchedule::Timestep {
                steps: 3 + n as u32,
                eps: 0.01,
            },
            algorithm: Algorithm::Confidence,
            algorithm_temperature: 0.1,
            temperature: 0.7,
            filter: Filter::NONE,
            guidance: 0.0,
            gumbel_noise: false,
            seed: n as u64,
            ..MaskedParams::default()
        };
        let sessions = (0..2).map(|_| session(&model, &settings));
        let mut batch = SessionBatch::new(sessions.collect()).unwrap();
        let mut ids: BTreeMap<MemberId, usize> = BTreeMap::new();
        let (mut waiting, mut done) = (0..4, 0);
        for step in 0.. {
            assert!(step < 100, "it does not end");
            if batch.len() < 2
                && step % 2 == 0
                && let Some(n) = waiting.next()
            {
                let prompt = text(5 + 3 * n, n);
                let id = batch.join(&prompt, &params(n), &CancelFlag::default());
                ids.insert(id.unwrap(), n);
            }
            let mut drafts = BTreeMap::new();
            let finished = batch.step(&mut |id, event| {
                if let Event::Draft(_) = event {
                    *drafts.entry(id).or_insert(0) += 1;
                }
                ControlFlow::Continue(())
            });
            assert!(drafts.values().all(|drafts| *drafts == 1));
            for member in finished.unwrap() {
                let n = ids[&member.id];
                let prompt = text(5 + 3 * n, n);
                let (alone, _) = answer(&mut session(&model, &settings), &prompt, &params(n));
                let own = member.answer.unwrap().generation;
                assert_eq!(own.canvases, alone.generation.canvases, "{family:?}, {n}");
                assert_eq!(own.finish, alone.generation.finish);
                done += 1;
            }
            if batch.is_empty() && waiting.is_empty() {
                break;
            }
        }
        assert_eq!(done, 4);
        // Of one family alone.
        let mixed = vec![
            session(&model, &settings),
            session(&*MODEL, &super::settings()),
        ];
        assert!(SessionBatch::new(mixed).is_err());
        let other = masked(family);
        let odd = vec![session(&model, &settings), session(&other, &settings)];
        assert!(SessionBatch::new(odd).is_err(), "another model");
    }
}

#[test]
fn a_short_prompt_takes_the_room_of_half_a_canvas() {
    // One canvas of 16 leaves room for 16 tokens.
    for (first, second, fits) in [(8, 3, true), (9, 3, false), (3, 8, true), (3, 9, false)] {
        let mut batch = batch(3);
        let join = |batch: &mut SessionBatch, prompt: &[Token]| {
            let joined = batch.join(prompt, &request(1, 40), &CancelFlag::default());
            joined.unwrap()
        };
        join(&mut batch, &text(1, 0));
        batch.step(&mut nobody).unwrap();
        let ids = [text(first, 1), text(second, 2)].map(|prompt| join(&mut batch, &prompt));
        batch.step(&mut nobody).unwrap();
        let encoded = ids.map(|id| batch.stage(id) == Some(Stage::Denoising));
        assert_eq!(encoded, [true, fits], "{first} and {second} tokens");
        batch.step(&mut nobody).unwrap();
        assert_eq!(batch.stage(ids[1]), Some(Stage::Denoising));
    }
}

#[test]
fn where_no_canvas_waits_a_step_reads_short_prompts_of_one_pass_together() {
    // With canvases of 16 tokens, more than both have.
    const PASS: usize = 48;
    let params = SessionParams {
        batch: Some(PASS),
        ..settings()
    };
    for (second, fits) in [(PASS - 20, true), (PASS - 19, false)] {
        let sessions = (0..2).map(|_| session(&*MODEL, &params));
        let mut batch = SessionBatch::new(sessions.collect()).unwrap();
        let ids = [text(20, 0), text(second, 1)].map(|prompt| {
            let joined = batch.join(&prompt, &request(1, 3), &CancelFlag::default());
            joined.unwrap()
        });
        batch.step(&mut nobody).unwrap();
        let encoded = ids.map(|id| batch.stage(id) == Some(Stage::Denoising));
        assert_eq!(encoded, [true, fits], "20 and {second} tokens");
    }
}

#[test]
fn a_cancelled_prompt_is_read_no_further() {
    let mut batch = batch(1);
    let cancel = CancelFlag::default();
    batch.join(&prompt(1), &params(1), &cancel).unwrap();
    assert!(batch.step(&mut nobody).unwrap().is_empty());
    cancel.cancel();
    assert_eq!(batch.step(&mut nobody).unwrap().len(), 1);
    assert_eq!(batch.idle(0).unwrap().cached().len(), PASS);
}

#[test]
fn a_flag_that_is_set_in_a_step_ends_the_answer_with_it() {
    let mut batch = batch(1);
    let cancel = CancelFlag::default();
    batch.join(&prompt(0), &params(2), &cancel).unwrap();
    let mut on_event = |_: MemberId, event: Event<'_>| {
        if let Event::Draft(_) = event {
            cancel.cancel();
        }
        ControlFlow::Continue(())
    };
    let mut finished = Vec::new();
    while !cancel.is_cancelled() {
        finished = batch.step(&mut on_event).unwrap();
    }
    assert_eq!(finished.len(), 1);
}
