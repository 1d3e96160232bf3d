//! Every flag of llama.cpp's tools for one prompt, and the variable of each, as listed in the
//! source that is built: all are known, and a variable is treated as its flag.

use std::path::{Path, PathBuf};
use std::process::Output;

use regex::Regex;

use crate::common;

#[path = "../../../../build/source.rs"]
#[allow(dead_code, reason = "the build uses the rest")]
mod source;

/// The tools whose command lines must work here.
const TOOLS: [&str; 4] = ["COMMON", "DIFFUSION", "CLI", "COMPLETION"];

/// A flag of llama.cpp.
#[derive(Debug)]
struct Flag {
    names: Vec<String>,
    /// The names with the opposite meaning.
    opposites: Vec<String>,
    /// One for each value.
    values: Vec<&'static str>,
    variable: Option<String>,
}

/// The strings of a piece of C++.
fn strings(text: &str) -> Vec<String> {
    let string = Regex::new(r#""([^"]*)""#).unwrap();
    string
        .captures_iter(text)
        .map(|c| c[1].to_owned())
        .collect()
}

/// A value that matches its name in the help.
fn value(name: &str) -> &'static str {
    match name {
        name if name.starts_with("[on") => "on",
        "TYPE" => "f16",
        "MODE" | "{none,linear,yarn}" | "{none,layer,row,tensor}" => "none",
        _ => "1",
    }
}

/// The flags that `common/arg.cpp` defines for the tools.
fn flags(root: &Path) -> Vec<Flag> {
    let text = std::fs::read_to_string(root.join("common/arg.cpp")).unwrap();
    let comment = Regex::new(r"(?m)^\s*//.*$").unwrap();
    let text = comment.replace_all(&text, "");
    let head =
        Regex::new(r#"(?s)^\s*\{([^}]*)\},\s*(?:\{([^}]*)\},\s*)?((?:"[^"]*",\s*)*)"#).unwrap();
    let variable = Regex::new(r#"set_env\("(LLAMA_ARG_\w+)"\)"#).unwrap();
    let tools = Regex::new(r"set_examples\(([^)]*)\)").unwrap();
    let tool = Regex::new(r"LLAMA_EXAMPLE_(\w+)").unwrap();
    let definitions = text.split("add_opt(common_arg(").skip(1);
    let read = |definition: &str| {
        let parts = head.captures(definition)?;
        let listed = tools.captures(definition).map(|c| c[1].to_owned());
        let is_wanted = listed.is_none_or(|list| {
            // Lists for images have a name of their own, and include llama-cli.
            let mut named = tool.captures_iter(&list).map(|c| c[1].to_owned());
            list.contains("mmproj_examples") || named.any(|name| TOOLS.contains(&name.as_str()))
        });
        let opposites = parts.get(2).map_or("", |list| list.as_str());
        // The help follows the names of the values.
        let mut named = strings(&parts[3]);
        if definition[parts[0].len()..].trim_start().starts_with('[') {
            named.pop();
        }
        is_wanted.then(|| Flag {
            names: strings(&parts[1]),
            opposites: strings(opposites),
            values: named.iter().map(|name| value(name)).collect(),
            variable: variable.captures(definition).map(|c| c[1].to_owned()),
        })
    };
    definitions.filter_map(read).collect()
}

/// Runs the tool with a flag or a variable; it ends before it needs a model. Files that a flag
/// names are written into a directory of the run.
fn run(line: &[&str], variable: Option<(&str, &str)>) -> Output {
    let mut command = common::tool();
    let directory = tempfile::tempdir().unwrap();
    command.current_dir(directory.path());
    command.args(line).arg("--list-devices").envs(variable);
    command.output().unwrap()
}

/// How a flag or a variable is handled, without its name.
fn treatment(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let marks = [" has no effect: ", " is not supported here: "];
    let reason = marks.iter().find_map(|mark| {
        let (_, reason) = said.split_once(mark)?;
        Some(format!("{mark}{}", reason.lines().next()?))
    });
    reason.unwrap_or_default()
}

/// The source that was built.
fn llama_cpp() -> PathBuf {
    let (package, version) = env!("LLAMA_DIFFUSION_LLAMA_CPP")
        .split_once(' ')
        .unwrap_or_default();
    let pin = source::Pin { package, version };
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let found = source::Source::find(pin, manifest_dir, cargo_home.as_deref());
    found.unwrap().root
}

#[test]
fn every_flag_of_llama_cpp_and_its_variable_are_known() {
    let flags = flags(&llama_cpp());
    let names: usize = flags
        .iter()
        .map(|f| f.names.len() + f.opposites.len())
        .sum();
    assert!(names > 300, "the list was not read: {names}");
    for flag in &flags {
        for (names, on) in [(&flag.names, "1"), (&flag.opposites, "0")] {
            for name in names {
                let line: Vec<&str> = [&[name.as_str()], &flag.values[..]].concat();
                let output = run(&line, None);
                let said = String::from_utf8_lossy(&output.stderr);
                let unknown = "unexpected argument";
                assert!(!said.contains(unknown), "{line:?}: {said}");
                // Options of other tools with the same name need not be read from variables.
                let (Some(variable), true) = (&flag.variable, *name == names[0]) else {
                    continue;
                };
                let value = flag.values.first().copied().unwrap_or(on);
                let by_variable = run(&[], Some((variable, value)));
                let treated = treatment(&by_variable);
                assert_eq!(treated, treatment(&output), "{variable}={value}, {line:?}");
            }
        }
    }
}
