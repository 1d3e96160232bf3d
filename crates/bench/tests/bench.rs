//! The benchmark tool from outside, with a tiny generated model.

use std::process::Output;

use assert_cmd::Command;
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion_testing::model_file::damaged_demo;
use serde_json::Value;

/// Runs the tool. One thread: the tests themselves run side by side.
fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-bench"));
    command.args(["-t", "1"]).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const TINY: [&str; 6] = ["--synthetic", "tiny:q8_0", "-r", "2", "--steps", "3"];

/// The standard output of a run of the tiny model that must succeed.
fn measured(args: &[&str]) -> String {
    let output = bench(&[&TINY, args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&measured(&[&["-o", "json"], args].concat())).unwrap()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} of {row} is not a number"))
}

#[test]
fn every_length_is_measured() {
    let report = json(&["-p", "0,20", "--canvases", "2"]);
    let tests = report["tests"].as_array().unwrap();
    let names: Vec<_> = tests
        .iter()
        .map(|row| row["test"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["dn2x16x3 @ 0", "pp20", "dn2x16x3 @ 20"]);
    for row in tests {
        assert!(number(row, "avg_ts") > 0.0 && number(row, "stddev_ts") >= 0.0);
        assert_eq!(row["model"], "tiny:q8_0");
        assert_eq!(row["backend"], "CPU");
        assert_eq!(row["n_threads"], 1);
    }
    // Without a prompt every pass of the encoder is over a canvas; with one, passes over 20 tokens
    // and over a canvas take turns.
    for (row, built) in [(&tests[0], 0.0), (&tests[2], 2.0)] {
        assert_eq!(number(row, "graphs_built"), built * 2.0, "{row}");
        assert_eq!(number(row, "graphs_captured"), 0.0, "no CUDA here");
        assert!(number(row, "step_bytes") <= 16384.0);
    }
    let row = &tests[2];
    assert!((number(row, "tokens_per_forward") - 16.0 / 3.0).abs() < 1e-9);
    // An answer is its prefill, its steps and a commit.
    assert!(number(row, "answer_s") * 1e3 >= 6.0 * number(row, "avg_ms"));
    assert!(report["parts"].as_array().unwrap().is_empty());
}

#[test]
fn corrections_are_counted_on_request_for_answers_to_a_prompt() {
    let args = ["-p", "0,20", "--canvases", "2", "--diffusion-stats"];
    let report = json(&args);
    let tests = report["tests"].as_array().unwrap();
    let keys = ["corrections", "corrected_positions"];
    for key in keys {
        // Without a prompt, and for encoding alone, there is no answer.
        assert!(tests[0][key].is_null() && tests[1][key].is_null());
    }
    let [corrections, positions] = keys.map(|key| number(&tests[2], key));
    // At least one position per correction, at most one correction per step and position.
    assert!(positions > 0.0 && positions <= corrections, "{positions}");
    assert!(corrections <= 3.0 * positions, "{corrections}");
    let text = |key: &str| tests[2][key].as_str().unwrap().to_owned();
    let by_step = text("corrections_by_step");
    let counts = by_step
        .split(", ")
        .map(|part| part.split_once(": ").unwrap().1);
    let sum: f64 = counts.map(|count| count.parse::<f64>().unwrap()).sum();
    assert_eq!(sum, corrections, "{by_step}");
    assert!(text("last_correction").starts_with("canvas "));
    let without = json(&args[..4]);
    assert!(without["tests"][2]["corrections"].is_null());
}

#[test]
fn the_parts_of_a_step_make_the_whole() {
    let report = json(&["-p", "20", "--profile"]);
    let parts = report["parts"].as_array().unwrap();
    for test in ["pp20", "step @ 20"] {
        let of_test = || parts.iter().filter(|row| row["test"] == test);
        let share: f64 = of_test().map(|row| number(row, "share")).sum();
        assert!((share - 1.0).abs() < 1e-6, "{test}: {share}");
        let part = |name: &str| {
            let row = of_test().find(|row| row["part"] == name).unwrap();
            number(row, "avg_ms")
        };
        for name in ["attention", "dense MLP", "router", "experts", "transfers"] {
            assert!(part(name) > 0.0, "{test}: {name}");
        }
        let of_canvas = part("output head") > 0.0 && part("soft cap to draw") > 0.0;
        assert_eq!(of_canvas, test.starts_with("step"), "{test}");
        assert!(part("embedding and self-conditioning") > 0.0);
    }
    let floors = &report["profiles"][0];
    for key in [
        "step_ms",
        "bytes_floor_ms",
        "operations_floor_ms",
        "bandwidth_gb_s",
    ] {
        assert!(number(floors, key) > 0.0, "{key}");
    }
    assert_eq!(floors["weight_type"], "q8_0");
}

#[test]
fn libllama_is_measured_in_turn() {
    let report = json(&["-p", "0,40", "--compare-upstream"]);
    let rows = report["comparisons"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let ratio = number(row, "step_to_canvas");
        assert!(ratio > 0.0 && number(row, "step_to_arithmetic") > 0.0);
        assert!(number(row, "upstream_token_ts") > 0.0);
        assert!(number(row, "diffusion_to_token") > 0.0);
    }
    assert!(rows[0]["growth_to_arithmetic"].is_null());
    assert!(rows[1]["growth_to_arithmetic"].is_number());
    assert!(number(&rows[1], "upstream_prefill_ts") > 0.0);
}

#[test]
fn tables_parse() {
    let csv = measured(&["-p", "20", "-o", "csv", "--profile"]);
    let tables: Vec<&str> = csv.split("\n\n").collect();
    assert_eq!(tables.len(), 3, "{csv}");
    for (table, (rows, column)) in tables
        .iter()
        .zip([(2, "avg_ts"), (18, "part"), (1, "bytes")])
    {
        let mut reader = csv::Reader::from_reader(table.as_bytes());
        assert!(reader.headers().unwrap().iter().any(|head| head == column));
        assert_eq!(
            reader.records().filter_map(Result::ok).count(),
            rows,
            "{table}"
        );
    }
    let lines = measured(&["-p", "20", "-o", "jsonl"]);
    let kinds: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone())
        .collect();
    assert_eq!(kinds, ["tests", "tests"]);
    let table = measured(&["-p", "20", "--parallel", "2"]);
    let rows: Vec<usize> = table.lines().map(|row| row.matches('|').count()).collect();
    assert_eq!(rows, [12; 4], "{table}");
    assert!(table.contains("| pp20 "), "{table}");
}

