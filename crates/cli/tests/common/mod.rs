//! What the tests of the tool share.

#![allow(dead_code, reason = "each test uses its own part")]

use std::process::Command;

pub mod recordings;
pub mod rpc;

/// The tool, without what the user's environment sets.
pub fn process() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-cli"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("LLAMA_")) {
            command.env_remove(name);
        }
    }
    command
}

/// The same, which may be given its standard input.
pub fn tool() -> assert_cmd::Command {
    assert_cmd::Command::from_std(process())
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
