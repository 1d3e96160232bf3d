//! Where random draws come from: a counter-based generator, or a recorded trace.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Token;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// The random draws of a generation, addressed by block (canvas), step and position.
///
/// Blocks and steps count from 0. An implementation returns the same values for the same address
/// regardless of earlier calls, so threads, devices and batches cannot affect a generation.
pub trait NoiseSource: Sync {
    /// Fills `out`, one entry per canvas position, with the tokens a block starts from.
    ///
    /// # Errors
    /// The source has no such draws.
    fn initial_canvas(&self, block: u32, out: &mut [Token]) -> Result<()>;

    /// Fills `out` with the uniforms in [0, 1) that sample a token at each position of a step.
    ///
    /// # Errors
    /// The source has no such draws.
    fn uniforms(&self, block: u32, step: u32, out: &mut [f32]) -> Result<()>;

    /// Fills `out` with the tokens that replace what a step does not accept.
    ///
    /// # Errors
    /// The source has no such draws.
    fn renoise(&self, block: u32, step: u32, out: &mut [Token]) -> Result<()>;

    /// Fills `out` with the uniforms in (0, 1) that decide which masked positions a step unmasks.
    ///
    /// # Errors
    /// The source has no such draws, which is the default.
    fn order(&self, block: u32, step: u32, out: &mut [f64]) -> Result<()> {
        let _ = out;
        Err(no_draws("order", block, step))
    }

    /// Fills `out`, one entry per token of the vocabulary, with the uniforms in (0, 1) that noise
    /// the logits of a position.
    ///
    /// # Errors
    /// The source has no such draws, which is the default.
    fn vocabulary(&self, block: u32, step: u32, position: usize, out: &mut [f64]) -> Result<()> {
        let _ = (position, out);
        Err(no_draws("noise of the logits", block, step))
    }
}

fn no_draws(what: &str, block: u32, step: u32) -> Error {
    Error::parameter(
        Parameter::Noise,
        format!("block {block}, step {step}: it has no draws for the {what}"),
    )
}

/// Draws that are a pure function of (seed, purpose, block, step, position).
///
/// A ChaCha8 keystream, whose 256-bit key, 64-bit nonce and 68-bit word counter are used as
/// follows:
///
/// | part | bits | holds |
/// |---|---|---|
/// | key | 0..64 | seed |
/// | key | 64..256 | an ASCII tag that names this layout |
/// | nonce | 0..32 | step |
/// | nonce | 32..64 | block |
/// | word counter | 0..33 | 2 × position (each draw has two 32-bit words) |
/// | word counter | 64..67 | purpose: 0 initial canvas, 1 uniforms, 2 renoise, 3 order, 4 vocabulary |
///
/// The noise of a whole vocabulary uses two addresses: bits 0..33 of the word counter hold 2 ×
/// token and bits 33..64 the position.
///
/// A uniform is the top 24 bits of its first word, divided by 2²⁴: every F32 value k/2²⁴ in [0, 1)
/// is as likely as any other. A token is ⌊w · V / 2⁶⁴⌋ of its 64-bit word w, which favours no token
/// by more than V/2⁶⁴. An F64 uniform is the middle of one of 2⁵² equal parts of (0, 1), by the top
/// 52 bits of its word, so that its logarithm is finite and not 0.
#[derive(Debug, Clone)]
pub struct CounterNoise {
    rng: ChaCha8Rng,
    vocab_size: u32,
}

#[derive(Debug, Clone, Copy)]
enum Purpose {
    InitialCanvas = 0,
    Uniforms = 1,
    Renoise = 2,
    Order = 3,
    Vocabulary = 4,
}

/// Part of the key. It must change with the layout of the counter, as every answer then changes.
const LAYOUT: &[u8; 24] = b"llama-diffusion noise v1";

impl CounterNoise {
    /// A source for `seed`, with tokens from 0 to `vocab_size` − 1.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the vocabulary is empty or its ids do not fit a [`Token`].
    pub fn new(seed: u64, vocab_size: usize) -> Result<Self> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..].copy_from_slice(LAYOUT);
        Ok(Self {
            rng: ChaCha8Rng::from_seed(key),
            vocab_size: checked_vocab_size(vocab_size)?,
        })
    }

    fn at(&self, purpose: Purpose, block: u32, step: u32) -> ChaCha8Rng {
        let mut rng = self.rng.clone();
        rng.set_stream(u64::from(block) << 32 | u64::from(step));
        rng.set_word_pos((purpose as u128) << 64);
        rng
    }

    fn tokens(&self, purpose: Purpose, block: u32, step: u32, out: &mut [Token]) {
        let mut rng = self.at(purpose, block, step);
        for token in out {
            let scaled = u128::from(rng.next_u64()) * u128::from(self.vocab_size);
            // Below `vocab_size`, which fits a token.
            *token = (scaled >> 64) as Token;
        }
    }
}

