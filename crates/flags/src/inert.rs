//! Flags of llama.cpp that do nothing here. Those that cannot change an answer are taken, so that its
//! command lines work; each use is answered by a warning, unless what it asks for is so anyway. Those
//! that would change it are refused.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueEnum as _, value_parser};

use crate::compute::When;
use Effect::{Given, GivenUnlessOff, None as Without, NoneUnlessOff, Refused};

/// What becomes of a flag.
#[derive(Clone, Copy)]
pub enum Effect {
    /// What it asks for is always so.
    Given,
    /// Why it has none.
    None(&'static str),
    /// What is always so, and why `off` has no effect.
    GivenUnlessOff(&'static str),
    /// Why it has none, and `off` is always so.
    NoneUnlessOff(&'static str),
    /// Why an answer would be another one, and what to do.
    Refused(&'static str),
}

/// Flags with what becomes of them. Each is written as llama.cpp's help has it: names, what values are
/// called, and the environment variable; with a `!` before it if the flag is what the variable stands
/// for when it is off.
#[derive(Clone, Copy)]
pub struct Flags(pub &'static [(Effect, &'static [&'static str])]);

/// A flag, as it is written in the table.
struct Inert {
    effect: Effect,
    /// The first long one names it.
    longs: Vec<&'static str>,
    /// Of one letter.
    short: Option<char>,
    values: Vec<&'static str>,
    variable: Option<Variable>,
}

/// An environment variable.
#[derive(Clone, Copy)]
struct Variable {
    name: &'static str,
    /// Whether the flag is given by it when it is off.
    is_negated: bool,
}

impl Inert {
    fn read(effect: Effect, text: &'static str) -> Self {
        let mut flag = Self {
            effect,
            longs: Vec::new(),
            short: None,
            values: Vec::new(),
            variable: None,
        };
        let mut later = Vec::new();
        for word in text.split(' ') {
            if let Some(long) = word.strip_prefix("--") {
                flag.longs.push(long);
            } else if let Some(name) = word.strip_prefix('-') {
                let mut letters = name.chars();
                match (letters.next(), letters.next()) {
                    (Some(letter), None) => flag.short = Some(letter),
                    // Respelled with two dashes.
                    _ => later.push(name),
                }
            } else if let Some(variable) = Variable::read(word) {
                flag.variable = Some(variable);
            } else {
                flag.values.push(word);
            }
        }
        flag.longs.extend(later);
        flag
    }

    fn name(&self) -> &'static str {
        self.longs[0]
    }

    fn is_switch(&self) -> bool {
        self.values
            .first()
            .is_some_and(|name| name.starts_with('['))
    }

    fn arg(&self) -> Arg {
        let help = match self.effect {
            Given => "Always so",
            Without(why) | GivenUnlessOff(why) | NoneUnlessOff(why) | Refused(why) => why,
        };
        let mut arg = Arg::new(self.name())
            .long(self.name())
            .aliases(self.longs[1..].iter().copied())
            .help(help)
            // They would bury those that do something.
            .hide(true);
        if let Some(letter) = self.short {
            arg = arg.short(letter);
        }
        match self.values.len() {
            0 => arg.action(ArgAction::SetTrue),
            _ if self.is_switch() => arg.value_name("WHEN").value_parser(value_parser!(When)),
            count => arg
                .value_names(self.values.clone())
                .num_args(count)
                .value_parser(value_parser!(String)),
        }
    }

    /// How the user gave it, if so.
    fn given(
        &self,
        all: Flags,
        matches: &ArgMatches,
        environment: &Environment<'_>,
    ) -> Result<Option<Use>, String> {
        if matches.value_source(self.name()) == Some(ValueSource::CommandLine) {
            let is_off = || matches.get_one::<When>(self.name()) == Some(&When::Off);
            return Ok(Some(Use {
                name: format!("--{}", self.name()),
                is_off: self.is_switch() && is_off(),
            }));
        }
        let Some(Variable { name, is_negated }) = self.variable else {
            return Ok(None);
        };
        // The flag or its opposite.
        let is_on_line = |flag: &Inert| {
            flag.variable.is_some_and(|variable| variable.name == name)
                && matches.value_source(flag.name()) == Some(ValueSource::CommandLine)
        };
        let off_name = name.replacen("LLAMA_ARG_", "LLAMA_ARG_NO_", 1);
        let is_off = is_negated && environment(&off_name).is_some();
        let value = match (is_off, environment(name)) {
            _ if all.read().any(|flag| is_on_line(&flag)) => return Ok(None),
            (true, _) => return Ok(Some(Use::of(&off_name))),
            (false, None) => return Ok(None),
            (false, Some(value)) => value,
        };
        let when = || When::from_str(&value, true).map_err(|_| format!("{name}: give on or off"));
        match self.values.is_empty() {
            true if (when()? == When::Off) != is_negated => Ok(None),
            true => Ok(Some(Use::of(name))),
            false => Ok(Some(Use {
                is_off: self.is_switch() && when()? == When::Off,
                ..Use::of(name)
            })),
        }
    }

    /// How the user named it, if so, and why that did not work.
    fn use_in_vain(
        &self,
        all: Flags,
        matches: &ArgMatches,
        environment: &Environment<'_>,
    ) -> Result<Option<(String, &'static str)>, String> {
        let Some(Use { name, is_off }) = self.given(all, matches, environment)? else {
            return Ok(None);
        };
        let why = match self.effect {
            Given => None,
            Without(why) | Refused(why) => Some(why),
            GivenUnlessOff(why) => is_off.then_some(why),
            NoneUnlessOff(why) => (!is_off).then_some(why),
        };
        Ok(why.map(|why| (name, why)))
    }
}

impl Variable {
    fn read(word: &'static str) -> Option<Self> {
        let (name, is_negated) = match word.strip_prefix('!') {
            Some(name) => (name, true),
            None => (word, false),
        };
        let variable = Self { name, is_negated };
        name.starts_with("LLAMA_ARG_").then_some(variable)
    }
}

/// A flag that was given.
struct Use {
    /// The flag or the variable.
    name: String,
    /// Whether its value is `off`.
    is_off: bool,
}

impl Use {
    fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_off: false,
        }
    }
}

/// The values of environment variables.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The environment of this process. Variables without a value count as not set.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Flags {
    fn read(self) -> impl Iterator<Item = Inert> {
        let each = |&(effect, flags): &'static (Effect, &'static [&'static str])| {
            flags.iter().map(move |flag| Inert::read(effect, flag))
        };
        self.0.iter().flat_map(each)
    }

    /// Adds the flags to those that do something.
    pub fn define(self, command: Command) -> Command {
        let usage = Arg::new("usage").long("usage").action(ArgAction::HelpLong);
        command
            .args(self.read().map(|flag| flag.arg()))
            .arg(usage.help("As --help").hide(true))
    }

    /// A line for each flag that has no effect.
    ///
    /// # Errors
    /// One without which the answer is another one, or a variable that is neither on nor off.
    pub fn warnings(
        self,
        command: &mut Command,
        matches: &ArgMatches,
        environment: &Environment<'_>,
    ) -> Result<Vec<String>, clap::Error> {
        let mut lines = Vec::new();
        for flag in self.read() {
            let used = flag.use_in_vain(self, matches, environment);
            let used = used.map_err(|problem| command.error(ErrorKind::InvalidValue, problem))?;
            let Some((name, why)) = used else {
                continue;
            };
            if let Refused(_) = flag.effect {
                let problem = format!("{name} is not supported here: {why}");
                return Err(command.error(ErrorKind::UnknownArgument, problem));
            }
            lines.push(format!("{name} has no effect: {why}"));
        }
        Ok(lines)
    }
}
