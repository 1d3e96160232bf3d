//! Block diffusion without a model: parameters, temperature schedule, randomness, sampler, the
//! state of one canvas, and the loop that turns canvases into an answer.
//!
//! Nothing here knows ggml. The model enters as a [`Denoiser`], randomness as a [`NoiseSource`],
//! and both can be scripted, which is how the tests of this module and the replay of recorded
//! traces work. Imports point one way:
//!
//! ```text
//! params ◀─ schedule ◀─┐
//! sampler ◀────────────┼─ canvas ─┐
//! random ◀─ candidates ┼─ run ◀───┼─ scheduler
//! transfer ◀───────────┴─ masked ─┘
//! ```
//!
//! Two kinds of diffusion run in one loop: `canvas` starts from random tokens and draws all of them
//! again in every step (uniform-state, DiffusionGemma), `masked` starts from mask tokens and keeps
//! what it has unmasked (absorbing-state, LLaDA and Dream).

pub mod candidates;
pub mod canvas;
pub mod masked;
pub mod params;
pub mod random;
pub mod run;
pub mod sampler;
pub mod schedule;
pub mod scheduler;
pub mod transfer;

pub use canvas::CanvasRun;
pub use masked::{MaskedParams, MaskedSampler};
pub use params::{DiffusionParams, Overrides};
pub use random::{CounterNoise, NoiseSource, RecordedBlock, RecordedNoise, RecordedStep};
pub use run::{
    Draft, EndTokens, FinishedCanvas, Likelihood, NewCanvas, Progress, Run, Sampler, Selection,
    StepInput, StepOutput,
};
pub use schedule::TemperatureSchedule;
pub use scheduler::{CancelFlag, Denoiser, Event, FinishReason, Generation, Timing, generate};
pub use transfer::{Algorithm, TransferSchedule};

/// A token id, as ggml's I32 tensors and libllama's vocabulary hold it.
pub type Token = i32;
