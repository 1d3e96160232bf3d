//! Golden cases on CPUs that RPC servers offer: all layers on one server, and halves on two. With
//! `DIFFUSION_TEST_DEVICE=HOST:PORT`, `device.rs` and `device_golden.rs` test a server of the
//! user's choice in every placement.
#![cfg(feature = "rpc")]

mod common;

use common::rpc::Server;
use llama_diffusion::{Device, ModelParams, RPC_TIMEOUT};
use llama_diffusion_testing::golden::Case;
use llama_diffusion_testing::replay::{Run, forwards, generation};

/// ggml's gelu on the CPU is a table of F16 numbers.
const LIMIT: f64 = 1e-3;

#[test]
fn golden_cases_agree_with_transformers() {
    let servers = [Server::start(), Server::start()];
    let names: Vec<String> = servers
        .iter()
        .flat_map(|server| Device::add_rpc_server(&server.endpoint, RPC_TIMEOUT).unwrap())
        .map(|device| device.name())
        .collect();
    println!("| servers | golden case | largest relative error | equal steps | first difference |");
    println!("|---|---|---|---|---|");
    for count in [1, 2] {
        let run = Run {
            placement: ModelParams {
                devices: Some(names[..count].to_vec()),
                split: vec![1.0; count],
                ..ModelParams::default()
            },
            own_kernels: false,
            ..Run::f32("RPC")
        };
        let (mut equal, mut all) = (0, 0);
        for case in Case::all() {
            let model = run.load(&case);
            let errors = forwards(&case, &model, &run);
            let worst = errors.into_iter().fold(0.0, f64::max);
            let replay = generation(&case, &model, &run);
            let difference = replay.difference.map_or("-", |difference| difference.what);
            let (name, steps) = (case.name(), case.meta.steps);
            println!(
                "| {count} | {name} | {worst:.1e} | {} of {steps} | {difference} |",
                replay.steps
            );
            // A NaN is below no limit.
            assert!(errors.iter().all(|e| *e <= LIMIT), "{name}: {errors:?}");
            equal += replay.steps;
            all += steps;
        }
        assert!(equal > all / 3, "{count}: {equal} of {all} steps");
    }
}
