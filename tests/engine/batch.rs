//! Canvases of several sequences in one pass draw the same values as each sequence alone.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use llama_diffusion::diffusion::{
    CanvasRun, CanvasStatus, CounterNoise, Denoiser, EndTokens, Run as _,
};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::model::{BatchMember, CanvasBatch, DenoiserParams, SequenceDenoiser};
use llama_diffusion::{
    Answer, CancelFlag, DiffusionParams, Event, FinishReason, FlashAttention, KvType, MemberId,
    Model, ModelParams, Session, SessionBatch, SessionParams, Token,
};

fn generated(geometry: &Geometry) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, geometry, types, 7).unwrap();
    let load = Model::load(&path, &ModelParams::default(), &mut |_| {
        ControlFlow::Continue(())
    });
    load.unwrap()
}

fn model() -> Arc<Model> {
    Arc::new(generated(&Geometry::tiny()))
}

static TINY: LazyLock<Arc<Model>> = LazyLock::new(model);

fn denoiser_of(model: &Arc<Model>, flash: FlashAttention) -> SequenceDenoiser {
    let params = DenoiserParams {
        context: 512,
        batch: 64,
        threads: 1,
        prefill_threads: 1,
        kv_type: KvType::F32,
        flash_attention: flash,
        swa_full: false,
        checkpoints: 0,
    };
    SequenceDenoiser::new(model, &params).unwrap()
}

fn denoiser(flash: FlashAttention) -> SequenceDenoiser {
    denoiser_of(&TINY, flash)
}

fn prompt(sequence: usize) -> Vec<Token> {
    // Rings of the sliding layers wrap at some of these lengths.
    let n = [7, 90, 1, 230][sequence];
    (0..n)
        .map(|i| (5 + (i * 17 + sequence * 31) % 300) as Token)
        .collect()
}

/// Each sequence has temperatures and noise of its own.
fn run(sequence: usize, block: u32, canvas: usize) -> (CanvasRun, CounterNoise) {
    let params = DiffusionParams {
        max_steps: 3 + sequence as u32,
        t_max: 0.9 - 0.1 * sequence as f32,
        ..DiffusionParams::default()
    };
    let noise = CounterNoise::new(sequence as u64, TINY.hparams().vocab_size).unwrap();
    (
        CanvasRun::new(&params, block, canvas, &noise).unwrap(),
        noise,
    )
}

/// The results of a step: the next canvas, the most likely tokens, the entropies.
type Trace = Vec<(Vec<Token>, Vec<Token>, Vec<f32>)>;

fn note(run: &CanvasRun, trace: &mut Trace) {
    let draft = run.draft();
    trace.push((
        draft.canvas.to_vec(),
        draft.argmax.to_vec(),
        draft.entropy.to_vec(),
    ));
}

/// Two canvases of one sequence alone, the first committed.
fn alone(sequence: usize, flash: FlashAttention) -> Trace {
    let mut denoiser = denoiser(flash);
    denoiser.encode(&prompt(sequence)).unwrap();
    let mut trace = Trace::new();
    for block in 0..2 {
        let (mut run, noise) = run(sequence, block, denoiser.limits().canvas.unwrap());
        denoiser.begin_canvas(16).unwrap();
        while run.status() == CanvasStatus::Running {
            let (input, draws) = run.begin_step(&noise).unwrap();
            denoiser.step(&input, draws).unwrap();
            run.end_step(&noise).unwrap();
            note(&run, &mut trace);
        }
        denoiser
            .prefill(&run.finish(&EndTokens::default()).tokens)
            .unwrap();
    }
    trace
}

