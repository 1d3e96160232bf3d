//! What a canvas becomes after a step: accepted tokens, and noise elsewhere.

use super::Token;

/// The next step's canvas: the sampled token where it was accepted, fresh noise elsewhere.
///
/// Acceptance does not last: a position accepted in one step is noise again in the next one unless
/// it is accepted again.
///
/// # Panics
/// If the slices differ in length.
pub fn renoise(accepted: &[bool], sampled: &[Token], noise: &[Token], canvas: &mut [Token]) {
    assert!([accepted.len(), sampled.len(), noise.len()] == [canvas.len(); 3]);
    for (i, token) in canvas.iter_mut().enumerate() {
        *token = if accepted[i] { sampled[i] } else { noise[i] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renoise_keeps_accepted_samples_only() {
        let mut canvas = [0; 3];
        renoise(&[true, false, true], &[1, 2, 3], &[7, 8, 9], &mut canvas);
        assert_eq!(canvas, [1, 8, 3]);
    }
}
