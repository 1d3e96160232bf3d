//! Results, and their output formats.

use std::io::{self, Write};

use llama_diffusion::Result;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::Format;
use crate::server::rows::{LatencyRow, LoadRow};
use llama_diffusion_flags::streams;

/// Speed of prefill (`pp`) or denoising (`dn`).
#[derive(Clone, Debug, Default, Serialize)]
pub struct TestRow {
    pub model: String,
    /// Bytes of weights.
    pub model_size: usize,
    pub model_n_params: usize,
    pub backend: String,
    pub n_threads: usize,
    /// `None` is as many as fit, or all.
    pub n_gpu_layers: Option<usize>,
    pub type_kv: String,
    pub flash_attn: String,
    pub parallel: usize,
    pub test: String,
    pub n_prompt: usize,
    /// Tokens of a canvas.
    pub canvas: Option<usize>,
    pub n_canvases: Option<usize>,
    pub n_steps: Option<usize>,
    /// Tokens per second.
    pub avg_ts: f64,
    pub stddev_ts: f64,
    /// Milliseconds of the whole prompt, or of one step.
    pub avg_ms: f64,
    pub stddev_ms: f64,
    pub blocks_per_s: Option<f64>,
    /// Seconds until an answer is complete, with its prefill.
    pub answer_s: Option<f64>,
    pub tokens_per_forward: Option<f64>,
    /// Graphs of a step that were built during the repetitions.
    pub graphs_built: Option<usize>,
    /// Graphs of a step that the backend captured to replay them, warm-up included (CUDA).
    pub graphs_captured: Option<usize>,
    /// Captures that the backend dropped, warm-up included.
    pub captures_dropped: Option<usize>,
    /// Bytes copied between host and device in each step.
    pub step_bytes: Option<usize>,
    /// Accepted tokens of an answer that later steps replaced.
    pub corrections: Option<usize>,
    /// The positions where they did.
    pub corrected_positions: Option<usize>,
    /// In which steps, with their numbers, both from 1: `2: 5, 4: 1`.
    pub corrections_by_step: Option<String>,
    /// The last of them; `None` also if there was none.
    pub last_correction: Option<String>,
}

/// Time of one part of a pass.
#[derive(Clone, Debug, Serialize)]
pub struct PartRow {
    pub model: String,
    pub n_threads: usize,
    pub test: String,
    pub part: String,
    pub avg_ms: f64,
    pub stddev_ms: f64,
    /// Share of the whole, from 0 to 1.
    pub share: f64,
}

/// A step next to its minimum time.
#[derive(Clone, Debug, Serialize)]
pub struct ProfileRow {
    pub model: String,
    pub n_threads: usize,
    pub test: String,
    pub device: String,
    /// Without the waits that measuring by part adds.
    pub step_ms: f64,
    pub bytes: f64,
    pub bandwidth_gb_s: f64,
    pub bytes_floor_ms: f64,
    pub operations: f64,
    pub weight_type: String,
    pub rate_gop_s: f64,
    pub operations_floor_ms: f64,
}

/// This engine next to libllama.
#[derive(Clone, Debug, Serialize)]
pub struct ComparisonRow {
    pub model: String,
    pub n_threads: usize,
    pub n_prompt: usize,
    /// A step with self-conditioning.
    pub step_ms: f64,
    /// libllama's prefill of a canvas with all logits.
    pub upstream_canvas_ms: f64,
    pub upstream_prefill_ts: Option<f64>,
    /// libllama's decoding token by token.
    pub upstream_token_ts: f64,
    pub step_to_canvas: f64,
    /// The step over the time of its operations at the rate of libllama's prefill.
    pub step_to_arithmetic: f64,
    pub n_steps: usize,
    /// Tokens per second of diffusion at this number of steps over those of decoding.
    pub diffusion_to_token: f64,
    /// Added time over the shortest prompt's, over the time of the added operations.
    pub growth_to_arithmetic: Option<f64>,
}

/// All results of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub tests: Vec<TestRow>,
    pub parts: Vec<PartRow>,
    pub profiles: Vec<ProfileRow>,
    pub comparisons: Vec<ComparisonRow>,
    pub loads: Vec<LoadRow>,
    pub latencies: Vec<LatencyRow>,
}

