//! Parses a command line by the lists of flags of a program: each flag has one record, of its names, its
//! environment variables, and what becomes of it. The lists are in `shared.rs` and `inert.rs`, and in
//! `flags.rs` of each program.
//!
//! clap has the types and the help of flags that work. Flags of llama.cpp that do nothing here are
//! taken if they cannot change an answer, so that its command lines work; each use is answered by a
//! warning, unless what it asks for is so anyway. Those that would change it are refused.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueEnum as _, value_parser};

use crate::compute::When;
use crate::spelling::{find, in_user_s_words, respell};
use Effect::{
    ForCanvas, ForMasked, Given, GivenUnlessOff, None as Without, NoneUnlessOff, Refused, Works,
};

/// What becomes of a flag.
#[derive(Clone, Copy)]
pub enum Effect {
    /// What clap's help says.
    Works,
    /// The same for canvas models, and why it has none for masked ones.
    ForCanvas(&'static str),
    /// The same for masked models, and why it has none for canvas models.
    ForMasked(&'static str),
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

/// Flags that share what becomes of them. Each is written as llama.cpp's help has it: names, what
/// values are called, and the environment variable; with a `!` before it if the flag is what the
/// variable stands for when it is off. Further variables are older names. `<--flag` is a flag
/// beside which this one has no effect, and `>--flag` one that it needs: of several, any one of them.
pub type Group = (Effect, &'static [&'static str]);

/// All flags of a program.
#[derive(Clone, Copy)]
pub struct Flags(pub &'static [&'static [Group]]);

/// A flag, as it is written in a list.
struct Record {
    effect: Effect,
    /// Without their dashes. The first long one names it.
    names: Vec<&'static str>,
    /// How many of them have a single dash and several letters, as clap has none: these come last.
    single: usize,
    /// The first of these, which the help names.
    first_single: Option<&'static str>,
    /// Of one letter.
    short: Option<char>,
    values: Vec<&'static str>,
    variables: Vec<Variable>,
    /// Flags beside which it has no effect.
    beside: Vec<&'static str>,
    /// Flags of which it needs one.
    needs: Vec<&'static str>,
}

/// An environment variable.
#[derive(Clone, Copy)]
struct Variable {
    name: &'static str,
    /// Whether the flag is given by it when it is off.
    is_negated: bool,
}

impl Record {
    fn read(effect: Effect, text: &'static str) -> Self {
        let mut flag = Self {
            effect,
            names: Vec::new(),
            single: 0,
            first_single: None,
            short: None,
            values: Vec::new(),
            variables: Vec::new(),
            beside: Vec::new(),
            needs: Vec::new(),
        };
        let mut later = Vec::new();
        for word in text.split(' ') {
            if let Some(long) = word.strip_prefix("--") {
                flag.names.push(long);
            } else if let Some(other) = word.strip_prefix("<--") {
                flag.beside.push(other);
            } else if let Some(other) = word.strip_prefix(">--") {
                flag.needs.push(other);
            } else if let Some(name) = word.strip_prefix('-') {
                let mut letters = name.chars();
                match (letters.next(), letters.next()) {
                    (Some(letter), None) => flag.short = Some(letter),
                    // Respelled with two dashes.
                    _ => later.push(name),
                }
            } else if let Some(variable) = Variable::read(word) {
                flag.variables.push(variable);
            } else {
                flag.values.push(word);
            }
        }
        flag.first_single = later.first().copied();
        // A name that is written with one dash or two.
        later.retain(|name| !flag.names.contains(name));
        flag.single = later.len();
        flag.names.extend(later);
        flag
    }

    fn name(&self) -> &'static str {
        self.names[0]
    }

    fn dashed(&self) -> String {
        format!("--{}", self.name())
    }

    fn works(&self) -> bool {
        matches!(self.effect, Works | ForCanvas(_) | ForMasked(_))
    }

    fn is_switch(&self) -> bool {
        self.values
            .first()
            .is_some_and(|name| name.starts_with('['))
    }

    /// clap's definition, with what is not clap's: other names, the variable, and how llama.cpp
    /// writes it.
    fn complete(&self, arg: Arg) -> Arg {
        let (long, single) = self.names[1..].split_at(self.names.len() - 1 - self.single);
        let help = arg.get_help().map(ToString::to_string);
        let help = match (self.first_single, help) {
            (Some(name), Some(help)) => Some(format!("{help} [-{name}]")),
            (_, help) => help,
        };
        let arg = match self.variable() {
            Some(Variable { name, .. }) => arg.env(name),
            None => arg,
        };
        // Respelled with two dashes.
        let arg = arg.aliases(single.iter().copied());
        arg.visible_aliases(long.iter().copied())
            .help(help.unwrap_or_default())
    }

