//! The result of a generation.

use std::mem::offset_of;

use super::border::{Failure, Result, StructOutput, Versioned};
use super::error::diffusion_status;
use llama_diffusion::diffusion::Correction;
use llama_diffusion::{Answer, FinishReason, Token};

/// Why a generation ended.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_finish {
    /// The model ended the answer.
    EndOfText = 0,
    /// A limit of the parameters was reached.
    Length = 1,
    /// The context has no space for another canvas.
    ContextFull = 2,
}

/// An accepted token that a later step replaced.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct diffusion_correction {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Index of the step in the canvas, from 0.
    pub step: u32,
    /// Position in the canvas, from 0.
    pub canvas_position: u32,
    /// The token that was accepted.
    pub from: i32,
    /// The token that replaced it.
    pub to: i32,
    /// Reserved.
    pub reserved: i32,
}

impl diffusion_correction {
    fn new(correction: Correction) -> Self {
        Self {
            block: correction.block,
            step: correction.step,
            canvas_position: saturated(correction.position),
            from: correction.from,
            to: correction.to,
            reserved: 0,
        }
    }
}

/// A count as C has it.
fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The statistics of a generation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_result {
    /// Set it to `sizeof(diffusion_result)` before the call.
    pub struct_size: usize,
    /// Number of tokens in the answer.
    pub tokens: usize,
    /// Number of tokens of the prompt that were already cached.
    pub reused: usize,
    /// Number of denoising steps of all canvases.
    pub steps: u64,
    /// Number of canvases.
    pub blocks: usize,
    /// Time to encode the rest of the prompt.
    pub prefill_seconds: f64,
    /// Time of all denoising steps, without callbacks.
    pub denoise_seconds: f64,
    /// Time to append finished canvases to the cache, and to write tokens one by one.
    pub commit_seconds: f64,
    /// A `diffusion_finish`.
    pub finish: i32,
    /// Reserved.
    pub reserved: i32,
    /// Number of positions that were corrected: a step accepted a token, and a later one accepted
    /// another, or the finished canvas has another. 0 for masked models, which keep what they have
    /// unmasked.
    pub corrected_positions: usize,
    /// Number of corrections. A position can be corrected several times.
    pub corrections: usize,
    /// Corrections by the index of their step in its canvas, from 0; the last entry counts those of
    /// all later steps, too.
    pub corrections_by_step: [u32; DIFFUSION_CORRECTION_STEPS],
    /// The last correction; zeros if there is none.
    pub last_correction: diffusion_correction,
    /// Number of the steps whose canvas no earlier pass had read: fewer than `steps` if passes read
    /// several canvases, see `lookahead` of `diffusion_params`.
    pub passes: u64,
}

/// Entries of `corrections_by_step` of `diffusion_result`.
pub const DIFFUSION_CORRECTION_STEPS: usize = 64;

// SAFETY: numbers in C's layout, the size first.
unsafe impl Versioned for diffusion_result {
    const NAME: &'static str = "diffusion_result";
    const FIRST_SIZE: usize = offset_of!(Self, reserved) + size_of::<i32>();
}

/// # Safety
/// `result` is NULL or points to a struct whose first field is its size.
pub(super) unsafe fn optional_result(
    result: *mut diffusion_result,
) -> Result<Option<StructOutput<diffusion_result>>> {
    if result.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { StructOutput::new(result, "result") }.map(Some)
}

/// A generation that came to its end: a cancelled one is a failure here.
pub(super) struct Finished {
    pub(super) tokens: Vec<Token>,
    pub(super) result: diffusion_result,
}

impl Finished {
    pub(super) fn new(answer: Answer) -> Result<Self> {
        let Answer { generation, reused } = answer;
        let finish = match generation.finish {
            FinishReason::EndOfText => diffusion_finish::EndOfText,
            FinishReason::Length => diffusion_finish::Length,
            FinishReason::ContextFull => diffusion_finish::ContextFull,
            FinishReason::Cancelled => {
                let (blocks, steps) = (generation.canvases.len(), generation.steps);
                let message = format!("cancelled after {steps} steps, {blocks} canvases finished");
                return Err(Failure::new(diffusion_status::Cancelled, message));
            }
        };
        let corrections = &generation.corrections;
        let mut by_step = [0; DIFFUSION_CORRECTION_STEPS];
        for (step, count) in corrections.by_step.iter().enumerate() {
            let entry: &mut u32 = &mut by_step[step.min(DIFFUSION_CORRECTION_STEPS - 1)];
            *entry = entry.saturating_add(saturated(*count));
        }
        let result = diffusion_result {
            struct_size: 0,
            tokens: generation.tokens.len(),
            reused,
            steps: generation.steps,
            blocks: generation.canvases.len(),
            prefill_seconds: generation.timing.prefill.as_secs_f64(),
            denoise_seconds: generation.timing.denoise.as_secs_f64(),
            commit_seconds: generation.timing.commit.as_secs_f64(),
            finish: finish as i32,
            reserved: 0,
            corrected_positions: corrections.positions,
            corrections: corrections.total(),
            corrections_by_step: by_step,
            last_correction: corrections
                .last
                .map(diffusion_correction::new)
                .unwrap_or_default(),
            passes: generation.passes,
        };
        Ok(Self {
            tokens: generation.tokens,
            result,
        })
    }
}
