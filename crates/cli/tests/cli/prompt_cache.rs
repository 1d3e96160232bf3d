//! `--prompt-cache`: a file that saves the cost of a prompt.
#![cfg(feature = "demo-model")]

use std::fs;
use std::path::Path;
use std::process::Output;

use llama_diffusion::Snapshot;
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion_testing::thinker::{QUESTION, thinker};
use regex::Regex;
use tempfile::TempDir;

use crate::common::{self, text};

const CACHE: &str = "prompt.cache";

/// Runs the tool in a directory, with one thread.
fn run(dir: &TempDir, args: &[&str], input: &str) -> Output {
    let mut command = common::tool();
    command.current_dir(dir.path()).args(["-t", "1", "-s", "3"]);
    command.args(args).write_stdin(input).output().unwrap()
}

/// A run that must succeed: what it writes, and the tokens encoded and reused for each answer.
fn answers(dir: &TempDir, args: &[&str], input: &str) -> (String, Vec<(usize, usize)>) {
    let output = run(dir, args, input);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    let line = Regex::new(r"prefill: (\d+) tok in \S+ms, (\d+) reused").unwrap();
    let counts = line.captures_iter(said);
    let counts = counts.map(|c| (c[1].parse().unwrap(), c[2].parse().unwrap()));
    (text(&output.stdout).to_owned(), counts.collect())
}

/// Runs with the cache after these arguments.
fn cached<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--prompt-cache", CACHE], more].concat()
}

fn tokens(dir: &TempDir) -> usize {
    Snapshot::load(&dir.path().join(CACHE))
        .unwrap()
        .tokens()
        .len()
}

/// The error of a run that must fail.
fn error(dir: &TempDir, args: &[&str]) -> String {
    let output = run(dir, args, "");
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    text(&output.stderr).to_owned()
}

#[test]
fn an_answer_from_the_file_is_the_same_and_its_prompt_costs_nothing() {
    let dir = TempDir::new().unwrap();
    let ask = |more: &[&str], recording: &str| {
        let line = [&["-p", QUESTION, "--record", recording], more].concat();
        let (answer, counts) = answers(&dir, &line, "");
        // Every draft with its entropies.
        let drafts = fs::read(dir.path().join(recording)).unwrap();
        (answer, drafts, counts[0])
    };
    let without = ask(&[], "without.jsonl");
    let first = ask(&cached(&[]), "first.jsonl");
    let second = ask(&cached(&[]), "second.jsonl");
    let (prompt, 0) = without.2 else {
        panic!("{:?}", without.2);
    };
    assert_eq!((first.2, second.2), ((prompt, 0), (0, prompt)));
    assert!(without.0 == first.0 && without.1 == first.1);
    assert!(without.0 == second.0 && without.1 == second.1);
    assert_eq!(tokens(&dir), prompt);
}

#[test]
fn a_prompt_costs_what_differs_and_replaces_the_file() {
    let dir = TempDir::new().unwrap();
    let text = "One two three.";
    let longer = "One two three. Four five six.";
    let raw = |prompt, more: &[&'static str]| {
        let line = [&["--raw", "-p", prompt], more].concat();
        answers(&dir, &line, "")
    };
    let (_, short) = raw(text, &cached(&[]));
    let (cold, all) = raw(longer, &[]);
    let (warm, counts) = raw(longer, &cached(&[]));
    assert_eq!(warm, cold);
    assert_eq!(counts, [(all[0].0 - short[0].0, short[0].0)]);
    assert_eq!(tokens(&dir), all[0].0);
    // A prompt that the file contains does not replace it.
    let (_, counts) = raw(text, &cached(&[]));
    assert_eq!(counts, [(0, short[0].0)]);
    assert_eq!(tokens(&dir), all[0].0);
}

