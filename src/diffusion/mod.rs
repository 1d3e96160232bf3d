//! Block diffusion without a model: parameters, temperature schedule, randomness, sampler, the
//! state of one canvas, and the loop that turns canvases into an answer.
//!
//! Nothing here knows ggml. The model enters as a [`Denoiser`], randomness as a [`NoiseSource`],
//! and both can be scripted, which is how the tests of this module and the replay of recorded
//! traces work. Imports point one way:
//!
//! ```text
//! params ◀─ schedule ◀─┐
//! random  ◀────────────┼─ canvas ◀─ scheduler
//! sampler ◀────────────┘
//! ```

pub mod canvas;
pub mod params;
pub mod random;
pub mod sampler;
pub mod schedule;
pub mod scheduler;

pub use canvas::{CanvasRun, Draft, EndTokens, FinishedCanvas, Progress, StepInput, StepOutput};
pub use params::{DiffusionParams, Overrides};
pub use random::{CounterNoise, NoiseSource, RecordedBlock, RecordedNoise, RecordedStep};
pub use schedule::TemperatureSchedule;
pub use scheduler::{CancelFlag, Denoiser, Event, FinishReason, Generation, Timing, generate};

/// A token id, as ggml's I32 tensors and libllama's vocabulary hold it.
pub type Token = i32;
