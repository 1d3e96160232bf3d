//! ggml's AMX code, compiled as the build compiles it, keeps the tile configuration that it loads.
//! Needs a compiler for x86-64 but no CPU with AMX: the object file is read, not run.
#![cfg(all(target_arch = "x86_64", unix))]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Bytes per row of ggml's eight tiles, and their rows, as `ldtilecfg` reads them.
const COLUMN_BYTES: [u16; 8] = [64, 64, 32, 32, 64, 64, 64, 64];
const ROWS: [u8; 8] = [8, 8, 16, 16, 16, 16, 16, 16];
/// The encoding of `ldtilecfg` up to its operand.
const LDTILECFG: [u8; 4] = [0xc4, 0xe2, 0x78, 0x49];

/// The build's commands for ggml's AMX products, one for each variant of the CPU backend, split
/// into words and without their output file.
fn commands() -> Vec<(String, Vec<String>)> {
    let list = Path::new(env!("OUT_DIR")).join("build/compile_commands.json");
    let list: Value = serde_json::from_slice(&fs::read(list).unwrap()).unwrap();
    let ours = |entry: &&Value| entry["file"].as_str().unwrap().ends_with("amx/mmq.cpp");
    let entries = list.as_array().unwrap().iter().filter(ours);
    entries
        .map(|entry| {
            let mut words = words(entry["command"].as_str().unwrap());
            let output = words.iter().position(|word| word == "-o").unwrap();
            words.drain(output..output + 2);
            (entry["directory"].as_str().unwrap().to_owned(), words)
        })
        .collect()
}

/// Splits a command as a shell does, as far as cmake quotes: double quotes and backslashes.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn contains(object: &[u8], bytes: &[u8]) -> bool {
    object.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn the_tile_configuration_is_in_the_object_file() {
    let commands = commands();
    assert!(!commands.is_empty());
    let object = tempfile::NamedTempFile::new().unwrap();
    for (directory, words) in commands {
        let mut compile = Command::new(&words[0]);
        compile
            .current_dir(directory)
            .args(words[1..].iter().filter(|word| !word.starts_with("-m")))
            .arg("-march=sapphirerapids")
            .arg("-o")
            .arg(object.path());
        assert!(compile.status().unwrap().success(), "{compile:?}");
        let object = fs::read(object.path()).unwrap();
        if !contains(&object, &LDTILECFG) {
            // clang 14 does not define the macros that ggml checks, and compiles no AMX code.
            let version = Command::new(&words[0]).arg("--version").output().unwrap();
            let version = String::from_utf8_lossy(&version.stdout).into_owned();
            assert!(version.contains("clang"), "no AMX code: {compile:?}");
            continue;
        }
        let columns: Vec<u8> = COLUMN_BYTES
            .into_iter()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert!(contains(&object, &columns), "column bytes: {compile:?}");
        assert!(contains(&object, &ROWS), "rows: {compile:?}");
    }
}
