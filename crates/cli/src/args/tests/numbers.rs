//! Flags that take numbers: what they take, and what their errors say.

use super::*;

/// Numbers that parsers like to get wrong.
const ODD: [&str; 9] = [
    "0",
    "-1",
    "-2",
    "1.5",
    "4294967296",
    "18446744073709551616",
    "1e400",
    "nan",
    "",
];

/// Flags that take a number: which of [`ODD`] they take, and what the errors for the others say.
const NUMBERS: &[(&str, &[&str], &str)] = &[
    (
        "--predict",
        &["-1", "4294967296"],
        "from 1 to 18446744073709551615, or -1 for no limit",
    ),
    (
        "--ctx-size",
        &["0", "4294967296"],
        "from 0 to 18446744073709551615",
    ),
    (
        "--ctx-checkpoints",
        &["0", "4294967296"],
        "from 0 to 18446744073709551615",
    ),
    (
        "--threads",
        &["0", "-1", "-2"],
        "from -2147483648 to 2147483647",
    ),
    (
        "--threads-batch",
        &["0", "-1", "-2"],
        "from -2147483648 to 2147483647",
    ),
    (
        "--seed",
        &["0", "-1", "4294967296"],
        "from 0 to 18446744073709551615, or -1 for a random seed",
    ),
    (
        "--batch-size",
        &["4294967296"],
        "from 1 to 18446744073709551615",
    ),
    (
        "--ubatch-size",
        &["4294967296"],
        "from 1 to 18446744073709551615",
    ),
    (
        "--diffusion-blocks",
        &["4294967296"],
        "from 1 to 18446744073709551615",
    ),
    (
        "--json-depth",
        &["4294967296"],
        "from 1 to 18446744073709551615",
    ),
    ("--diffusion-steps", &[], "from 1 to 4294967295"),
    ("--rpc-timeout", &[], "from 1 to 86400"),
    ("--diffusion-eb-max-steps", &[], "from 1 to 4294967295"),
    (
        "--diffusion-eb-t-min",
        &["0", "1.5", "4294967296", "18446744073709551616"],
        "number: 0.0 or more",
    ),
    (
        "--diffusion-eb-t-max",
        &["1.5", "4294967296", "18446744073709551616"],
        "number: 1e-20 or more",
    ),
    (
        "--diffusion-eb-entropy-bound",
        &["1.5", "4294967296", "18446744073709551616"],
        "number: more than 0.0",
    ),
    ("--diffusion-eb-stability", &["0"], "from 0 to 4294967295"),
    (
        "--diffusion-eb-confidence",
        &["0", "1.5", "4294967296", "18446744073709551616"],
        "number: 0.0 or more",
    ),
    (
        "--diffusion-eps",
        &["0"],
        "number: 0.0 or more, less than 1.0",
    ),
    (
        "--diffusion-block-length",
        &["0", "4294967296"],
        "from 0 to 18446744073709551615",
    ),
    (
        "--diffusion-alg-temp",
        &["0", "1.5", "4294967296", "18446744073709551616"],
        "number: 0.0 or more",
    ),
    (
        "--diffusion-threshold",
        &[],
        "number: more than 0.0, at most 1.0",
    ),
    (
        "--diffusion-factor",
        &["1.5", "4294967296", "18446744073709551616"],
        "number: more than 0.0",
    ),
    (
        "--diffusion-early-stop",
        &[],
        "number: more than 0.0, at most 1.0",
    ),
    (
        "--diffusion-lookahead",
        &[],
        "from 1 to 64, or auto for the fastest",
    ),
    (
        "--diffusion-cfg-scale",
        &["0", "1.5", "4294967296", "18446744073709551616"],
        "number: 0.0 or more",
    ),
    (
        "--diffusion-add-gumbel-noise",
        &["0", "-1", "-2", "1.5", "4294967296", "18446744073709551616"],
        "number that is finite",
    ),
    (
        "--temp",
        &["0", "-1", "-2", "1.5", "4294967296", "18446744073709551616"],
        "number that is finite",
    ),
    (
        "--top-k",
        &["0", "-1", "-2", "4294967296"],
        "from -9223372036854775808 to 9223372036854775807",
    ),
    (
        "--top-p",
        &["1.5", "4294967296", "18446744073709551616"],
        "number: more than 0.0",
    ),
    (
        "--gpu-layers",
        &["0", "-1", "-2", "4294967296"],
        "from 0 to 18446744073709551615, auto or all",
    ),
    (
        "--fit-target",
        &["0", "4294967296", ""],
        "from 0 to 17592186044415",
    ),
    (
        "--main-gpu",
        &["0", "4294967296"],
        "from 0 to 18446744073709551615",
    ),
    (
        "--tensor-split",
        &["0", "1.5", "4294967296", "18446744073709551616", ""],
        "number: 0.0 or more",
    ),
    (
        "--n-cpu-moe",
        &["0", "4294967296"],
        "from 0 to 18446744073709551615",
    ),
    ("--diffusion-visual-interval", &[], "from 1 to 4294967295"),
    (
        "--diffusion-visual-delay",
        &["0", "4294967296"],
        "from 0 to 18446744073709551615",
    ),
    ("--log-verbosity", &["0"], "from 0 to 255"),
    ("--ar", &["4294967296"], "from 1 to 18446744073709551615"),
    ("--verify", &["0", "-1", "-2"], "number: at most 0.0"),
    (
        "--top-logprobs",
        &["0", "4294967296"],
        "from 0 to 18446744073709551615",
    ),
];

