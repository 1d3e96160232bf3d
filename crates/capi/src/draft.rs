//! Drafts and finished canvases, as callbacks receive them.

use std::ffi::c_void;

use llama_diffusion::diffusion::{CanvasStatus, Draft, FinishedCanvas};

/// Whether a canvas needs another denoising step.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_progress {
    /// It does.
    Running = 0,
    /// It does not: it is stable and its mean entropy below the threshold, or, for a masked model,
    /// the answer is unmasked.
    Converged = 1,
    /// It does not get one: all steps are used up.
    OutOfSteps = 2,
}

/// A canvas after one denoising step. Valid only during the callback.
#[repr(C)]
pub struct diffusion_draft {
    /// Size of the struct in the library.
    pub struct_size: usize,
    /// Tokens of a canvas: entries of each array below.
    pub length: usize,
    /// The most likely tokens: the current estimate of the finished canvas.
    pub argmax: *const i32,
    /// The tokens that were drawn in this step.
    pub sampled: *const i32,
    /// Input of the next step: accepted tokens, and noise elsewhere.
    pub canvas: *const i32,
    /// Entropy of the distribution at each position, in nats.
    pub entropy: *const f32,
    /// Which drawn tokens were accepted.
    pub accepted: *const bool,
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Index of the step in the canvas, from 0.
    pub step: u32,
    /// Maximum number of steps of the canvas.
    pub max_steps: u32,
    /// Temperature of the step.
    pub temperature: f32,
    /// Mean of `entropy`, in nats.
    pub mean_entropy: f32,
    /// A `diffusion_progress`.
    pub progress: i32,
    /// Probability of each drawn token.
    pub probability: *const f32,
}

impl diffusion_draft {
    pub(super) fn new(draft: &Draft<'_>) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            length: draft.argmax.len(),
            argmax: draft.argmax.as_ptr(),
            sampled: draft.sampled.as_ptr(),
            canvas: draft.canvas.as_ptr(),
            entropy: draft.entropy.as_ptr(),
            accepted: draft.accepted.as_ptr(),
            block: draft.block,
            step: draft.step,
            max_steps: draft.max_steps,
            temperature: draft.temperature,
            mean_entropy: draft.mean_entropy,
            progress: match draft.status {
                CanvasStatus::Running => diffusion_progress::Running,
                CanvasStatus::Converged => diffusion_progress::Converged,
                CanvasStatus::OutOfSteps => diffusion_progress::OutOfSteps,
            } as i32,
            probability: draft.probability.as_ptr(),
        }
    }
}

/// A finished canvas. Valid only during the callback.
#[repr(C)]
pub struct diffusion_canvas {
    /// Size of the struct in the library.
    pub struct_size: usize,
    /// The tokens that it adds to the answer.
    pub tokens: *const i32,
    /// Number of these tokens.
    pub count: usize,
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Number of its denoising steps.
    pub steps: u32,
    /// 1 if it converged, 0 if its steps were used up.
    pub converged: i32,
    /// 1 if the answer ends in this canvas, else 0.
    pub ended: i32,
}

impl diffusion_canvas {
    pub(super) fn new(canvas: &FinishedCanvas) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            tokens: canvas.answer.as_ptr(),
            count: canvas.answer.len(),
            block: canvas.block,
            steps: canvas.steps,
            converged: canvas.converged.into(),
            ended: canvas.ended.into(),
        }
    }
}

/// Called after each denoising step with the canvas. Returns false to cancel.
pub type diffusion_step_callback =
    Option<unsafe extern "C" fn(draft: *const diffusion_draft, user_data: *mut c_void) -> bool>;

/// Called with each finished canvas. Returns false to cancel, which has no effect after the last
/// one.
pub type diffusion_canvas_callback =
    Option<unsafe extern "C" fn(canvas: *const diffusion_canvas, user_data: *mut c_void) -> bool>;
