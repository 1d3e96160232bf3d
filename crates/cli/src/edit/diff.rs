//! What an edit has changed, word by word.

use crossterm::style::Stylize as _;
use llama_diffusion::changes;

/// A run of words that both texts have, or one of them.
#[derive(Debug, PartialEq, Eq)]
enum Part<'t> {
    Same(&'t str),
    Removed(&'t str),
    Added(&'t str),
}

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
    let (old, new) = (words(old), words(new));
    let mut parts = Vec::new();
    let mut same = 0;
    for change in changes(&old, &new) {
        parts.extend(old[same..change.old.start].iter().copied().map(Part::Same));
        same = change.old.end;
        parts.extend(old[change.old].iter().copied().map(Part::Removed));
        parts.extend(new[change.new].iter().copied().map(Part::Added));
    }
    parts.extend(old[same..].iter().copied().map(Part::Same));
    parts
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
