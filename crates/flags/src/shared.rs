//! The records of the flags that the tools share.

use crate::parse::Effect::{ForCanvas, ForMasked, Works};
use crate::parse::Group;

/// Why flags of the KV cache have no effect on masked models.
pub const CACHE: &str = "a masked model has no KV cache: every step reads the whole text";

/// Why flags of canvas models have no effect on masked ones.
pub const CANVAS: &str = "it is for canvas models, and this is a masked one";

const SCHEDULE: &str = "the temperature of a canvas falls from --diffusion-eb-t-max to \
                        --diffusion-eb-t-min, step by step";
const CANDIDATES: &str = "a canvas is drawn from all tokens, and --diffusion-eb-entropy-bound \
                          decides which are kept";
const MASKED: &str = "it is for masked models, such as Dream and LLaDA, and this is a canvas model";

/// Those of [`ComputeArgs`](crate::compute::ComputeArgs) and
/// [`DeviceArgs`](crate::devices::DeviceArgs).
pub const SHARED: &[Group] = &[
    (
        Works,
        &[
            "-ub --ubatch-size N LLAMA_ARG_UBATCH",
            "-ngl --gpu-layers --n-gpu-layers N LLAMA_ARG_N_GPU_LAYERS",
            "-fit --fit on|off LLAMA_ARG_FIT",
            "-fitt --fit-target MIB LLAMA_ARG_FIT_TARGET",
            "-dev --device NAMES LLAMA_ARG_DEVICE",
            "-rpc --rpc HOST:PORT LLAMA_ARG_RPC",
            "--rpc-timeout N",
            "-sm --split-mode HOW LLAMA_ARG_SPLIT_MODE",
            "-mg --main-gpu INDEX LLAMA_ARG_MAIN_GPU",
            "-ts --tensor-split SHARES LLAMA_ARG_TENSOR_SPLIT",
            "-cmoe --cpu-moe LLAMA_ARG_CPU_MOE",
            "-ncmoe --n-cpu-moe N LLAMA_ARG_N_CPU_MOE <--cpu-moe",
            "-ot --override-tensor REGEX=MEMORY LLAMA_ARG_OVERRIDE_TENSOR",
            "-kvo --kv-offload",
            "--op-offload",
            "-nopo --no-op-offload",
            "--no-mmap LLAMA_ARG_NO_MMAP",
        ],
    ),
    (
        ForCanvas(CACHE),
        &[
            "-b --batch-size N LLAMA_ARG_BATCH",
            "-ctk --cache-type-k TYPE LLAMA_ARG_CACHE_TYPE_K",
            "-ctv --cache-type-v TYPE LLAMA_ARG_CACHE_TYPE_V",
            "-nkvo --no-kv-offload LLAMA_ARG_NO_KV_OFFLOAD",
            "--swa-full LLAMA_ARG_SWA_FULL",
        ],
    ),
];

/// What a program that answers has besides: those of [`PlacementArgs`](crate::placement::PlacementArgs),
/// [`SessionArgs`](crate::session::SessionArgs), [`DiffusionArgs`](crate::diffusion::DiffusionArgs),
/// [`MaskedArgs`](crate::masked::MaskedArgs) and [`LogArgs`](crate::log::LogArgs), and the choice of
/// thoughts.
pub const ANSWER: &[Group] = &[
    (
        Works,
        &[
            "-c --ctx-size N LLAMA_ARG_CTX_SIZE",
            "-t --threads N LLAMA_ARG_THREADS",
            "-fa --flash-attn [on|off|auto] LLAMA_ARG_FLASH_ATTN",
            "--diffusion-steps N",
            "--diffusion-eb-entropy-bound NATS",
            "-m --model FILE LLAMA_ARG_MODEL",
            "-hf -hfr --hf-repo USER/MODEL[:QUANT] LLAMA_ARG_HF_REPO <--model",
            "-hff --hf-file FILE LLAMA_ARG_HF_FILE",
            "-mu --model-url URL LLAMA_ARG_MODEL_URL <--model <--hf-repo",
            "--list-devices",
            "-lm --load-mode MODE LLAMA_ARG_LOAD_MODE",
            "--mlock LLAMA_ARG_MLOCK",
            "--check-tensors",
            "--override-kv KEY=TYPE:VALUE",
            "-rea --reasoning WHEN LLAMA_ARG_REASONING",
            "-co --color --log-colors [on|off|auto] LLAMA_ARG_LOG_COLORS LLAMA_LOG_COLORS",
            "-v --verbose --log-verbose",
            "-lv --log-verbosity --verbosity N LLAMA_ARG_LOG_VERBOSITY LLAMA_LOG_VERBOSITY",
            "--log-file FILE LLAMA_ARG_LOG_FILE LLAMA_LOG_FILE",
            "--log-disable",
        ],
    ),
    (
        ForCanvas(CANVAS),
        &[
            "--diffusion-blocks N",
            "--canvas N|auto",
            "--diffusion-eb-max-steps N",
            "--diffusion-eb-t-min T",
            "--diffusion-eb-t-max T",
            "--diffusion-eb-stability N",
            "--diffusion-eb-confidence NATS",
        ],
    ),
    (
        ForCanvas(CACHE),
        &["-tb --threads-batch N LLAMA_ARG_THREADS_BATCH"],
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
            "--diffusion-algorithm N|NAME",
            "--diffusion-threshold P",
            "--diffusion-factor F",
            "--diffusion-early-stop P",
            "--diffusion-lookahead N|auto",
            "--diffusion-alg-temp T",
            "--diffusion-cfg-scale F",
            "--diffusion-add-gumbel-noise 0|1",
        ],
    ),
];