/// All results, in their output format.
///
/// # Errors
/// A number cannot be written in the format.
pub fn text(report: &Report, format: Format) -> Result<String> {
    let mut out = Vec::new();
    let written = match format {
        Format::Json => json_pretty(&mut out, report),
        Format::Jsonl => jsonl(&mut out, report),
        Format::Csv => csv(&mut out, report),
        Format::Md if report.loads.is_empty() => markdown(&mut out, report),
        Format::Md => markdown_of_server(&mut out, report),
    };
    written.map_err(streams::output_error)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn json_pretty(out: &mut impl Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

fn jsonl(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let Value::Object(kinds) = json!(report) else {
        return Ok(());
    };
    for (kind, rows) in kinds {
        for mut row in rows.as_array().cloned().unwrap_or_default() {
            row["kind"] = kind.as_str().into();
            writeln!(out, "{row}")?;
        }
    }
    Ok(())
}

fn csv(out: &mut impl Write, report: &Report) -> io::Result<()> {
    fn table<T: Serialize>(out: &mut impl Write, rows: &[T], first: &mut bool) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if !std::mem::take(first) {
            writeln!(out)?;
        }
        let mut writer = csv::Writer::from_writer(out);
        for row in rows {
            writer.serialize(row).map_err(io::Error::other)?;
        }
        writer.flush()
    }
    let mut first = true;
    table(out, &report.tests, &mut first)?;
    table(out, &report.parts, &mut first)?;
    table(out, &report.profiles, &mut first)?;
    table(out, &report.comparisons, &mut first)?;
    table(out, &report.loads, &mut first)?;
    table(out, &report.latencies, &mut first)
}

fn markdown(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let optional = |value: Option<f64>, decimals: usize| {
        value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
    };
    let spread = |mean: f64, deviation: f64| format!("{mean:.2} ± {deviation:.2}");
    // If they were measured with and without fused attention, the names of the tests say which.
    let several = report
        .tests
        .windows(2)
        .any(|r| r[0].flash_attn != r[1].flash_attn);
    let tests = report.tests.iter().map(|row| {
        let test = match several {
            true => format!("{} @ fa {}", row.test, row.flash_attn),
            false => row.test.clone(),
        };
        vec![
            row.model.clone(),
            size(row.model_size),
            format!("{:.2} M", row.model_n_params as f64 / 1e6),
            row.backend.clone(),
            row.n_threads.to_string(),
            test,
            spread(row.avg_ts, row.stddev_ts),
            spread(row.avg_ms, row.stddev_ms),
            optional(row.blocks_per_s, 3),
            optional(row.answer_s, 2),
            optional(row.tokens_per_forward, 1),
        ]
    });
    let heads = [
        "model",
        "size",
        "params",
        "backend",
        "threads",
        "test",
        "t/s",
        "ms",
        "blocks/s",
        "answer s",
        "t/forward",
    ];
    table(out, &heads, 6, tests.collect())?;
    // If several models were measured, the other tables say which.
    let models = report.tests.windows(2).any(|r| r[0].model != r[1].model);
    let of_model = |model: &str, text: String| match models {
        true => format!("{model}: {text}"),
        false => text,
    };
    let key = |row: &PartRow| (row.model.clone(), row.n_threads, row.test.clone());
    for tests in report.parts.chunk_by(|a, b| key(a) == key(b)) {
        let parts = tests.iter().map(|row| {
            vec![
                row.part.clone(),
                spread(row.avg_ms, row.stddev_ms),
                format!("{:.1}", row.share * 100.0),
            ]
        });
        let title = format!("{}, {} threads", tests[0].test, tests[0].n_threads);
        let title = of_model(&tests[0].model, title);
        writeln!(out)?;
        table(out, &[title.as_str(), "ms", "%"], 1, parts.collect())?;
    }
    let floors = report.profiles.iter().map(|row| {
        vec![
            of_model(&row.model, row.test.clone()),
            row.n_threads.to_string(),
            format!("{:.2}", row.step_ms),
            format!("{:.2}", row.bytes_floor_ms),
            format!(
                "{:.1} MB at {:.1} GB/s",
                row.bytes / 1e6,
                row.bandwidth_gb_s
            ),
            format!("{:.2}", row.operations_floor_ms),
            format!(
                "{:.1} Gop at {:.1} Gop/s ({})",
                row.operations / 1e9,
                row.rate_gop_s,
                row.weight_type
            ),
        ]
    });
    let heads = [
        "floors",
        "threads",
        "step ms",
        "bytes ms",
        "of",
        "operations ms",
        "of",
    ];
    section(out, &heads, 0, floors.collect())?;
    let comparisons = report.comparisons.iter().map(|row| {
        vec![
            of_model(&row.model, row.n_prompt.to_string()),
            row.n_threads.to_string(),
            format!("{:.2}", row.step_ms),
            format!("{:.2}", row.upstream_canvas_ms),
            format!("{:.3}", row.step_to_canvas),
            format!("{:.3}", row.step_to_arithmetic),
            optional(row.upstream_prefill_ts, 1),
            format!("{:.1}", row.upstream_token_ts),
            format!("{:.2} ({} steps)", row.diffusion_to_token, row.n_steps),
            optional(row.growth_to_arithmetic, 3),
        ]
    });
    let heads = [
        "prompt",
        "threads",
        "step ms",
        "libllama canvas ms",
        "ratio",
        "to arithmetic",
        "libllama pp t/s",
        "libllama tg t/s",
        "diffusion / tg",
        "growth / arithmetic",
    ];
    section(out, &heads, 0, comparisons.collect())
}

fn markdown_of_server(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let optional = |value: Option<f64>, decimals: usize| {
        value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
    };
    let length = |tokens: Option<usize>| tokens.map_or_else(String::new, |n| n.to_string());
    let loads = report.loads.iter().map(|row| {
        vec![
            row.model.clone(),
            row.drafts.clone(),
            length(row.n_gen),
            row.n_streams.to_string(),
            row.n_requests.to_string(),
            row.n_refused.to_string(),
            format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts),
            format!("{:.3}", row.ratio),
            format!("{:.2}", row.answers_per_s),
            optional(row.canvases_per_step, 2),
            optional(row.tokens_per_step, 1),
            optional(row.step_ms, 2),
            optional(row.engine_share, 3),
            format!("{:.3}", row.fairness),
            row.drafts_received.to_string(),
            row.drafts_dropped
                .map_or_else(String::new, |n| n.to_string()),
            row.n_differing.to_string(),
        ]
    });
    let heads = [
        "model",
        "drafts",
        "-n",
        "streams",
        "requests",
        "refused",
        "t/s",
        "ratio",
        "answers/s",
        "canvases/step",
        "t/step",
        "step ms",
        "engine",
        "fairness",
        "drafts got",
        "dropped",
        "differing",
    ];
    table(out, &heads, 2, loads.collect())?;
    let latencies = report.latencies.iter().map(|row| {
        let mut cells = vec![
            row.what.clone(),
            row.drafts.clone(),
            length(row.n_gen),
            row.n_streams.to_string(),
            row.count.to_string(),
        ];
        let times = [row.p50, row.p95, row.p99, row.max];
        cells.extend(times.map(|ms| format!("{ms:.2}")));
        cells
    });
    let heads = [
        "ms", "drafts", "-n", "streams", "count", "p50", "p95", "p99", "max",
    ];
    section(out, &heads, 2, latencies.collect())
}

fn size(bytes: usize) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    match bytes as f64 {
        small if small < 1024.0 * MIB => format!("{:.2} MiB", small / MIB),
        large => format!("{:.2} GiB", large / (1024.0 * MIB)),
    }
}

fn section(
    out: &mut impl Write,
    heads: &[&str],
    left: usize,
    rows: Vec<Vec<String>>,
) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    table(out, heads, left, rows)
}

/// A table whose first `left` columns are text, flush left.
fn table(
    out: &mut impl Write,
    heads: &[&str],
    left: usize,
    rows: Vec<Vec<String>>,
) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([heads[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut line = |cells: Vec<String>| {
        let cells = cells.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(|(i, (cell, &width))| match i < left {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();
        writeln!(out, "| {} |", cells.join(" | "))
    };
    line(heads.iter().map(|head| (*head).to_owned()).collect())?;
    let rule = |(i, width): (usize, &usize)| match i < left {
        true => "-".repeat(*width),
        false => format!("{}:", "-".repeat(width - 1)),
    };
    line(widths.iter().enumerate().map(rule).collect())?;
    rows.into_iter().try_for_each(line)
}
