//! `--server`: how a running server does under load.

mod answer;
pub mod args;
mod client;
mod hang_up;
mod load;
mod prompts;
pub mod rows;

use std::thread;
use std::time::Duration;

use llama_diffusion::{Error, Result};
use llama_diffusion_flags::streams::say;

use crate::args::Args;
use crate::output::Report;
use client::Client;
use load::{Load, Test};
use rows::{Measured, Texts};

/// Runs all tests against the server at `url`. In each repetition they take turns, so that other
/// load on the machine affects all of them alike.
///
/// # Errors
/// The server cannot be reached, or refuses a request for another reason than that it is full.
pub fn measure(args: &Args, url: &str, report: &mut Report) -> Result<()> {
    let most = args.parallel().into_iter().max().unwrap_or(1);
    let client = Client::new(url, most)?;
    let load = Load {
        client: &client,
        args: &args.server,
        prompts: prompts::read(&args.server)?,
        requests: args.server.requests.unwrap_or(most * 4),
        steps: args.chosen_steps,
    };
    let model = model(&load)?;
    let mut tests: Vec<Measured> = tests(args).map(Measured::new).collect();
    let mut texts = Texts::default();
    if !args.no_warmup {
        for Measured { test, .. } in &tests {
            load.round(*test, test.streams)?;
        }
    }
    for repetition in 0..args.repetitions {
        for measured in &mut tests {
            announce(args, measured.test, repetition);
            let round = load.round(measured.test, load.requests)?;
            measured.differing += texts.differing(measured.test, &round);
            measured.rounds.push(round);
        }
    }
    for measured in &mut tests {
        measured.cancels = hang_up::measure(&load, measured.test)?;
    }
    for measured in &tests {
        let first = &tests[0];
        report
            .loads
            .push(measured.load(client.base(), &model, first));
        report
            .latencies
            .extend(measured.latencies(client.base(), &model));
    }
    Ok(())
}

/// Every combination of --n-gen, --drafts and --parallel.
fn tests(args: &Args) -> impl Iterator<Item = Test> {
    let lengths = args.tokens().into_iter();
    lengths.flat_map(move |tokens| {
        args.server.drafts.iter().flat_map(move |&drafts| {
            let streams = args.parallel().into_iter();
            streams.map(move |streams| Test {
                streams,
                drafts,
                tokens,
            })
        })
    })
}

/// The name of the model.
fn model(load: &Load<'_>) -> Result<String> {
    let models = load.client.get("/v1/models", load.key(0))?;
    let name = models["data"][0]["id"].as_str();
    name.map(str::to_owned).ok_or_else(|| Error::Input {
        name: load.client.base().to_owned(),
        problem: "/v1/models lists no model: is this llama-diffusion-server?".into(),
    })
}

/// Waits before a test, and prints its name, as the user asked.
fn announce(args: &Args, test: Test, repetition: usize) {
    thread::sleep(Duration::from_secs(args.delay.into()));
    if args.progress {
        say(format_args!(
            "repetition {}: {} streams, drafts {}",
            repetition + 1,
            test.streams,
            test.drafts.name()
        ));
    }
}
