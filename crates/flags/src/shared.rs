//! The records of the flags that the tools share.

use crate::table::Effect::{ForCanvas, Works};
use crate::table::Group;

/// Why flags of the KV cache have no effect on masked models.
pub const CACHE: &str = "a masked model has no KV cache: every step reads the whole text";

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