/// The same for all sequences at once: each commits and continues when its canvas is done.
fn together(sequences: usize, flash: FlashAttention) -> (Vec<Trace>, CanvasBatch) {
    let mut denoisers: Vec<_> = (0..sequences).map(|_| denoiser(flash)).collect();
    let mut batch = CanvasBatch::new(&denoisers[0], sequences).unwrap();
    let canvas = denoisers[0].limits().canvas.unwrap();
    let mut runs = Vec::new();
    for (sequence, denoiser) in denoisers.iter_mut().enumerate() {
        denoiser.encode(&prompt(sequence)).unwrap();
        denoiser.begin_canvas(16).unwrap();
        runs.push((0, run(sequence, 0, canvas)));
    }
    let mut traces = vec![Trace::new(); sequences];
    while runs.iter().any(|(block, _)| *block < 2) {
        let mut members: Vec<BatchMember<'_, '_>> = denoisers
            .iter_mut()
            .zip(&mut runs)
            .filter(|(_, (block, _))| *block < 2)
            .map(|(denoiser, (_, (run, noise)))| {
                let (input, draws) = run.begin_step(noise).unwrap();
                BatchMember {
                    denoiser,
                    input,
                    draws,
                }
            })
            .collect();
        batch.step(&mut members).unwrap();
        for (sequence, (block, (current, noise))) in runs.iter_mut().enumerate() {
            if *block == 2 {
                continue;
            }
            current.end_step(noise).unwrap();
            note(current, &mut traces[sequence]);
            if current.status() != CanvasStatus::Running {
                *block += 1;
                let (next, _) = run(sequence, *block, canvas);
                let done = std::mem::replace(current, next).finish(&EndTokens::default());
                denoisers[sequence].prefill(&done.tokens).unwrap();
                if *block < 2 {
                    denoisers[sequence].begin_canvas(16).unwrap();
                }
            }
        }
    }
    (traces, batch)
}

#[test]
fn a_batch_draws_what_each_sequence_draws_alone() {
    for flash in [FlashAttention::On, FlashAttention::Off] {
        let alone: Vec<Trace> = (0..4).map(|sequence| alone(sequence, flash)).collect();
        for sequences in [1, 2, 3, 4] {
            let (together, batch) = together(sequences, flash);
            for (sequence, (own, shared)) in alone.iter().zip(&together).enumerate() {
                assert_eq!(own.len(), shared.len());
                for (step, (own, shared)) in own.iter().zip(shared).enumerate() {
                    let at = format!("sequence {sequence} of {sequences}, step {step}");
                    assert_eq!(own.0, shared.0, "{at}");
                    assert_eq!(own.1, shared.1, "{at}");
                    // Equal with AVX2. On other processors another kernel may multiply more
                    // columns, which sums in another order.
                    for (a, b) in own.2.iter().zip(&shared.2) {
                        assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{at}: {a} {b}");
                    }
                }
            }
            // Each sequence begins twice and leaves once, at most: never a graph per step.
            assert!(
                batch.counters().graphs_built <= 3 * sequences,
                "{}",
                batch.counters().graphs_built
            );
            assert!(batch.memory() > 0);
        }
    }
}

#[test]
fn an_unloaded_batch_builds_its_graph_again() {
    let (mut a, noise) = (denoiser(FlashAttention::On), run(0, 0, 16).1);
    a.encode(&prompt(0)).unwrap();
    let mut batch = CanvasBatch::new(&a, 1).unwrap();
    let mut first = Vec::new();
    for round in 1..=2 {
        a.begin_canvas(16).unwrap();
        let mut run = run(0, 0, 16).0;
        // The second step of a canvas keeps the graph.
        for _ in 0..2 {
            let (input, draws) = run.begin_step(&noise).unwrap();
            let denoiser = &mut a;
            let mut members = [BatchMember {
                denoiser,
                input,
                draws,
            }];
            batch.step(&mut members).unwrap();
            run.end_step(&noise).unwrap();
        }
        assert_eq!(batch.counters().graphs_built, round);
        let loaded = batch.memory();
        batch.unload();
        assert!(batch.memory() < loaded, "the inputs of the graph are freed");
        first.push(run.draft().canvas.to_vec());
    }
    assert_eq!(first[0], first[1]);
}