#[test]
fn wrong_arguments_are_named() {
    for (args, parts) in [
        (&["-p", "20"][..], &["-m", "--synthetic"][..]),
        (&["--synthetic", "tiny"], &["geometry and a type"]),
        (&["--synthetic", "huge:q8_0"], &["'huge'", "26b-a4b"]),
        (&["--synthetic", "tiny:q9"], &["'q9'"]),
        (&["-m", "no/such.gguf"], &["no/such.gguf"]),
        (
            &["--synthetic", "tiny:f16", "-r", "0"],
            &["'-r <N>'", "from 1 to"],
        ),
        (&["--synthetic", "tiny:f16", "-p", "x"], &["-p"]),
        (
            &["--synthetic", "tiny:f16", "-p", "9-1"],
            &["'9-1'", "range"],
        ),
        (
            &["--synthetic", "tiny:f16", "-pg", "8,8"],
            &["--pg", "answer s"],
        ),
        (
            &["--synthetic", "tiny:f16", "-d", "8"],
            &["--n-depth", "-p"],
        ),
        (
            &["--synthetic", "tiny:f16", "-lm", "none"],
            &["--load-mode", "--no-mmap"],
        ),
        (
            &["--synthetic", "tiny:f16", "-ngl", "0", "-ngl", "1"],
            &["--gpu-layers", "multiple times"],
        ),
        (&["--synthetic", "tiny:f16", "-o", "sql"], &["'sql'", "md"]),
        (&["--synthetic", "tiny:f16", "-nglx", "1"], &["-nglx"]),
        (&["--synthetic", "tiny:f16", "-dev", "GPU7"], &["GPU7"]),
        (&["--synthetic", "tiny:f16", "-ctk", "f32"], &["-ctv"]),
    ] {
        let output = bench(args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert_eq!(text(&output.stdout), "", "{args:?}");
        for part in parts {
            assert!(
                message.contains(part),
                "{args:?}: {part:?} is not in {message:?}"
            );
        }
    }
}

/// Which model was measured with which settings.
fn tests_of(args: &[&str]) -> Vec<String> {
    let report = json(args);
    let row = |row: &Value| {
        format!(
            "{} {} {}",
            row["model"].as_str().unwrap(),
            row["n_threads"],
            row["test"].as_str().unwrap()
        )
    };
    report["tests"]
        .as_array()
        .unwrap()
        .iter()
        .map(row)
        .collect()
}

#[test]
fn lists_and_ranges_are_those_of_llama_bench() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&file, &Geometry::tiny(), types, 1).unwrap();
    let file = file.to_str().unwrap();
    // Several models, a file among them.
    assert_eq!(
        tests_of(&["-m", file, "-p", "8", "-n", "0"]),
        ["model.gguf 1 pp8", "tiny:q8_0 1 pp8"]
    );
    // Answers of this number of tokens in whole canvases; a prompt is reported once.
    assert_eq!(
        tests_of(&["-p", "4-8+4", "-n", "16,17", "-n", "0"]),
        [
            "tiny:q8_0 1 pp4",
            "tiny:q8_0 1 dn16x3 @ 4",
            "tiny:q8_0 1 dn2x16x3 @ 4",
            "tiny:q8_0 1 pp8",
            "tiny:q8_0 1 dn16x3 @ 8",
            "tiny:q8_0 1 dn2x16x3 @ 8",
        ]
    );
    assert_eq!(
        tests_of(&["-p", "0", "-t", "1-2"]),
        [
            "tiny:q8_0 1 dn16x3 @ 0",
            "tiny:q8_0 1 dn16x3 @ 0",
            "tiny:q8_0 2 dn16x3 @ 0"
        ]
    );
    let report = json(&["-p", "0", "--parallel", "1-2"]);
    let tests = report["tests"].as_array().unwrap();
    let together: Vec<&Value> = tests.iter().map(|row| &row["parallel"]).collect();
    assert_eq!(together, [1, 2]);
}