impl NoiseSource for CounterNoise {
    fn initial_canvas(&self, block: u32, out: &mut [Token]) -> Result<()> {
        self.tokens(Purpose::InitialCanvas, block, 0, out);
        Ok(())
    }

    fn uniforms(&self, block: u32, step: u32, out: &mut [f32]) -> Result<()> {
        let mut rng = self.at(Purpose::Uniforms, block, step);
        for uniform in out {
            let first_word = rng.next_u64() as u32;
            *uniform = (first_word >> 8) as f32 / (1 << 24) as f32;
        }
        Ok(())
    }

    fn renoise(&self, block: u32, step: u32, out: &mut [Token]) -> Result<()> {
        self.tokens(Purpose::Renoise, block, step, out);
        Ok(())
    }

    fn order(&self, block: u32, step: u32, out: &mut [f64]) -> Result<()> {
        open_uniforms(&mut self.at(Purpose::Order, block, step), out);
        Ok(())
    }

    fn vocabulary(&self, block: u32, step: u32, position: usize, out: &mut [f64]) -> Result<()> {
        let mut rng = self.at(Purpose::Vocabulary, block, step);
        rng.set_word_pos((Purpose::Vocabulary as u128) << 64 | (position as u128) << 33);
        open_uniforms(&mut rng, out);
        Ok(())
    }
}

fn open_uniforms(rng: &mut ChaCha8Rng, out: &mut [f64]) {
    for uniform in out {
        *uniform = ((rng.next_u64() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    }
}

/// The draws of one recorded canvas.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordedBlock {
    /// The canvas before the first step.
    pub initial_canvas: Vec<Token>,
    /// One entry per denoising step that ran.
    pub steps: Vec<RecordedStep>,
}

/// The draws of one recorded denoising step, one entry per canvas position.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordedStep {
    /// Uniforms in [0, 1).
    pub uniforms: Vec<f32>,
    /// Replacement tokens for rejected positions; accepted positions have one too.
    pub renoise: Vec<Token>,
}

/// Draws from a trace, to replay a generation of another implementation token by token.
#[derive(Debug, Clone)]
pub struct RecordedNoise {
    blocks: Vec<RecordedBlock>,
}

impl RecordedNoise {
    /// A source of the draws in `blocks`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if a token is outside the vocabulary or a uniform outside
    /// [0, 1).
    pub fn new(blocks: Vec<RecordedBlock>, vocab_size: usize) -> Result<Self> {
        let vocab = 0..checked_vocab_size(vocab_size)? as Token;
        for (b, block) in blocks.iter().enumerate() {
            check(&block.initial_canvas, &vocab, || {
                format!("block {b}, initial canvas")
            })?;
            for (s, step) in block.steps.iter().enumerate() {
                check(&step.renoise, &vocab, || {
                    format!("block {b}, step {s}, renoise")
                })?;
                check(&step.uniforms, &(0.0..1.0), || {
                    format!("block {b}, step {s}, uniforms")
                })?;
            }
        }
        Ok(Self { blocks })
    }

    fn block(&self, block: u32) -> Option<&RecordedBlock> {
        self.blocks.get(usize::try_from(block).ok()?)
    }

    fn step(&self, block: u32, step: u32) -> Option<&RecordedStep> {
        self.block(block)?.steps.get(usize::try_from(step).ok()?)
    }
}

impl NoiseSource for RecordedNoise {
    fn initial_canvas(&self, block: u32, out: &mut [Token]) -> Result<()> {
        let recorded = self.block(block).map(|b| b.initial_canvas.as_slice());
        copy(recorded, out, || format!("block {block}, initial canvas"))
    }

    fn uniforms(&self, block: u32, step: u32, out: &mut [f32]) -> Result<()> {
        let recorded = self.step(block, step).map(|s| s.uniforms.as_slice());
        copy(recorded, out, || {
            format!("block {block}, step {step}, uniforms")
        })
    }