#[test]
fn a_batch_that_cannot_work_is_refused_and_the_canvases_live_on() {
    let (mut a, mut b) = (denoiser(FlashAttention::On), denoiser(FlashAttention::On));
    let (mut other, mut separate) = (
        denoiser_of(&model(), FlashAttention::On),
        denoiser(FlashAttention::Off),
    );
    for denoiser in [&mut a, &mut other, &mut separate] {
        denoiser.encode(&[5, 6]).unwrap();
        denoiser.begin_canvas(16).unwrap();
    }
    let (run, noise) = run(0, 0, a.limits().canvas.unwrap());
    let mut batch = CanvasBatch::new(&a, 2).unwrap();
    assert_eq!(batch.capacity(), 2);
    let mut step = |denoisers: Vec<&mut SequenceDenoiser>| -> Result<(), String> {
        let mut runs = vec![run.clone(); denoisers.len()];
        let mut members: Vec<BatchMember<'_, '_>> = denoisers
            .into_iter()
            .zip(&mut runs)
            .map(|(denoiser, run)| {
                let (input, draws) = run.begin_step(&noise).unwrap();
                BatchMember {
                    denoiser,
                    input,
                    draws,
                }
            })
            .collect();
        batch.step(&mut members).map_err(|error| error.to_string())
    };
    let mut refused = |denoisers: Vec<&mut SequenceDenoiser>, why: &str| {
        let error = step(denoisers).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    refused(vec![], "use 1 to 2");
    refused(vec![&mut a, &mut other], "of another model");
    refused(vec![&mut a, &mut separate], "flash attention");
    refused(vec![&mut a, &mut b], "begin_canvas was not called");
    let mut third = denoiser(FlashAttention::On);
    refused(vec![&mut a, &mut b, &mut third], "use 1 to 2");
    b.encode(&[7]).unwrap();
    b.begin_canvas(16).unwrap();
    step(vec![&mut a, &mut b]).unwrap();
    assert!(CanvasBatch::new(&a, 0).is_err());
}

/// Their passes read the same number of keys: except for the sequences, one graph would serve both.
#[test]
fn sequences_that_take_turns_keep_to_their_own_caches() {
    let mut batch = CanvasBatch::new(&denoiser(FlashAttention::On), 1).unwrap();
    let mut turns = [0, 2].map(|sequence| {
        let mut denoiser = denoiser(FlashAttention::On);
        denoiser.encode(&prompt(sequence)).unwrap();
        denoiser.begin_canvas(16).unwrap();
        let (run, noise) = run(sequence, 0, denoiser.limits().canvas.unwrap());
        (sequence, denoiser, run, noise, Trace::new())
    });
    let goes_on = |run: &CanvasRun| run.status() == CanvasStatus::Running;
    while turns.iter().any(|(_, _, run, ..)| goes_on(run)) {
        for (_, denoiser, run, noise, trace) in &mut turns {
            if goes_on(run) {
                let (input, draws) = run.begin_step(noise).unwrap();
                let member = BatchMember {
                    denoiser,
                    input,
                    draws,
                };
                batch.step(&mut [member]).unwrap();
                run.end_step(noise).unwrap();
                note(run, trace);
            }
        }
    }
    for (sequence, _, _, _, trace) in &turns {
        let alone = alone(*sequence, FlashAttention::On);
        assert_eq!(trace[..], alone[..trace.len()], "sequence {sequence}");
    }
    // Steps whose sequence differs from that of the previous step.
    assert_eq!(batch.counters().graphs_built, 2 * 3);
}

/// ggml aborts if a graph has more nodes than were planned for.
#[test]
fn many_sequences_of_a_deep_model_fit_their_graph() {
    let geometry = Geometry {
        n_layers: 24,
        ..Geometry::tiny()
    };
    let model = Arc::new(generated(&geometry).without_own_kernels());
    let draw = |sequence: usize| {
        let params = DiffusionParams::default();
        let noise = CounterNoise::new(sequence as u64, model.hparams().vocab_size).unwrap();
        let run = CanvasRun::new(&params, 0, model.hparams().canvas_length, &noise).unwrap();
        let mut denoiser = denoiser_of(&model, FlashAttention::Off);
        denoiser.encode(&[5 + sequence as Token, 6]).unwrap();
        denoiser.begin_canvas(16).unwrap();
        (denoiser, run, noise)
    };
    let mut all: Vec<_> = (0..32).map(draw).collect();
    let mut batch = CanvasBatch::new(&all[0].0, 32).unwrap();
    let mut members: Vec<BatchMember<'_, '_>> = all
        .iter_mut()
        .map(|(denoiser, run, noise)| {
            let (input, draws) = run.begin_step(noise).unwrap();
            BatchMember {
                denoiser,
                input,
                draws,
            }
        })
        .collect();
    batch.step(&mut members).unwrap();
    for sequence in [0, 31] {
        let (_, together, noise) = &mut all[sequence];
        together.end_step(noise).unwrap();
        let (mut denoiser, mut alone, noise) = draw(sequence);
        let (input, draws) = alone.begin_step(&noise).unwrap();
        denoiser.step(&input, draws).unwrap();
        alone.end_step(&noise).unwrap();
        assert_eq!(together.draft().argmax, alone.draft().argmax, "{sequence}");
        assert_eq!(together.draft().canvas, alone.draft().canvas, "{sequence}");
    }
}

fn session() -> Session {
    let params = SessionParams {
        context: Some(512),
        threads: Some(1),
        kv_type: KvType::F32,
        ..SessionParams::default()
    };
    Session::new(&*TINY, EndTokens::default(), &params).unwrap()
}

fn request(sequence: usize) -> DiffusionParams {
    DiffusionParams {
        max_steps: 2 + sequence as u32,
        max_tokens: None,
        max_canvases: Some(1 + sequence),
        seed: sequence as u64,
        ..DiffusionParams::default()
    }
}

fn answer_alone(sequence: usize) -> Answer {
    session()
        .generate(
            &prompt(sequence),
            &request(sequence),
            &CancelFlag::default(),
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap()
}

#[test]
fn sessions_that_join_at_any_time_answer_as_alone() {
    let mut batch = SessionBatch::new(vec![session(), session(), session()]).unwrap();
    assert_eq!(batch.capacity(), 3);
    let mut ids: Vec<MemberId> = Vec::new();
    let (mut done, mut events, mut steps, mut step) = (0, 0, 0, 0);
    while done < 4 {
        // One joins every second step, the fourth only after another has left.
        let n = ids.len();
        if step % 2 == 0 && batch.len() < 3 && n < 4 {
            ids.push(
                batch
                    .join(&prompt(n), &request(n), &CancelFlag::default())
                    .unwrap(),
            );
        }
        let finished = batch
            .step(&mut |id, event| {
                assert!(ids.contains(&id));
                events += u64::from(!matches!(event, Event::PromptEncoded(_)));
                ControlFlow::Continue(())
            })
            .unwrap();
        for member in finished {
            let sequence = ids.iter().position(|id| *id == member.id).unwrap();
            let (own, alone) = (member.answer.unwrap(), answer_alone(sequence));
            assert_eq!(own.generation.canvases, alone.generation.canvases);
            assert_eq!(own.generation.finish, alone.generation.finish);
            steps += own.generation.steps + 2 * own.generation.canvases.len() as u64;
            // The session continues: its prompt and committed canvases are cached.
            let again = batch
                .idle(member.session)
                .unwrap()
                .generate(
                    &prompt(sequence),
                    &request(sequence),
                    &CancelFlag::default(),
                    &mut |_| ControlFlow::Continue(()),
                )
                .unwrap();
            assert_eq!(again.generation.canvases, alone.generation.canvases);
            done += 1;
        }
        step += 1;
    }
    assert!(batch.is_empty());
    assert_eq!(events, steps);
}

#[test]
fn a_member_is_cancelled_or_taken_out_without_the_others() {
    let mut batch = SessionBatch::new(vec![session(), session()]).unwrap();
    let cancel = CancelFlag::default();
    let join = |batch: &mut SessionBatch, n: usize, cancel: &CancelFlag| {
        batch.join(&prompt(n), &request(n), cancel)
    };
    let a = join(&mut batch, 2, &cancel).unwrap();
    let b = join(&mut batch, 3, &CancelFlag::default()).unwrap();
    let error = join(&mut batch, 1, &cancel).unwrap_err();
    assert!(error.to_string().contains("full with 2 answers"), "{error}");
    let go_on = &mut |_: MemberId, _: Event<'_>| ControlFlow::Continue(());
    // The prompts, and a step.
    assert!(batch.step(go_on).unwrap().is_empty());
    cancel.cancel();
    let finished = batch.step(go_on).unwrap();
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].id, a);
    let answer = finished[0].answer.as_ref().unwrap();
    assert_eq!(answer.generation.finish, FinishReason::Cancelled);
    assert_eq!(answer.generation.steps, 1);
    let error = batch.join(&[], &request(1), &CancelFlag::default());
    let error = error.unwrap_err();
    assert!(error.to_string().contains("empty"), "{error}");
    let separate = SessionParams {
        flash_attention: FlashAttention::Off,
        ..SessionParams::default()
    };
    let separate = Session::new(&*TINY, EndTokens::default(), &separate).unwrap();
    let other = Session::new(&model(), EndTokens::default(), &SessionParams::default()).unwrap();
    for odd in [separate, other] {
        let error = SessionBatch::new(vec![session(), odd]).err().unwrap();
        assert!(error.to_string().contains("flash attention"), "{error}");
    }
    let error = SessionBatch::new(Vec::new()).err().unwrap();
    assert!(error.to_string().contains("at least one"), "{error}");
    assert!(batch.leave(a).is_none());
    assert!(batch.leave(b).is_some());
    assert!(batch.is_empty() && batch.step(go_on).unwrap().is_empty());
    let c = join(&mut batch, 0, &CancelFlag::default()).unwrap();
    let mut finished = Vec::new();
    while !batch.is_empty() {
        finished = batch.step(go_on).unwrap();
    }
    assert_eq!(finished[0].id, c);
    let answer = finished[0].answer.as_ref().unwrap();
    assert_eq!(
        answer.generation.canvases,
        answer_alone(0).generation.canvases
    );
}

