//! One record for each flag of the tool. clap's definitions of those that work are in `args`.

use llama_diffusion_flags::inert::INERT;
use llama_diffusion_flags::parse::Effect::{ForCanvas, Works};
use llama_diffusion_flags::parse::{Flags, Group};
use llama_diffusion_flags::shared::{ANSWER, CACHE, CANVAS, SHARED};

use crate::inert;

/// All of them.
pub const FLAGS: Flags = Flags(&[LIVE, ANSWER, SHARED, INERT, inert::INERT]);

const LIVE: &[Group] = &[
    (
        Works,
        &[
            // Common.
            "-p --prompt TEXT",
            "-f --file FILE",
            "-e --escape",
            "--no-escape",
            "-n --predict --n-predict N LLAMA_ARG_N_PREDICT",
            "-s --seed SEED",
            // Diffusion.
            "--verify MIN_LOGPROB",
            "--ar N",
            "--logprobs FILE",
            "--top-logprobs N >--logprobs",
            // Edit.
            "--edit FILE",
            "--instruction TEXT",
            "--strength SHARE",
            "--protect LINES",
            // Forms.
            "--form FILE",
            "--template FILE",
            // Infill.
            "--infill-prefix FILE",
            "--infill-suffix FILE",
            "--infill-tokens N|auto",
            "--infill-json",
            // Constraints.
            "-j --json-schema SCHEMA",
            "-jf --json-schema-file FILE",
            "--grammar-regex REGEX",
            "--json-depth N >--json-schema >--json-schema-file",
            // Chat.
            "-cnv --conversation",
            "--simple-io",
            "-st --single-turn",
            "-sys --system-prompt TEXT",
            "-sysf --system-prompt-file FILE",
            "--chat-template JINJA LLAMA_ARG_CHAT_TEMPLATE <--raw",
            "--chat-template-file FILE LLAMA_ARG_CHAT_TEMPLATE_FILE <--raw <--chat-template",
            "--chat-template-kwargs JSON LLAMA_ARG_CHAT_TEMPLATE_KWARGS <--raw",
            "--show-thinking",
            "--no-thinking",
            "-no-cnv --raw --no-conversation",
            // Output.
            "--diffusion-visual",
            "--diffusion-visual-progress",
            "--diffusion-visual-interval N >--diffusion-visual >--diffusion-visual-progress",
            "--diffusion-visual-delay MS >--diffusion-visual >--diffusion-visual-progress",
            "--diffusion-stats",
            "--record FILE",
            "--perf --show-timings LLAMA_ARG_PERF LLAMA_ARG_SHOW_TIMINGS",
            "--no-perf --no-show-timings LLAMA_ARG_NO_PERF LLAMA_ARG_NO_SHOW_TIMINGS",
            "--completion-bash",
            "--completion SHELL",
        ],
    ),
    (
        ForCanvas(CANVAS),
        &["--constrain-at WHEN >--json-schema >--json-schema-file >--grammar-regex"],
    ),
    (
        ForCanvas(CACHE),
        &[
            "--prompt-cache FNAME",
            "--prompt-cache-all <--prompt-cache-ro >--prompt-cache",
            "--prompt-cache-ro >--prompt-cache",
            "-ctxcp --ctx-checkpoints --swa-checkpoints N LLAMA_ARG_CTX_CHECKPOINTS",
        ],
    ),
];
