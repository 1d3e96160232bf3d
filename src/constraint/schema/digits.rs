//! Numbers as they are written, digit by digit: their syntax, what lies on one side of a bound, and what a
//! divisor divides.

use super::decimal::Decimal;
use super::expression::{Expression, Graph};

/// Digits of an integer without bounds: any of them fits 64 bits.
pub(super) const INTEGER_DIGITS: usize = 18;

/// Digits of a number: a double is never written with more.
pub(super) const NUMBER_DIGITS: usize = 17;

fn any_digit() -> Expression {
    Expression::digit(0, 9)
}

/// Any number of JSON with as many digits as a double has, and an exponent that keeps it finite.
pub(super) fn any_number() -> Expression {
    number_syntax(NUMBER_DIGITS, true)
}

/// Integers with at most so many digits.
pub(super) fn integer_syntax(digits: usize) -> Expression {
    let from_one = Expression::sequence([
        Expression::text("-").optional(),
        Expression::digit(1, 9),
        any_digit().repeat(0, Some(digits - 1)),
    ]);
    Expression::choice([Expression::text("0"), from_one])
}

/// Numbers with at most so many digits, zeros at the beginning of the fraction included.
pub(super) fn number_syntax(digits: usize, exponent: bool) -> Expression {
    let mut graph = Graph::new();
    let unsigned = graph.step(0, Expression::text("-").optional());
    let mantissa = graph.state();
    let end = graph.step(
        mantissa,
        if exponent {
            power().optional()
        } else {
            Expression::empty()
        },
    );
    graph.accept(end);
    let first_decimal = || Expression::sequence([Expression::text("."), any_digit()]);
    // After so many digits, the last one of the fraction.
    let fractions: Vec<_> = (0..=digits).map(|_| graph.state()).collect();
    for pair in fractions.windows(2) {
        graph.edge(pair[0], any_digit(), pair[1]);
    }
    for &fraction in &fractions[1..] {
        graph.edge(fraction, Expression::empty(), mantissa);
    }
    let zero = graph.step(unsigned, Expression::text("0"));
    graph.edge(zero, Expression::empty(), mantissa);
    graph.edge(zero, first_decimal(), fractions[1]);
    let mut whole = graph.step(unsigned, Expression::digit(1, 9));
    for &fraction in &fractions[2..] {
        graph.edge(whole, Expression::empty(), mantissa);
        graph.edge(whole, first_decimal(), fraction);
        whole = graph.step(whole, any_digit());
    }
    graph.edge(whole, Expression::empty(), mantissa);
    graph.finish()
}

/// An exponent. Two digits keep the number finite.
fn power() -> Expression {
    Expression::sequence([
        Expression::bytes([(b'E', b'E'), (b'e', b'e')]),
        Expression::bytes([(b'+', b'+'), (b'-', b'-')]).optional(),
        any_digit().repeat(1, Some(2)),
    ])
}

fn decimals() -> Expression {
    Expression::sequence([Expression::text("."), any_digit().repeat(1, None)])
}

fn unsigned() -> Expression {
    Expression::sequence([any_digit().repeat(1, None), decimals().optional()])
}

fn negative(magnitude: Expression) -> Expression {
    Expression::sequence([Expression::text("-"), magnitude])
}

/// Numbers without an exponent from a bound on. Their syntax is checked elsewhere.
pub(super) fn at_least(bound: &Decimal) -> Expression {
    if bound.negative {
        return Expression::choice([unsigned(), negative(not_above(bound))]);
    }
    not_below(bound)
}

/// Numbers without an exponent up to a bound.
pub(super) fn at_most(bound: &Decimal) -> Expression {
    if bound.negative {
        return negative(not_below(bound));
    }
    Expression::choice([negative(unsigned()), not_above(bound)])
}

