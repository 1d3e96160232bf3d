//! The scheduler on an engine without a model, under a clock that the tests turn.

mod tasks;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use llama_diffusion::{CancelFlag, DiffusionParams, Token};
use proptest::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::board::{Board, Shown};
use super::job::{Class, Failure, Found, Group, Job, Outlet, Update};
use super::scheduler::{Broken, Refusal, Scheduler};
use super::scripted::{PASS, Scripted};
use super::thread::{Handle, run};
use crate::admission::{Admission, Limits};
use crate::metrics::Metrics;
use crate::protocol::answer::EndReason;

/// A scheduler, and the milliseconds of its clock.
struct Bench {
    scheduler: Scheduler<Scripted>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    clock: Arc<AtomicU64>,
    start: Instant,
    admission: Admission,
    next: u64,
}

type Updates = UnboundedReceiver<(usize, Update)>;

impl Bench {
    fn new(engine: Scripted, library: usize) -> Self {
        let clock = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let time = Arc::clone(&clock);
        let now = move || start + Duration::from_millis(time.load(Ordering::Relaxed));
        let metrics = Arc::new(Metrics::new().unwrap());
        let board = Arc::new(Board::default());
        Self {
            scheduler: Scheduler::new(
                engine,
                library,
                Box::new(now),
                Arc::clone(&board),
                Arc::clone(&metrics),
            ),
            board,
            metrics,
            clock,
            start,
            admission: Admission::new(Limits {
                slots: usize::MAX,
                queue: 0,
                tokens: usize::MAX,
                each: usize::MAX,
            }),
            next: 0,
        }
    }

    fn job(&mut self, prompt: &[Token]) -> (Job, Updates) {
        let (updates, receiver) = unbounded_channel();
        self.next += 1;
        let job = Job {
            id: self.next,
            prompt: prompt.to_vec(),
            recipe: Box::new(DiffusionParams::default()),
            cancel: CancelFlag::default(),
            outlet: Outlet {
                index: 0,
                updates,
                reports_prompt: true,
                followed: Arc::default(),
            },
            slot: None,
            reuses: true,
            encodes_only: false,
            task: None,
            time: None,
            class: Class::Other,
            owner: 0,
            group: Group::default(),
            submitted: self.start + Duration::from_millis(self.clock.load(Ordering::Relaxed)),
            ticket: self.admission.take(0).unwrap(),
        };
        (job, receiver)
    }

    fn submit(&mut self, prompt: &[Token]) -> Updates {
        let (job, updates) = self.job(prompt);
        self.scheduler.submit(job);
        updates
    }

    fn tick(&mut self) {
        self.clock.fetch_add(1, Ordering::Relaxed);
        self.scheduler.tick().unwrap();
    }

    /// Runs until nothing is left, and returns the steps that it took.
    fn finish(&mut self) -> usize {
        let mut ticks = 0;
        while !self.scheduler.is_idle() {
            self.tick();
            ticks += 1;
            assert!(ticks < 1_000_000, "jobs do not end");
        }
        assert_eq!(self.admission.taken(), 0, "tickets are lost");
        ticks
    }
}

/// What a client received: its text, and why it ended.
#[derive(Debug, PartialEq)]
enum Got {
    Answer(Vec<Token>, EndReason),
    Failed(Failure),
    Nothing,
}

fn received(updates: &mut Updates) -> Got {
    let mut text = Vec::new();
    while let Ok((_, update)) = updates.try_recv() {
        match update {
            Update::Canvas { canvas, .. } => text.extend(canvas.answer),
            Update::Ended(ended) => return Got::Answer(text, ended.reason),
            Update::Failed(failure) => return Got::Failed(failure),
            Update::Found {
                found: Found::Form(form),
                ..
            } => text.extend(form.tokens),
            Update::Found { .. } => {}
            Update::Begun { .. } | Update::Encoded(_) => {}
        }
    }
    Got::Nothing
}

/// What the engine answers to a prompt.
fn answer(prompt: &[Token]) -> Got {
    let sum: Token = prompt.iter().sum();
    let canvases = (*prompt.last().unwrap()).max(1);
    let text = (0..canvases).flat_map(|block| vec![sum + block; PASS]);
    Got::Answer(text.collect(), EndReason::EndOfText)
}