#[test]
fn a_file_that_is_only_read_stays_as_it_is() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(CACHE);
    let ask = |prompt, more: &[&str]| answers(&dir, &[&["-p", prompt], more].concat(), "").1;
    // There is none yet, and none is created.
    let read_only = cached(&["--prompt-cache-ro"]);
    let output = run(&dir, &[&["-p", QUESTION], &read_only[..]].concat(), "");
    let said = text(&output.stderr);
    assert!(
        said.contains("--prompt-cache-ro has nothing to read"),
        "{said}"
    );
    assert!(!path.exists());

    ask(QUESTION, &cached(&[]));
    let before = fs::read(&path).unwrap();
    for more in [
        &["--prompt-cache-ro"][..],
        &["--prompt-cache-ro", "--prompt-cache-all"],
    ] {
        let counts = ask("What is the capital of Sweden?", &cached(more));
        assert!(counts[0].0 > 0 && counts[0].1 > 0, "{counts:?}");
        assert!(fs::read(&path).unwrap() == before, "{more:?}");
    }
    ask("What is the capital of Sweden?", &cached(&[]));
    assert!(fs::read(&path).unwrap() != before);
}

#[test]
fn with_all_the_answer_is_kept_too() {
    let dir = TempDir::new().unwrap();
    let all = cached(&["--prompt-cache-all"]);
    let prompt = format!("<|turn>user\n{QUESTION}<turn|>\n<|turn>model\n");
    let ask =
        |prompt: &str, more: &[&str]| answers(&dir, &[&["--raw", "-p", prompt], more].concat(), "");
    let (answer, counts) = ask(&prompt, &all);
    let kept = tokens(&dir);
    let [(first, 0)] = counts[..] else {
        panic!("{counts:?}");
    };
    assert!(kept > first, "{kept} of {first}");
    // The text continues the answer.
    let on = format!(
        "{prompt}{}<turn|>\n<|turn>user\nHello!<turn|>\n<|turn>model\n",
        answer.trim_end()
    );
    let (cold, _) = ask(&on, &[]);
    let (warm, counts) = ask(&on, &all);
    assert_eq!(warm, cold);
    assert_eq!(counts[0].1, kept);
    // The first prompt again: it is in the file.
    assert_eq!(ask(&prompt, &all).1, [(0, first)]);
}

/// The second prompt drops the thought of the first answer.
#[test]
fn a_chat_that_drops_thoughts_costs_its_new_tokens() {
    const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<|turn>{{ m.role }}\n\
        {{ m.content }}<turn|>\n{% endfor %}<|turn>model\n";
    let dir = TempDir::new().unwrap();
    let model = thinker(&dir);
    let model = model.to_str().unwrap();
    let chat = ["-m", model, "-cnv", "--chat-template", TEMPLATE];
    let input = format!("{QUESTION}\n{QUESTION}\n");
    let all = cached(&["--prompt-cache-all"]);
    let (plain, without) = answers(&dir, &chat, &input);
    let (kept, with) = answers(&dir, &[&chat[..], &all].concat(), &input);
    assert_eq!(kept, plain);
    assert_eq!(with, without);
    let [(first, 0), (new, reused)] = with[..] else {
        panic!("{with:?}");
    };
    assert!(reused > first / 2);
    // Another run continues from there: the file holds the common beginning of both prompts.
    let (again, counts) = answers(&dir, &[&chat[..], &all].concat(), &input);
    assert_eq!(again, plain);
    assert_eq!(counts, [(first - reused, reused), (new, reused)]);
    // Without `-all`, the first prompt is kept.
    fs::remove_file(dir.path().join(CACHE)).unwrap();
    let (_, counts) = answers(&dir, &[&chat[..], &cached(&[])].concat(), &input);
    assert_eq!((counts, tokens(&dir)), (without, first));
}

