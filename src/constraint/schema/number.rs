//! Numbers: their syntax, bounds by comparing digits, and multiples.

use serde_json::{Number, Value};

use super::automaton::{Effort, intersection};
use super::decimal::Decimal;
use super::digits::{
    INTEGER_DIGITS, NUMBER_DIGITS, any_number, at_least, at_most, integer_syntax, multiples,
    number_syntax,
};
use super::expression::Expression;
use super::refusal::{At, refuse, too_large};
use super::types::Types;
use crate::constraint::error::ConstraintError;

/// Digits that a double keeps. A number with more may be rounded to an exclusive bound of so many digits, or
/// to no multiple.
const EXACT_DIGITS: usize = 15;

/// No number is written that is closer to 0 without being 0: it would have more digits.
const CLOSEST_TO_0: f64 = 1e-17;

/// Each multiple has as many states as its divisor.
const MAX_DIVISOR: u32 = 1000;

/// A bound, and whether it is outside the range itself.
#[derive(Clone)]
struct Bound {
    value: Decimal,
    /// The number as readers round it.
    double: f64,
    exclusive: bool,
    pointer: String,
}

/// What a schema says about numbers.
#[derive(Clone, Default)]
pub(super) struct NumberRules {
    bounds: Vec<(Side, Bound)>,
    divisors: Vec<(u32, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Low,
    High,
}

impl NumberRules {
    /// Takes a keyword, if it is one about numbers.
    pub(super) fn take(&mut self, at: At<'_>, value: &Value) -> Result<bool, ConstraintError> {
        let (side, exclusive) = match at.keyword {
            "minimum" => (Side::Low, false),
            "exclusiveMinimum" => (Side::Low, true),
            "maximum" => (Side::High, false),
            "exclusiveMaximum" => (Side::High, true),
            "multipleOf" => {
                self.divisors.push((divisor(at, value)?, at.pointer()));
                return Ok(true);
            }
            _ => return Ok(false),
        };
        let number = number(at, value)?;
        let bound = Bound {
            value: Decimal::new(number),
            // Every number of a JSON value has one.
            double: number.as_f64().unwrap_or_default(),
            exclusive,
            pointer: at.pointer(),
        };
        self.bounds.push((side, bound));
        Ok(true)
    }

    /// Whether a number, of `const` or `enum`, obeys.
    pub(super) fn admit(&self, number: &Number) -> bool {
        let value = Decimal::new(number);
        let inside = |(side, bound): &(Side, Bound)| match (side, value.cmp(&bound.value)) {
            (_, std::cmp::Ordering::Equal) => !bound.exclusive,
            (Side::Low, order) => order.is_gt(),
            (Side::High, order) => order.is_lt(),
        };
        let divides = |(divisor, _): &(u32, String)| {
            value.fraction.is_empty() && value.remainder(*divisor) == 0
        };
        self.bounds.iter().all(inside) && self.divisors.iter().all(divides)
    }

    /// Whether no number obeys both.
    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        let apart = |(low_side, low): &(Side, Bound), (high_side, high): &(Side, Bound)| {
            let order = low.value.cmp(&high.value);
            *low_side == Side::Low
                && *high_side == Side::High
                && (order.is_gt() || order.is_eq() && (low.exclusive || high.exclusive))
        };
        let any = |lows: &Self, highs: &Self| {
            lows.bounds
                .iter()
                .any(|low| highs.bounds.iter().any(|high| apart(low, high)))
        };
        any(self, other) || any(other, self)
    }

