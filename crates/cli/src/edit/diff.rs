//! What an edit has changed, word by word.

use crossterm::style::Stylize as _;

/// A run of words that both texts have, or one of them.
#[derive(Debug, PartialEq, Eq)]
enum Part<'t> {
    Same(&'t str),
    Removed(&'t str),
    Added(&'t str),
}

/// Pairs of words beyond which all that is between the first and the last change is taken as changed.
const MAX_PAIRS: usize = 1 << 24;

/// The new text for a terminal, with what is removed in red and struck out and what is added in green.
pub fn painted(old: &str, new: &str) -> String {
    let paint = |part: Part<'_>| match part {
        Part::Same(text) => text.to_owned(),
        Part::Removed(text) => text.red().crossed_out().to_string(),
        Part::Added(text) => text.green().to_string(),
    };
    parts(old, new).into_iter().map(paint).collect()
}

/// Words, and what is between them character by character.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut ends = text.char_indices().peekable();
    while let Some((_, character)) = ends.next() {
        let next = ends.peek();
        let goes_on =
            next.is_some_and(|(_, next)| character.is_alphanumeric() && next.is_alphanumeric());
        if !goes_on {
            let end = next.map_or(text.len(), |(end, _)| *end);
            words.push(&text[start..end]);
            start = end;
        }
    }
    words
}

fn parts<'t>(old: &'t str, new: &'t str) -> Vec<Part<'t>> {
    let (a, b) = (words(old), words(new));
    let first = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[first..], &b[first..]);
    let last = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (a, b) = (&a[..a.len() - last], &b[..b.len() - last]);
    let mut parts: Vec<Part<'_>> = words(old)[..first]
        .iter()
        .map(|word| Part::Same(word))
        .collect();
    match a.len().saturating_mul(b.len()) > MAX_PAIRS {
        true => {
            parts.extend(a.iter().map(|word| Part::Removed(word)));
            parts.extend(b.iter().map(|word| Part::Added(word)));
        }
        false => common(a, b, &mut parts),
    }
    let tail = words(old);
    parts.extend(
        tail[tail.len() - last..]
            .iter()
            .map(|word| Part::Same(word)),
    );
    parts
}

/// Appends the parts of two texts by their longest common subsequence.
fn common<'t>(a: &[&'t str], b: &[&'t str], parts: &mut Vec<Part<'t>>) {
    let width = b.len() + 1;
    // The length of that of what follows word i of one and word j of the other.
    let mut lengths = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            lengths[i * width + j] = match a[i] == b[j] {
                true => lengths[(i + 1) * width + j + 1] + 1,
                false => lengths[(i + 1) * width + j].max(lengths[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            parts.push(Part::Same(a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len()
            || i < a.len() && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]
        {
            parts.push(Part::Removed(a[i]));
            i += 1;
        } else {
            parts.push(Part::Added(b[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A diff with `-` before what is removed and `+` before what is added.
    fn diff(old: &str, new: &str) -> String {
        let mark = |part: Part<'_>| match part {
            Part::Same(text) => text.to_owned(),
            Part::Removed(text) => format!("[-{text}]"),
            Part::Added(text) => format!("[+{text}]"),
        };
        parts(old, new).into_iter().map(mark).collect()
    }

    #[test]
    fn words_are_compared_as_a_whole() {
        assert_eq!(diff("a red fox.", "a red fox."), "a red fox.");
        assert_eq!(diff("a red fox.", "a blue fox."), "a [-red][+blue] fox.");
        assert_eq!(diff("red fox", "red old fox"), "red [+old][+ ]fox");
        assert_eq!(diff("red old fox", "red fox"), "red [-old][- ]fox");
        assert_eq!(diff("", "new"), "[+new]");
        assert_eq!(diff("old", ""), "[-old]");
        assert_eq!(diff("große Füße", "große Hüte"), "große [-Füße][+Hüte]");
        assert_eq!(diff("a b c d", "b x d"), "[-a][- ]b [-c][+x] d");
    }

    #[test]
    fn both_texts_can_be_read_off() {
        let texts = [
            "the fox saw a dog. A dog!",
            "a fox, the dog",
            "",
            "!!  ?",
            "dog dog a the the fox",
        ];
        for (old, new) in texts
            .iter()
            .flat_map(|a| texts.iter().map(move |b| (*a, *b)))
        {
            let (mut first, mut second) = (String::new(), String::new());
            for part in parts(old, new) {
                match part {
                    Part::Same(text) => {
                        first += text;
                        second += text;
                    }
                    Part::Removed(text) => first += text,
                    Part::Added(text) => second += text,
                }
            }
            assert_eq!((first.as_str(), second.as_str()), (old, new));
        }
    }
}