#[test]
fn every_client_has_the_answer_to_its_own_prompt() {
    let mut bench = Bench::new(Scripted::new(3), 0);
    let prompts: Vec<Vec<Token>> = (0..40).map(|n| vec![n, 7, n % 4]).collect();
    let mut clients: Vec<Updates> = prompts.iter().map(|prompt| bench.submit(prompt)).collect();
    bench.finish();
    for (prompt, client) in prompts.iter().zip(&mut clients) {
        assert_eq!(received(client), answer(prompt), "{prompt:?}");
    }
}

#[test]
fn cancelled_jobs_leave_at_the_next_step_wherever_they_are() {
    let mut bench = Bench::new(Scripted::new(1), 0);
    let long: Vec<Token> = [3; 40].into_iter().chain([900]).collect();
    let (prefilling, its_updates) = bench.job(&long);
    let cancel = prefilling.cancel.clone();
    bench.scheduler.submit(prefilling);
    let (queued, queued_updates) = bench.job(&[1, 1]);
    let queued_cancel = queued.cancel.clone();
    bench.scheduler.submit(queued);
    let mut last = bench.submit(&[5, 1]);
    bench.tick();
    assert_eq!(bench.admission.taken(), 3);
    drop(queued_updates);
    queued_cancel.cancel();
    bench.tick();
    assert_eq!(bench.admission.taken(), 2, "queued");
    drop(its_updates);
    cancel.cancel();
    bench.tick();
    assert_eq!(bench.admission.taken(), 1, "prefilling");
    bench.finish();
    assert_eq!(received(&mut last), answer(&[5, 1]));
    // The client of the first one is gone, that of the second one has read enough.
    for is_gone in [true, false] {
        let (denoising, mut updates) = bench.job(&[900]);
        let cancel = denoising.cancel.clone();
        bench.scheduler.submit(denoising);
        for _ in 0..5 {
            bench.tick();
        }
        if is_gone {
            updates.close();
        }
        cancel.cancel();
        bench.tick();
        assert!(bench.scheduler.is_idle());
    }
    let counted = bench.metrics.text(&Shown::default(), 0, (0, 0)).unwrap();
    let mut counted: Vec<_> = counted
        .lines()
        .filter_map(|line| line.strip_prefix("llama_diffusion_cancelled_total"))
        .collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            "{while=\"prefilling\"} 1",
            "{while=\"queued\"} 1",
            "{while=\"running\"} 1"
        ]
    );
}

#[test]
fn a_client_that_asks_for_no_progress_is_woken_by_its_first_canvas() {
    let mut bench = Bench::new(Scripted::new(1), 0);
    let (mut job, mut updates) = bench.job(&[3; 2 * PASS]);
    job.outlet.reports_prompt = false;
    bench.scheduler.submit(job);
    bench.finish();
    let (_, first) = updates.try_recv().unwrap();
    assert!(matches!(first, Update::Canvas { .. }), "{first:?}");
}

#[test]
fn an_error_is_one_of_its_step_and_the_server_lives_on() {
    let engine = Scripted::new(2).fail([false, false, true]);
    let mut bench = Bench::new(engine, 0);
    let mut failed = bench.submit(&[2, 9]);
    let mut reading = bench.submit(&[1; 30]);
    bench.finish();
    let Got::Failed(Failure::Engine(problem)) = received(&mut failed) else {
        panic!("no error");
    };
    assert!(problem.contains("lost"), "{problem}");
    assert_eq!(received(&mut reading), answer(&[1; 30]));
    let mut next = bench.submit(&[2, 2]);
    bench.finish();
    assert_eq!(received(&mut next), answer(&[2, 2]));
}

#[test]
fn three_failures_in_a_row_break_the_engine_and_everybody_is_told() {
    let mut bench = Bench::new(Scripted::new(1).fail([true; 3]), 0);
    let mut clients: Vec<Updates> = (0..5).map(|n| bench.submit(&[n])).collect();
    assert_eq!(bench.scheduler.tick(), Ok(()));
    assert_eq!(bench.scheduler.tick(), Ok(()));
    assert_eq!(bench.scheduler.tick(), Err(Broken));
    for client in &mut clients {
        assert!(matches!(received(client), Got::Failed(_)));
    }
    assert_eq!(bench.admission.taken(), 0);
}