    fn renoise(&self, block: u32, step: u32, out: &mut [Token]) -> Result<()> {
        let recorded = self.step(block, step).map(|s| s.renoise.as_slice());
        copy(recorded, out, || {
            format!("block {block}, step {step}, renoise")
        })
    }
}

fn checked_vocab_size(vocab_size: usize) -> Result<u32> {
    match u32::try_from(vocab_size) {
        Ok(size) if size > 0 && Token::try_from(size).is_ok() => Ok(size),
        _ => Err(Error::parameter(
            Parameter::VocabSize,
            format!("is {vocab_size}, but must be from 1 to {}", Token::MAX),
        )),
    }
}

fn check<T: PartialOrd + std::fmt::Debug>(
    values: &[T],
    allowed: &std::ops::Range<T>,
    place: impl Fn() -> String,
) -> Result<()> {
    match values.iter().position(|value| !allowed.contains(value)) {
        None => Ok(()),
        Some(i) => Err(recording_error(format!(
            "{}: position {i} is {:?}, but must be in {allowed:?}",
            place(),
            values[i]
        ))),
    }
}

fn copy<T: Copy>(recorded: Option<&[T]>, out: &mut [T], place: impl Fn() -> String) -> Result<()> {
    let recorded = recorded
        .ok_or_else(|| recording_error(format!("{}: the recording ends before", place())))?;
    if recorded.len() != out.len() {
        return Err(recording_error(format!(
            "{}: {} values are recorded for a canvas of {}",
            place(),
            recorded.len(),
            out.len()
        )));
    }
    out.copy_from_slice(recorded);
    Ok(())
}

