//! Flags of llama.cpp that do nothing here.

use llama_diffusion_flags::spelling::respell;

use super::*;

#[test]
fn flags_of_llama_cpp_that_cannot_change_an_answer_are_taken() {
    for line in
        "--min-p 0.1|--repeat-penalty 1.1|--samplers top_k;temperature|--ignore-eos|--keep -1|\
        --log-prefix|--numa distribute|--prio 2|-C ff|-np 2|-fitc 512|-lzm on|-md d.gguf|\
        -nr|-cram 3|--draft-max 4|--mirostat 2|-bs|-hft x"
            .split('|')
    {
        let args = parse(&line.split(' ').collect::<Vec<_>>());
        let warnings = args
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .warnings;
        assert_eq!(warnings.len(), 1, "{line}: {warnings:?}");
        assert!(warnings[0].contains(" has no effect: "), "{warnings:?}");
    }
    for line in "--perf|--no-perf|--no-show-timings|--simple-io|--offline|-kvo|--op-offload|--repack|--no-log-prefix|-fit off|-fit on|-lzm off|-fitt 512,64|--no-context-shift|\
        --log-colors off|-lm mmap+mlock|-rea off|--log-verbose"
        .split('|')
    {
        let args = parse(&line.split(' ').collect::<Vec<_>>());
        let warnings = args
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .warnings;
        assert_eq!(warnings, [""; 0], "{line}");
    }
}

#[test]
fn flags_that_would_change_an_answer_are_refused_by_name() {
    for line in "--grammar root::=x|--lora a.gguf|--control-vector-layer-range 1 5|\
        --rope-scale 2|--yarn-orig-ctx 4096|--image a.png|-r stop|-sp|-l 15+1|-bf prompt.bin|-o a.txt"
        .split('|')
    {
        let error = parse(&line.split(' ').collect::<Vec<_>>()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(" is not supported here: "), "{line}: {message}");
        let name = line.split(' ').next().unwrap();
        assert!(!name.starts_with("--") || message.contains(name), "{message}");
    }
}

/// What becomes of flags of llama.cpp that are given by a variable.
fn treated(line: &[&str], variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let mut command = definition();
    let line = ["llama-diffusion-cli"].iter().chain(line);
    let line = respell(&command, line.map(OsString::from));
    let matches = command.try_get_matches_from_mut(line).unwrap();
    let environment = |name: &str| {
        let set = variables.iter().find(|(variable, _)| *variable == name);
        set.map(|(_, value)| (*value).to_owned())
    };
    FLAGS
        .warnings(&mut command, &matches, &environment)
        .map_err(|error| error.to_string())
}

#[test]
fn variables_of_flags_without_effect_are_treated_as_the_flags() {
    let warned = |name: &str, value: &str| treated(&[], &[(name, value)]).unwrap();
    for (name, value) in [
        ("LLAMA_ARG_MIN_P", "0.1"),
        ("LLAMA_ARG_CONTEXT_SHIFT", "on"),
        ("LLAMA_ARG_JINJA", "false"),
        ("LLAMA_ARG_NO_REPACK", "1"),
        ("LLAMA_ARG_LAZY_MODE", "on"),
    ] {
        let lines = warned(name, value);
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        assert!(lines[0].starts_with(&format!("{name} has no effect: ")));
    }
    for (name, value) in [
        ("LLAMA_ARG_CONTEXT_SHIFT", "0"),
        ("LLAMA_ARG_NO_CONTEXT_SHIFT", "1"),
        ("LLAMA_ARG_JINJA", "1"),
    ] {
        assert_eq!(warned(name, value), [""; 0], "{name}");
    }
    for name in [
        "LLAMA_ARG_ROPE_SCALE",
        "LLAMA_ARG_YARN_ORIG_CTX",
        "LLAMA_ARG_DOCKER_REPO",
    ] {
        let refused = treated(&[], &[(name, "2")]).unwrap_err();
        assert!(
            refused.contains(&format!("{name} is not supported here: ")),
            "{refused}"
        );
    }
    let bad = treated(&[], &[("LLAMA_ARG_JINJA", "maybe")]).unwrap_err();
    assert!(bad.contains("LLAMA_ARG_JINJA: give on or off"), "{bad}");
    // A flag goes before the variable, its opposite as well.
    let jinja = [("LLAMA_ARG_JINJA", "0")];
    assert_eq!(treated(&["--jinja"], &jinja).unwrap(), [""; 0]);
}
