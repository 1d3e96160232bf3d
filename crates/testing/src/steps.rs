//! Single denoising steps over a fixed canvas.

use llama_diffusion::diffusion::{Allowed, Denoiser, DrawRule, Draws, Filter, StepInput};
use llama_diffusion::{Result, Session, Token};

/// Tokens that differ from their neighbours.
pub fn prompt(n: usize) -> Vec<Token> {
    (0..n).map(|i| (5 + i * 17 % 300) as Token).collect()
}

/// Argmax, draws and entropies of a step over a fixed canvas.
pub fn step(denoiser: &mut dyn Denoiser) -> (Vec<Token>, Vec<Token>, Vec<f32>) {
    step_at(denoiser, 0.7)
}

/// The same at a temperature.
pub fn step_at(
    denoiser: &mut dyn Denoiser,
    temperature: f32,
) -> (Vec<Token>, Vec<Token>, Vec<f32>) {
    let n = denoiser.limits().canvas.unwrap();
    let uniforms: Vec<f32> = (0..n).map(|i| (i as f32 + 0.5) / n as f32).collect();
    step_with(denoiser, temperature, &uniforms)
}

/// The same with given uniforms, one per position.
pub fn step_with(
    denoiser: &mut dyn Denoiser,
    temperature: f32,
    uniforms: &[f32],
) -> (Vec<Token>, Vec<Token>, Vec<f32>) {
    let draws = step_over(denoiser, &prompt(uniforms.len()), temperature, uniforms).unwrap();
    (draws.argmax, draws.sampled, draws.entropy)
}

/// What a step over `canvas` draws from the whole vocabulary by the inverse CDF.
///
/// # Errors
/// Those of the denoiser.
pub fn step_over(
    denoiser: &mut dyn Denoiser,
    canvas: &[Token],
    temperature: f32,
    uniforms: &[f32],
) -> Result<Draws> {
    let mut draws = Draws::new(canvas.len(), 0);
    let input = StepInput {
        canvas,
        free: &vec![true; canvas.len()],
        allowed: Allowed::All,
        filter: Filter::NONE,
        rule: DrawRule::Inverse {
            temperature,
            uniforms,
        },
        guidance: 0.0,
        average: 0.0,
        language: None,
        targets: &[],
    };
    denoiser.step(&input, &mut draws)?;
    Ok(draws)
}

/// Logits of the first step after a prompt, and how many of its tokens were cached.
pub fn first_logits(session: &mut Session, tokens: &[Token]) -> (Vec<f32>, usize) {
    let reused = session.prefill(tokens).unwrap();
    let denoiser = session.canvas_denoiser().unwrap();
    denoiser
        .begin_canvas(denoiser.limits().canvas.unwrap())
        .unwrap();
    step(denoiser);
    (denoiser.logits().unwrap(), reused)
}
