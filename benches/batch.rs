//! Several answers at once, of a small generated model on the CPU: how often a graph is built while
//! answers begin and end, and what a long prompt that joins costs the others.
//!
//! `cargo bench --bench batch`. Graph counts do not depend on the machine.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llama_diffusion::diffusion::Stage;
use llama_diffusion::internal::synthetic::{Geometry, synthetic_file};
use llama_diffusion::{
    CancelFlag, DiffusionParams, EndTokens, Event, MemberId, Model, ModelParams, Session,
    SessionBatch, SessionParams, Token,
};

const SLOTS: usize = 4;
const LONG_PROMPT: usize = 2048;

fn go_on(_: MemberId, _: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn batch(slots: usize) -> SessionBatch {
    let geometry = Geometry {
        n_layers: 4,
        canvas_length: 64,
        ..Geometry::small()
    };
    let file = synthetic_file(&geometry, "q8_0".parse().unwrap(), 1).unwrap();
    let params = ModelParams {
        devices: Some(Vec::new()),
        ..ModelParams::default()
    };
    let go_on = &mut |_| ControlFlow::Continue(());
    let model = Arc::new(Model::from_file(file, &params, go_on).unwrap());
    let params = SessionParams {
        context: Some(4096),
        threads: Some(2),
        ..SessionParams::default()
    };
    let session = || Session::new(&model, EndTokens::default(), &params).unwrap();
    SessionBatch::new((0..slots).map(|_| session()).collect()).unwrap()
}

/// Answers of this number of steps, none of which converges.
fn params(steps: u32) -> DiffusionParams {
    DiffusionParams {
        max_steps: steps,
        max_canvases: Some(1),
        confidence_threshold: 0.0,
        max_tokens: None,
        ..DiffusionParams::default()
    }
}

fn prompt(tokens: usize, first: usize) -> Vec<Token> {
    (first..first + tokens)
        .map(|t| (t % 8000) as Token)
        .collect()
}

fn join(batch: &mut SessionBatch, tokens: usize, first: usize, steps: u32) -> MemberId {
    let cancel = CancelFlag::default();
    batch
        .join(&prompt(tokens, first), &params(steps), &cancel)
        .unwrap()
}

fn step(batch: &mut SessionBatch) {
    for finished in batch.step(&mut go_on).unwrap() {
        finished.answer.unwrap();
    }
}

/// Answers of 3 to 9 steps; another one begins as soon as one ends.
fn churn() {
    let mut batch = batch(SLOTS);
    let (mut answers, start) = (0, Instant::now());
    while batch.counters().steps < 200 {
        while batch.len() < SLOTS {
            answers += 1;
            let steps = 3 + (answers * 5 % 7) as u32;
            join(&mut batch, 20 + answers * 7 % 40, answers * 100, steps);
        }
        step(&mut batch);
    }
    let counters = batch.counters();
    println!(
        "{SLOTS} answers at once, {answers} begun in {} steps: {:.0} graphs built per 100 steps, \
         {:.2} ms a step",
        counters.steps,
        counters.graphs_built as f64 * 100.0 / counters.steps as f64,
        start.elapsed().as_secs_f64() * 1e3 / counters.steps as f64,
    );
}

/// Three answers denoise while a long prompt is encoded.
fn long_prompt() {
    let mut batch = batch(SLOTS);
    for answer in 0..SLOTS - 1 {
        join(&mut batch, 30, answer * 100, 10_000);
    }
    let timed = |batch: &mut SessionBatch| -> Duration {
        let start = Instant::now();
        step(batch);
        start.elapsed()
    };
    for _ in 0..10 {
        timed(&mut batch);
    }
    let alone: Vec<Duration> = (0..30).map(|_| timed(&mut batch)).collect();
    let long = join(&mut batch, LONG_PROMPT, 5000, 1);
    let mut beside = Vec::new();
    while batch.stage(long) == Some(Stage::Prefilling) {
        beside.push(timed(&mut batch));
    }
    let mean = |times: &[Duration]| {
        times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64
    };
    let longest = beside.iter().max().map_or(0.0, |t| t.as_secs_f64() * 1e3);
    println!(
        "{} answers: {:.2} ms a step alone; {:.2} ms ({:.2} times) in the {} steps in which a prompt of \
         {LONG_PROMPT} tokens is encoded, {longest:.2} ms at most",
        SLOTS - 1,
        mean(&alone),
        mean(&beside),
        mean(&beside) / mean(&alone),
        beside.len(),
    );
}

fn main() {
    churn();
    long_prompt();
}
