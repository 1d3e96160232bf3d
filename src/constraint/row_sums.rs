//! Sums over the row of a position: by token class, and of what a language makes of it. Vectorized, as rows have
//! as many weights as a vocabulary has tokens.

use multiversion::multiversion;

use crate::token::Token;

/// Values that are worked on together: what the widest vector registers hold.
const LANES: usize = 16;
/// Sums of so many values are exact enough in F32.
const STRETCH: usize = 4096;
/// Tokens of a class that are summed together, and looked through for the greatest weight.
const CLASS_STRETCH: usize = 1024;

/// Sums over a row of weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// Of all weights.
    pub total: f64,
    /// How many weights are above the least that counts.
    pub kept: usize,
    /// Sum of the others.
    pub dropped: f64,
    /// Entropy in nats.
    pub entropy: f32,
    /// The greatest weight.
    pub(super) first: f32,
    /// The second.
    pub(super) second: f32,
}

impl Spread {
    /// Of a row whose greatest weight is about `greatest`.
    pub fn of(weights: &[f32], greatest: f32, least: f32) -> Self {
        sum(weights, greatest, least)
    }
}

/// The weights of a class.
pub(super) struct ClassSum {
    pub(super) total: f64,
    /// The greatest; −∞ of no token.
    pub(super) greatest: f32,
    /// The first token that has it.
    pub(super) best: Token,
}

/// Sums the weights of a class, whose tokens are in the order of ids. Class by class, and not token by token:
/// sums of a class stay in registers.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(super) fn sum_of(weights: &[f32], members: &[Token]) -> ClassSum {
    // No token is beyond the row: an index that is checked so does not prevent vectorization.
    let weight = |id: &Token| weights.get(*id as usize).copied().unwrap_or(0.0);
    let (mut total, mut greatest) = (0.0_f64, f32::NEG_INFINITY);
    // Where the first of the greatest is.
    let mut found: &[Token] = &[];
    for stretch in members.chunks(CLASS_STRETCH) {
        let (mut sums, mut most) = ([0.0_f32; LANES], [f32::NEG_INFINITY; LANES]);
        let (whole, rest) = stretch.as_chunks::<LANES>();
        for ids in whole {
            for lane in 0..LANES {
                let weight = weight(&ids[lane]);
                sums[lane] += weight;
                most[lane] = if weight > most[lane] {
                    weight
                } else {
                    most[lane]
                };
            }
        }
        for (id, (sum, most)) in rest.iter().zip(sums.iter_mut().zip(&mut most)) {
            let weight = weight(id);
            *sum += weight;
            *most = most.max(weight);
        }
        total += sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
        let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if most > greatest {
            (greatest, found) = (most, stretch);
        }
    }
    let best = found.iter().find(|id| weight(id) == greatest);
    ClassSum {
        total,
        greatest,
        best: best.copied().unwrap_or(0),
    }
}

/// Multiplies each weight by the factor of its class, and sums the row. `greatest` is about the
/// greatest of the results.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(super) fn scale(
    weights: &mut [f32],
    of: &[u16],
    factors: &[f32],
    greatest: f32,
    least: f32,
) -> Spread {
    let mut sums = Sums::new(greatest, least);
    // As above, no class is beyond the factors.
    let factor = |class: u16| factors.get(usize::from(class)).copied().unwrap_or(0.0);
    for (weights, of) in weights.chunks_mut(STRETCH).zip(of.chunks(STRETCH)) {
        for (weight, class) in weights.iter_mut().zip(of) {
            *weight *= factor(*class);
        }
        sums.add(weights);
    }
    sums.finish()
}

/// Sums a row.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn sum(weights: &[f32], greatest: f32, least: f32) -> Spread {
    let mut sums = Sums::new(greatest, least);
    weights
        .chunks(STRETCH)
        .for_each(|weights| sums.add(weights));
    sums.finish()
}

/// The sums of a [`Spread`], so far.
struct Sums {
    least: f32,
    unit: f32,
    total: f64,
    /// Of w ln w.
    moment: f64,
    dropped: f64,
    lanes: LaneSums,
}

/// Sums by lane.
#[derive(Clone, Copy, Default)]
struct LaneSums {
    // Of a stretch.
    total: [f32; LANES],
    moment: [f32; LANES],
    dropped: [f32; LANES],
    // Of the row.
    best: [f32; LANES],
    next: [f32; LANES],
    kept: [u32; LANES],
}

impl LaneSums {
    /// Adds the weights of a register.
    #[allow(
        clippy::needless_range_loop,
        reason = "loops over lanes become registers"
    )]
    #[inline(always)]
    fn add(&mut self, weights: &[f32; LANES], unit: f32, least: f32) {
        // Loops over whole arrays, one for each sum: compilers vectorize them.
        for lane in 0..LANES {
            self.total[lane] += weights[lane];
        }
        for lane in 0..LANES {
            self.moment[lane] += weights[lane] * ln(weights[lane] * unit);
        }
        for lane in 0..LANES {
            self.kept[lane] += u32::from(weights[lane] > least);
        }
        for lane in 0..LANES {
            let keep = weights[lane] > least;
            self.dropped[lane] += if keep { 0.0 } else { weights[lane] };
        }
        for lane in 0..LANES {
            let (weight, top) = (weights[lane], self.best[lane]);
            let lower = if weight > top { top } else { weight };
            let next = self.next[lane];
            self.next[lane] = if lower > next { lower } else { next };
            self.best[lane] = if weight > top { weight } else { top };
        }
    }
}

