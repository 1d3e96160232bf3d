//! One record for each flag of the server. clap's definitions of those that work are in `args`.

use llama_diffusion_flags::inert::INERT;
use llama_diffusion_flags::parse::Effect::{
    self, ForCanvas, Given, None as Without, Refused, Works,
};
use llama_diffusion_flags::parse::{Flags, Group};
use llama_diffusion_flags::shared::{ANSWER, CACHE, SHARED};

/// All of them.
pub const FLAGS: Flags = Flags(&[LIVE, ANSWER, SHARED, INERT, OWN_INERT]);

/// HTTPS is a feature of the package.
const HTTPS: Effect = match cfg!(feature = "tls") {
    true => Works,
    false => Refused("this build has no HTTPS: build it with --features tls"),
};

const LIVE: &[Group] = &[
    (
        Works,
        &[
            "--host HOST LLAMA_ARG_HOST <--visual-stdio",
            "--port PORT LLAMA_ARG_PORT <--visual-stdio",
            "--reuse-port LLAMA_ARG_REUSE_PORT <--visual-stdio",
            "-a --alias NAMES LLAMA_ARG_ALIAS <--visual-stdio",
            "--tags TAGS LLAMA_ARG_TAGS <--visual-stdio",
            "--api-key KEYS LLAMA_API_KEY <--visual-stdio",
            "--api-key-file FILE LLAMA_ARG_API_KEY_FILE <--visual-stdio",
            "--api-prefix PREFIX LLAMA_ARG_API_PREFIX <--visual-stdio",
            "--cors-origins ORIGINS LLAMA_ARG_CORS_ORIGINS <--visual-stdio",
            "--slots <--visual-stdio",
            "--no-slots LLAMA_ARG_NO_ENDPOINT_SLOTS <--visual-stdio",
            "--metrics LLAMA_ARG_ENDPOINT_METRICS <--visual-stdio",
            "--no-ui --no-webui LLAMA_ARG_NO_UI LLAMA_ARG_NO_WEBUI <--visual-stdio",
            "--path PATH LLAMA_ARG_STATIC_PATH <--visual-stdio",
            "-to --timeout N LLAMA_ARG_TIMEOUT <--visual-stdio",
            "--sse-ping-interval N LLAMA_ARG_SSE_PING_INTERVAL <--visual-stdio",
            "--threads-http N LLAMA_ARG_THREADS_HTTP <--visual-stdio",
            "--max-body MIB",
            "--max-connections N <--visual-stdio",
            "--drain-timeout N <--visual-stdio",
            "--max-per-key N <--visual-stdio",
            "--responses-kept N <--visual-stdio",
            "--responses-ram MIB <--visual-stdio",
            "--visual-stdio",
            "-np --parallel N LLAMA_ARG_N_PARALLEL <--visual-stdio",
            "--queue N <--visual-stdio",
            "--queue-tokens N <--visual-stdio",
            "--slot-save-path DIR <--visual-stdio",
            "--cache-prompt <--visual-stdio",
            "--no-cache-prompt LLAMA_ARG_NO_CACHE_PROMPT <--visual-stdio",
            "-n --predict --n-predict N LLAMA_ARG_N_PREDICT",
            "-s --seed SEED",
            "--reasoning-budget N LLAMA_ARG_THINK_BUDGET",
            "--chat-template JINJA LLAMA_ARG_CHAT_TEMPLATE",
            "--chat-template-file FILE LLAMA_ARG_CHAT_TEMPLATE_FILE <--chat-template",
            "--chat-template-kwargs JSON LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
        ],
    ),
    (
        ForCanvas(CACHE),
        &[
            "-cram --cache-ram MIB LLAMA_ARG_CACHE_RAM <--visual-stdio",
            "-ctxcp --ctx-checkpoints --swa-checkpoints N LLAMA_ARG_CTX_CHECKPOINTS",
        ],
    ),
];

