//! The command-line tool when cores, threads, files or memory are scarce: it gets slower or ends
//! with an error, but no process aborts and none hangs.
#![cfg(all(target_os = "linux", feature = "demo-model"))]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const CLI: &str = env!("CARGO_BIN_EXE_llama-diffusion-cli");
const ANSWER: &str = "The capital of Norway is Oslo.\n";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `program` with a question, run by the words before it, such as `taskset -c 0`.
fn ask(before: &[&str], program: &Path, args: &[&str]) -> Command {
    let program = program.to_str().unwrap();
    let words = [
        before,
        &[program, "-p", "What is the capital of Norway?", "-s", "1"],
        args,
    ]
    .concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

#[test]
fn more_threads_than_cores_are_warned_of() {
    let warning = |threads: usize, cores: usize| {
        format!("using {cores} of {threads} threads: this process may use {cores} core")
    };
    let stderr = |before: &[&str], threads: usize| {
        let output = ask(before, Path::new(CLI), &["-t", &threads.to_string()]).output();
        let output = output.unwrap();
        assert_eq!(text(&output.stdout), ANSWER);
        text(&output.stderr)
    };
    let message = stderr(&[], cores() + 1);
    assert_eq!(
        message.matches(&warning(cores() + 1, cores())).count(),
        1,
        "{message}"
    );
    let message = stderr(&["taskset", "-c", "0"], 2);
    assert!(message.contains(&warning(2, 1)), "{message}");
    let message = stderr(&[], cores());
    assert!(!message.contains("may use"), "{message}");
}

/// A copy of the tool, with its libraries if it has any, that every user may run.
fn public_copy(dir: &TempDir) -> PathBuf {
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), everybody).unwrap();
    let copy = |file: &Path| {
        let to = dir.path().join(file.file_name().unwrap());
        fs::copy(file, &to).unwrap();
        to
    };
    if cfg!(feature = "dynamic-backends") {
        for file in fs::read_dir(Path::new(CLI).parent().unwrap()).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "so") {
                copy(&file);
            }
        }
    }
    copy(Path::new(CLI))
}

#[test]
fn threads_that_the_system_refuses_are_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let cli = public_copy(&dir);
    let is_root = fs::metadata(dir.path()).unwrap().uid() == 0;
    for limit in ["1", "2", "3", "6"] {
        let processes = format!("--nproc={limit}");
        let mut command = ask(&["prlimit", &processes], &cli, &["-t", "8"]);
        if is_root {
            command.uid(65534).gid(65534); // root's processes are not limited
        }
        let output = command.output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{limit}: {stderr}");
        assert_eq!(text(&output.stdout), ANSWER, "{limit}: {stderr}");
        let warnings = stderr.matches("the system refuses to start").count();
        // No more threads are wanted than there are cores: larger limits may be enough.
        let expected = if limit == "1" && cores() > 1 {
            1..=1
        } else {
            0..=1
        };
        assert!(expected.contains(&warnings), "{limit}: {stderr}");
    }
}

#[test]
fn scarce_memory_and_few_files_are_errors() {
    let run = |limit: &str| {
        let output = ask(&["prlimit", limit], Path::new(CLI), &["-t", "2"]).output();
        let output = output.unwrap();
        let stderr = text(&output.stderr);
        match output.status.code() {
            Some(0) => assert_eq!(text(&output.stdout), ANSWER, "{limit}: {stderr}"),
            Some(1) => assert!(stderr.contains("error: "), "{limit}: {stderr}"),
            _ => panic!("{limit}: {}: {stderr}", output.status),
        }
        output.status.success()
    };
    // The memory that the program itself needs before it can report anything.
    let starts = |mib: &usize| {
        let limit = format!("--as={}", mib << 20);
        let words = [&limit, CLI, "--version"];
        let output = Command::new("prlimit").args(words).output().unwrap();
        output.status.success()
    };
    let least = (16..1024).step_by(8).find(starts).unwrap();
    let results: Vec<bool> = (least + 8..least + 200)
        .step_by(12)
        .map(|mib| run(&format!("--as={}", mib << 20)))
        .collect();
    assert!(
        results.contains(&false) && results.contains(&true),
        "{results:?}"
    );
    assert!(!run("--nofile=5"));
    assert!(run("--nofile=32"));
    assert!(run("--memlock=0"));
}