impl Sums {
    #[inline(always)]
    fn new(greatest: f32, least: f32) -> Self {
        Self {
            least,
            unit: 1.0 / greatest,
            total: 0.0,
            moment: 0.0,
            dropped: 0.0,
            lanes: LaneSums::default(),
        }
    }

    /// Adds a stretch of weights.
    #[inline(always)]
    fn add(&mut self, weights: &[f32]) {
        let (unit, least) = (self.unit, self.least);
        // A variable: its arrays stay in registers.
        let mut sums = LaneSums {
            total: [0.0; LANES],
            moment: [0.0; LANES],
            dropped: [0.0; LANES],
            ..self.lanes
        };
        let (whole, rest) = weights.as_chunks::<LANES>();
        // A loop that also takes the rest would not be vectorized.
        for lanes in whole {
            sums.add(lanes, unit, least);
        }
        if !rest.is_empty() {
            // Weights of 0 add nothing.
            let mut last = [0.0; LANES];
            last[..rest.len()].copy_from_slice(rest);
            sums.add(&last, unit, least);
        }
        let total = |lanes: [f32; LANES]| lanes.into_iter().map(f64::from).sum::<f64>();
        self.total += total(sums.total);
        self.moment += total(sums.moment);
        self.dropped += total(sums.dropped);
        self.lanes = sums;
    }

    fn finish(self) -> Spread {
        let (mut first, mut second) = (0.0_f32, 0.0_f32);
        for (best, next) in self.lanes.best.into_iter().zip(self.lanes.next) {
            second = second.max(next).max(first.min(best));
            first = first.max(best);
        }
        // H = ln Z − Σ w ln w / Z, with weights relative to the greatest.
        let entropy = (self.total * f64::from(self.unit)).ln() - self.moment / self.total;
        Spread {
            total: self.total,
            kept: self.lanes.kept.iter().sum::<u32>() as usize,
            dropped: self.dropped,
            // Rounding may leave a tiny negative value; NaN must stay visible.
            entropy: if entropy < 0.0 { 0.0 } else { entropy as f32 },
            first,
            second,
        }
    }
}

/// The natural logarithm of a number that is not negative, within 2e-7 of its size or itself; of 0
/// and subnormal numbers a finite one. Without branches, so that compilers vectorize it. The
/// polynomial is that of Cephes' logf (Moshier 1984).
#[inline(always)]
fn ln(x: f32) -> f32 {
    const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
    let bits = x.to_bits();
    // x = m 2^e with m in [1/2, 1).
    let exponent = (bits >> 23) as i32 - 126;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let low = mantissa < SQRT_HALF;
    let e = (exponent - i32::from(low)) as f32;
    let m = if low { mantissa + mantissa } else { mantissa } - 1.0;
    let square = m * m;
    let mut p = 7.037_684e-2_f32;
    for term in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = p * m + term;
    }
    let tail = p * m * square - 0.5 * square;
    // ln 2 in two parts.
    m + (tail - 2.121_944_4e-4 * e) + 0.693_359_4 * e
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_that_of_f64() {
        for step in 0..2_000_000_u32 {
            // All exponents, and mantissas all over.
            let x = f32::from_bits(0x0080_0000 + step * 1000);
            if !x.is_finite() {
                break;
            }
            let expected = f64::from(x).ln();
            let error = (f64::from(ln(x)) - expected).abs();
            assert!(error <= 2e-7 * expected.abs().max(1.0), "{x:e}: {error:e}");
        }
        assert!(ln(0.0).is_finite());
    }

    /// Weights of which some are equal, in a row that is not a multiple of the lanes.
    fn weights() -> Vec<f32> {
        (0..3 * STRETCH + 5)
            .map(|i| ((i * 37) % 1000) as f32)
            .collect()
    }

    #[test]
    fn a_class_has_the_sum_and_the_first_of_its_greatest_weights() {
        let weights = weights();
        for count in [1, 2, 7, 1000] {
            for class in 0..count {
                let members = (0..weights.len()).filter(|i| i * i % count == class);
                let members: Vec<Token> = members.map(|i| i as Token).collect();
                let own = || members.iter().map(|token| weights[*token as usize]);
                let total: f64 = own().map(f64::from).sum();
                let greatest = own().fold(f32::NEG_INFINITY, f32::max);
                let best = members
                    .iter()
                    .find(|token| weights[**token as usize] == greatest);
                let sum = sum_of(&weights, &members);
                let error = (sum.total - total).abs();
                assert!(error <= 1e-6 * total, "{} {total}", sum.total);
                assert_eq!(sum.greatest, greatest);
                assert_eq!(best.copied().unwrap_or(0), sum.best);
            }
        }
    }

    #[test]
    fn a_row_is_scaled_by_class_and_summed() {
        let mut scaled = weights();
        let of: Vec<u16> = (0..scaled.len()).map(|i| (i % 3) as u16).collect();
        let found = scale(&mut scaled, &of, &[0.5, 0.0, 2.0], 2000.0, 10.0);
        for ((weight, before), of) in scaled.iter().zip(weights()).zip(of) {
            assert_eq!(*weight, before * [0.5, 0.0, 2.0][usize::from(of)]);
        }
        assert_eq!(found, Spread::of(&scaled, 2000.0, 10.0));
        let kept = scaled.iter().filter(|weight| **weight > 10.0);
        assert_eq!(found.kept, kept.count());
        let total: f64 = scaled.iter().copied().map(f64::from).sum();
        assert!((found.total - total).abs() < 1e-6 * total);
        let entropy = scaled.iter().filter(|weight| **weight > 0.0).map(|weight| {
            let p = f64::from(*weight) / total;
            -p * p.ln()
        });
        assert!((f64::from(found.entropy) - entropy.sum::<f64>()).abs() < 1e-4);
    }
}
