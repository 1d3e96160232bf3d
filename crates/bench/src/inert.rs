//! The flags of llama-bench that have no effect.

use llama_diffusion_flags::parse::Effect::{
    Given, GivenUnlessOff, None as Without, NoneUnlessOff, Refused,
};
use llama_diffusion_flags::parse::Group;

/// All of them, by how they are handled.
pub const INERT: &[Group] = &[
    (
        GivenUnlessOff("ggml lays out the weights"),
        &["--repack [on|off]"],
    ),
    (
        NoneUnlessOff("ggml chooses where operations run"),
        &["--no-host [on|off]"],
    ),
    (
        NoneUnlessOff("the logits of a canvas are always computed"),
        &["-embd --embeddings [on|off]"],
    ),
    (Given, &["--offline LLAMA_ARG_OFFLINE"]),
    (
        Without("weights are read where they are used"),
        &["-lzm --lazy-mode [on|off|auto] LLAMA_ARG_LAZY_MODE"],
    ),
    (
        Without("this tool does not choose the cores and priorities of its threads"),
        &[
            "-C --cpu-mask M",
            "--cpu-strict 0|1",
            "--poll 0-100",
            "--prio N",
            "--numa TYPE LLAMA_ARG_NUMA",
        ],
    ),
    (
        Without("the context is that of the tests"),
        &["-fitc --fit-ctx N LLAMA_ARG_FIT_CTX"],
    ),
    (
        Without("this tool downloads nothing"),
        &["-hft --hf-token TOKEN"],
    ),
    (
        Refused(
            "the column 'answer s' has the time of a prompt and its answer: choose them with -p and -n",
        ),
        &["-pg PP,TG"],
    ),
    (
        Refused("canvases are denoised after the prompt, whose length -p gives"),
        &["-d --n-depth N"],
    ),
    (
        Refused("weights are mapped, and --no-mmap reads them"),
        &[
            "-lm --load-mode MODE LLAMA_ARG_LOAD_MODE",
            "-mmp --mmap 0|1",
        ],
    ),
];
