//! Golden cases on a device of the user's choice, in every placement: within the limits of F16, and
//! with the tokens of Hugging Face transformers until a decision depends on rounding.
//!
//! `DIFFUSION_TEST_DEVICE` names the device (see `crates/testing/src/placements.rs`),
//! `DIFFUSION_TEST_REPORT` a file for the results, in JSON. With `DIFFUSION_TEST_QUICK`, every case and
//! every placement runs, but not every case in every placement. `tools/device-check.sh` sets them.

use std::time::Instant;

use llama_diffusion::{FlashAttention, KvType};
use llama_diffusion_testing::golden::Case;
use llama_diffusion_testing::placements::{on_device, placements};
use llama_diffusion_testing::replay::{self, Run};
use serde::Serialize;

/// Placements with the default cache, then the other caches and attentions with all layers there.
fn golden_runs() -> Vec<Run> {
    let base = |name: &str| Run {
        placement: on_device(),
        kv: KvType::F16,
        limits: [5e-3; 3],
        ..Run::f32(name)
    };
    let placed = placements().into_iter().map(|(name, placement)| Run {
        placement,
        ..base(name)
    });
    let others = [
        Run {
            flash: FlashAttention::Off,
            ..base("separate softmax")
        },
        Run {
            kv: KvType::F32,
            ..base("F32 cache")
        },
        Run {
            kv: KvType::F32,
            flash: FlashAttention::Off,
            ..base("F32 cache, separate softmax")
        },
        Run {
            swa_full: true,
            ..base("full-size sliding cache")
        },
        Run {
            f16_weights: true,
            ..base("F16 weights")
        },
    ];
    placed.chain(others).collect()
}

/// How far a decision may be from the threshold, in maximum relative errors of the logits, for
/// rounding to change it. Seen with F16 on the CPU: up to 70, and 350 for the acceptance of a
/// position, which depends on the entropies of many. If the choice of an expert is as close as
/// that, all later values may differ.
const DECISIVE: f64 = 200.0;
const DECISIVE_SUM: f64 = 1000.0;

/// The result of a golden case in one run.
#[derive(Serialize)]
struct Row {
    run: String,
    case: String,
    /// Maximum relative errors.
    logits: f64,
    self_conditioned: f64,
    keys_values: f64,
    /// Steps as recorded, until a decision depends on rounding.
    equal_steps: usize,
    steps: usize,
    /// The decision of that step, and how close it was.
    difference: Option<&'static str>,
    margin: Option<f32>,
    /// The closest choice of experts of the case.
    router_margin: Option<f64>,
    seconds: f32,
}

impl Row {
    fn of(case: &Case, run: &Run) -> Self {
        let start = Instant::now();
        let model = run.load(case);
        let [logits, self_conditioned, keys_values] = replay::forwards(case, &model, run);
        let replay = replay::generation(case, &model, run);
        let margin = replay.difference.as_ref().and_then(|difference| {
            let name = match difference.what {
                "argmax" => "gen.argmax_margin",
                "sampled" => "gen.cdf_margin",
                "accepted" | "next canvas" => "gen.accept_margin",
                _ => return None,
            };
            Some(case.floats(name)[difference.step])
        });
        Self {
            run: run.name.clone(),
            case: case.name(),
            logits,
            self_conditioned,
            keys_values,
            equal_steps: replay.steps,
            steps: case.meta.steps,
            difference: replay.difference.map(|difference| difference.what),
            margin,
            router_margin: case.meta.margins.router,
            seconds: start.elapsed().as_secs_f32(),
        }
    }

    /// The maximum relative error.
    fn error(&self) -> f64 {
        self.logits.max(self.self_conditioned).max(self.keys_values)
    }

    /// What is wrong with it.
    fn fault(&self, limits: [f64; 3]) -> Option<String> {
        let errors = [self.logits, self.self_conditioned, self.keys_values];
        let at = format!("{}, {}", self.case, self.run);
        // A NaN is below no limit.
        if !errors
            .iter()
            .zip(limits)
            .all(|(error, limit)| *error <= limit)
        {
            return Some(format!("{at}: errors {errors:?} above {limits:?}"));
        }
        let factor = match self.difference {
            Some("argmax" | "sampled") => DECISIVE,
            _ => DECISIVE_SUM,
        };
        let allowed = factor * self.error();
        if self
            .router_margin
            .is_some_and(|margin| margin <= DECISIVE * self.error())
        {
            return None;
        }
        let margin = self.margin.filter(|margin| f64::from(*margin) > allowed)?;
        Some(format!(
            "{at}: step {} decides otherwise ({:?}), by a margin of {margin:.1e}, above {allowed:.1e}",
            self.equal_steps, self.difference
        ))
    }

    fn print(&self) {
        let difference = match (self.difference, self.margin) {
            (Some(what), Some(margin)) => format!("{what}, margin {margin:.1e}"),
            (Some(what), None) => what.into(),
            (None, _) => "-".into(),
        };
        println!(
            "| {} | {} | {:.1e} | {:.1e} | {:.1e} | {} of {} | {difference} | {:.1} |",
            self.run,
            self.case,
            self.logits,
            self.self_conditioned,
            self.keys_values,
            self.equal_steps,
            self.steps,
            self.seconds
        );
    }
}

/// Which of a number of runs go with which cases.
fn pairs(runs: usize, cases: usize) -> Vec<(usize, usize)> {
    match std::env::var_os("DIFFUSION_TEST_QUICK") {
        Some(_) => (0..runs.max(cases))
            .map(|i| (i % runs, i % cases))
            .collect(),
        None => (0..runs * cases).map(|i| (i / cases, i % cases)).collect(),
    }
}

#[test]
fn golden_cases_agree_with_transformers() {
    println!(
        "| run | golden case | logits | self-conditioned | K and V | equal steps | first difference | s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let (runs, cases) = (golden_runs(), Case::all());
    for (run, case) in pairs(runs.len(), cases.len()) {
        let (run, case) = (&runs[run], &cases[case]);
        let row = Row::of(case, run);
        row.print();
        failures.extend(row.fault(run.limits));
        rows.push(row);
    }
    if let Some(path) = std::env::var_os("DIFFUSION_TEST_REPORT") {
        std::fs::write(path, serde_json::to_string_pretty(&rows).unwrap()).unwrap();
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
