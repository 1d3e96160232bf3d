//! llama.cpp's way of writing a command line, turned into the one that clap reads.

use std::ffi::OsString;

use clap::{Arg, Command};

/// llama.cpp's long names with a single dash, which clap would take for a row of short flags.
pub const SINGLE_DASH: &[(&str, &str)] = &[
    ("-cmoe", "--cpu-moe"),
    ("-cnv", "--conversation"),
    ("-co", "--color"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-dev", "--device"),
    ("-fa", "--flash-attn"),
    ("-hf", "--hf-repo"),
    ("-hff", "--hf-file"),
    ("-hfr", "--hf-repo"),
    ("-lv", "--log-verbosity"),
    ("-mg", "--main-gpu"),
    ("-mu", "--model-url"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-ngl", "--gpu-layers"),
    ("-nkvo", "--no-kv-offload"),
    ("-no-cnv", "--no-conversation"),
    ("-ot", "--override-tensor"),
    ("-sm", "--split-mode"),
    ("-st", "--single-turn"),
    ("-sys", "--system-prompt"),
    ("-sysf", "--system-prompt-file"),
    ("-tb", "--threads-batch"),
    ("-ts", "--tensor-split"),
    ("-ub", "--ubatch-size"),
];

/// Spells the arguments as clap wants them. A flag that takes a value is joined with whatever
/// follows it, so that a value may begin with a dash, as for llama.cpp.
pub fn respell(command: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter().peekable();
    let mut respelled: Vec<OsString> = args.next().into_iter().collect();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.to_str().filter(|text| text.starts_with('-')) else {
            respelled.push(arg);
            continue;
        };
        let flag = match SINGLE_DASH.iter().find(|(single, _)| *single == flag) {
            Some((_, long)) => (*long).to_owned(),
            // Not a row of short flags either: clap shall name the whole of it as unknown.
            None if flag.len() > 2 && !flag.starts_with("--") => format!("-{flag}"),
            None => flag.to_owned(),
        };
        let definition = find(command, &flag);
        let mut flag = OsString::from(flag);
        if let Some(value) = args.next_if(|next| definition.is_some_and(|f| takes(f, next))) {
            flag.push("=");
            flag.push(value);
        }
        respelled.push(flag);
    }
    respelled
}

/// Whether what follows a flag is its value. A value that may be left out, as in older releases of
/// llama.cpp, is known by its choices.
fn takes(flag: &Arg, next: &OsString) -> bool {
    let optional = flag
        .get_num_args()
        .is_some_and(|count| count.min_values() == 0);
    match flag.get_action().takes_values() {
        true if optional => flag
            .get_possible_values()
            .iter()
            .any(|value| next.to_str().is_some_and(|text| value.matches(text, false))),
        takes_values => takes_values,
    }
}

/// The definition of a flag, by one of its names with the dashes.
pub fn find<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let is_it = |argument: &&Arg| match flag.strip_prefix("--") {
        Some(name) => {
            let aliases = argument.get_all_aliases().unwrap_or_default();
            argument.get_long() == Some(name) || aliases.contains(&name)
        }
        None => argument
            .get_short()
            .is_some_and(|c| flag == format!("-{c}")),
    };
    command.get_arguments().find(is_it)
}