/// Those of llama-server that do nothing here.
const OWN_INERT: &[Group] = &[
    (
        Given,
        &[
            "-cb --cont-batching LLAMA_ARG_CONT_BATCHING",
            "--cache-idle-slots LLAMA_ARG_CACHE_IDLE_SLOTS",
            "--ui --webui LLAMA_ARG_UI LLAMA_ARG_WEBUI",
            "--skip-chat-parsing LLAMA_ARG_SKIP_CHAT_PARSING",
            "-no-kvu --no-kv-unified !LLAMA_ARG_KV_UNIFIED",
            "--prefill-assistant LLAMA_ARG_PREFILL_ASSISTANT",
            "--no-models-autoload !LLAMA_ARG_MODELS_AUTOLOAD",
        ],
    ),
    (
        Without("each slot has its own cache"),
        &["-kvu --kv-unified LLAMA_ARG_KV_UNIFIED"],
    ),
    (
        Without("a gap has its own prompt, without the tokens of fill-in-the-middle models"),
        &["--spm-infill"],
    ),
    (
        Without("an answer never waits for the end of another one, if there is a slot"),
        &["-nocb --no-cont-batching !LLAMA_ARG_CONT_BATCHING"],
    ),
    (
        Without("a slot is chosen by the tokens of the prompt that it can reuse"),
        &[
            "-sps --slot-prompt-similarity N",
            "--no-cache-idle-slots !LLAMA_ARG_CACHE_IDLE_SLOTS",
        ],
    ),
    (
        Without("cached keys cannot be moved to other positions"),
        &["--cache-reuse N LLAMA_ARG_CACHE_REUSE"],
    ),
    (
        Without("the model stays loaded"),
        &["--sleep-idle-seconds N"],
    ),
    (
        Without("properties are not changed while the server runs"),
        &["--props LLAMA_ARG_ENDPOINT_PROPS"],
    ),
    (
        Without("methods and headers of other origins are those of this server's endpoints"),
        &[
            "--cors-methods METHODS LLAMA_ARG_CORS_METHODS",
            "--cors-headers HEADERS LLAMA_ARG_CORS_HEADERS",
            "--cors-credentials LLAMA_ARG_CORS_CREDENTIALS",
            "--no-cors-credentials !LLAMA_ARG_CORS_CREDENTIALS",
        ],
    ),
    (
        Without("thoughts are reasoning_content, unless a request has reasoning_format \"none\""),
        &["--reasoning-format FORMAT LLAMA_ARG_THINK"],
    ),
    (
        Refused(
            "requests have reasoning_effort, and -rea off or --reasoning-budget 0 asks the model not to think",
        ),
        &[
            "--reasoning-budget-message MESSAGE LLAMA_ARG_THINK_BUDGET_MESSAGE",
            "--reasoning-effort LEVEL LLAMA_ARG_REASONING_EFFORT",
            "--reasoning-preserve LLAMA_ARG_REASONING_PRESERVE",
        ],
    ),
    (
        HTTPS,
        &[
            "--ssl-key-file FILE LLAMA_ARG_SSL_KEY_FILE",
            "--ssl-cert-file FILE LLAMA_ARG_SSL_CERT_FILE",
        ],
    ),
    (
        Refused("a diffusion model generates text only"),
        &[
            "--embedding --embeddings LLAMA_ARG_EMBEDDINGS",
            "--rerank --reranking LLAMA_ARG_RERANKING",
            "--pooling TYPE LLAMA_ARG_POOLING",
        ],
    ),
    (
        Refused("one model is served, that of -m"),
        &[
            "--models-dir PATH LLAMA_ARG_MODELS_DIR",
            "--models-preset PATH LLAMA_ARG_MODELS_PRESET",
            "--models-max N LLAMA_ARG_MODELS_MAX",
            "--models-autoload LLAMA_ARG_MODELS_AUTOLOAD",
        ],
    ),
    (
        Refused("the server runs no tools"),
        &[
            "--tools TOOLS LLAMA_ARG_TOOLS",
            "--mcp-config FILE",
            "--mcp-servers-config PATH",
            "--mcp-servers-json JSON",
            "-ag --agent",
        ],
    ),
    (
        Refused("images are not read"),
        &[
            "-mm --mmproj FILE LLAMA_ARG_MMPROJ",
            "-mmu --mmproj-url URL LLAMA_ARG_MMPROJ_URL",
        ],
    ),
    (
        Refused("a request has response_format or json_schema"),
        &[
            "--grammar GRAMMAR",
            "--grammar-file FNAME",
            "-j --json-schema SCHEMA",
            "-jf --json-schema-file FILE",
        ],
    ),
    (
        Refused("a request has the texts that end its answer"),
        &["-r --reverse-prompt PROMPT"],
    ),
    (
        Refused("special tokens are not part of an answer"),
        &["-sp --special"],
    ),
];
