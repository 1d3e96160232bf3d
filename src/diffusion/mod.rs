//! Block diffusion without a model: parameters, temperature schedule, randomness, acceptance, the
//! state of one canvas, and the loop that turns canvases into an answer.
//!
//! Nothing here knows ggml. The model enters as a [`Denoiser`], randomness as a [`NoiseSource`],
//! and both can be scripted, which is how the tests of this module and the replay of recorded
//! traces work. Imports point one way:
//!
//! ```text
//! random, score ◀─ step ◀─ draw
//!             ▲
//! event ◀─── run ◀─┬─ canvas ─▶ acceptance, renoise, convergence, temperature, template, repair
//!             ▲    ├─ masked ─▶ transfer, template
//!             │    └─ continued ◀─ canvas, masked
//!        generation ◀─ scheduler        canvas ─▶ canvas_length
//!             └─▶ corrections ─▶ event, guesses ─▶ run
//!                                edit, infill ─▶ canvas, run
//! ```
//!
//! Two kinds of diffusion run in one loop: `canvas` starts from random tokens and draws all of them
//! again in every step (uniform-state, DiffusionGemma), `masked` starts from mask tokens and keeps
//! what it has unmasked (absorbing-state, LLaDA and Dream).

pub mod acceptance;
pub mod canvas;
pub mod canvas_length;
mod continued;
pub mod convergence;
pub mod corrections;
pub mod draw;
pub mod edit;
pub mod event;
pub mod generation;
mod guesses;
pub mod infill;
pub mod masked;
pub mod params;
pub mod random;
pub mod renoise;
mod repair;
pub mod run;
pub mod scheduler;
pub mod score;
pub mod step;
pub mod temperature;
pub mod template;
pub mod transfer;

pub use canvas::CanvasRun;
pub use canvas_length::{CANVAS_UNIT, check_canvas_length, shortest_canvas};
pub(crate) use continued::refused;
pub use corrections::{Correction, CorrectionCounter, Corrections};
pub use edit::{Edit, Original};
pub use event::{
    CancelFlag, CanvasStatus, Draft, Event, FinishReason, FinishedCanvas, NewCanvas, OwnedDraft,
    OwnedEvent, OwnedNewCanvas, OwnedScoredCanvas, PromptProgress, ScoredCanvas,
};
pub use generation::{Generation, Generator, Next, Stage, Timing};
pub use infill::{Gap, GapReport, Infill, LengthScore};
pub use masked::{AnswerLength, MaskedParams, Parallel};
pub use params::{AcceptanceRule, DiffusionParams, SamplerOverrides};
pub use random::{CounterNoise, NoiseSource, RecordedBlock, RecordedNoise, RecordedStep};
pub use run::{Blank, Budget, BudgetLimit, EndTokens, Recipe, Run};
pub use scheduler::{advance, generate};
pub(crate) use score::most_likely;
pub use score::{Scorer, Scoring, TokenScore};
pub use step::{
    Allowed, ConstrainAt, Denoiser, DrawFeatures, DrawRule, Draws, Filter, Guess, Limits,
    Lookahead, Steering, StepInput, TokenSet, VocabularyNoise,
};
pub use temperature::TemperatureSchedule;
pub use template::{Slot, Template};
pub use transfer::{Algorithm, TransferSchedule};

pub use crate::token::Token;
