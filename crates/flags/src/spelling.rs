//! llama.cpp's way of writing a command line, turned into the one that clap reads.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

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
        let flag = respelled_flag(command, flag);
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

/// A flag as clap wants it.
pub(crate) fn respelled_flag(command: &Command, flag: &str) -> String {
    if flag.len() <= 2 || flag.starts_with("--") {
        return with_dashes(flag);
    }
    // llama.cpp's long names with a single dash are no rows of short flags. Subcommands know the long
    // names only. What is unknown, clap shall name as a whole.
    let flag = format!("-{flag}");
    let long = find(command, &flag).and_then(Arg::get_long);
    long.map_or(flag, |long| format!("--{long}"))
}

/// A long flag as we spell it: llama.cpp takes underscores for dashes.
fn with_dashes(flag: &str) -> String {
    match flag.split_once('=') {
        _ if !flag.starts_with("--") => flag.to_owned(),
        Some((name, value)) => format!("{}={value}", name.replace('_', "-")),
        None => flag.replace('_', "-"),
    }
}

/// Whether what follows a flag is its value. Where it may be left out, as in older releases of
/// llama.cpp, another flag is not a value; `-1` may be one of its choices. clap gathers several values
/// itself.
fn takes(flag: &Arg, next: &OsString) -> bool {
    let optional = flag
        .get_num_args()
        .is_some_and(|count| count.min_values() == 0);
    let is_flag = || {
        let text = next.to_string_lossy();
        let choices = flag.get_possible_values();
        text.starts_with('-') && !choices.iter().any(|value| value.matches(&text, false))
    };
    let several = flag
        .get_num_args()
        .is_some_and(|count| count.max_values() > 1);
    flag.get_action().takes_values() && !several && !(optional && is_flag())
}

/// An error about a command line, in the words of its user: clap knows only the flags that it was
/// given.
pub fn in_user_s_words(command: &Command, line: &[OsString], error: clap::Error) -> clap::Error {
    match error.kind() {
        ErrorKind::InvalidUtf8 => name_text(command, line, error),
        _ => name_flag(command, line, name_variable(command, error)),
    }
}

/// Names the flag whose value is not UTF-8. Paths may have any bytes.
fn name_text(command: &Command, line: &[OsString], error: clap::Error) -> clap::Error {
    let takes_bytes = |flag: &str| {
        find(command, &respelled_flag(command, flag))
            .is_some_and(|flag| flag.get_value_parser().type_id() == TypeId::of::<PathBuf>())
    };
    let pairs = std::iter::once(None).chain(line.iter().map(Some)).zip(line);
    let mut values = pairs.filter(|(_, word)| word.to_str().is_none());
    let named = values.find_map(|(before, word)| {
        let word = word.to_string_lossy();
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => (flag.to_owned(), value.to_owned()),
            _ => (before?.to_str()?.to_owned(), word.into_owned()),
        };
        (flag.starts_with('-') && !takes_bytes(&flag)).then_some((flag, value))
    });
    match named {
        Some((flag, value)) => {
            let problem = format!("the value of {flag} is not UTF-8: '{value}'");
            command.clone().error(ErrorKind::InvalidUtf8, problem)
        }
        None => error,
    }
}

/// Names a flag with a wrong value as it was written.
fn name_flag(command: &Command, line: &[OsString], mut error: clap::Error) -> clap::Error {
    let is_of_value = matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
    );
    let named = error.get(ContextKind::InvalidArg).filter(|_| is_of_value);
    let Some(ContextValue::String(named)) = named else {
        return error;
    };
    let written = line.iter().rev().find_map(|word| {
        let flag = word.to_str()?.split('=').next()?;
        let argument = find(command, &respelled_flag(command, flag))?;
        (argument.to_string() == *named).then_some(flag)
    });
    if let Some(written) = written {
        let value = named.split_once(' ').map_or("", |(_, value)| value);
        let named = format!("{written} {value}").trim_end().to_owned();
        error.insert(ContextKind::InvalidArg, ContextValue::String(named));
    }
    error
}

/// Says so where a wrong value is that of an environment variable: the user may not know that it is
/// set.
fn name_variable(command: &Command, mut error: clap::Error) -> clap::Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let (flag, value) = (
        context(ContextKind::InvalidArg),
        context(ContextKind::InvalidValue),
    );
    let is_it = |variable: &&OsStr| {
        let set = std::env::var_os(variable);
        set.is_some_and(|set| value.as_deref().is_some_and(|value| set == value))
    };
    let mut arguments = command.get_arguments();
    let variable = arguments
        .find(|argument| flag.as_deref() == Some(&argument.to_string()))
        .and_then(Arg::get_env)
        .filter(is_it);
    if let Some(variable) = variable {
        let tip = format!(
            "the value is that of the environment variable {}",
            variable.display()
        );
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
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
