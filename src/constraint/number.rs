//! The arithmetic of probabilities: f64, or numbers of a larger range where that is too small.

/// A number that is not negative, with sums of products.
pub(super) trait Number: Copy {
    /// A sum that is being made.
    type Sum: Copy;

    const ZERO: Self;
    const ONE: Self;
    const EMPTY: Self::Sum;

    /// The number with this natural logarithm.
    fn exp(log: f32) -> Self;
    /// Its natural logarithm.
    fn ln(self) -> f64;
    fn is_zero(self) -> bool;
    fn times(self, other: Self) -> Self;
    /// The quotient; `other` is not 0.
    fn over(self, other: Self) -> Self;
    fn to_f64(self) -> f64;

    fn add_product(sum: &mut Self::Sum, a: Self, b: Self);
    fn total(sum: Self::Sum) -> Self;

    fn add(sum: &mut Self::Sum, term: Self) {
        Self::add_product(sum, term, Self::ONE);
    }
}

impl Number for f64 {
    type Sum = Self;

    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const EMPTY: Self = 0.0;

    fn exp(log: f32) -> Self {
        Self::from(log).exp()
    }

    fn ln(self) -> f64 {
        self.ln()
    }

    fn is_zero(self) -> bool {
        self == 0.0
    }

    fn times(self, other: Self) -> Self {
        self * other
    }

    fn over(self, other: Self) -> Self {
        self / other
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn add_product(sum: &mut Self, a: Self, b: Self) {
        *sum += a * b;
    }

    fn total(sum: Self) -> Self {
        sum
    }
}
