//! One record for each flag of the tool. clap's definitions of those that work are in `args`.

use llama_diffusion_flags::shared::{CACHE, SHARED};
use llama_diffusion_flags::table::Effect::{ForCanvas, ForMasked, Works};
use llama_diffusion_flags::table::{Flags, Group};

use crate::inert::INERT;

/// All of them.
pub const FLAGS: Flags = Flags(&[LIVE, SHARED, INERT]);

const SCHEDULE: &str = "the temperature of a canvas falls from --diffusion-eb-t-max to \
                        --diffusion-eb-t-min, step by step";
const CANDIDATES: &str = "a canvas is drawn from all tokens, and --diffusion-eb-entropy-bound \
                          decides which are kept";
const MASKED: &str = "it is for masked models, such as Dream and LLaDA, and this is a canvas model";
const CANVAS: &str = "it is for canvas models, and this is a masked one";

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
            "-c --ctx-size N LLAMA_ARG_CTX_SIZE",
            "-t --threads N LLAMA_ARG_THREADS",
            "-s --seed SEED",
            "-fa --flash-attn [on|off|auto] LLAMA_ARG_FLASH_ATTN",
            // Diffusion.
            "--diffusion-steps N",
            "--verify MIN_LOGPROB",
            "--ar N",
            "--logprobs FILE",
            "--top-logprobs N",
            // Edit.
            "--edit FILE",
            "--instruction TEXT",
            "--strength SHARE",
            "--protect LINES",
            // Constraints.
            "-j --json-schema SCHEMA",
            "-jf --json-schema-file FILE",
            "--grammar-regex REGEX",
            "--json-depth N",
            // Model and devices.
            "-m --model FILE LLAMA_ARG_MODEL",
            "-hf -hfr --hf-repo USER/MODEL[:QUANT] LLAMA_ARG_HF_REPO <--model",
            "-hff --hf-file FILE LLAMA_ARG_HF_FILE",
            "-mu --model-url URL LLAMA_ARG_MODEL_URL <--model <--hf-repo",
            "--list-devices",
            "-lm --load-mode MODE LLAMA_ARG_LOAD_MODE",
            "--mlock LLAMA_ARG_MLOCK",
            "--check-tensors",
            "--override-kv KEY=TYPE:VALUE",
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
            "-rea --reasoning WHEN LLAMA_ARG_REASONING",
            "-no-cnv --raw --no-conversation",
            // Output.
            "--diffusion-visual",
            "--diffusion-visual-progress",
            "--diffusion-visual-interval N",
            "--diffusion-visual-delay MS",
            "--diffusion-stats",
            "--record FILE",
            "-co --color --log-colors [on|off|auto] LLAMA_ARG_LOG_COLORS LLAMA_LOG_COLORS",
            "-v --verbose --log-verbose",
            "-lv --log-verbosity --verbosity N LLAMA_ARG_LOG_VERBOSITY LLAMA_LOG_VERBOSITY",
            "--log-file FILE LLAMA_ARG_LOG_FILE LLAMA_LOG_FILE",
            "--log-disable",
            "--perf --show-timings LLAMA_ARG_PERF LLAMA_ARG_SHOW_TIMINGS",
            "--no-perf --no-show-timings LLAMA_ARG_NO_PERF LLAMA_ARG_NO_SHOW_TIMINGS",
            "--completion-bash",
            "--completion SHELL",
        ],
    ),
    (
        ForCanvas(CANVAS),
        &[
            "--diffusion-blocks N",
            "--canvas N|auto",
            "--constrain-at WHEN",
            "--diffusion-eb-max-steps N",
            "--diffusion-eb-t-min T",
            "--diffusion-eb-t-max T",
            "--diffusion-eb-entropy-bound NATS",
            "--diffusion-eb-stability N",
            "--diffusion-eb-confidence NATS",
        ],
    ),
    (
        ForCanvas(CACHE),
        &[
            "-tb --threads-batch N LLAMA_ARG_THREADS_BATCH",
            "--prompt-cache FNAME",
            "--prompt-cache-all <--prompt-cache-ro",
            "--prompt-cache-ro",
            "-ctxcp --ctx-checkpoints --swa-checkpoints N LLAMA_ARG_CTX_CHECKPOINTS",
        ],
    ),
    (
        ForMasked(SCHEDULE),
        &["--temp --temperature T LLAMA_ARG_TEMPERATURE"],
    ),
    (
        ForMasked(CANDIDATES),
        &["--top-k N LLAMA_ARG_TOP_K", "--top-p P LLAMA_ARG_TOP_P"],
    ),
    (
        ForMasked(MASKED),
        &[
            "--diffusion-eps F",
            "--diffusion-block-length N",
            "--diffusion-algorithm N",
            "--diffusion-alg-temp T",
            "--diffusion-cfg-scale F",
            "--diffusion-add-gumbel-noise 0|1",
        ],
    ),
];
