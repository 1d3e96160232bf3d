//! Decimal numbers, digit by digit: as exact as they are written.

use std::cmp::Ordering;

use serde_json::Number;

/// A number without rounding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) negative: bool,
    /// Digits before the point, without leading zeros. Empty for 0.
    pub(super) whole: Vec<u8>,
    /// Digits after the point, without zeros at the end.
    pub(super) fraction: Vec<u8>,
}

impl Decimal {
    pub(super) fn new(number: &Number) -> Self {
        Self::parse(&number.to_string())
    }

    /// Reads a number of JSON, with or without an exponent.
    fn parse(text: &str) -> Self {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole
            .bytes()
            .chain(fraction.bytes())
            .map(|digit| digit - b'0')
            .collect();
        // Numbers of JSON values are integers of 64 bits or finite doubles: at most 308 zeros on either side.
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let mut point = whole.len() as i32 + exponent;
        while point > digits.len() as i32 {
            digits.push(0);
        }
        while point < 0 {
            digits.insert(0, 0);
            point += 1;
        }
        let mut fraction = digits.split_off(point as usize);
        let zeros = digits.iter().take_while(|&&digit| digit == 0).count();
        digits.drain(..zeros);
        while fraction.last() == Some(&0) {
            fraction.pop();
        }
        let negative = text.starts_with('-') && !(digits.is_empty() && fraction.is_empty());
        Self {
            negative,
            whole: digits,
            fraction,
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    /// Digits from the first to the last that is not 0.
    pub(super) fn significant(&self) -> usize {
        if !self.whole.is_empty() {
            return self.whole.len() + self.fraction.len();
        }
        self.fraction
            .iter()
            .skip_while(|&&digit| digit == 0)
            .count()
    }

    /// The value, if it is an integer below 10^9.
    pub(super) fn small_integer(&self) -> Option<u32> {
        let small = !self.negative && self.fraction.is_empty() && self.whole.len() <= 9;
        small.then(|| {
            self.whole
                .iter()
                .fold(0, |value, &digit| value * 10 + u32::from(digit))
        })
    }

    /// What is left when the integer is divided.
    pub(super) fn remainder(&self, divisor: u32) -> u32 {
        let step = |rest: u64, &digit: &u8| (rest * 10 + u64::from(digit)) % u64::from(divisor);
        self.whole.iter().fold(0, step) as u32
    }

    fn magnitude(&self) -> (usize, &[u8], &[u8]) {
        (self.whole.len(), &self.whole, &self.fraction)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.magnitude().cmp(&other.magnitude()),
            (true, true) => other.magnitude().cmp(&self.magnitude()),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_digit_by_digit() {
        for (text, negative, whole, fraction) in [
            ("0", false, "", ""),
            ("-0.0", false, "", ""),
            ("10", false, "10", ""),
            ("-12.340", true, "12", "34"),
            ("1e3", false, "1000", ""),
            ("1.25e1", false, "12", "5"),
            ("12e-4", false, "", "0012"),
            ("-1.5E-2", true, "", "015"),
            ("18446744073709551615", false, "18446744073709551615", ""),
        ] {
            let digits = |text: &str| text.bytes().map(|b| b - b'0').collect::<Vec<_>>();
            let expected = Decimal {
                negative,
                whole: digits(whole),
                fraction: digits(fraction),
            };
            assert_eq!(Decimal::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_numbers() {
        let ordered = [
            "-10", "-9.5", "-9.49", "-1e-3", "0", "1e-9", "0.5", "0.51", "9", "10", "1e2",
        ];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(
                    Decimal::parse(a).cmp(&Decimal::parse(b)),
                    i.cmp(&j),
                    "{a} {b}"
                );
            }
        }
    }

    #[test]
    fn remainders_and_digits() {
        assert_eq!(
            Decimal::parse("9223372036854775807").remainder(97),
            (i64::MAX % 97) as u32
        );
        assert_eq!(Decimal::parse("12.5").significant(), 3);
        assert_eq!(Decimal::parse("0.0025").significant(), 2);
        assert_eq!(Decimal::parse("7").small_integer(), Some(7));
        assert_eq!(Decimal::parse("7.5").small_integer(), None);
        assert_eq!(Decimal::parse("-7").small_integer(), None);
    }
}