#[test]
fn errors_name_the_file_that_does_not_fit() {
    let dir = TempDir::new().unwrap();
    let types = WeightTypes::Uniform(TensorType::F32);
    let other = dir.path().join("other.gguf");
    write_synthetic(&other, &Geometry::tiny(), types, 1).unwrap();
    let prompt = QUESTION.repeat(4);
    let ask = |more: &[&'static str]| [&["-p", &prompt], &cached(more)[..]].concat();
    answers(&dir, &ask(&[]), "");
    let before = fs::read(dir.path().join(CACHE)).unwrap();
    for (more, why) in [
        (&["-m", "other.gguf"][..], "it is of another model"),
        (&["-ctk", "f32", "-ctv", "f32"], "its KV cache type is F16"),
        (&["-c", "33"], "it has "),
    ] {
        let said = error(&dir, &ask(more));
        let start = format!("error: {CACHE}: {why}");
        assert!(said.contains(&start), "{said}");
        assert!(said.contains("another file for --prompt-cache"), "{said}");
    }
    assert!(fs::read(dir.path().join(CACHE)).unwrap() == before);
}

#[test]
fn errors_name_damaged_and_foreign_files() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(CACHE);
    let ask = ["-p", QUESTION, "--prompt-cache", CACHE];
    answers(&dir, &ask, "");
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, why) in [
        (&flipped[..], "damaged"),
        (&whole[..whole.len() - 9], "truncated"),
        (b"a prompt, by mistake", "not a saved session"),
    ] {
        fs::write(&path, bytes).unwrap();
        let said = error(&dir, &ask);
        assert!(
            said.starts_with(&format!("error: {CACHE}: {why}")),
            "{said}"
        );
        assert!(said.to_lowercase().contains("remove it"), "{said}");
        assert!(fs::read(&path).unwrap() == bytes);
    }
    // An empty one counts as new, as in llama.cpp.
    fs::write(&path, "").unwrap();
    assert_eq!(answers(&dir, &ask, "").1[0].1, 0);
    assert!(fs::read(&path).unwrap() == whole);

    for (name, why) in [(".", "not a regular file"), ("a/b", "does not exist")] {
        let said = error(&dir, &["-p", QUESTION, "--prompt-cache", name]);
        assert!(said.starts_with(&format!("error: {name}: ")), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn the_file_replaces_nothing_else() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("question"), QUESTION).unwrap();
    for (line, why) in [
        (
            "-f question --prompt-cache question",
            "is the prompt itself",
        ),
        (
            "-p x --record a --prompt-cache a",
            "is the file of --record, too",
        ),
        (
            "-p x --record a --prompt-cache a --prompt-cache-ro",
            "is the prompt cache itself",
        ),
    ] {
        let said = error(&dir, &line.split(' ').collect::<Vec<_>>());
        assert!(said.contains(why), "{line}: {said}");
    }
    let left = fs::read(dir.path().join("question")).unwrap();
    assert_eq!(left, QUESTION.as_bytes());
}

#[test]
fn flags_that_do_nothing_are_warned_of() {
    let dir = TempDir::new().unwrap();
    for (line, warning) in [
        (
            "--prompt-cache-all",
            "--prompt-cache-all has no effect without --prompt-cache",
        ),
        (
            "--prompt-cache-ro",
            "--prompt-cache-ro has no effect without --prompt-cache",
        ),
        (
            "--prompt-cache c --prompt-cache-ro --prompt-cache-all",
            "--prompt-cache-all has no effect beside --prompt-cache-ro",
        ),
    ] {
        let line: Vec<&str> = ["--list-devices"]
            .into_iter()
            .chain(line.split(' '))
            .collect();
        let output = run(&dir, &line, "");
        assert!(text(&output.stderr).contains(warning), "{line:?}");
    }
    // No KV cache, no file.
    let model = dir.path().join("masked.gguf");
    write_masked(&model, MaskedFamily::Llada, 5, &|_| ()).unwrap();
    let line = "-m masked.gguf -p the -n 8 --diffusion-steps 4 --diffusion-eps 0.1 -ctxcp 2 \
                --prompt-cache c --prompt-cache-all";
    let output = run(&dir, &line.split_whitespace().collect::<Vec<_>>(), "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for flag in ["--prompt-cache", "--prompt-cache-all", "--ctx-checkpoints"] {
        let warning = format!("{flag} has no effect: a masked model has no KV cache");
        assert!(said.contains(&warning), "{said}");
    }
    assert!(!Path::new(&dir.path().join("c")).exists());
}