#[test]
fn prompts_are_encoded_once() {
    let mut bench = Bench::new(Scripted::new(2), 1000);
    let system: Vec<Token> = (0..200).collect();
    let with = |end: &[Token]| [&system[..], end].concat();
    bench.submit(&with(&[7, 1]));
    bench.finish();
    assert_eq!(bench.scheduler.engine().encoded, 202);
    // The other slot copies what they share, also while the first one answers.
    bench.submit(&with(&[7, 5]));
    bench.submit(&with(&[8, 5]));
    bench.finish();
    assert_eq!(bench.scheduler.engine().encoded, 202 + 1 + 2);
    // Both slots lose it, but the library has it.
    bench.submit(&vec![900; 100]);
    bench.submit(&vec![901; 100]);
    for _ in 0..100 {
        bench.tick();
    }
    bench.scheduler.stop_running();
    bench.finish();
    let before = bench.scheduler.engine().encoded;
    bench.submit(&with(&[9, 1]));
    bench.finish();
    assert_eq!(bench.scheduler.engine().encoded - before, 2);
}

#[test]
fn several_answers_to_a_prompt_encode_it_once() {
    let mut bench = Bench::new(Scripted::new(3), 0);
    let prompt: Vec<Token> = (0..100).chain([2]).collect();
    let leader = Group::default();
    let mut clients = Vec::new();
    for follows in [false, true, true] {
        let (mut job, updates) = bench.job(&prompt);
        job.group = match follows {
            true => leader.follower(),
            false => leader.clone(),
        };
        bench.scheduler.submit(job);
        clients.push(updates);
    }
    bench.finish();
    assert_eq!(bench.scheduler.engine().encoded, 101);
    for client in &mut clients {
        assert_eq!(received(client), answer(&prompt));
    }
}

#[test]
fn an_answer_out_of_time_is_its_draft() {
    let mut bench = Bench::new(Scripted::new(1), 0);
    let (mut job, mut updates) = bench.job(&[1, 900]);
    job.time = Some(Duration::from_millis(6));
    bench.scheduler.submit(job);
    assert!(bench.finish() < 12);
    let Got::Answer(text, EndReason::Time) = received(&mut updates) else {
        panic!("no answer");
    };
    assert!(
        text.len() > PASS && text.len().is_multiple_of(PASS),
        "{text:?}"
    );
}

#[test]
fn a_prompt_may_only_be_encoded() {
    let mut bench = Bench::new(Scripted::new(1), 0);
    for encoded in [6, 0] {
        let before = bench.scheduler.engine().encoded;
        let (mut job, mut updates) = bench.job(&[1, 2, 3, 4, 5, 6]);
        job.encodes_only = true;
        bench.scheduler.submit(job);
        bench.finish();
        assert_eq!(
            received(&mut updates),
            Got::Answer(Vec::new(), EndReason::Length)
        );
        assert_eq!(bench.scheduler.engine().encoded - before, encoded);
    }
}

#[test]
fn nobody_waits_for_a_flood() {
    let mut bench = Bench::new(Scripted::new(1), 0);
    let mut order = Vec::new();
    for (class, owner) in [(Class::Editor, 1); 20]
        .into_iter()
        .chain([(Class::Other, 1); 20])
        .chain([(Class::Other, 2)])
    {
        let (mut job, updates) = bench.job(&[1]);
        (job.class, job.owner) = (class, owner);
        bench.scheduler.submit(job);
        order.push(updates);
    }
    let quiet = order.len() - 1;
    let mut answers_before = 0;
    while received(&mut order[quiet]) == Got::Nothing {
        bench.tick();
        answers_before += 1;
        // A prompt and a canvas take three steps; at most ten answers come first.
        assert!(answers_before < 40, "the quiet owner starves");
    }
    bench.finish();
}