    /// The variable that counts: an older name only if it alone is set.
    fn variable(&self) -> Option<Variable> {
        let is_set = |variable: &&Variable| std::env::var_os(variable.name).is_some();
        let set = self.variables.iter().find(is_set);
        set.or(self.variables.first()).copied()
    }

    /// Definition of a flag that does nothing.
    fn arg(&self) -> Arg {
        let help = match self.effect {
            Given | Works | ForCanvas(_) | ForMasked(_) => "Always so",
            Without(why) | GivenUnlessOff(why) | NoneUnlessOff(why) | Refused(why) => why,
        };
        let mut arg = Arg::new(self.name())
            .long(self.name())
            .aliases(self.names[1..].iter().copied())
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
                name: self.dashed(),
                is_off: self.is_switch() && is_off(),
            }));
        }
        let Some(&Variable { name, is_negated }) = self.variables.first() else {
            return Ok(None);
        };
        // The flag or its opposite.
        let is_on_line = |flag: &Record| {
            flag.variables.first().is_some_and(|v| v.name == name)
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
            Given | Works | ForCanvas(_) | ForMasked(_) => None,
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
        name.starts_with("LLAMA_").then_some(variable)
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

/// How the user gave a flag, if so.
fn name_of_use(flag: &Arg, matches: &ArgMatches) -> Option<String> {
    match matches.value_source(flag.get_id().as_str())? {
        ValueSource::EnvVariable => flag.get_env()?.to_str().map(str::to_owned),
        ValueSource::CommandLine => Some(format!("--{}", flag.get_long()?)),
        _ => None,
    }
}

/// The values of environment variables.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The environment of this process. Variables without a value count as not set.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A command line, parsed.
pub struct Parsed {
    /// What was given.
    pub matches: ArgMatches,
    /// A line for each flag that has no effect.
    pub warnings: Vec<String>,
    /// The same for canvas models.
    pub canvas_warnings: Vec<String>,
    /// The same for masked models.
    pub masked_warnings: Vec<String>,
}

impl Parsed {
    /// Whether the command line has a flag, by clap's name.
    pub fn is_chosen(&self, id: &str) -> bool {
        self.matches.value_source(id) == Some(ValueSource::CommandLine)
    }
}

impl Flags {
    fn read(self) -> impl Iterator<Item = Record> {
        let each = |&(effect, flags): &'static Group| {
            flags.iter().map(move |flag| Record::read(effect, flag))
        };
        self.0.iter().copied().flatten().flat_map(each)
    }

    /// Completes clap's definitions of the flags that work, and adds the others.
    pub fn define(self, command: Command) -> Command {
        let usage = Arg::new("usage").long("usage").action(ArgAction::HelpLong);
        let (live, inert): (Vec<Record>, Vec<Record>) = self.read().partition(Record::works);
        let complete = |arg: Arg| match live.iter().find(|flag| arg.get_long() == Some(flag.name()))
        {
            Some(flag) => flag.complete(arg),
            None => arg,
        };
        command
            .mut_args(complete)
            .args(inert.iter().map(Record::arg))
            .arg(usage.help("As --help").hide(true))
    }

    /// Parses a command line, the program's name first. The command line goes before the
    /// environment, also where flags exclude each other.
    ///
    /// # Errors
    /// What clap has to say, which may be the help that was asked for; and those of
    /// [`warnings`](Self::warnings).
    pub fn parse(
        self,
        mut command: Command,
        line: impl IntoIterator<Item = OsString>,
    ) -> Result<Parsed, clap::Error> {
        let written: Vec<OsString> = line.into_iter().collect();
        let line = respell(&command, written.iter().cloned());
        let parse = |command: &mut Command| {
            let matches = command.try_get_matches_from_mut(line.clone());
            matches.map_err(|error| in_user_s_words(command, &written, error))
        };
        let unset = command.clone();
        let mut matches = parse(&mut command)?;
        let outdone = self.outdone(&command, &matches);
        if !outdone.is_empty() {
            command = unset.mut_args(|arg| match outdone.contains(arg.get_id()) {
                true => arg.env(Resettable::Reset),
                false => arg,
            });
            matches = parse(&mut command)?;
        }
        let mut warnings = self.warnings(&mut command, &matches, &environment)?;
        warnings.extend(self.beside(&command, &matches));
        warnings.extend(self.alone(&command, &matches));
        let for_one_family = |why: fn(Effect) -> Option<&'static str>| {
            let flags = self.read();
            let vain = flags.filter_map(|flag| {
                let name = name_of_use(find(&command, &flag.dashed())?, &matches)?;
                Some(format!("{name} has no effect: {}", why(flag.effect)?))
            });
            vain.collect()
        };
        Ok(Parsed {
            warnings,
            canvas_warnings: for_one_family(|effect| match effect {
                ForMasked(why) => Some(why),
                _ => None,
            }),
            masked_warnings: for_one_family(|effect| match effect {
                ForCanvas(why) => Some(why),
                _ => None,
            }),
            matches,
        })
    }

    /// Flags that exclude each other and are both given: the one without effect, and the other.
    fn pairs(self, command: &Command) -> impl Iterator<Item = (&Arg, &Arg)> {
        self.read().flat_map(move |flag| {
            let others: Vec<String> = flag.beside.iter().map(|name| format!("--{name}")).collect();
            let flag = find(command, &flag.dashed());
            let pair = move |other: String| Some((flag?, find(command, &other)?));
            others.into_iter().filter_map(pair)
        })
    }

    /// Flags of the environment that would take the effect from one of the command line.
    fn outdone(self, command: &Command, matches: &ArgMatches) -> Vec<clap::Id> {
        let source = |flag: &Arg| matches.value_source(flag.get_id().as_str());
        let pairs = self.pairs(command);
        let outdone = pairs.filter(|(flag, other)| {
            source(flag) == Some(ValueSource::CommandLine)
                && source(other) == Some(ValueSource::EnvVariable)
        });
        outdone.map(|(_, other)| other.get_id().clone()).collect()
    }

    /// A line for each flag of the command line that has no effect beside another one.
    fn beside(self, command: &Command, matches: &ArgMatches) -> Vec<String> {
        let is_chosen = |flag: &Arg| {
            let source = matches.value_source(flag.get_id().as_str());
            source == Some(ValueSource::CommandLine)
        };
        let name = |flag: &Arg| flag.get_long().unwrap_or_default().to_owned();
        let pairs = self.pairs(command);
        pairs
            .filter(|(flag, other)| is_chosen(flag) && is_chosen(other))
            .map(|(flag, other)| {
                let (flag, other) = (name(flag), name(other));
                format!("--{flag} has no effect beside --{other}")
            })
            .collect()
    }

    /// A line for each flag of the command line that has no effect without another one.
    fn alone(self, command: &Command, matches: &ArgMatches) -> Vec<String> {
        let source = |name: &str| {
            let flag = find(command, &format!("--{name}"))?;
            matches.value_source(flag.get_id().as_str())
        };
        let is_given = |name: &&str| {
            let source = source(name);
            source.is_some_and(|source| source != ValueSource::DefaultValue)
        };
        let flags = self.read().filter(|flag| !flag.needs.is_empty());
        let in_vain = flags.filter(|flag| {
            source(flag.name()) == Some(ValueSource::CommandLine)
                && !flag.needs.iter().any(is_given)
        });
        in_vain
            .map(|flag| {
                let needs: Vec<String> =
                    flag.needs.iter().map(|name| format!("--{name}")).collect();
                format!(
                    "{} has no effect without {}",
                    flag.dashed(),
                    needs.join(" or ")
                )
            })
            .collect()
    }

    /// What is wrong between the lists and clap's own definition, for tests: each flag that works
    /// has one record, and each such record a flag of the same kind.
    pub fn problems(self, own: &Command) -> Vec<String> {
        let live: Vec<Record> = self.read().filter(Record::works).collect();
        let mut problems = Vec::new();
        for arg in own.get_arguments() {
            let (id, long) = (arg.get_id(), arg.get_long().unwrap_or_default());
            let records = live.iter().filter(|flag| flag.name() == long).count();
            if records != 1 && id != "help" && id != "version" {
                problems.push(format!("--{long} has {records} records"));
            }
            let has_own = arg.get_env().is_some() || arg.get_all_aliases().is_some();
            if has_own {
                problems.push(format!(
                    "--{long}: variables and other names belong in its record"
                ));
            }
        }
        let values = |arg: &Arg| {
            let none = arg
                .get_num_args()
                .is_some_and(|count| count.max_values() == 0);
            arg.get_action().takes_values() && !none
        };
        for flag in &live {
            let name = flag.name();
            let Some(arg) = own.get_arguments().find(|arg| arg.get_long() == Some(name)) else {
                problems.push(format!("there is no --{name}"));
                continue;
            };
            if arg.get_short() != flag.short || values(arg) == flag.values.is_empty() {
                problems.push(format!("--{name} has another letter, or other values"));
            }
            let is_unknown = |other: &&&str| !live.iter().any(|flag| flag.name() == **other);
            let unknown = flag.beside.iter().chain(&flag.needs).find(is_unknown);
            problems.extend(unknown.map(|other| format!("--{name}: there is no --{other}")));
        }
        problems
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
        for flag in self.read().filter(|flag| !flag.works()) {
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