fn recording_error(problem: String) -> Error {
    Error::parameter(Parameter::Noise, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOCAB: usize = 262_144;

    fn noise(seed: u64) -> CounterNoise {
        CounterNoise::new(seed, VOCAB).unwrap()
    }

    fn initial(noise: &dyn NoiseSource, block: u32, len: usize) -> Vec<Token> {
        let mut out = vec![-1; len];
        noise.initial_canvas(block, &mut out).unwrap();
        out
    }

    fn uniforms(noise: &dyn NoiseSource, block: u32, step: u32, len: usize) -> Vec<f32> {
        let mut out = vec![-1.0; len];
        noise.uniforms(block, step, &mut out).unwrap();
        out
    }

    fn renoise(noise: &dyn NoiseSource, block: u32, step: u32, len: usize) -> Vec<Token> {
        let mut out = vec![-1; len];
        noise.renoise(block, step, &mut out).unwrap();
        out
    }

    fn order(noise: &dyn NoiseSource, block: u32, step: u32, len: usize) -> Vec<f64> {
        let mut out = vec![-1.0; len];
        noise.order(block, step, &mut out).unwrap();
        out
    }

    fn vocabulary(
        noise: &dyn NoiseSource,
        block: u32,
        step: u32,
        position: usize,
        len: usize,
    ) -> Vec<f64> {
        let mut out = vec![-1.0; len];
        noise.vocabulary(block, step, position, &mut out).unwrap();
        out
    }

    /// A seed must give the same answer in every release: these values must never change. They were
    /// computed from the table at [`CounterNoise`] by a ChaCha that was written in Python for this
    /// purpose and agrees with OpenSSL's ChaCha20 when it runs 20 rounds.
    #[test]
    fn pinned_values() {
        let noise = noise(42);
        assert_eq!(initial(&noise, 0, 4), [98_682, 118_080, 48_237, 43_764]);
        assert_eq!(initial(&noise, 1, 2), [52_692, 93_271]);
        assert_eq!(
            uniforms(&noise, 0, 0, 3),
            [9_864_719.0, 6_576_862.0, 8_618_029.0].map(|k: f32| k / 16_777_216.0)
        );
        assert_eq!(uniforms(&noise, 2, 47, 2), [0.643_026_35, 0.331_118_94]);
        assert_eq!(renoise(&noise, 0, 0, 3), [222_691, 121_595, 59_010]);
        assert_eq!(renoise(&noise, 2, 47, 2), [154_820, 253_005]);
        // For the F64 uniforms: the indices of their parts of (0, 1).
        assert_eq!(
            order(&noise, 0, 0, 3),
            parts([
                164_197_122_849_051,
                386_973_373_698_346,
                4_347_688_597_680_225
            ])
        );
        assert_eq!(
            order(&noise, 2, 47, 2),
            parts([2_035_769_614_788_903, 826_948_692_232_194])
        );
        assert_eq!(
            vocabulary(&noise, 0, 0, 0, 3),
            parts([
                3_306_648_251_288_608,
                4_049_589_055_207_569,
                854_230_245_964_946
            ])
        );
        assert_eq!(
            vocabulary(&noise, 0, 0, 1, 2),
            parts([527_865_614_866_927, 2_239_846_452_920_786])
        );
        assert_eq!(
            vocabulary(&noise, 2, 47, 255, 2),
            parts([1_792_696_720_738_756, 4_392_672_191_696_296])
        );
        // The limits of both addresses: the last token, the last position.
        assert_eq!(
            vocabulary(&noise, 0, 0, 0, VOCAB)[VOCAB - 1..],
            parts([485_162_281_404_671])
        );
        assert_eq!(
            vocabulary(&noise, 0, 0, (1 << 31) - 1, 1),
            parts([3_987_783_178_166_788])
        );
    }

    /// The middles of these of the 2⁵² parts of (0, 1).
    fn parts<const N: usize>(numbers: [u64; N]) -> [f64; N] {
        numbers.map(|number| (number as f64 + 0.5) / 4_503_599_627_370_496.0)
    }

    #[test]
    fn draws_do_not_depend_on_the_order_of_asking() {
        let asked_before = noise(7);
        renoise(&asked_before, 3, 1, 100);
        initial(&asked_before, 9, 17);
        assert_eq!(
            uniforms(&asked_before, 1, 5, 64),
            uniforms(&noise(7), 1, 5, 64)
        );
    }

    #[test]
    fn a_shorter_canvas_gets_the_same_draws_at_its_positions() {
        let noise = noise(7);
        for len in [1, 15, 16, 17, 63, 64, 65] {
            assert_eq!(
                uniforms(&noise, 1, 5, len),
                uniforms(&noise, 1, 5, 200)[..len]
            );
            assert_eq!(
                renoise(&noise, 1, 5, len),
                renoise(&noise, 1, 5, 200)[..len]
            );
        }
    }

    #[test]
    fn every_part_of_the_address_matters() {
        let far = u32::MAX;
        let mut draws = Vec::new();
        for seed in [0, 1, u64::MAX] {
            let noise = noise(seed);
            for block in [0, 1, far] {
                draws.push(initial(&noise, block, 8));
                for step in [0, 1, far] {
                    draws.push(renoise(&noise, block, step, 8));
                    // As tokens of the same words, so that they can be compared with the others.
                    let mut same_words = vec![0; 8];
                    noise.tokens(Purpose::Uniforms, block, step, &mut same_words);
                    draws.push(same_words);
                }
            }
        }
        let count = draws.len();
        draws.sort();
        draws.dedup();
        assert_eq!(draws.len(), count);
    }

    #[test]
    fn uniforms_are_uniform() {
        let all: Vec<f32> = (0..400)
            .flat_map(|step| uniforms(&noise(1), 0, step, 256))
            .collect();
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
        let n = all.len() as f64;
        let mean = all.iter().copied().map(f64::from).sum::<f64>() / n;
        // Five standard errors of the mean of n uniforms.
        assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0 / n).sqrt(), "{mean}");
        let tenths = counts(all.iter().map(|u| (u * 10.0) as usize), 10);
        assert_even(&tenths);
    }

    #[test]
    fn tokens_cover_the_vocabulary_evenly() {
        for vocab in [1, 2, 7, 1000] {
            let noise = CounterNoise::new(5, vocab).unwrap();
            let all = (0..400).flat_map(|step| renoise(&noise, 0, step, 256));
            assert_even(&counts(all.map(|token| token as usize), vocab));
        }
    }

    fn counts(values: impl Iterator<Item = usize>, bins: usize) -> Vec<usize> {
        let mut counts = vec![0; bins];
        values.for_each(|value| counts[value] += 1);
        counts
    }

    /// Pearson's χ² of the counts against equal chances, within five standard deviations.
    fn assert_even(counts: &[usize]) {
        let freedom = counts.len() as f64 - 1.0;
        let expected = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
        let chi2: f64 = counts
            .iter()
            .map(|&count| (count as f64 - expected).powi(2) / expected)
            .sum();
        assert!(
            (chi2 - freedom).abs() <= 5.0 * (2.0 * freedom).sqrt(),
            "{chi2} of {freedom}"
        );
    }

    #[test]
    fn neighbouring_addresses_are_not_correlated() {
        let noise = noise(3);
        let pairs = [
            (uniforms(&noise, 0, 0, 4096), uniforms(&noise, 0, 1, 4096)),
            (uniforms(&noise, 0, 0, 4096), uniforms(&noise, 1, 0, 4096)),
            (
                uniforms(&noise, 0, 0, 4095),
                uniforms(&noise, 0, 0, 4096)[1..].to_vec(),
            ),
            (
                uniforms(&noise, 0, 0, 4096),
                uniforms(&self::noise(4), 0, 0, 4096),
            ),
        ];
        for (a, b) in pairs {
            let covariance: f64 = a
                .iter()
                .zip(&b)
                .map(|(x, y)| f64::from((x - 0.5) * (y - 0.5)))
                .sum();
            let correlation = covariance * 12.0 / a.len() as f64;
            assert!(
                correlation.abs() < 5.0 / (a.len() as f64).sqrt(),
                "{correlation}"
            );
        }
    }

    #[test]
    fn impossible_vocabularies_are_refused() {
        for size in [0, 1 << 31, usize::MAX] {
            let error = CounterNoise::new(0, size).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("vocab_size: is {size}")),
                "{error}"
            );
        }
        CounterNoise::new(0, (1 << 31) - 1).unwrap();
    }

    fn recording() -> RecordedBlock {
        RecordedBlock {
            initial_canvas: vec![1, 2],
            steps: vec![RecordedStep {
                uniforms: vec![0.0, 0.5],
                renoise: vec![3, 4],
            }],
        }
    }

    #[test]
    fn a_recording_is_replayed() {
        let noise = RecordedNoise::new(vec![recording()], 5).unwrap();
        assert_eq!(initial(&noise, 0, 2), [1, 2]);
        assert_eq!(uniforms(&noise, 0, 0, 2), [0.0, 0.5]);
        assert_eq!(renoise(&noise, 0, 0, 2), [3, 4]);
    }

    #[test]
    fn a_recording_that_is_too_short_says_where() {
        let noise = RecordedNoise::new(vec![recording()], 5).unwrap();
        let problem = |result: Result<()>| result.unwrap_err().to_string();
        assert_eq!(
            problem(noise.initial_canvas(1, &mut [0; 2])),
            "noise: block 1, initial canvas: the recording ends before"
        );
        assert_eq!(
            problem(noise.uniforms(0, 1, &mut [0.0; 2])),
            "noise: block 0, step 1, uniforms: the recording ends before"
        );
        assert_eq!(
            problem(noise.renoise(0, 0, &mut [0; 3])),
            "noise: block 0, step 0, renoise: 2 values are recorded for a canvas of 3"
        );
    }

    #[test]
    fn a_recording_with_impossible_values_is_refused() {
        type Change = fn(&mut RecordedBlock);
        let cases: [(Change, &str); 6] = [
            (
                |b| b.initial_canvas[1] = 5,
                "block 0, initial canvas: position 1 is 5",
            ),
            (
                |b| b.initial_canvas[0] = -1,
                "block 0, initial canvas: position 0 is -1",
            ),
            (
                |b| b.steps[0].renoise[1] = 5,
                "block 0, step 0, renoise: position 1 is 5",
            ),
            (
                |b| b.steps[0].uniforms[0] = 1.0,
                "block 0, step 0, uniforms: position 0 is 1.0",
            ),
            (
                |b| b.steps[0].uniforms[0] = -0.1,
                "block 0, step 0, uniforms: position 0 is -0.1",
            ),
            (
                |b| b.steps[0].uniforms[1] = f32::NAN,
                "block 0, step 0, uniforms: position 1 is NaN",
            ),
        ];
        for (change, expected) in cases {
            let mut block = recording();
            change(&mut block);
            let error = RecordedNoise::new(vec![block], 5).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_position_can_be_computed_alone(
            seed: u64, block: u32, step: u32, position in 0_usize..300,
        ) {
            let noise = noise(seed);
            let mut rng = noise.at(Purpose::Uniforms, block, step);
            rng.set_word_pos((1 << 64) + 2 * position as u128);
            let alone = (rng.next_u32() >> 8) as f32 / 16_777_216.0;
            prop_assert_eq!(uniforms(&noise, block, step, 300)[position], alone);
        }
    }
}