    /// The numbers of these types that obey, as JSON.
    pub(super) fn expression(
        &self,
        types: Types,
        effort: &mut Effort,
    ) -> Result<Expression, ConstraintError> {
        let integer = !types.has(Types::FRACTION) || !self.divisors.is_empty();
        if !integer && self.bounds.is_empty() {
            return Ok(any_number());
        }
        let exclusive = || self.bounds.iter().filter(|(_, bound)| bound.exclusive);
        let is_short = |(_, bound): &(Side, Bound)| bound.value.significant() <= EXACT_DIGITS;
        let rounding_matters =
            !self.divisors.is_empty() || exclusive().next().is_some() && exclusive().all(is_short);
        let digits = match (rounding_matters, integer) {
            (true, _) => EXACT_DIGITS,
            (false, true) => INTEGER_DIGITS,
            (false, false) => NUMBER_DIGITS,
        };
        let mut numbers = if integer {
            integer_syntax(digits)
        } else {
            number_syntax(digits, false)
        };
        for (side, bound) in &self.bounds {
            bound.check(*side, digits)?;
            let nearest = bound.nearest(*side);
            let range = match side {
                Side::Low => at_least(&nearest),
                Side::High => at_most(&nearest),
            };
            numbers = both(&numbers, &range, &bound.pointer, effort)?;
        }
        if let Some((_, bound)) = self.bounds.last()
            && !integer
            && numbers.is_nothing()
            && !self.is_disjoint(self)
        {
            let problem = format!(
                "leaves only numbers of more than {digits} digits, zeros at their beginning included, which are never \
                 written: move the bounds apart"
            );
            return Err(refuse(&bound.pointer, problem));
        }
        for (divisor, pointer) in &self.divisors {
            numbers = both(&numbers, &multiples(*divisor), pointer, effort)?;
        }
        Ok(numbers)
    }
}

impl Bound {
    /// Whether numbers with so many digits can be on the right side of it.
    fn check(&self, side: Side, digits: usize) -> Result<(), ConstraintError> {
        let beyond = self.value.negative == (side == Side::High) && self.value.whole.len() > digits;
        match beyond {
            true => Err(refuse(
                &self.pointer,
                format!(
                    "leaves only numbers of more than {digits} digits, which are never written"
                ),
            )),
            false => Ok(()),
        }
    }

    /// The number on this side of it that is nearest to it. Readers round numbers to doubles, so next to
    /// an exclusive bound this is the next double: what lies beyond it is rounded to it at most.
    fn nearest(&self, side: Side) -> Decimal {
        if !self.exclusive {
            return self.value.clone();
        }
        let next = match (side, self.value.is_zero()) {
            (Side::Low, true) => CLOSEST_TO_0,
            (Side::High, true) => -CLOSEST_TO_0,
            (Side::Low, false) => self.double.next_up(),
            (Side::High, false) => self.double.next_down(),
        };
        // Beyond the last double `check` leaves nothing.
        Number::from_f64(next).map_or_else(|| self.value.clone(), |next| Decimal::new(&next))
    }
}

fn both(
    a: &Expression,
    b: &Expression,
    pointer: &str,
    effort: &mut Effort,
) -> Result<Expression, ConstraintError> {
    intersection(a, b, effort).map_err(|_| too_large(pointer))
}

fn number<'a>(at: At<'_>, value: &'a Value) -> Result<&'a Number, ConstraintError> {
    value.as_number().ok_or_else(|| at.malformed("a number"))
}