#[test]
fn errors_name_the_flag_that_was_given_and_its_range() {
    for (flag, taken, range) in NUMBERS {
        for value in ODD {
            let result = parse(&[flag, value]);
            let Err(error) = result else {
                assert!(taken.contains(&value), "{flag} {value:?} is taken");
                continue;
            };
            assert!(!taken.contains(&value), "{flag} {value:?}: {error}");
            let message = error.to_string();
            let named = format!("invalid value '{value}' for '{flag} <");
            assert!(message.contains(&named), "{flag} {value:?}: {message}");
            assert!(message.contains(range), "{flag} {value:?}: {message}");
        }
    }
}

/// No flag with a number is left out of the test above.
#[test]
fn all_flags_with_numbers_are_known() {
    let placeholders = [
        "N",
        "T",
        "F",
        "P",
        "NATS",
        "SEED",
        "INDEX",
        "SHARES",
        "0|1",
        "MS",
        "MIB",
        "MIN_LOGPROB",
    ];
    let command = definition();
    let of_numbers = command.get_arguments().filter(|arg| {
        let names = arg.get_value_names().unwrap_or_default();
        let is_number = names
            .iter()
            .any(|name| placeholders.contains(&name.as_str()));
        // Those of llama.cpp without effect are hidden, and the choice is not a number.
        is_number && !arg.is_hide_set() && arg.get_id() != "algorithm"
    });
    for arg in of_numbers {
        let name = format!("--{}", arg.get_long().unwrap());
        let known = NUMBERS.iter().any(|(flag, ..)| *flag == name);
        assert!(known, "{name} is not in the table");
    }
}

#[test]
fn a_lowest_temperature_above_the_model_s_highest_is_named() {
    let model = SamplerOverrides {
        t_max: Some(0.7),
        ..SamplerOverrides::default()
    };
    let args = parse(&["--diffusion-eb-t-min", "0.75"]).unwrap();
    let error = message(&args.diffusion((&model, 256), 0).unwrap_err());
    assert!(
        error.starts_with("--diffusion-eb-t-min: is 0.75, "),
        "{error}"
    );
    assert!(
        error.contains("which is 0.7: lower it, or raise --diffusion-eb-t-max"),
        "{error}"
    );
    let both = [
        "--diffusion-eb-t-min",
        "0.75",
        "--diffusion-eb-t-max",
        "0.75",
    ];
    assert!(parse(&both).unwrap().diffusion((&model, 256), 0).is_ok());
}

#[test]
fn types_of_the_cache_are_named_by_the_flag_alone() {
    for flag in ["-ctk", "-ctv"] {
        let message = parse(&[flag, "0"]).unwrap_err().to_string();
        let expected = format!("invalid value '0' for '{flag} <TYPE>': '0' is not supported: use");
        assert!(message.contains(&expected), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf_8_names_its_flag() {
    use std::os::unix::ffi::OsStringExt as _;
    let text = || OsString::from_vec(b"a\xff".to_vec());
    for flag in ["-p", "--prompt", "-n", "--json-schema"] {
        // A path may have any bytes.
        let line = ["tool".into(), "-m".into(), text(), flag.into(), text()];
        let message = Args::parse_from_line(line).unwrap_err().to_string();
        let expected = format!("the value of {flag} is not UTF-8: 'a\u{fffd}'");
        assert!(message.contains(&expected), "{message}");
    }
    let line = ["tool".into(), OsString::from_vec(b"--prompt=\xff".to_vec())];
    let message = Args::parse_from_line(line).unwrap_err().to_string();
    assert!(message.contains("--prompt"), "{message}");
}