/// The digits of a magnitude before the point: one 0 if there are none.
fn whole_digits(bound: &Decimal) -> &[u8] {
    if bound.whole.is_empty() {
        &[0]
    } else {
        &bound.whole
    }
}

/// Numbers without a sign whose magnitude is not below that of the bound.
fn not_below(bound: &Decimal) -> Expression {
    let mut graph = Graph::new();
    let whole = whole_digits(bound);
    let above = graph.state();
    graph.accept(above);
    let longer = Expression::sequence([
        any_digit().repeat(whole.len() + 1, None),
        decimals().optional(),
    ]);
    graph.edge(0, longer, above);
    let mut equal = 0;
    for (index, &digit) in whole.iter().enumerate() {
        let rest = any_digit().repeat(whole.len() - index - 1, Some(whole.len() - index - 1));
        let larger = [Expression::digit(digit + 1, 9), rest, decimals().optional()];
        graph.edge(equal, Expression::sequence(larger), above);
        equal = graph.step(equal, Expression::digit(digit, digit));
    }
    let digits = any_digit().repeat(0, None);
    if bound.fraction.is_empty() {
        graph.edge(equal, decimals().optional(), above);
        return graph.finish();
    }
    equal = graph.step(equal, Expression::text("."));
    for &digit in &bound.fraction {
        let larger = [Expression::digit(digit + 1, 9), digits.clone()];
        graph.edge(equal, Expression::sequence(larger), above);
        equal = graph.step(equal, Expression::digit(digit, digit));
    }
    graph.edge(equal, digits, above);
    graph.finish()
}

/// Numbers without a sign whose magnitude is not above that of the bound.
fn not_above(bound: &Decimal) -> Expression {
    let mut graph = Graph::new();
    let whole = whole_digits(bound);
    let below = graph.state();
    graph.accept(below);
    let shorter = any_digit().repeat(1, Some(whole.len() - 1));
    graph.edge(
        0,
        Expression::sequence([shorter, decimals().optional()]),
        below,
    );
    let mut equal = 0;
    for (index, &digit) in whole.iter().enumerate() {
        let rest = any_digit().repeat(whole.len() - index - 1, Some(whole.len() - index - 1));
        let smaller = Expression::sequence([below_digit(digit), rest, decimals().optional()]);
        graph.edge(equal, smaller, below);
        equal = graph.step(equal, Expression::digit(digit, digit));
    }
    graph.accept(equal);
    equal = graph.step(equal, Expression::text("."));
    for (index, &digit) in bound.fraction.iter().enumerate() {
        if index > 0 {
            graph.accept(equal);
        }
        let smaller = Expression::sequence([below_digit(digit), any_digit().repeat(0, None)]);
        graph.edge(equal, smaller, below);
        equal = graph.step(equal, Expression::digit(digit, digit));
    }
    let zeros = Expression::text("0").repeat(usize::from(bound.fraction.is_empty()), None);
    graph.edge(equal, zeros, below);
    graph.finish()
}

fn below_digit(digit: u8) -> Expression {
    match digit.checked_sub(1) {
        Some(smaller) => Expression::digit(0, smaller),
        None => Expression::nothing(),
    }
}

/// Integers that a divisor divides. A state for each remainder.
pub(super) fn multiples(divisor: u32) -> Expression {
    let mut graph = Graph::new();
    let start = graph.step(0, Expression::text("-").optional());
    let remainders: Vec<_> = (0..divisor).map(|_| graph.state()).collect();
    graph.accept(remainders[0]);
    let after =
        |remainder: u32, digit: u8| ((remainder * 10 + u32::from(digit)) % divisor) as usize;
    for digit in 0..=9 {
        let written = Expression::digit(digit, digit);
        graph.edge(start, written.clone(), remainders[after(0, digit)]);
        for remainder in 0..divisor {
            let to = remainders[after(remainder, digit)];
            graph.edge(remainders[remainder as usize], written.clone(), to);
        }
    }
    graph.finish()
}
