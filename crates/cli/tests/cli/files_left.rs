//! Unfinished files are removed, however the program ends.
#![cfg(all(unix, feature = "demo-model"))]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use tempfile::TempDir;

use crate::common;

fn cli() -> Command {
    common::process()
}

/// Names of the files in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries.map(|e| name(e).into_string().unwrap()).collect();
    names.sort();
    names
}

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

/// Waits until `what` exists.
fn wait_for(mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(120), "it never came");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A model whose embedding takes seconds to quantize.
fn slow_model() -> TempDir {
    let geometry = Geometry {
        d: 256,
        vocab_size: 32_768,
        ..Geometry::tiny()
    };
    let dir = TempDir::new().unwrap();
    let types = WeightTypes::Uniform(TensorType::BF16);
    write_synthetic(&dir.path().join("in.gguf"), &geometry, types, 1).unwrap();
    dir
}

fn quantize(dir: &Path) -> Child {
    cli()
        .current_dir(dir)
        .args(["quantize", "in.gguf", "out.gguf", "q4_k_m", "-t", "1"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn signals_leave_nothing_of_a_quantized_file() {
    let dir = slow_model();
    // Two signals end it immediately, in the middle of a tensor.
    for (signals, status) in [
        (&["INT"][..], 130),
        (&["TERM"], 143),
        (&["HUP"], 129),
        (&["INT", "INT"], 130),
        (&["TERM", "TERM"], 143),
    ] {
        let mut child = quantize(dir.path());
        let is_begun = || {
            names(dir.path())
                .iter()
                .any(|name| name.starts_with(".quantize-"))
        };
        wait_for(is_begun);
        for name in signals {
            signal(&child, name);
            thread::sleep(Duration::from_millis(50));
        }
        let ended: ExitStatus = child.wait().unwrap();
        assert_eq!(ended.code(), Some(status), "{signals:?}");
        assert_eq!(names(dir.path()), ["in.gguf"], "{signals:?}");
    }
}

#[test]
fn a_limit_of_the_file_size_is_an_error() {
    let dir = slow_model();
    for (line, culprit) in [
        ("quantize in.gguf out.gguf q8_0", "out.gguf: File too large"),
        (
            "-p Hello! --record out.jsonl -m in.gguf -n 64",
            "out.jsonl: File too large",
        ),
    ] {
        // In blocks of 512 or 1024 bytes.
        let output = Command::new("sh")
            .current_dir(dir.path())
            .args(["-c", "ulimit -f 8; exec \"$@\"", "sh"])
            .arg(cli().get_program())
            .args(line.split(' '))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains(culprit), "{line}: {said}");
        assert!(
            !names(dir.path())
                .iter()
                .any(|name| name.ends_with("gguf") && name != "in.gguf")
        );
        assert!(!names(dir.path()).iter().any(|name| name.starts_with('.')));
    }
}

/// The embedded model has no name by the time that it has bytes, so that even a signal that cannot
/// be caught leaves nothing.
#[test]
#[cfg(target_os = "linux")]
fn the_demo_model_leaves_no_file_even_if_killed() {
    let dir = TempDir::new().unwrap();
    let mut child = cli()
        .args(["-p", "Hello!", "-t", "1"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let bytes = || {
        let entries = fs::read_dir(dir.path()).unwrap().flatten();
        let sizes = entries.filter_map(|entry| entry.metadata().ok());
        sizes.map(|metadata| metadata.len()).sum::<u64>()
    };
    let ended = loop {
        assert_eq!(bytes(), 0);
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
    };
    assert_eq!(ended.code(), Some(0));
    // It was there, and not somewhere else.
    let output = cli()
        .args(["-p", "Hello!"])
        .env("TMPDIR", dir.path().join("none"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("none: No such file"), "{said}");
}
