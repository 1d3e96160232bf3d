//! Several answers at once, of a small generated model on the CPU: how often a graph is built while
//! answers begin and end, how many tokens they make, and what a long prompt that joins costs the
//! others.
//!
//! `cargo bench --bench batch`. Graph counts do not depend on the machine.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use llama_diffusion::diffusion::Stage;
use llama_diffusion::internal::synthetic::{Geometry, synthetic_file};
use llama_diffusion::{
    CancelFlag, DiffusionParams, EndTokens, Event, MemberId, Model, ModelParams, Session,
    SessionBatch, SessionParams, Token,
};

const SLOTS: usize = 4;
const STEPS: usize = 60;
const LONG_PROMPT: usize = 2048;
/// Rounds of the long prompt.
const ROUNDS: usize = 3;

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
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
    Arc::new(Model::from_file(file, &params, go_on).unwrap())
});

fn batch() -> SessionBatch {
    let params = SessionParams {
        context: Some(4096),
        threads: Some(2),
        ..SessionParams::default()
    };
    let session = || Session::new(&*MODEL, EndTokens::default(), &params).unwrap();
    SessionBatch::new((0..SLOTS).map(|_| session()).collect()).unwrap()
}

/// An answer to be: the length of its prompt, its canvases, and the steps of each.
struct Request {
    prompt: usize,
    canvases: usize,
    steps: u32,
}

impl Request {
    /// Canvases do not converge: they take all of their steps.
    fn join(&self, batch: &mut SessionBatch, first: usize) -> MemberId {
        let prompt: Vec<Token> = (first..first + self.prompt)
            .map(|t| (t % 8000) as Token)
            .collect();
        let params = DiffusionParams {
            max_steps: self.steps,
            max_canvases: Some(self.canvases),
            confidence_threshold: 0.0,
            max_tokens: None,
            ..DiffusionParams::default()
        };
        let cancel = CancelFlag::default();
        batch.join(&prompt, &params, &cancel).unwrap()
    }
}

/// A step of all; returns the tokens of answers that are complete.
fn step(batch: &mut SessionBatch) -> usize {
    let go_on = &mut |_: MemberId, _: Event<'_>| ControlFlow::Continue(());
    let finished = batch.step(go_on).unwrap().into_iter();
    finished
        .map(|member| member.answer.unwrap().generation.tokens.len())
        .sum()
}

/// Answers `requests` until there were enough steps; a request waits for `gap` steps after an
/// answer is complete.
fn answers(name: &str, gap: usize, request: impl Fn(usize) -> Request) {
    let mut batch = batch();
    let (mut begun, mut tokens, start) = (0, 0, Instant::now());
    let mut waits = vec![0_usize; SLOTS];
    while batch.counters().steps < STEPS {
        waits.retain_mut(|steps| {
            let now = *steps == 0;
            if now {
                request(begun).join(&mut batch, begun * 100);
                begun += 1;
            }
            *steps = steps.saturating_sub(1);
            !now
        });
        tokens += step(&mut batch);
        waits.resize(SLOTS - batch.len(), gap);
    }
    let (counters, time) = (batch.counters(), start.elapsed().as_secs_f64());
    println!(
        "{name}: {:.0} graphs per 100 steps, {:.2} per answer; {:.0} tokens/s, {:.2} ms a step",
        (counters.graphs_built * 100) as f64 / counters.steps as f64,
        counters.graphs_built as f64 / begun as f64,
        tokens as f64 / time,
        time * 1e3 / counters.steps as f64,
    );
}

/// Three answers denoise while a long prompt is encoded.
fn long_prompt() {
    let mut batch = batch();
    let request = |prompt, steps| Request {
        prompt,
        canvases: 1,
        steps,
    };
    for answer in 0..SLOTS - 1 {
        request(30, 10_000).join(&mut batch, answer * 100);
    }
    let timed = |batch: &mut SessionBatch| -> Duration {
        let start = Instant::now();
        step(batch);
        start.elapsed()
    };
    for _ in 0..5 {
        timed(&mut batch);
    }
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone.extend((0..10).map(|_| timed(&mut batch)));
        let long = request(LONG_PROMPT, 1).join(&mut batch, 5000 + round);
        while batch.stage(long) == Some(Stage::Prefilling) {
            beside.push(timed(&mut batch));
        }
        batch.leave(long);
        timed(&mut batch); // the graph without it
    }
    let mean = |times: &[Duration]| {
        times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64
    };
    let longest = beside.iter().max().map_or(0.0, |t| t.as_secs_f64() * 1e3);
    println!(
        "{} answers: {:.2} ms a step; {:.2} ms ({:.2} times) in the {} steps in which a prompt of \
         {LONG_PROMPT} tokens is encoded, the longest {longest:.2} ms ({:.2} times)",
        SLOTS - 1,
        mean(&alone),
        mean(&beside),
        mean(&beside) / mean(&alone),
        beside.len() / ROUNDS,
        longest / mean(&alone),
    );
}

fn main() {
    println!("{SLOTS} answers at once, canvases of 64 tokens");
    let short = |answer: usize, steps| Request {
        prompt: 20 + answer * 7 % 40,
        canvases: 1,
        steps,
    };
    answers("4 steps each, all begin together", 0, |n| short(n, 4));
    let churn = |n: usize| short(n, 3 + (n * 5 % 7) as u32);
    answers("3 to 9 steps, the next begins at once", 0, churn);
    answers("3 to 9 steps, the next begins 2 steps later", 2, churn);
    answers("prompts of 20 to 600 tokens, 1 to 3 canvases", 0, |n| {
        Request {
            prompt: 20 + n * 97 % 580,
            canvases: 1 + n % 3,
            steps: 3 + (n * 5 % 7) as u32,
        }
    });
    long_prompt();
}
