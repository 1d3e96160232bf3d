//! Single denoising steps over a fixed canvas.

use llama_diffusion::diffusion::{Denoiser, StepInput, StepOutput};
use llama_diffusion::model::SequenceDenoiser;
use llama_diffusion::{Session, Token};

/// Tokens that differ from their neighbours.
pub fn prompt(n: usize) -> Vec<Token> {
    (0..n).map(|i| (5 + i * 17 % 300) as Token).collect()
}

/// Argmax, draws and entropies of a step over a fixed canvas.
pub fn step(denoiser: &mut SequenceDenoiser) -> (Vec<Token>, Vec<Token>, Vec<f32>) {
    step_at(denoiser, 0.7)
}

/// The same at a temperature.
pub fn step_at(
    denoiser: &mut SequenceDenoiser,
    temperature: f32,
) -> (Vec<Token>, Vec<Token>, Vec<f32>) {
    let n = denoiser.canvas_len();
    let uniforms: Vec<f32> = (0..n).map(|i| (i as f32 + 0.5) / n as f32).collect();
    step_with(denoiser, temperature, &uniforms)
}

/// The same with given uniforms, one per position.
pub fn step_with(
    denoiser: &mut SequenceDenoiser,
    temperature: f32,
    uniforms: &[f32],
) -> (Vec<Token>, Vec<Token>, Vec<f32>) {
    let n = denoiser.canvas_len();
    let canvas = prompt(n);
    let (mut argmax, mut sampled, mut entropy) = (vec![0; n], vec![0; n], vec![0.0; n]);
    let input = StepInput {
        canvas: &canvas,
        temperature,
        uniforms,
        selection: None,
    };
    let output = StepOutput {
        argmax: &mut argmax,
        sampled: &mut sampled,
        entropy: &mut entropy,
        likelihood: None,
    };
    denoiser.step(input, output).unwrap();
    (argmax, sampled, entropy)
}

/// Logits of the first step after a prompt, and how many of its tokens were cached.
pub fn first_logits(session: &mut Session, tokens: &[Token]) -> (Vec<f32>, usize) {
    let reused = session.prefill(tokens).unwrap();
    let denoiser = session.denoiser();
    denoiser.begin_canvas().unwrap();
    step(denoiser);
    (denoiser.logits().unwrap(), reused)
}
