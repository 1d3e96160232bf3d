//! Which flags a job reads: one that it does not read is refused by name.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use llama_diffusion_flags::spelling::find;

use Job::{Answer, Edit, Form, Gap, Requests};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Answers a prompt, or chats.
    Answer,
    Edit,
    Form,
    /// Fills one gap.
    Gap,
    /// Fills the gaps of requests.
    Requests,
}

/// The flags that ask for a job. Without one of them there are answers.
const ASKING: [(&str, Job); 5] = [
    ("--edit", Edit),
    ("--form", Form),
    ("--infill-prefix", Gap),
    ("--infill-suffix", Gap),
    ("--infill-json", Requests),
];

/// The jobs that read some flags, and what to do for the others.
type Rule = (&'static [Job], &'static str, &'static [&'static str]);

/// Every flag. Those of the other family of models have warnings of their own, whatever the job.
const RULES: [Rule; 13] = [
    (
        &[Answer, Edit, Form, Gap, Requests],
        "",
        &[
            "--escape",
            "--no-escape",
            "--seed",
            // The model and its memory.
            "--model",
            "--hf-repo",
            "--hf-file",
            "--model-url",
            "--list-devices",
            "--load-mode",
            "--mlock",
            "--no-mmap",
            "--check-tensors",
            "--override-kv",
            "--gpu-layers",
            "--fit",
            "--fit-target",
            "--device",
            "--rpc",
            "--rpc-timeout",
            "--split-mode",
            "--main-gpu",
            "--tensor-split",
            "--cpu-moe",
            "--n-cpu-moe",
            "--override-tensor",
            "--op-offload",
            "--no-op-offload",
            // The session.
            "--ctx-size",
            "--threads",
            "--threads-batch",
            "--batch-size",
            "--ubatch-size",
            "--flash-attn",
            "--cache-type-k",
            "--cache-type-v",
            "--kv-offload",
            "--no-kv-offload",
            "--swa-full",
            // Masked models.
            "--diffusion-eps",
            "--diffusion-block-length",
            "--diffusion-algorithm",
            "--diffusion-threshold",
            "--diffusion-factor",
            "--diffusion-early-stop",
            "--diffusion-lookahead",
            "--diffusion-alg-temp",
            "--diffusion-cfg-scale",
            "--diffusion-add-gumbel-noise",
            "--temp",
            "--top-k",
            "--top-p",
            // What surrounds the prompt. Every job but an answer is a single turn and prints only its
            // result.
            "--single-turn",
            "--system-prompt",
            "--system-prompt-file",
            "--chat-template",
            "--chat-template-file",
            "--chat-template-kwargs",
            "--reasoning",
            "--show-thinking",
            "--no-thinking",
            "--raw",
            // Output.
            "--color",
            "--verbose",
            "--log-verbosity",
            "--log-file",
            "--log-disable",
            "--perf",
            "--no-perf",
            "--completion-bash",
            "--completion",
        ],
    ),
    (
        &[Answer],
        "it is for the answer to a prompt, or for a chat. Omit it",
        &[
            "--conversation",
            "--simple-io",
            "--template",
            "--ar",
            "--prompt-cache",
            "--prompt-cache-all",
            "--prompt-cache-ro",
            "--ctx-checkpoints",
            "--diffusion-visual",
            "--diffusion-visual-progress",
            "--diffusion-visual-interval",
            "--diffusion-visual-delay",
            "--record",
        ],
    ),
    (&[Edit], "another job was chosen. Omit one", &["--edit"]),
    (&[Form], "another job was chosen. Omit one", &["--form"]),
    (
        &[Gap],
        "another job was chosen. Omit one",
        &["--infill-prefix", "--infill-suffix"],
    ),
    (
        &[Requests],
        "another job was chosen. Omit one",
        &["--infill-json"],
    ),
    (
        &[Answer, Edit, Form],
        "the texts around the gap take its place. Omit it",
        &["--prompt", "--file"],
    ),
    (
        &[Edit],
        "it says how --edit changes a text. Omit it, or give --edit",
        &["--instruction", "--strength", "--protect"],
    ),
    (
        &[Gap],
        "it is the length of the gap of --infill-prefix and --infill-suffix. Omit it; requests of \
         --infill-json have it as infill_tokens",
        &["--infill-tokens"],
    ),
    (
        &[Answer, Gap],
        "the text of an edit or a form says how long it becomes, and requests of --infill-json have \
         n_predict. Omit it",
        &["--predict"],
    ),
    (
        &[Answer, Gap, Requests],
        "the text of an edit or a form says how many canvases it needs. Omit it",
        &["--diffusion-blocks"],
    ),
    (
        &[Answer, Edit, Gap, Requests],
        "the file of a form has \"steps\", \"samples\" and \"canvas\". Omit it",
        &[
            "--canvas",
            "--diffusion-steps",
            "--diffusion-eb-max-steps",
            "--diffusion-eb-t-min",
            "--diffusion-eb-t-max",
            "--diffusion-eb-entropy-bound",
            "--diffusion-eb-stability",
            "--diffusion-eb-confidence",
        ],
    ),
    (
        &[Answer, Edit],
        "forms and gaps are neither constrained nor scored by flags. Omit it",
        &[
            "--json-schema",
            "--json-schema-file",
            "--grammar-regex",
            "--json-depth",
            "--constrain-at",
            "--verify",
            "--logprobs",
            "--top-logprobs",
            "--diffusion-stats",
        ],
    ),
];

