//! The flags of llama.cpp that do nothing in this tool.

use llama_diffusion_flags::parse::Effect::{None as Without, Refused};
use llama_diffusion_flags::parse::Group;

/// All of them, by what becomes of them.
pub const INERT: &[Group] = &[
    (
        Without("the prompt is not printed"),
        &["--display-prompt", "--verbose-prompt"],
    ),
    (
        Without("the number of tokens is written after each answer"),
        &["-ptc --print-token-count N"],
    ),
    (
        Without("prompts are not logged"),
        &["--log-prompts-dir PATH"],
    ),
    (
        Without("the size of the KV cache is that of -c, in one form"),
        &["-cram --cache-ram N LLAMA_ARG_CACHE_RAM"],
    ),
    (
        Without("prompts are answered one after another"),
        &[
            "-np --parallel N LLAMA_ARG_N_PARALLEL",
            "-cb --cont-batching LLAMA_ARG_CONT_BATCHING",
        ],
    ),
    (
        Without("images are not read"),
        &[
            "-mm --mmproj FILE LLAMA_ARG_MMPROJ",
            "-mmdev --mmproj-device DEVICE",
            "-mmu --mmproj-url URL LLAMA_ARG_MMPROJ_URL",
            "--mmproj-auto LLAMA_ARG_MMPROJ_AUTO",
            "--mmproj-offload LLAMA_ARG_MMPROJ_OFFLOAD",
            "--image-min-tokens N LLAMA_ARG_IMAGE_MIN_TOKENS",
            "--image-max-tokens N LLAMA_ARG_IMAGE_MAX_TOKENS",
            "--video-fps N LLAMA_ARG_VIDEO_FPS",
            "--video-timestamp-interval N LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL",
            "--video-ffmpeg-dir DIR LLAMA_ARG_VIDEO_FFMPEG_DIR",
        ],
    ),
    (
        Without("thoughts are told from the answer by the model's own tokens"),
        &[
            "--reasoning-format FORMAT LLAMA_ARG_THINK",
            "--skip-chat-parsing LLAMA_ARG_SKIP_CHAT_PARSING",
        ],
    ),
    (
        Refused("give text with -p"),
        &["--image FILE", "--audio FILE", "--video FILE"],
    ),
    (
        Refused(
            "write what it allows as a regular expression for --grammar-regex, or as a JSON Schema for -j",
        ),
        &["--grammar GRAMMAR", "--grammar-file FNAME"],
    ),
    (
        Refused("an answer ends where the model ends it, or at -n"),
        &["-r --reverse-prompt PROMPT"],
    ),
    (
        Refused("special tokens are not printed"),
        &["-sp --special"],
    ),
    (
        Refused("the template makes a prompt of a message: give one with --chat-template-file"),
        &[
            "--in-prefix STRING",
            "--in-suffix STRING",
            "--in-prefix-bos",
        ],
    ),
    (
        Refused("chat with -cnv, a line for each message"),
        &[
            "-i --interactive",
            "-if --interactive-first",
            "-mli --multiline-input",
        ],
    ),
    (
        Refused(
            "--no-thinking asks the model not to think, and --chat-template-kwargs may say more LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
        ),
        &[
            "--reasoning-effort LEVEL LLAMA_ARG_REASONING_EFFORT",
            "--reasoning-budget N LLAMA_ARG_THINK_BUDGET",
            "--reasoning-budget-message MESSAGE LLAMA_ARG_THINK_BUDGET_MESSAGE",
            "--reasoning-preserve LLAMA_ARG_REASONING_PRESERVE",
        ],
    ),
    (
        Refused("give the file of the prompt with -f"),
        &["-bf --binary-file FNAME"],
    ),
    (
        Refused("the answer goes to the standard output: redirect it"),
        &["-o --output --output-file FNAME"],
    ),
    (Refused("look with: hf cache ls"), &["-cl --cache-list"]),
];