#[test]
fn shorter_canvases_are_tests_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let geometry = Geometry {
        canvas_length: 48,
        ..Geometry::tiny()
    };
    write_synthetic(&path, &geometry, WeightTypes::Uniform(TensorType::F32), 7).unwrap();
    let of_model = |args: &[&str]| {
        let model = [
            "-m",
            path.to_str().unwrap(),
            "-p",
            "0",
            "-r",
            "1",
            "--steps",
            "2",
        ];
        bench(&[&model[..], args].concat())
    };
    let output = of_model(&["--canvas", "16-48+16", "-n", "48", "-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = report["tests"].as_array().unwrap();
    let shapes: Vec<_> = tests
        .iter()
        .map(|row| (number(row, "canvas"), number(row, "n_canvases")))
        .collect();
    assert_eq!(shapes, [(16.0, 3.0), (32.0, 2.0), (48.0, 1.0)]);
    assert_eq!(tests[1]["test"], "dn2x32x2 @ 0");

    for (refused, problem) in [
        (&["--canvas", "24"][..], "--canvas: has 24 tokens"),
        (&["--canvas", "64"], "--canvas: has 64 tokens"),
        (&["--canvas", "16", "--profile"], "--profile"),
        (
            &["--canvas", "16", "--compare-upstream"],
            "--compare-upstream",
        ),
    ] {
        let output = of_model(refused);
        let said = text(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{refused:?}");
        assert!(said.contains(problem), "{refused:?}: {said}");
    }
}

#[test]
fn flags_of_llama_bench_are_known() {
    let flags = "-nkvo 1|-nkvo 0|--repack 1|--no-host 0|-embd 0|-nopo 0|-nopo 1|--offline|--delay 0|--progress|-oe csv";
    let inert =
        "--numa distribute|--prio 2|-C 0x1|--cpu-strict 1|--poll 50|-fitc 4096|-hft x|-embd 1";
    for (lines, warned) in [(flags, 0), (inert, 1)] {
        for line in lines.split('|') {
            let flag: Vec<&str> = line.split(' ').collect();
            let output = bench(&[&TINY[..], &["-p", "0", "-n", "0"], &flag].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{line}: {said}");
            assert_eq!(
                said.matches("has no effect").count(),
                warned,
                "{line}: {said}"
            );
        }
    }
    let output = bench(&[&TINY[..], &["-p", "4", "-oe", "csv", "--progress"]].concat());
    let said = text(&output.stderr);
    assert!(
        said.contains("tiny:q8_0: 1 threads, prompt of 4 tokens"),
        "{said}"
    );
    assert!(said.contains("model,model_size,"), "{said}");
    assert!(text(&output.stdout).starts_with("| model"), "{said}");
}

#[test]
fn fused_attention_is_measured_in_llama_cpp_s_spellings() {
    let settings = |value: &str| -> Vec<String> {
        let report = json(&["-p", "0", "-fa", value]);
        let tests = report["tests"].as_array().unwrap().iter();
        tests
            .map(|row| row["flash_attn"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(settings("0,1"), ["off", "on"]);
    assert_eq!(settings("enabled"), ["on"]);
    let table = measured(&["-p", "0", "-fa", "0,1"]);
    assert!(
        table.contains("@ 0 @ fa off ") && table.contains("@ 0 @ fa on "),
        "{table}"
    );
}

/// Runs the tool with its standard output closed on the other side.
#[test]
#[cfg(unix)]
fn a_closed_output_is_an_error_in_one_line() {
    use std::process::{Command, Stdio};

    for args in [
        &["--list-devices"][..],
        &["--synthetic", "tiny:q8_0", "-p", "0", "-r", "1", "-t", "1"],
    ] {
        let (_, closed) = std::io::pipe().unwrap();
        let child = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-bench"))
            .args(args)
            .stdout(closed)
            .stderr(Stdio::piped())
            .spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("error: standard output: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
#[cfg(unix)]
fn a_signal_leaves_no_model_file_behind() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let dir = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-bench"))
        .args([
            "--synthetic",
            "tiny:q8_0",
            "-p",
            "0",
            "-t",
            "1",
            "-r",
            "1000000",
        ])
        .arg("--compare-upstream")
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while files() == 0 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no file is written"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(files(), 0);
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.gguf");
    for tensor in [
        "blk.0.attn_q.weight",
        "blk.3.ffn_gate_up_exps.weight",
        "token_embd.weight",
    ] {
        std::fs::write(&path, damaged_demo(tensor)).unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-bench"));
        let line = "-m damaged.gguf -p 8 -t 1 -r 1 --steps 1";
        let output = command.current_dir(&dir).args(line.split(' ')).output();
        let output = output.unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{tensor}: {stderr}");
        let named =
            format!("error: damaged.gguf: tensor '{tensor}': has a value that is not finite");
        assert!(stderr.contains(&named), "{tensor}: {stderr}");
        assert!(output.stdout.is_empty(), "{tensor}");
    }
}

/// Serves this machine's processor until the tests end; the address.
#[cfg(feature = "rpc")]
fn serve() -> String {
    use std::io::Read as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use llama_diffusion::Device;
    use llama_diffusion::internal::serve_rpc;

    let start = Instant::now();
    loop {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let server = std::thread::spawn(move || {
            let cpu = Device::by_name("CPU").unwrap();
            serve_rpc(address.port(), &[cpu], 1)
        });
        // It ends where another connection has its port, or one is gone before it is accepted: then
        // another server is started.
        while !server.is_finished() {
            assert!(start.elapsed() < Duration::from_secs(60), "nobody serves");
            std::thread::sleep(Duration::from_millis(10));
            let Ok(mut connection) = TcpStream::connect(address) else {
                continue;
            };
            let hung_up = connection
                .shutdown(Shutdown::Write)
                .and_then(|()| connection.read_to_end(&mut Vec::new()));
            std::thread::sleep(Duration::from_millis(50));
            if hung_up.is_ok() && !server.is_finished() {
                return address.to_string();
            }
        }
    }
}

#[cfg(feature = "rpc")]
#[test]
fn a_model_that_two_servers_share_is_measured() {
    let both = format!("{},{}", serve(), serve());
    let output = bench(&[
        "-rpc",
        &both,
        "--synthetic",
        "tiny:q8_0",
        "-p",
        "16",
        "--steps",
        "1",
        "-r",
        "1",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}
