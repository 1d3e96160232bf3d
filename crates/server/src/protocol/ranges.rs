//! The ranges of numbers in requests: for the parsers, and for `/openapi.json`, which has their names.

use std::ops::RangeInclusive;

use serde_json::Value;

/// Any single-precision number.
pub const SINGLE: RangeInclusive<f32> = f32::MIN..=f32::MAX;
/// A number above 0.
pub const POSITIVE: RangeInclusive<f32> = f32::MIN_POSITIVE..=f32::MAX;
/// A number from 0.
pub const NOT_NEGATIVE: RangeInclusive<f32> = 0.0..=f32::MAX;
/// A number up to 0.
pub const NOT_POSITIVE: RangeInclusive<f32> = f32::MIN..=0.0;
/// A temperature that numbers are divided by.
pub const DIVISOR: RangeInclusive<f32> = 1e-20..=f32::MAX;
/// A share.
pub const SHARE: RangeInclusive<f32> = 0.0..=1.0;
/// A share that is not empty.
pub const POSITIVE_SHARE: RangeInclusive<f32> = f32::MIN_POSITIVE..=1.0;
/// A count.
pub const COUNT: RangeInclusive<u32> = 1..=u32::MAX;
/// A count, or an index.
pub const COUNT_FROM_0: RangeInclusive<u32> = 0..=u32::MAX;
/// A count; -1 means no limit, or no choice.
pub const COUNT_OR_ANY: RangeInclusive<i64> = -1..=u32::MAX as i64;
/// A seed; -1 is a random one.
pub const SEED: RangeInclusive<i64> = -i64::MAX..=i64::MAX;
/// Log-probabilities of other tokens at a position, as OpenAI has it.
pub const LOGPROBS: RangeInclusive<u32> = 0..=20;
/// Steps, or samples, of a form.
pub const PASSES: RangeInclusive<u32> = 1..=64;
/// Milliseconds between drafts.
pub const INTERVAL: RangeInclusive<u32> = 0..=60_000;
/// Seconds between the pings of a stream; -1 is none.
pub const PING: RangeInclusive<i64> = -1..=86_400;

/// Entries of a page.
pub const PAGE: RangeInclusive<u32> = 1..=1000;
/// Items of a page of a response's input, as OpenAI has it.
pub const ITEMS: RangeInclusive<u32> = 1..=100;

/// Writes the ends of ranges into a description that has their names.
pub fn described(text: &str) -> String {
    let ranges = [
        ("single", ends(SINGLE)),
        ("positive", ends(POSITIVE)),
        ("not negative", ends(NOT_NEGATIVE)),
        ("not positive", ends(NOT_POSITIVE)),
        ("divisor", ends(DIVISOR)),
        ("share", ends(SHARE)),
        ("positive share", ends(POSITIVE_SHARE)),
        ("count", ends(COUNT)),
        ("count from 0", ends(COUNT_FROM_0)),
        ("count or any", ends(COUNT_OR_ANY)),
        ("seed", ends(SEED)),
        ("logprobs", ends(LOGPROBS)),
        ("passes", ends(PASSES)),
        ("interval", ends(INTERVAL)),
        ("ping", ends(PING)),
        ("page", ends(PAGE)),
        ("items", ends(ITEMS)),
    ];
    let replace = |text: String, (name, ends): (&str, String)| {
        text.replace(&format!("\"range\": \"{name}\""), &ends)
    };
    ranges.into_iter().fold(text.to_owned(), replace)
}

fn ends<T: Copy + Into<Value>>(range: RangeInclusive<T>) -> String {
    let (low, high): (Value, Value) = ((*range.start()).into(), (*range.end()).into());
    format!("\"minimum\": {low}, \"maximum\": {high}")
}
