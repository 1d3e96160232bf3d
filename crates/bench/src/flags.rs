//! One record for each flag of the tool. clap's definitions of those that work are in `args`.

use llama_diffusion_flags::parse::Effect::Works;
use llama_diffusion_flags::parse::{Flags, Group};
use llama_diffusion_flags::shared::SHARED;

use crate::inert::INERT;

/// All of them.
pub const FLAGS: Flags = Flags(&[LIVE, SHARED, INERT]);

const LIVE: &[Group] = &[(
    Works,
    &[
        "-m --model FILE LLAMA_ARG_MODEL",
        "-hf -hfr --hf-repo USER/MODEL[:QUANT] LLAMA_ARG_HF_REPO",
        "-hff --hf-file FILE LLAMA_ARG_HF_FILE",
        "--synthetic GEOMETRY:TYPE",
        "-p --n-prompt N",
        "-n --n-gen N",
        "--canvases N",
        "--canvas N",
        "--steps N",
        "--parallel N",
        "-t --threads N LLAMA_ARG_THREADS",
        "-fa --flash-attn [on|off|auto] LLAMA_ARG_FLASH_ATTN",
        "-r --repetitions N",
        "--no-warmup",
        "--diffusion-stats",
        "--profile",
        "--compare-upstream",
        "--delay SECONDS",
        "--progress",
        "--server URL",
        "--api-key KEY LLAMA_API_KEY",
        "--requests N",
        "--prompts FILE",
        "--cache-prompt",
        "--drafts LEVEL",
        "--drafts-interval MS",
        "--cancels N",
        "-o --output FORMAT",
        "-oe --output-err FORMAT",
        "--list-devices",
        "-v --verbose",
    ],
)];

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::FLAGS;
    use crate::args::Args;

    #[test]
    fn each_flag_has_one_record() {
        assert_eq!(FLAGS.problems(&Args::command()), [""; 0]);
    }
}
