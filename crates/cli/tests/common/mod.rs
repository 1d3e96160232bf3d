//! Shared by the tests of the tool.

#![allow(dead_code, reason = "each test uses its own part")]

use std::process::Command;

pub mod recordings;
pub mod rpc;

/// The tool, without the settings of the user's environment.
pub fn process() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-cli"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("LLAMA_")) {
            command.env_remove(name);
        }
    }
    command
}

/// The same, with a free standard input.
pub fn tool() -> assert_cmd::Command {
    assert_cmd::Command::from_std(process())
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
