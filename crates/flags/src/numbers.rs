//! Numbers of the command line, each with the range that its flag accepts.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::str::FromStr;

/// A parser of whole numbers in a range, whose errors give the range.
pub fn whole<T: FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone
where
    RangeInclusive<T>: Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let (low, high) = (range.start(), range.end());
        number.ok_or_else(|| format!("give a whole number from {low} to {high}"))
    }
}

/// A parser of finite numbers in a range, whose errors give the range.
pub fn real(range: impl RangeBounds<f32> + Clone) -> impl Fn(&str) -> Result<f32, String> + Clone {
    move |text| {
        let number: Option<f32> = text.parse().ok();
        let taken = number.filter(|x| x.is_finite() && range.contains(x));
        taken.ok_or_else(|| {
            let is_unbounded = matches!(range.end_bound(), Bound::Unbounded);
            // What is too large for the type would seem to be in the range.
            let end = match number == Some(f32::INFINITY) && is_unbounded {
                true => format!(", at most {:e}", f32::MAX),
                false => String::new(),
            };
            format!("give a number{}{end}", bounds(&range))
        })
    }
}

/// What follows "a number".
fn bounds(range: &impl RangeBounds<f32>) -> String {
    let low = match range.start_bound() {
        Bound::Included(low) => Some(format!("{low:?} or more")),
        Bound::Excluded(low) => Some(format!("more than {low:?}")),
        Bound::Unbounded => None,
    };
    let high = match range.end_bound() {
        Bound::Included(high) => Some(format!("at most {high:?}")),
        Bound::Excluded(high) => Some(format!("less than {high:?}")),
        Bound::Unbounded => None,
    };
    let bounds: Vec<String> = low.into_iter().chain(high).collect();
    match bounds.is_empty() {
        true => " that is finite".into(),
        false => format!(": {}", bounds.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_give_the_range() {
        let count = whole(1..=u32::MAX);
        assert_eq!(count("1").unwrap(), 1);
        for text in ["0", "-1", "4294967296", "1.5", "x", ""] {
            let range = "give a whole number from 1 to 4294967295";
            assert_eq!(count(text).unwrap_err(), range, "{text:?}");
        }
        assert_eq!(real(0.0..)("0").unwrap(), 0.0);
        for text in ["-1", "nan", "-inf", "x", ""] {
            let error = real(0.0..)(text).unwrap_err();
            assert_eq!(error, "give a number: 0.0 or more", "{text:?}");
        }
        for text in ["inf", "1e400", "1e39"] {
            let error = real(0.0..)(text).unwrap_err();
            let range = "give a number: 0.0 or more, at most 3.4028235e38";
            assert_eq!(error, range, "{text:?}");
        }
        let share = (Bound::Excluded(0.0), Bound::Included(1.0));
        let error = real(share)("0").unwrap_err();
        assert_eq!(error, "give a number: more than 0.0, at most 1.0");
        let error = real(..)("inf").unwrap_err();
        assert_eq!(error, "give a number that is finite, at most 3.4028235e38");
    }
}