fn divisor(at: At<'_>, value: &Value) -> Result<u32, ConstraintError> {
    let value = Decimal::new(number(at, value)?);
    if value.negative || value.is_zero() {
        return Err(at.malformed("a number above 0"));
    }
    let small = value
        .small_integer()
        .filter(|&divisor| divisor <= MAX_DIVISOR);
    small.ok_or_else(|| at.refuse(format!("can be an integer from 1 to {MAX_DIVISOR}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::schema::automaton::{Dfa, tests::dfa};
    use serde_json::json;

    fn rules(schema: &Value) -> NumberRules {
        let mut rules = NumberRules::default();
        for (keyword, value) in schema.as_object().unwrap() {
            assert!(
                rules
                    .take(
                        At {
                            pointer: "",
                            keyword
                        },
                        value
                    )
                    .unwrap(),
                "{keyword}"
            );
        }
        rules
    }

    fn written(schema: &Value, types: Types) -> Dfa {
        dfa(&rules(schema).expression(types, &mut Effort::new()).unwrap())
    }

    #[test]
    fn integers_in_a_range_are_exactly_those() {
        for (low, high) in [
            (0, 0),
            (-7, 12),
            (1, 9),
            (10, 99),
            (-1234, -56),
            (95, 1005),
            (-1, 1),
            (-100, 0),
            (38, 41),
        ] {
            for exclusive in [false, true] {
                let schema = if exclusive {
                    json!({"exclusiveMinimum": low - 1, "exclusiveMaximum": f64::from(high) + 0.5})
                } else {
                    json!({"minimum": f64::from(low) - 0.5, "maximum": high})
                };
                let dfa = written(&schema, Types::INTEGER);
                for n in -2000..2000 {
                    let expected = (low..=high).contains(&n);
                    assert_eq!(
                        dfa.accepts(n.to_string().as_bytes()),
                        expected,
                        "{n} of {low}..={high}"
                    );
                }
                for odd in ["", "-", "-0", "00", "01", "+1", "1.0", "1e0", " 1"] {
                    assert!(!dfa.accepts(odd.as_bytes()), "{odd} of {low}..={high}");
                }
            }
        }
    }

    #[test]
    fn multiples_are_exactly_those() {
        for divisor in [1, 2, 3, 7, 10, 12, 97, 1000] {
            let dfa = written(
                &json!({"multipleOf": divisor, "minimum": -3000}),
                Types::NUMBER,
            );
            for n in -3500..3500 {
                let expected = n % divisor == 0 && n >= -3000;
                assert_eq!(
                    dfa.accepts(n.to_string().as_bytes()),
                    expected,
                    "{n} of {divisor}"
                );
            }
        }
    }

    #[test]
    fn bounds_of_numbers_hold_to_the_digit() {
        let texts = [
            "0", "-0", "0.0", "-0.0", "0.5", "0.49", "0.50", "0.500001", "0.51", "-0.5", "-0.51",
            "-0.49", "1", "1.0", "0.9", "0.99", "-1", "-1.0", "-1.01", "12", "12.5", "12.50",
            "12.51", "12.49", "100", "-100", "9.99", "10", "99.9",
        ];
        for bound in [
            "0", "0.5", "-0.5", "1", "-1", "12.5", "-12.5", "10", "0.05", "-100", "99.99",
        ] {
            let bound: Value = serde_json::from_str(bound).unwrap();
            let limit = bound.as_f64().unwrap();
            type Obeys = fn(f64, f64) -> bool;
            let keywords: [(&str, Obeys); 4] = [
                ("minimum", |x, b| x >= b),
                ("exclusiveMinimum", |x, b| x > b),
                ("maximum", |x, b| x <= b),
                ("exclusiveMaximum", |x, b| x < b),
            ];
            for (keyword, obeys) in keywords {
                let dfa = written(&json!({keyword: bound}), Types::NUMBER);
                for text in texts {
                    let x: f64 = text.parse().unwrap();
                    // Zero is written with a sign only where negative numbers are.
                    if x == 0.0 && x.is_sign_negative() && limit >= 0.0 && keyword == "minimum" {
                        assert!(
                            !dfa.accepts(text.as_bytes()),
                            "{text} with {keyword} {bound}"
                        );
                        continue;
                    }
                    assert_eq!(
                        dfa.accepts(text.as_bytes()),
                        obeys(x, limit),
                        "{text} with {keyword} {bound}"
                    );
                }
            }
        }
    }

    #[test]
    fn exclusive_bounds_exclude_what_is_rounded_to_them() {
        for (bound, types) in [
            ("0.12345678901234567", Types::NUMBER),
            ("-0.12345678901234567", Types::NUMBER),
            ("1234567890123456", Types::NUMBER),
            ("1234567890123456", Types::INTEGER),
            ("-1234567890123456", Types::INTEGER),
            ("9007199254740992", Types::INTEGER),
            ("9007199254740993", Types::INTEGER),
        ] {
            let value: Value = serde_json::from_str(bound).unwrap();
            let limit = value.as_f64().unwrap();
            let whole: i64 = bound.parse().unwrap_or_default();
            let schema = |keyword: &str| written(&json!({ keyword: value }), types);
            let (above, below) = (schema("exclusiveMinimum"), schema("exclusiveMaximum"));
            let mut doubles = vec![limit.next_down().next_down(), limit.next_up().next_up()];
            doubles.extend([limit.next_down(), limit, limit.next_up()]);
            let mut texts: Vec<String> = doubles.iter().map(f64::to_string).collect();
            texts.extend((whole - 3..=whole + 3).map(|number| number.to_string()));
            if let Some(digits) = bound.strip_suffix('7') {
                texts.extend((0..10).map(|last| format!("{digits}{last}")));
            }
            for text in texts {
                let x: f64 = text.parse().unwrap();
                if types == Types::INTEGER && text.contains('.') {
                    continue;
                }
                for (dfa, obeys) in [(&above, x > limit), (&below, x < limit)] {
                    assert_eq!(dfa.accepts(text.as_bytes()), obeys, "{text} with {bound}");
                }
            }
        }
    }

    #[test]
    fn numbers_never_overflow() {
        let dfa = dfa(&any_number());
        for (text, expected) in [
            ("0", true),
            ("-1.5e-10", true),
            ("3.141592653589793", true),
            ("12345678901234567", true),
            ("123456789012345678", false),
            ("1e99", true),
            ("1e100", false),
            ("0.12345678901234567", true),
            ("1.23456789012345678", false),
            (".5", false),
            ("1.", false),
            ("01", false),
            ("--1", false),
            ("1e", false),
        ] {
            assert_eq!(dfa.accepts(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn bounds_that_cannot_be_kept_are_refused() {
        for (schema, types, pointer) in [
            (json!({"minimum": 1e18}), Types::INTEGER, "#/minimum"),
            (json!({"maximum": -1e30}), Types::NUMBER, "#/maximum"),
            (
                json!({"exclusiveMinimum": f64::MAX}),
                Types::NUMBER,
                "#/exclusiveMinimum",
            ),
        ] {
            let error = rules(&schema)
                .expression(types, &mut Effort::new())
                .unwrap_err()
                .to_string();
            assert!(error.contains(pointer), "{error}");
        }
        for (value, part) in [
            (json!(0), "above 0"),
            (json!(-2), "above 0"),
            (json!("2"), "a number"),
            (json!(0.1), "integer"),
            (json!(1001), "integer"),
        ] {
            let at = At {
                pointer: "",
                keyword: "multipleOf",
            };
            let error = NumberRules::default()
                .take(at, &value)
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.contains("'multipleOf'") && error.contains(part),
                "{error}"
            );
        }
    }

    #[test]
    fn bounds_between_which_nothing_is_written_are_refused() {
        for (schema, types, refused) in [
            (
                json!({"minimum": 1e-300, "maximum": 1e-299}),
                Types::NUMBER,
                true,
            ),
            (
                json!({"maximum": -1e-300, "minimum": -1e-299}),
                Types::NUMBER,
                true,
            ),
            (
                json!({"exclusiveMinimum": 0, "exclusiveMaximum": 1e-17}),
                Types::NUMBER,
                true,
            ),
            (
                json!({"minimum": 1e-300, "maximum": 1e-10}),
                Types::NUMBER,
                false,
            ),
            (
                json!({"minimum": 1e-300, "maximum": 1e-300}),
                Types::INTEGER,
                false,
            ),
            (json!({"minimum": 2, "maximum": 1}), Types::NUMBER, false),
            (
                json!({"exclusiveMinimum": 1, "maximum": 1}),
                Types::NUMBER,
                false,
            ),
        ] {
            let numbers = rules(&schema).expression(types, &mut Effort::new());
            match numbers {
                Ok(_) => assert!(!refused, "{schema}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(refused && error.contains("imum'"), "{schema}: {error}");
                    assert!(error.contains("digits"), "{error}");
                }
            }
        }
    }

    #[test]
    fn disjoint_ranges_are_recognised() {
        for (a, b, expected) in [
            (json!({"maximum": 1}), json!({"minimum": 2}), true),
            (json!({"maximum": 1}), json!({"minimum": 1}), false),
            (json!({"exclusiveMaximum": 1}), json!({"minimum": 1}), true),
            (json!({"minimum": 1}), json!({"minimum": 5}), false),
            (json!({"minimum": 1}), json!({"maximum": 5}), false),
        ] {
            assert_eq!(rules(&a).is_disjoint(&rules(&b)), expected, "{a} {b}");
            assert_eq!(rules(&b).is_disjoint(&rules(&a)), expected, "{a} {b}");
        }
    }
}
