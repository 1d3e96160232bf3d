//! Lists of numbers, as llama-bench takes them: `512`, `0-3`, `0-512+128` and `64-512*2`.

use std::ops::RangeInclusive;

/// Numbers of one entry of a list.
#[derive(Clone, Debug)]
pub struct Numbers(Vec<usize>);

/// More than anybody measures; a typing error must not fill the memory.
const LONGEST: usize = 1000;

/// A parser of entries whose numbers are in a range.
pub fn numbers(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<Numbers, String> + Clone {
    move |text| {
        let (low, high) = (range.start(), range.end());
        let wanted = || {
            format!(
                "give whole numbers from {low} to {high}, or a range of at most {LONGEST} of them, \
                 such as {low}-8, {low}-8+2 or 1-8*2"
            )
        };
        let numbers = read(text).filter(|all| all.iter().all(|number| range.contains(number)));
        numbers.map(Numbers).ok_or_else(wanted)
    }
}

/// All numbers of a list.
pub fn all(list: &[Numbers]) -> Vec<usize> {
    list.iter()
        .flat_map(|Numbers(numbers)| numbers)
        .copied()
        .collect()
}

fn read(text: &str) -> Option<Vec<usize>> {
    let Some((first, rest)) = text.split_once('-') else {
        return Some(vec![text.parse().ok()?]);
    };
    let (last, sum, product) = match (rest.split_once('+'), rest.split_once('*')) {
        (Some((last, step)), _) => (last, step.parse().ok()?, 1),
        (None, Some((last, factor))) => (last, 0, factor.parse().ok()?),
        (None, None) => (rest, 1, 1),
    };
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    let next = |number: &usize| number.checked_mul(product)?.checked_add(sum);
    let grows = next(&first)? > first;
    let numbers = std::iter::successors(Some(first), next).take_while(|number| *number <= last);
    let numbers: Vec<usize> = match grows {
        true => numbers.take(LONGEST + 1).collect(),
        false => Vec::new(),
    };
    (1..=LONGEST).contains(&numbers.len()).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_bench_s_lists() {
        for (text, expected) in [
            ("512", &[512][..]),
            ("1-4", &[1, 2, 3, 4]),
            ("3-3", &[3]),
            ("0-512+128", &[0, 128, 256, 384, 512]),
            ("1-9*2", &[1, 2, 4, 8]),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "x",
            "-1",
            "1-",
            "4-1",
            "1-4+0",
            "1-4*1",
            "0-4*2",
            "1-4*0",
            "0-5000",
            "1.5",
            "18446744073709551614-18446744073709551615*2",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let positive = numbers(1..=256);
        for text in ["0-3", "255-257"] {
            assert!(positive(text).unwrap_err().contains("from 1 to 256"));
        }
    }
}