#[test]
fn who_comes_while_another_owner_is_served_is_next() {
    let mut bench = Bench::new(Scripted::new(1), 0);
    let owned = |bench: &mut Bench, owner| {
        let (mut job, updates) = bench.job(&[1]);
        job.owner = owner;
        bench.scheduler.submit(job);
        updates
    };
    let mut loud: Vec<_> = (0..3).map(|_| owned(&mut bench, 1)).collect();
    bench.tick();
    let mut quiet = [2, 3].map(|owner| owned(&mut bench, owner));
    while received(&mut quiet[1]) == Got::Nothing {
        bench.tick();
    }
    assert_ne!(received(&mut loud[0]), Got::Nothing);
    assert_ne!(received(&mut quiet[0]), Got::Nothing);
    assert_eq!(received(&mut loud[1]), Got::Nothing);
    bench.finish();
    assert_ne!(received(&mut loud[1]), Got::Nothing);
}

#[test]
fn the_thread_ends_after_the_answers_in_progress() {
    let bench = Bench::new(Scripted::new(1), 0);
    let (handle, commands) = Handle::new();
    let mut scheduler = bench;
    let (running, mut updates) = scheduler.job(&[3, 2]);
    let (late, mut refused) = scheduler.job(&[4, 2]);
    let thread = std::thread::spawn(move || run(scheduler.scheduler, &commands));
    handle.submit(running);
    while !matches!(updates.blocking_recv(), Some((_, Update::Begun { .. }))) {}
    handle.drain();
    handle.submit(late);
    assert_eq!(thread.join().unwrap(), Ok(()));
    assert!(matches!(
        received(&mut updates),
        Got::Answer(_, EndReason::EndOfText)
    ));
    assert_eq!(received(&mut refused), Got::Failed(Failure::Draining));
}

proptest! {
    /// Whatever arrives and goes in whatever order: everybody who stays has the right answer, and the
    /// scheduler ends.
    #[test]
    fn arrivals_and_departures_in_any_order(
        slots in 1usize..5,
        events in prop::collection::vec((0u8..10, 0i32..6, 0i32..5, any::<bool>()), 1..60),
    ) {
        let mut bench = Bench::new(Scripted::new(slots), 300);
        let mut clients: Vec<(Vec<Token>, CancelFlag, Updates)> = Vec::new();
        for (kind, a, b, editor) in events {
            match kind {
                0..=4 => {
                    let prompt = vec![a; 3 + 30 * b as usize].into_iter().chain([b]).collect::<Vec<_>>();
                    let (mut job, updates) = bench.job(&prompt);
                    job.class = if editor { Class::Editor } else { Class::Other };
                    job.owner = a as u64;
                    clients.push((prompt, job.cancel.clone(), updates));
                    bench.scheduler.submit(job);
                }
                5 => {
                    let count = clients.len().max(1);
                    if let Some((_, cancel, _)) = clients.get(a as usize % count) {
                        cancel.cancel();
                    }
                }
                _ => bench.tick(),
            }
        }
        bench.finish();
        for (prompt, cancel, updates) in &mut clients {
            let got = received(updates);
            match cancel.is_cancelled() {
                true => prop_assert!(!matches!(got, Got::Failed(_))),
                false => prop_assert_eq!(got, answer(prompt)),
            }
        }
    }
}

