//! Models of masked diffusion (Dream, LLaDA, LLaDA-MoE, RND1), run by libllama. The differences
//! between the families are data in their files.

mod ahead;
mod constrained;
mod denoiser;
mod draws;
mod file;
mod load;
mod pace;
mod placing;

pub use denoiser::MaskedDenoiser;
pub use file::is_masked;
pub use load::MaskedModel;
