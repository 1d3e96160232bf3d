//! Command lines, and what they set.

mod inert;
mod numbers;
mod parameters;

use llama_diffusion::diffusion::{Algorithm, Filter, Lookahead, Parallel, TransferSchedule};
use llama_diffusion::{AnswerLength, DiffusionParams, FlashAttention, ModelParams};

use super::*;
use llama_diffusion_flags::compute::When;

fn parse(line: &[&str]) -> Result<Args, clap::Error> {
    let line = ["llama-diffusion-cli"].iter().chain(line);
    Args::parse_from_line(line.map(OsString::from))
}

fn model_params(args: &Args) -> ModelParams {
    args.placement.params(args.session().unwrap())
}

fn prompt(line: &[&str]) -> String {
    match parse(line).unwrap().common.prompt() {
        Some(PromptSource::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_encoder_does_not_follow_constraints() {
    for constraint in ["-j", "-jf", "--grammar-regex"] {
        let line = ["tool", "--ar", "3", constraint, "x"];
        let error = Args::parse_from_line(line.map(Into::into)).unwrap_err();
        assert!(error.to_string().contains("cannot be used with"), "{error}");
    }
}

#[test]
fn the_definition_is_sound() {
    definition().debug_assert();
}

#[test]
fn each_flag_has_one_record() {
    assert_eq!(FLAGS.problems(&Args::command()), [""; 0]);
}

#[test]
fn llama_cpp_s_spelling() {
    let args = parse(&[
        "-ngl",
        "3",
        "-ncmoe",
        "2",
        "-dev",
        "CUDA0,CPU",
        "-ts",
        "3,1",
        "-nkvo",
    ]);
    let placement = model_params(&args.unwrap());
    assert_eq!(placement.gpu_layers, Some(3));
    assert_eq!(placement.cpu_moe_layers, 2);
    assert_eq!(placement.devices.unwrap(), ["CUDA0", "CPU"]);
    assert!(placement.kv_on_host);
    for line in [["-n", "5"], ["--predict", "5"], ["--n-predict", "5"]] {
        let params = parse(&line)
            .unwrap()
            .diffusion((&SamplerOverrides::default(), 256), 0)
            .unwrap();
        assert_eq!(params.max_tokens, Some(5));
    }
}

#[test]
fn shares_of_gpus_and_underscores() {
    for written in ["3,1", "3/1", "3, 1"] {
        let args = parse(&["-ts", written]).unwrap();
        assert_eq!(args.placement.devices.tensor_split.unwrap().0, [3.0, 1.0]);
    }
    let message = parse(&["-ts", "3;1"]).unwrap_err().to_string();
    assert!(message.contains("'3;1': give a number"), "{message}");
    let args = parse(&[
        "--ctx_size",
        "99",
        "--n_predict=7",
        "--system_prompt",
        "a_b",
    ])
    .unwrap();
    assert_eq!(args.common.session.canvas().unwrap().context, Some(99));
    assert_eq!(args.system().unwrap(), "a_b");
}

#[test]
fn switches_in_llama_cpp_s_spellings() {
    for (values, meant, attention) in [
        (["on", "enabled", "true", "1"], When::On, FlashAttention::On),
        (
            ["off", "disabled", "false", "0"],
            When::Off,
            FlashAttention::Off,
        ),
        (
            ["auto", "-1", "auto", "-1"],
            When::Auto,
            FlashAttention::Auto,
        ),
    ] {
        for value in values {
            let args = parse(&["-fa", value, "--color", value, "-n", "4"]).unwrap();
            let session = args.common.session.canvas().unwrap();
            assert_eq!(session.flash_attention, attention, "{value}");
            assert_eq!(args.output.log.color, meant, "{value}");
        }
    }
    let message = parse(&["-fa", "maybe"]).unwrap_err().to_string();
    assert!(
        message.contains("'maybe'") && message.contains("-fa"),
        "{message}"
    );
    assert!(parse(&["--diffusion-eb", "0"]).unwrap().warnings.len() == 1);
}

#[test]
fn the_last_word_on_chat_counts() {
    for (line, chat) in [
        (&["-cnv"][..], true),
        (&["-no-cnv", "-cnv"], true),
        (&["-cnv", "-no-cnv"], false),
        (&["-cnv", "-st"], false),
        (&["-st", "-cnv"], false),
    ] {
        assert_eq!(parse(line).unwrap().is_chat(true), chat, "{line:?}");
    }
}

#[test]
fn values_may_begin_with_a_dash_or_be_empty() {
    assert_eq!(prompt(&["-p", "-5 degrees"]), "-5 degrees");
    assert_eq!(prompt(&["-p", "=x="]), "=x=");
    assert_eq!(prompt(&["-p", ""]), "");
    assert_eq!(prompt(&["--prompt", "-p"]), "-p");
    assert_eq!(parse(&["-sys", "-p"]).unwrap().system().unwrap(), "-p");
    assert_eq!(parse(&["-s", "-1"]).unwrap().common.seed(), None);
}

#[test]
fn short_flags_are_not_run_together() {
    let message = parse(&["-nope"]).unwrap_err().to_string();
    assert!(message.contains("--nope"), "{message}");
    assert!(parse(&["-n5"]).is_err());
}

#[test]
fn flags_take_precedence_over_the_model_and_the_special_one_over_the_general_one() {
    let model = SamplerOverrides {
        max_steps: Some(7),
        t_max: Some(0.9),
        ..SamplerOverrides::default()
    };
    let steps = |line: &[&str]| {
        parse(line)
            .unwrap()
            .diffusion((&model, 256), 3)
            .unwrap()
            .max_steps
    };
    assert_eq!(steps(&[]), 7);
    assert_eq!(steps(&["--diffusion-steps", "9"]), 9);
    assert_eq!(
        steps(&["--diffusion-steps", "9", "--diffusion-eb-max-steps", "8"]),
        8
    );
    let error = parse(&["--diffusion-eb-t-min", "1"])
        .unwrap()
        .diffusion((&model, 256), 3);
    assert!(message(&error.unwrap_err()).contains("--diffusion-eb-t-max"));
}

#[test]
fn limits_of_the_answer() {
    let limits = |line: &[&str]| {
        let params = parse(line)
            .unwrap()
            .diffusion((&SamplerOverrides::default(), 256), 0)
            .unwrap();
        (params.max_tokens, params.max_canvases)
    };
    assert_eq!(limits(&[]), (Some(256), None));
    assert_eq!(limits(&["-n", "-1"]), (None, None));
    assert_eq!(limits(&["--diffusion-blocks", "3"]), (None, Some(3)));
    assert_eq!(
        limits(&["--diffusion-blocks", "3", "-n", "9"]),
        (Some(9), Some(3))
    );
    assert!(parse(&["-n", "-2"]).is_err());
}

#[test]
fn the_smaller_batch_and_the_trained_context() {
    let session = |line: &[&str]| parse(line).unwrap().common.session.canvas();
    assert_eq!(
        session(&["-b", "512", "-ub", "64"]).unwrap().batch,
        Some(64)
    );
    assert_eq!(session(&["-b", "512"]).unwrap().batch, Some(512));
    assert_eq!(session(&["-c", "0"]).unwrap().context, Some(0));
    assert_eq!(session(&[]).unwrap().context, None);
    assert_eq!(session(&["-t", "-1"]).unwrap().threads, None);
    let checkpoints = |line: &[&str]| parse(line).unwrap().session().unwrap().checkpoints;
    assert_eq!(checkpoints(&[]), None);
    for flag in ["-ctxcp", "--ctx-checkpoints", "--swa-checkpoints"] {
        assert_eq!(checkpoints(&[flag, "5"]), Some(5));
    }
    let error = session(&["-ctk", "q8_0"]).unwrap_err().to_string();
    assert!(
        error.starts_with("-ctk, -ctv: Q8_0 and F16 differ"),
        "{error}"
    );
}

/// A session goes back to the end of an earlier prompt: beside one prompt there is none.
#[test]
fn checkpoints_have_a_warning_where_there_is_one_prompt() {
    for (line, is_in_vain) in [
        ("-ctxcp 2", false), // perhaps a chat
        ("-ctxcp 2 -p x", true),
        ("-ctxcp 2 -st", true),
        ("-ctxcp 2 -p x -cnv", false),
        ("-ctxcp 2 -p x --prompt-cache c", false),
        ("-p x", false),
    ] {
        let args = parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let lines: Vec<&str> = args.canvas_warnings.iter().map(String::as_str).collect();
        let warning = "--ctx-checkpoints has no effect without --conversation or --prompt-cache";
        assert_eq!(lines, [warning][..usize::from(is_in_vain)], "{line}");
    }
}

/// The command lines of llama.cpp's documents for its diffusion tools, by what they set.
#[test]
fn upstream_s_command_lines() {
    /// What a line sets: the model, steps, most tokens, tokens per pass, GPU layers, chat, and live view; and
    /// the flags that it warns of.
    type Expected = (
        &'static str,
        u32,
        Option<usize>,
        Option<usize>,
        Option<usize>,
        bool,
        bool,
        &'static [&'static str],
    );
    let masked = |model, warnings| -> Expected {
        (
            model,
            256,
            Some(256),
            Some(512),
            None,
            false,
            true,
            warnings,
        )
    };
    let gemma = "diffusiongemma-26B-A4B-it-Q8_0.gguf";
    let chat = |visual| -> Expected { (gemma, 48, Some(2048), None, Some(99), true, visual, &[]) };
    let lines: [(&str, Expected); 6] = [
        // The README of examples/diffusion.
        (
            "-m dream7b.gguf -p question -ub 512 --diffusion-eps 0.001 --diffusion-algorithm 3 \
             --diffusion-steps 256 --diffusion-visual",
            masked(
                "dream7b.gguf",
                &["--diffusion-eps", "--diffusion-algorithm"],
            ),
        ),
        (
            "-m llada-8b.gguf -p question -ub 512 --diffusion-block-length 32 --diffusion-steps 256 \
             --diffusion-visual",
            masked("llada-8b.gguf", &["--diffusion-block-length"]),
        ),
        (
            "-m RND1-Base-0910.gguf -p question -ub 512 --diffusion-algorithm 1 --diffusion-steps 256 \
             --diffusion-visual --temp 0.5 --diffusion-eps 0.001",
            masked(
                "RND1-Base-0910.gguf",
                &["--temp", "--diffusion-eps", "--diffusion-algorithm"],
            ),
        ),
        // Pull request 24423.
        (
            "-m diffusiongemma-26B-A4B-it-Q8_0.gguf -ngl 99 -cnv -n 2048",
            chat(false),
        ),
        (
            "-m diffusiongemma-26B-A4B-it-Q8_0.gguf -ngl 99 -cnv -n 2048 --diffusion-visual",
            chat(true),
        ),
        // What is left of the flags of masked models.
        (
            "-m m.gguf -p question -ub 512 --diffusion-steps 256 --diffusion-visual --diffusion-alg-temp 0.1 \
             --diffusion-cfg-scale 1.5 --diffusion-add-gumbel-noise 1 --top-k 40 --top-p 0.9",
            masked(
                "m.gguf",
                &[
                    "--top-k",
                    "--top-p",
                    "--diffusion-alg-temp",
                    "--diffusion-cfg-scale",
                    "--diffusion-add-gumbel-noise",
                ],
            ),
        ),
    ];
    for (line, expected) in lines {
        let args = parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
        let params = args
            .diffusion((&SamplerOverrides::default(), 256), 0)
            .unwrap();
        assert_eq!(args.warnings, [""; 0], "{line}");
        let model = args.placement.model().unwrap().unwrap();
        let warnings: Vec<&str> = args
            .canvas_warnings
            .iter()
            .map(|w| w.split(' ').next().unwrap())
            .collect();
        let found = (
            model.to_str().unwrap(),
            params.max_steps,
            params.max_tokens,
            args.common.session.canvas().unwrap().batch,
            model_params(&args).gpu_layers,
            args.is_chat(false),
            args.output.drafts,
            &warnings[..],
        );
        assert_eq!(found, expected, "{line}");
        let prompt = line
            .contains("-p question")
            .then(|| PromptSource::Text("question".into()));
        assert_eq!(args.common.prompt(), prompt, "{line}");
    }

    let gemma = "-m diffusiongemma.gguf -cnv -ngl 99 -c 4096 -n 512 -fa on --jinja -s 7 \
                 --diffusion-blocks 2 --diffusion-eb on --diffusion-eb-max-steps 32 \
                 --diffusion-eb-t-min 0.3 --diffusion-eb-t-max 0.9 \
                 --diffusion-eb-entropy-bound 0.2 --diffusion-eb-stability 2 \
                 --diffusion-eb-confidence 0.01 --diffusion-kv-cache auto \
                 --diffusion-gpu-sampling on --diffusion-gpu-sample-reduce auto \
                 --diffusion-visual-progress --diffusion-visual-interval 4";
    let args = parse(&gemma.split_whitespace().collect::<Vec<_>>()).unwrap();
    assert_eq!(args.warnings, [""; 0]);
    assert!(args.is_chat(false));
    assert_eq!(args.placement.devices.gpu_layers.0, Some(99));
    assert_eq!(args.common.session.canvas().unwrap().context, Some(4096));
    assert!(args.output.progress);
    assert_eq!(args.output.pace.interval, 4);
    assert_eq!(
        args.diffusion((&SamplerOverrides::default(), 256), 7)
            .unwrap(),
        DiffusionParams {
            max_steps: 32,
            t_min: 0.3,
            t_max: 0.9,
            entropy_bound: 0.2,
            stability_threshold: 2,
            confidence_threshold: 0.01,
            max_tokens: Some(512),
            max_canvases: Some(2),
            seed: 7,
            ..DiffusionParams::default()
        }
    );
}

#[test]
fn flags_of_the_cache_are_in_vain_on_masked_models() {
    let line = [
        "-ctk",
        "f32",
        "-ctv",
        "f32",
        "-nkvo",
        "--swa-full",
        "-b",
        "64",
    ];
    let warnings = parse(&line).unwrap().masked_warnings;
    assert_eq!(warnings.len(), 5, "{warnings:?}");
}

#[test]
fn how_weights_come_into_memory() {
    let loads = |line: &[&str]| {
        let params = model_params(&parse(line).unwrap());
        (params.no_mmap, params.lock)
    };
    for (mode, expected) in [
        ("auto", (false, false)),
        ("mmap", (false, false)),
        ("none", (true, false)),
        ("dio", (true, false)),
        ("mlock", (true, true)),
        ("mmap+mlock", (false, true)),
    ] {
        assert_eq!(loads(&["-lm", mode]), expected, "{mode}");
    }
    assert_eq!(loads(&["-lm", "none", "--mlock"]), (true, true));
    let kv_on_host = |line: &[&str]| model_params(&parse(line).unwrap()).kv_on_host;
    assert!(kv_on_host(&["-kvo", "-nkvo"]) && !kv_on_host(&["-nkvo", "-kvo"]));
    let no_offload = |line: &[&str]| model_params(&parse(line).unwrap()).no_op_offload;
    assert!(no_offload(&["--op-offload", "--no-op-offload"]));
    assert!(!no_offload(&["--no-op-offload", "--op-offload"]) && !no_offload(&[]));
}

#[test]
fn what_does_nothing_on_this_command_line_is_warned_of() {
    for line in [
        "--diffusion-visual-interval 2",
        "--diffusion-visual-delay 100",
        "--override-kv diffusion.eb_maxsteps=int:3",
    ] {
        let warnings = parse(&line.split(' ').collect::<Vec<_>>())
            .unwrap()
            .warnings;
        assert_eq!(warnings.len(), 1, "{line}: {warnings:?}");
    }
    for line in [
        "--diffusion-visual-interval 2 --diffusion-visual",
        "--diffusion-visual-delay 100 --diffusion-visual-progress",
        "--override-kv diffusion.eb_max_steps=int:3",
        "--override-kv tokenizer.x=int:3",
    ] {
        let warnings = parse(&line.split(' ').collect::<Vec<_>>())
            .unwrap()
            .warnings;
        assert_eq!(warnings, [""; 0], "{line}");
    }
}

/// Every flag of the tools, each with a value of its kind.
#[test]
fn every_flag_is_known() {
    let lines = "-m f|-mu u|-hf a/b|-hfr a/b|-hf a/b -hff f|-p t|-f f|-n 3|--predict 3|--n-predict 3|-c 9|\
        --ctx-size 9|-b 9|-ub 9|-t 2|-tb 2|-ngl 3|-ngl auto|-ngl all|-fit off|--fit on|-fitt 512|--fit-target 1,2|--gpu-layers 3|\
        --n-gpu-layers 3|-sm none|-sm row|-ts 1,2|-mg 0|-dev none|--device CPU|--list-devices|\
        -ot a=CPU|--override-tensor a=CPU|-cmoe|--cpu-moe|-ncmoe 2|--n-cpu-moe 2|-fa|-fa on|\
        -fa off|-fa auto|--flash-attn|-ctk f16|-ctv f16|--no-mmap|--mlock|--no-kv-offload|-nkvo|\
        -s 3|--seed -1|--temp 0.5|--temperature 1|--top-k 4|--top-p 0.5|-sys t|-sysf f|-cnv|\
        -no-cnv|-st|--chat-template {{x}}|--chat-template-file f|--jinja|--no-jinja|-e|\
        --no-escape|--rpc h:1|--override-kv a=int:1|--check-tensors|--color|--color on|-co off|\
        --log-file f|--log-verbosity 3|-lv 3|--log-disable|-v|--verbose|--completion-bash|\
        --diffusion-steps 3|--diffusion-visual|--diffusion-eps 0.1|--diffusion-algorithm 4|\
        --diffusion-alg-temp 1|--diffusion-block-length 8|--diffusion-cfg-scale 0|\
        --diffusion-add-gumbel-noise 1|--diffusion-blocks 2|--diffusion-visual-progress|\
        --canvas 32|--canvas auto|--diffusion-stats|--diffusion-visual-interval 2|--diffusion-visual-delay 5|--diffusion-eb off|--diffusion-eb-t-min 0|\
        --diffusion-eb-t-max 1|--diffusion-eb-entropy-bound 1|--diffusion-eb-stability 1|\
        --diffusion-eb-confidence 1|--diffusion-eb-max-steps 9|--diffusion-kv-cache off|\
        --diffusion-gpu-sampling off|--diffusion-gpu-sample-reduce off";
    for line in lines.split('|') {
        let parsed = parse(&line.split_whitespace().collect::<Vec<_>>());
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
    for line in [
        "--diffusion-eb maybe",
        "--top-k x",
        "--temp",
        "--diffusion-algorithm 5",
    ] {
        let parsed = parse(&line.split_whitespace().collect::<Vec<_>>());
        assert!(parsed.is_err(), "{line}");
    }
}

#[test]
fn a_value_that_may_be_left_out_does_not_swallow_the_next_flag() {
    let args = parse(&["-fa", "-p", "x", "--color", "-n", "4"]).unwrap();
    assert_eq!(
        args.common.session.canvas().unwrap().flash_attention,
        FlashAttention::On
    );
    assert_eq!(args.output.log.color, When::On);
    assert_eq!(args.common.prompt(), Some(PromptSource::Text("x".into())));
}

#[test]
fn flags_that_exclude_each_other_are_warned_of() {
    let args = parse(&["-m", "f", "-hf", "a/b", "-mg", "1", "-sm", "row"]).unwrap();
    assert_eq!(args.placement.model().unwrap(), Some("f".into()));
    assert_eq!(args.warnings.len(), 3, "{:?}", args.warnings);
    let url = parse(&["-mu", "https://x/y.gguf"])
        .unwrap()
        .placement
        .model();
    let message = url.unwrap_err().to_string();
    assert!(message.contains("curl -LO 'https://x/y.gguf'"), "{message}");
}

#[test]
fn backslashes_are_replaced_unless_told() {
    assert_eq!(prompt(&["-p", r"a\nb"]), "a\nb");
    assert_eq!(prompt(&["--no-escape", "-p", r"a\nb"]), r"a\nb");
    assert_eq!(prompt(&["--no-escape", "-e", "-p", r"a\nb"]), "a\nb");
}

#[test]
fn variables_of_the_template() {
    let variables = |line: &[&str]| parse(line).unwrap().chat.template_variables();
    assert!(variables(&[]).is_empty());
    assert_eq!(variables(&["--no-thinking"])["enable_thinking"], false);
    assert_eq!(variables(&["--show-thinking"])["enable_thinking"], true);
    let given = variables(&["--chat-template-kwargs", r#"{"a": 1}"#, "--no-thinking"]);
    assert_eq!(
        (&given["a"], &given["enable_thinking"]),
        (&1.into(), &false.into())
    );
    assert!(parse(&["--chat-template-kwargs", "[1]"]).is_err());
    assert_eq!(variables(&["-rea", "off"])["enable_thinking"], false);
    assert_eq!(
        variables(&["-rea", "on", "--no-thinking"])["enable_thinking"],
        false
    );
}

#[test]
fn what_llama_cpp_asks_of_loading_and_threads() {
    use llama_diffusion::{MetadataOverride, MetadataValue};
    let args = parse(&[
        "--mlock",
        "--check-tensors",
        "--override-kv",
        "a=int:-1,b.c=float:0.5",
        "--override-kv",
        "d=bool:true",
        "--override-kv",
        "e=str:x:y=z",
        "-t",
        "3",
        "-tb",
        "5",
    ])
    .unwrap();
    assert_eq!(args.warnings, [""; 0]);
    let placement = model_params(&args);
    assert!(placement.lock && placement.check_tensors);
    let value = |key: &str, value| MetadataOverride {
        key: key.into(),
        value,
    };
    assert_eq!(
        placement.metadata,
        [
            value("a", MetadataValue::Integer(-1)),
            value("b.c", MetadataValue::Float(0.5)),
            value("d", MetadataValue::Bool(true)),
            value("e", MetadataValue::Text("x:y=z".into())),
        ]
    );
    let session = args.common.session.canvas().unwrap();
    assert_eq!(
        (session.threads, session.prefill_threads),
        (Some(3), Some(5))
    );
    for bad in [
        "a",
        "a=1",
        "a=int:x",
        "a=bool:yes",
        "a=number:1",
        "a=float:",
    ] {
        let message = parse(&["--override-kv", bad]).unwrap_err().to_string();
        assert!(message.contains("--override-kv"), "{message}");
    }
}

#[test]
fn overrides_of_tensors() {
    let args = parse(&["-ot", "blk\\.1=CPU,exps=CUDA0", "-ot", "a=b=c"]).unwrap();
    let overrides = model_params(&args).overrides;
    let pairs: Vec<(&str, &str)> = overrides
        .iter()
        .map(|o| (o.pattern.as_str(), o.memory.as_str()))
        .collect();
    assert_eq!(pairs, [("blk\\.1", "CPU"), ("exps", "CUDA0"), ("a=b", "c")]);
    for bad in ["exps", "(=CPU"] {
        assert!(parse(&["-ot", bad]).is_err(), "{bad}");
    }
}

/// The same command lines on a masked model: what they ask for is done.
#[test]
fn upstream_s_command_lines_on_masked_models() {
    let masked = |line: &str| {
        let args = parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(args.masked_warnings, [""; 0], "{line}");
        args.masked(7).unwrap()
    };
    let dream = masked(
        "-m d.gguf -p q -ub 256 --diffusion-eps 0.001 --diffusion-algorithm 3 --diffusion-steps 64",
    );
    assert_eq!(
        dream,
        MaskedParams {
            length: AnswerLength::Text(256),
            schedule: TransferSchedule::Timestep {
                eps: 0.001,
                steps: 64
            },
            algorithm: Algorithm::Random,
            algorithm_temperature: 0.0,
            temperature: 0.8,
            filter: Filter {
                top_k: 40,
                top_p: 0.95
            },
            guidance: 0.0,
            gumbel_noise: false,
            seed: 7,
            ..MaskedParams::default()
        }
    );
    let llada = masked(
        "-m l.gguf -p q -n 128 --diffusion-block-length 32 --diffusion-alg-temp 0.1 --temp 0 \
         --diffusion-cfg-scale 1.5 --diffusion-add-gumbel-noise 1 --top-k 0 --top-p 1",
    );
    assert_eq!(
        llada,
        MaskedParams {
            length: AnswerLength::Tokens(128),
            // 128 steps unless told.
            schedule: TransferSchedule::Blocks {
                length: 32,
                steps_per_block: 32
            },
            algorithm: Algorithm::Confidence,
            algorithm_temperature: 0.1,
            temperature: 0.0,
            filter: Filter::NONE,
            guidance: 1.5,
            gumbel_noise: true,
            seed: 7,
            ..MaskedParams::default()
        }
    );
    let rnd1 = masked("-m r.gguf -p q -n -1 --diffusion-algorithm 1 --diffusion-eps 0.01");
    assert_eq!(rnd1.length, AnswerLength::Text(512));
    assert_eq!(rnd1.algorithm, Algorithm::Entropy);
}

#[test]
fn faster_steps_of_masked_models() {
    let masked = |line: &str| {
        let line = format!("-m d.gguf -p q --diffusion-eps 0.001 {line}");
        let args = parse(&line.split_whitespace().collect::<Vec<_>>())?;
        assert_eq!(args.masked_warnings, [""; 0], "{line}");
        Ok::<_, clap::Error>(args.masked(7).unwrap())
    };
    let params = masked("--diffusion-algorithm entropy-bound --diffusion-eb-entropy-bound 0.5");
    let params = params.unwrap();
    assert_eq!(params.algorithm, Algorithm::EntropyBound);
    assert_eq!((params.entropy_bound, params.parallel), (0.5, None));
    let params = masked("--diffusion-threshold 0.9 --diffusion-early-stop 0.95").unwrap();
    assert_eq!(params.parallel, Some(Parallel::Threshold(0.9)));
    assert_eq!(params.early_stop, Some(0.95));
    let params = masked("--diffusion-factor 1.5").unwrap();
    assert_eq!(params.parallel, Some(Parallel::Factor(1.5)));
    assert_eq!(params.lookahead, Lookahead::Auto);
    let params = masked("--diffusion-lookahead 4").unwrap();
    assert_eq!(params.lookahead, Lookahead::Canvases(4));
    for line in [
        "--diffusion-threshold 0.9 --diffusion-factor 1",
        "--diffusion-lookahead 0",
        "--diffusion-threshold 0",
        "--diffusion-early-stop 1.1",
        "--diffusion-factor 0",
        "--diffusion-algorithm confidence",
    ] {
        assert!(masked(line).is_err(), "{line}");
    }
}
