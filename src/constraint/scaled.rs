//! Probabilities of whole canvases: products of hundreds of factors, each perhaps e^-600.

use std::f64::consts::LN_2;

use super::number::Number;

/// A number that is not negative: `value` · 2^(1000 · `scale`).
///
/// Logarithms would hold the same range, but each sum of them costs an exponential.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scaled {
    /// In [2^-500, 2^500), or 0: so that products and their sums stay finite.
    value: f64,
    scale: i32,
}

const BITS: i32 = 1000;
/// 2^1000 and what bounds a normal value.
const UNIT: f64 = f64::from_bits((1023 + BITS as u64) << 52);
const HIGH: f64 = f64::from_bits((1023 + BITS as u64 / 2) << 52);
const LOW: f64 = 1.0 / HIGH;
/// The scale of 0: below all others, and far enough from overflow for sums of scales.
const ZERO_SCALE: i32 = -(1 << 24);

impl Scaled {
    /// The number with this natural logarithm, which is at most about 10^9 in size; -∞ is 0.
    fn from_log(log: f64) -> Self {
        const UNIT_LOG: f64 = LN_2 * BITS as f64;
        if log == f64::NEG_INFINITY {
            return Self::ZERO;
        }
        let scale = (log / UNIT_LOG).round();
        Self {
            value: (log - scale * UNIT_LOG).exp(),
            scale: scale as i32,
        }
        .normal()
    }

    fn normal(self) -> Self {
        match self.value {
            0.0 => Self::ZERO,
            value if value >= HIGH => Self {
                value: value / UNIT,
                scale: self.scale + 1,
            },
            value if value < LOW => Self {
                value: value * UNIT,
                scale: self.scale - 1,
            },
            _ => self,
        }
    }

    #[cold]
    #[inline(never)]
    fn merge(&mut self, term: Self) {
        let (sum, term) = (self.normal(), term.normal());
        let (large, small) = if sum.scale >= term.scale {
            (sum, term)
        } else {
            (term, sum)
        };
        let part = match large.scale - small.scale {
            0 => small.value,
            1 => small.value / UNIT,
            _ => 0.0,
        };
        *self = Self {
            value: large.value + part,
            scale: large.scale,
        };
    }
}

impl Number for Scaled {
    /// With a value that is not normal.
    type Sum = Self;

    const ZERO: Self = Self {
        value: 0.0,
        scale: ZERO_SCALE,
    };
    const ONE: Self = Self {
        value: 1.0,
        scale: 0,
    };
    const EMPTY: Self = Self::ZERO;

    fn exp(log: f32) -> Self {
        Self::from_log(log.into())
    }

    fn ln(self) -> f64 {
        self.value.ln() + f64::from(self.scale) * (LN_2 * f64::from(BITS))
    }

    fn is_zero(self) -> bool {
        self.value == 0.0
    }

    fn times(self, other: Self) -> Self {
        Self {
            value: self.value * other.value,
            scale: self.scale + other.scale,
        }
        .normal()
    }

    fn over(self, other: Self) -> Self {
        Self {
            value: self.value / other.value,
            scale: self.scale - other.scale,
        }
        .normal()
    }

    fn to_f64(self) -> f64 {
        match self.scale {
            0 => self.value,
            1 => self.value * UNIT,
            -1 => self.value / UNIT,
            2.. => f64::INFINITY,
            _ => 0.0,
        }
    }

    fn add_product(sum: &mut Self, a: Self, b: Self) {
        let product = Self {
            value: a.value * b.value,
            scale: a.scale + b.scale,
        };
        // Products are at least 2^-1000 and sums are less than 2^1020: three scales apart, the smaller one is
        // less than the rounding of the other.
        match product.scale - sum.scale {
            0 => sum.value += product.value,
            ..-2 => {}
            3.. => *sum = product,
            _ => sum.merge(product),
        }
    }

    fn total(sum: Self) -> Self {
        sum.normal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64) -> bool {
        a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
    }

    #[test]
    fn zero_is_neutral_in_sums_and_wins_in_products() {
        let tiny = Scaled::exp(-1e6);
        let mut sum = Scaled::EMPTY;
        Scaled::add_product(&mut sum, Scaled::ZERO, tiny);
        assert!(Scaled::total(sum).is_zero());
        Scaled::add(&mut sum, tiny);
        Scaled::add(&mut sum, Scaled::ZERO);
        assert_eq!(Scaled::total(sum), tiny);
        assert_eq!(Scaled::ZERO.ln(), f64::NEG_INFINITY);
        assert_eq!(Scaled::exp(f32::NEG_INFINITY), Scaled::ZERO);
    }

    proptest! {
        #[test]
        fn products_and_sums_are_those_of_logarithms(
            logs in prop::collection::vec((-1500.0..1500.0_f64, -1500.0..1500.0_f64), 1..12),
        ) {
            let mut sum = Scaled::EMPTY;
            for &(a, b) in &logs {
                Scaled::add_product(&mut sum, Scaled::from_log(a), Scaled::from_log(b));
            }
            let max = logs.iter().map(|(a, b)| a + b).fold(f64::MIN, f64::max);
            let expected = max + logs.iter().map(|(a, b)| (a + b - max).exp()).sum::<f64>().ln();
            let total = Scaled::total(sum).ln();
            prop_assert!(close(total, expected), "{total} {expected}");
            let (a, b) = logs[0];
            let [x, y] = [a, b].map(Scaled::from_log);
            prop_assert!(close(x.times(y).ln(), a + b));
            prop_assert!(close(x.over(y).ln(), a - b));
            let quotient = x.over(Scaled::from_log(a + b / 3.0)).to_f64().ln();
            prop_assert!(close(quotient, -b / 3.0), "{quotient} {}", -b / 3.0);
        }
    }
}