/// A million requests with as many places as a server has: every one is answered as alone, once and
/// after a bounded time, unless its client goes away, as a tenth of them do, or it waits when the server
/// ends. A build without optimization does a twentieth of it.
#[test]
fn a_million_requests_are_answered() {
    const REQUESTS: usize = if cfg!(debug_assertions) {
        50_000
    } else {
        1_000_000
    };
    const PLACES: usize = 136;
    /// Twice the steps of an answer, with the pass over its prompt, for each place of a slot.
    const PATIENCE: u64 = 2 * 3 * (PLACES as u64 / 8);
    struct Client {
        prompt: [Token; 2],
        since: u64,
        text: Vec<Token>,
        cancel: CancelFlag,
    }
    let mut bench = Bench::new(Scripted::new(8), 0);
    let (updates, mut receiver) = unbounded_channel();
    let mut clients: HashMap<usize, Client> = HashMap::new();
    let (mut submitted, mut answered, mut cancelled, mut refused) = (0, 0, 0, 0);
    let mut impatient = Vec::new();
    let mut longest = 0;
    while submitted < REQUESTS || !bench.scheduler.is_idle() {
        let now = bench.clock.load(Ordering::Relaxed);
        while submitted < REQUESTS && bench.admission.taken() < PLACES {
            let prompt = [submitted as Token % 5, 1];
            let (mut job, _) = bench.job(&prompt);
            job.outlet.index = submitted;
            job.outlet.updates = updates.clone();
            job.owner = submitted as u64 % 7;
            if submitted % 16 == 1 {
                job.class = Class::Editor;
            }
            if submitted.is_multiple_of(10) {
                impatient.push(submitted);
            }
            let client = Client {
                prompt,
                since: now,
                text: Vec::new(),
                cancel: job.cancel.clone(),
            };
            clients.insert(submitted, client);
            bench.scheduler.submit(job);
            submitted += 1;
            if submitted == REQUESTS {
                bench.scheduler.refuse_queue();
            }
        }
        if impatient.len() > 5 {
            for client in impatient.drain(..).filter_map(|gone| clients.remove(&gone)) {
                client.cancel.cancel();
                cancelled += 1;
            }
        }
        bench.tick();
        while let Ok((index, update)) = receiver.try_recv() {
            match update {
                Update::Canvas { canvas, .. } => {
                    if let Some(client) = clients.get_mut(&index) {
                        client.text.extend(canvas.answer);
                    }
                }
                Update::Ended(ended) => {
                    let Some(client) = clients.remove(&index) else {
                        continue; // its client is gone
                    };
                    let got = Got::Answer(client.text, ended.reason);
                    assert_eq!(got, answer(&client.prompt), "request {index}");
                    longest = longest.max(now - client.since);
                    answered += 1;
                }
                Update::Failed(Failure::Draining) => {
                    refused += usize::from(clients.remove(&index).is_some());
                }
                Update::Failed(failure) => panic!("request {index}: {failure:?}"),
                Update::Found { .. } | Update::Begun { .. } | Update::Encoded(_) => {}
            }
        }
    }
    assert_eq!(bench.admission.taken(), 0, "tickets are lost");
    assert!(clients.is_empty(), "{} requests are lost", clients.len());
    assert_eq!(answered + cancelled + refused, REQUESTS);
    assert!(cancelled > REQUESTS / 20, "{cancelled} cancelled");
    assert!((1..PLACES).contains(&refused), "{refused} refused");
    assert!(longest <= PATIENCE, "one waited for {longest} steps");
}

#[test]
fn an_answer_without_memory_fails_alone() {
    let mut bench = Bench::new(Scripted::new(2).refuse([false, true]), 0);
    let prompts: [&[Token]; 3] = [&[1, 2, 3], &[4, 5, 2], &[6, 7, 2]];
    let mut clients = prompts.map(|prompt| bench.submit(prompt));
    bench.finish();
    let [first, refused, third] = clients.each_mut().map(received);
    assert_eq!((first, third), (answer(prompts[0]), answer(prompts[2])));
    match refused {
        Got::Failed(Failure::Engine(problem)) => assert!(problem.contains("CUDA0"), "{problem}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn caches_are_saved_and_restored_only_while_a_slot_is_idle() {
    let mut bench = Bench::new(Scripted::new(2), 0);
    let mut client = bench.submit(&[1, 2, 3, 4, 5, 1]);
    bench.tick();
    let in_use = |refusal| matches!(refusal, Some(Refusal::InUse));
    let slot = 1; // the last of equals
    assert!(in_use(bench.scheduler.save(slot).err()));
    assert!(in_use(bench.scheduler.erase(slot).err()));
    assert!(in_use(bench.scheduler.save(9).err()));
    bench.finish();
    assert_eq!(received(&mut client), answer(&[1, 2, 3, 4, 5, 1]));
    let saved = bench.scheduler.save(slot).unwrap();
    assert_eq!(bench.scheduler.erase(slot).unwrap(), 6);
    bench.scheduler.restore(slot, &saved).unwrap();
    assert_eq!(bench.scheduler.erase(slot).unwrap(), 6);
}
