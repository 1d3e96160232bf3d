//! Probabilities of whole canvases: products of hundreds of factors, each perhaps e^-600.

use std::f64::consts::LN_2;

/// A number that is not negative: `value` · 2^(1000 · `scale`).
///
/// Logarithms would hold the same range, but each sum of them costs an exponential.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scaled {
    /// In [2^-500, 2^500), or 0: so that products and their sums stay finite.
    pub value: f64,
    pub scale: i32,
}

const BITS: i32 = 1000;
/// 2^1000 and what bounds a normal value.
const UNIT: f64 = f64::from_bits((1023 + BITS as u64) << 52);
const HIGH: f64 = f64::from_bits((1023 + BITS as u64 / 2) << 52);
const LOW: f64 = 1.0 / HIGH;
/// The scale of 0: below all others, and far enough from overflow for sums of scales.
const ZERO_SCALE: i32 = -(1 << 24);

impl Scaled {
    pub(super) const ZERO: Self = Self {
        value: 0.0,
        scale: ZERO_SCALE,
    };
    pub(super) const ONE: Self = Self {
        value: 1.0,
        scale: 0,
    };

    /// The number with this natural logarithm, which is at most about 10^9 in size; -∞ is 0.
    pub(super) fn exp(log: f64) -> Self {
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

    /// Its natural logarithm.
    pub(super) fn ln(self) -> f64 {
        self.value.ln() + f64::from(self.scale) * (LN_2 * f64::from(BITS))
    }

    pub(super) fn is_zero(self) -> bool {
        self.value == 0.0
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

    pub(super) fn times(self, other: Self) -> Self {
        Self {
            value: self.value * other.value,
            scale: self.scale + other.scale,
        }
        .normal()
    }

    /// The quotient; `other` is not 0.
    pub(super) fn over(self, other: Self) -> Self {
        Self {
            value: self.value / other.value,
            scale: self.scale - other.scale,
        }
        .normal()
    }

    /// This number relative to `other`, which is not 0.
    pub(super) fn ratio(self, other: Self) -> f64 {
        let quotient = self.over(other);
        match quotient.scale {
            0 => quotient.value,
            1 => quotient.value * UNIT,
            -1 => quotient.value / UNIT,
            2.. => f64::INFINITY,
            _ => 0.0,
        }
    }
}

/// A sum of [`Scaled`] numbers and of their products.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum(Scaled);

impl Sum {
    pub(super) const ZERO: Self = Self(Scaled::ZERO);

    pub(super) fn add(&mut self, term: Scaled) {
        self.add_product(term, Scaled::ONE);
    }

    #[inline(always)]
    pub(super) fn add_product(&mut self, a: Scaled, b: Scaled) {
        let product = Scaled {
            value: a.value * b.value,
            scale: a.scale + b.scale,
        };
        // Almost always one of the first three: products are at least 2^-1000 and sums are less than 2^1020, so
        // three scales apart the smaller one is less than the rounding of the other.
        let distance = product.scale - self.0.scale;
        if distance == 0 {
            self.0.value += product.value;
        } else if distance < -2 {
        } else if distance > 2 {
            self.0 = product;
        } else {
            self.merge(product);
        }
    }

    #[cold]
    #[inline(never)]
    fn merge(&mut self, term: Scaled) {
        let (sum, term) = (self.0.normal(), term.normal());
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
        self.0 = Scaled {
            value: large.value + part,
            scale: large.scale,
        };
    }

    pub(super) fn total(self) -> Scaled {
        self.0.normal()
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
        let mut sum = Sum::ZERO;
        sum.add_product(Scaled::ZERO, tiny);
        assert!(sum.total().is_zero());
        sum.add(tiny);
        sum.add(Scaled::ZERO);
        assert_eq!(sum.total(), tiny);
        assert_eq!(Scaled::ZERO.ln(), f64::NEG_INFINITY);
        assert_eq!(Scaled::exp(f64::NEG_INFINITY), Scaled::ZERO);
    }

    proptest! {
        #[test]
        fn products_and_sums_are_those_of_logarithms(
            logs in prop::collection::vec((-1500.0..1500.0_f64, -1500.0..1500.0_f64), 1..12),
        ) {
            let mut sum = Sum::ZERO;
            for &(a, b) in &logs {
                sum.add_product(Scaled::exp(a), Scaled::exp(b));
            }
            let max = logs.iter().map(|(a, b)| a + b).fold(f64::MIN, f64::max);
            let expected = max + logs.iter().map(|(a, b)| (a + b - max).exp()).sum::<f64>().ln();
            prop_assert!(close(sum.total().ln(), expected), "{} {expected}", sum.total().ln());
            let (a, b) = logs[0];
            prop_assert!(close(Scaled::exp(a).times(Scaled::exp(b)).ln(), a + b));
            prop_assert!(close(Scaled::exp(a).over(Scaled::exp(b)).ln(), a - b));
            let ratio = Scaled::exp(a).ratio(Scaled::exp(a + b / 3.0)).ln();
            prop_assert!(close(ratio, -b / 3.0), "{ratio} {}", -b / 3.0);
        }
    }
}