/// The end of an answer whose `on_event` breaks, or whose flag is set, at an event; and the
/// session.
fn stopped_alone(n: usize, at: usize, by_flag: bool) -> (Answer, Session) {
    let mut session = session();
    let flag = CancelFlag::default();
    let mut stop = stopper(at, by_flag, flag.clone());
    let answer = session
        .generate(&prompt(n), &request(n), &flag, &mut |event| stop(&event))
        .unwrap();
    (answer, session)
}

/// Counts events, except those of the prompt, whose passes differ in a batch; at the event with
/// number `at` it breaks or sets the flag.
fn stopper(
    at: usize,
    by_flag: bool,
    flag: CancelFlag,
) -> impl FnMut(&Event<'_>) -> ControlFlow<()> {
    let mut events = 0;
    move |event| {
        if matches!(event, Event::PromptEncoded(_)) {
            return ControlFlow::Continue(());
        }
        let now = events == at;
        events += 1;
        match (now, by_flag) {
            (true, true) => flag.cancel(),
            (true, false) => return ControlFlow::Break(()),
            (false, _) => {}
        }
        ControlFlow::Continue(())
    }
}

#[test]
fn a_member_stops_at_any_event_as_alone() {
    // Two canvases: each one's beginning, its three steps, its end.
    for (at, by_flag) in (0..10).flat_map(|at| [(at, false), (at, true)]) {
        let mut batch = SessionBatch::new(vec![session(), session()]).unwrap();
        let flag = CancelFlag::default();
        let a = batch.join(&prompt(1), &request(1), &flag).unwrap();
        batch
            .join(&prompt(2), &request(2), &CancelFlag::default())
            .unwrap();
        let mut stop = stopper(at, by_flag, flag);
        let mut finished = Vec::new();
        while !batch.is_empty() {
            let done = batch.step(&mut |id, event| match id == a {
                true => stop(&event),
                false => ControlFlow::Continue(()),
            });
            finished.extend(done.unwrap());
        }
        for member in &mut finished {
            let own = member.answer.as_ref().unwrap();
            let (alone, session) = match member.id == a {
                true => stopped_alone(1, at, by_flag),
                false => stopped_alone(2, usize::MAX, by_flag),
            };
            let (own, alone) = (&own.generation, &alone.generation);
            let what = format!("event {at}, by flag {by_flag}");
            assert_eq!(own.canvases, alone.canvases, "{what}");
            assert_eq!(own.tokens, alone.tokens, "{what}");
            assert_eq!(own.steps, alone.steps, "{what}");
            assert_eq!(own.finish, alone.finish, "{what}");
            // The committed canvases.
            let own = batch.idle(member.session).unwrap();
            assert_eq!(own.cached(), session.cached(), "{what}");
        }
    }
}

#[test]
fn a_member_reads_again_only_what_its_session_has_not_cached() {
    let mut batch = SessionBatch::new(vec![session()]).unwrap();
    let mut answer = |prompt: &[Token]| {
        batch
            .join(prompt, &request(1), &CancelFlag::default())
            .unwrap();
        let mut finished = Vec::new();
        while finished.is_empty() {
            finished = batch.step(&mut |_, _| ControlFlow::Continue(())).unwrap();
        }
        finished.remove(0).answer.unwrap()
    };
    let fresh = answer(&prompt(1));
    assert_eq!(fresh.reused, 0);
    // The prompt and the first of two canvases are cached.
    let mut longer = prompt(1);
    longer.extend(&fresh.generation.canvases[0].tokens);
    longer.extend([9, 8, 7]);
    let again = answer(&longer);
    assert_eq!(again.reused, 90 + 16);
    let encoded = 90 + 16 + 3 + 16;
    let denoiser = batch.idle(0).unwrap().canvas_denoiser().unwrap();
    assert_eq!(denoiser.counters().tokens_encoded, encoded);
}
