//! Absorbing-state (masked) diffusion: a canvas starts as mask tokens, and each step unmasks some
//! of them for good, as in LLaDA (Nie et al. 2025, arXiv:2502.09992) and Dream (Ye et al. 2025,
//! arXiv:2508.15487).

mod params;
mod reveal;
mod run;

pub use params::{AnswerLength, MaskedParams, Parallel};
pub use run::MaskedRun;