/// Refuses a flag of the command line that its job does not read.
///
/// # Errors
/// The flag, and what to do.
pub fn check(command: &Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let is_given = |flag: &str| {
        find(command, flag).filter(|arg| {
            let source = matches.value_source(arg.get_id().as_str());
            source == Some(ValueSource::CommandLine)
        })
    };
    let asking = ASKING.iter().find(|(flag, _)| is_given(flag).is_some());
    let job = asking.map_or(Answer, |(_, job)| *job);
    let beside = asking.map_or("alone".to_owned(), |(flag, _)| format!("with {flag}"));
    let others = RULES.iter().filter(|(jobs, ..)| !jobs.contains(&job));
    let mut given = others.flat_map(|(_, advice, flags)| {
        let given = flags.iter().filter_map(|flag| is_given(flag));
        given.map(move |flag| (flag, advice))
    });
    let Some((flag, advice)) = given.next() else {
        return Ok(());
    };
    let problem = format!("{} cannot be used {beside}: {advice}", named(flag));
    let mut command = command.clone();
    Err(command.error(ErrorKind::ArgumentConflict, problem))
}

/// A flag by its long name, and by its letter.
fn named(flag: &Arg) -> String {
    let long = flag.get_long().unwrap_or_default();
    match flag.get_short() {
        Some(letter) => format!("--{long} (-{letter})"),
        None => format!("--{long}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::super::{Args, definition};
    use super::*;
    use crate::flags::FLAGS;

    const LINES: [(Job, &[&str]); 6] = [
        (Answer, &[]),
        (Edit, &["--edit", "a"]),
        (Form, &["--form", "a"]),
        (Gap, &["--infill-prefix", "a"]),
        (Gap, &["--infill-suffix", "a"]),
        (Requests, &["--infill-json"]),
    ];

    /// The flags that do something.
    fn flags() -> Vec<Arg> {
        let command = Args::command();
        let all = command
            .get_arguments()
            .filter(|arg| arg.get_long().is_some());
        all.cloned().collect()
    }

    fn parsed(line: &[&str]) -> Result<Args, clap::Error> {
        Args::parse_from_line(["tool"].iter().chain(line).map(Into::into))
    }

    /// What is wrong with a command line.
    fn refusal(line: &[&str]) -> Option<String> {
        Some(parsed(line).err()?.to_string())
    }

    /// A value that the flag takes, with the flag.
    fn written(flag: &Arg) -> String {
        let name = format!("--{}", flag.get_long().unwrap());
        let counts = flag.get_num_args();
        let is_switch = counts.is_some_and(|counts| counts.max_values() == 0);
        if is_switch || !flag.get_action().takes_values() {
            return name;
        }
        let choices = flag.get_possible_values();
        let choice = choices.first().map(|value| value.get_name().to_owned());
        let values = ["1", "0.5", "f16", "-1", "{}", "a=int:1", "a=CPU", "bash"];
        let values = choice.into_iter().chain(values.map(str::to_owned));
        let fits = |line: &String| {
            let parsed = FLAGS.parse(definition(), ["tool", line].map(Into::into));
            parsed.is_ok_and(|parsed| Args::from_arg_matches(&parsed.matches).is_ok())
        };
        let mut lines = values.map(|value| format!("{name}={value}"));
        lines
            .find(fits)
            .unwrap_or_else(|| panic!("no value for {name}"))
    }

    #[test]
    fn every_flag_has_one_rule() {
        let flags: Vec<String> = flags()
            .iter()
            .map(|flag| format!("--{}", flag.get_long().unwrap()))
            .collect();
        let ruled = || RULES.iter().flat_map(|(.., flags)| flags.iter());
        for flag in &flags {
            let count = ruled().filter(|name| *name == flag).count();
            assert_eq!(count, 1, "{flag}");
        }
        for name in ruled() {
            assert!(flags.iter().any(|flag| flag == name), "there is no {name}");
        }
    }

    #[test]
    fn no_flag_of_another_job_is_without_effect_in_silence() {
        for flag in flags() {
            let name = format!("--{}", flag.get_long().unwrap());
            // Needs another one in every job.
            if name == "--hf-file" {
                continue;
            }
            let written = written(&flag);
            let (jobs, ..) = RULES
                .iter()
                .find(|(.., flags)| flags.contains(&&*name))
                .unwrap();
            for (job, line) in LINES {
                let is_same = line.first() == Some(&&*name);
                let asks = ASKING.iter().any(|(asking, _)| *asking == name);
                if job == Answer && asks || is_same {
                    continue;
                }
                let problem = refusal(&[line, &[&*written]].concat());
                match (jobs.contains(&job), problem) {
                    (true, problem) => assert_eq!(problem, None, "{line:?} {written}"),
                    (false, None) => panic!("{line:?} {written} is taken"),
                    (false, Some(problem)) => {
                        let is_named = problem.contains(&name) || asks;
                        assert!(
                            is_named && problem.contains("cannot be used"),
                            "{line:?} {written}: {problem}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn variables_of_the_environment_are_for_all_jobs() {
        let command = definition().mut_arg("predict", |arg| arg.default_value("5"));
        let matches = command.clone().try_get_matches_from(["tool", "--edit=a"]);
        check(&command, &matches.unwrap()).unwrap();
    }

    #[test]
    fn a_flag_that_needs_another_one_has_a_warning_without_it() {
        for (line, needs) in [
            (
                "--json-depth 3",
                &["--json-schema", "--json-schema-file"][..],
            ),
            (
                "--constrain-at commit",
                &["--json-schema", "--json-schema-file", "--grammar-regex"],
            ),
            ("--top-logprobs 2", &["--logprobs"]),
            ("--prompt-cache-all", &["--prompt-cache"]),
            ("--prompt-cache-ro", &["--prompt-cache"]),
            (
                "--diffusion-visual-interval 2",
                &["--diffusion-visual", "--diffusion-visual-progress"],
            ),
            (
                "--diffusion-visual-delay 2",
                &["--diffusion-visual", "--diffusion-visual-progress"],
            ),
        ] {
            let line: Vec<&str> = line.split(' ').collect();
            let expected = format!("{} has no effect without {}", line[0], needs.join(" or "));
            assert_eq!(parsed(&line).unwrap().warnings, [expected]);
            for need in needs {
                let args = parsed(&[&line[..], &[*need]].concat());
                let args = args.or_else(|_| parsed(&[&line[..], &[*need, "x"]].concat()));
                assert_eq!(args.unwrap().warnings, [""; 0], "{line:?} {need}");
            }
        }
    }
}
