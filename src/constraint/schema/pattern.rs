//! Patterns: what their matches look like between the quotes of a string of JSON.

use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::ecma;
use super::expression::Expression;
use super::text::{character, character_of, written};

/// Groups inside groups.
const MAX_NESTING: u32 = 100;

/// The strings in which a pattern of JSON Schema is found, as they are written between quotes.
pub(super) fn found_in(pattern: &str) -> Result<Expression, String> {
    let hir = parse(&ecma::to_rust(pattern)?)?;
    let mut matches = Vec::new();
    for (at_start, hir) in Split::new(&hir, Look::Start).parts() {
        for (at_end, hir) in Split::new(&hir, Look::End).parts() {
            let parts = [padding(at_start), expression(&hir)?, padding(at_end)];
            matches.push(Expression::sequence(parts));
        }
    }
    Ok(Expression::choice(matches))
}

/// The strings that a regular expression of Rust matches as a whole.
pub(super) fn exactly(regex: &str) -> Result<Expression, String> {
    expression(&parse(regex)?)
}

fn parse(regex: &str) -> Result<Hir, String> {
    let mut parser = regex_syntax::ParserBuilder::new()
        .nest_limit(MAX_NESTING)
        .build();
    parser.parse(regex).map_err(|error| match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
    })
}

/// What may stand beside a match.
fn padding(anchored: bool) -> Expression {
    if anchored {
        Expression::empty()
    } else {
        character().repeat(0, None)
    }
}

/// A regular expression as two: what matches at an end of the text only, without its anchor, and what
/// matches everywhere.
#[derive(Default)]
struct Split {
    anchored: Vec<Hir>,
    free: Vec<Hir>,
}

impl Split {
    fn new(hir: &Hir, anchor: Look) -> Self {
        let mut split = Self::default();
        if hir.properties().look_set().is_empty() {
            split.free.push(hir.clone());
            return split;
        }
        match hir.kind() {
            HirKind::Look(look) if *look == anchor => split.anchored.push(Hir::empty()),
            HirKind::Capture(group) => return Self::new(&group.sub, anchor),
            HirKind::Alternation(branches) => {
                for branch in branches {
                    split.extend(Self::new(branch, anchor));
                }
            }
            HirKind::Repetition(optional) if (optional.min, optional.max) == (0, Some(1)) => {
                split.extend(Self::new(&optional.sub, anchor));
                split.free.push(Hir::empty());
            }
            HirKind::Concat(parts) => split = Self::of_sequence(parts, anchor),
            _ => split.free.push(hir.clone()),
        }
        split
    }

    fn of_sequence(parts: &[Hir], anchor: Look) -> Self {
        let outermost = if anchor == Look::Start {
            0
        } else {
            parts.len() - 1
        };
        let put_back = |part: Hir| {
            let mut parts = parts.to_vec();
            parts[outermost] = part;
            Hir::concat(parts)
        };
        let Self { anchored, free } = Self::new(&parts[outermost], anchor);
        Self {
            anchored: anchored.into_iter().map(put_back).collect(),
            free: free.into_iter().map(put_back).collect(),
        }
    }

    fn extend(&mut self, other: Self) {
        self.anchored.extend(other.anchored);
        self.free.extend(other.free);
    }

    /// Both, if they match anything, and whether they are anchored.
    fn parts(self) -> impl Iterator<Item = (bool, Hir)> {
        let parts = [(true, self.anchored), (false, self.free)].into_iter();
        let parts = parts.filter(|(_, branches)| !branches.is_empty());
        parts.map(|(anchored, branches)| (anchored, Hir::alternation(branches)))
    }
}

/// The matches of a regular expression without anchors, as they are written between quotes.
fn expression(hir: &Hir) -> Result<Expression, String> {
    Ok(match hir.kind() {
        HirKind::Empty => Expression::empty(),
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).map_err(|_| "bytes that are not UTF-8")?;
            Expression::text(written(text))
        }
        HirKind::Class(Class::Unicode(class)) => character_of(class),
        HirKind::Class(Class::Bytes(class)) => {
            character_of(&class.to_unicode_class().ok_or("bytes that are not UTF-8")?)
        }
        HirKind::Look(_) => {
            return Err("an anchor that is not at the beginning or the end".to_owned());
        }
        HirKind::Repetition(repetition) => {
            let max = repetition.max.map(|max| max as usize);
            expression(&repetition.sub)?.repeat(repetition.min as usize, max)
        }
        HirKind::Capture(group) => expression(&group.sub)?,
        HirKind::Concat(parts) => {
            let parts: Result<Vec<_>, _> = parts.iter().map(expression).collect();
            Expression::sequence(parts?)
        }
        HirKind::Alternation(branches) => {
            let branches: Result<Vec<_>, _> = branches.iter().map(expression).collect();
            Expression::choice(branches?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::schema::automaton::tests::dfa;

    fn finds(pattern: &str, text: &str) -> bool {
        dfa(&found_in(pattern).unwrap()).accepts(written(text).as_bytes())
    }

    #[test]
    fn a_pattern_searches_the_decoded_string() {
        for (pattern, found, not_found) in [
            (
                "foo",
                vec!["foo", "a foo b", "\n\nfoo\""],
                vec!["", "fo", "FOO"],
            ),
            ("^foo", vec!["foo", "foo bar"], vec![" foo", "\nfoo"]),
            ("foo$", vec!["foo", "a foo"], vec!["foo ", "foo\n"]),
            ("^(foo|bar)$", vec!["foo", "bar"], vec!["foobar", "foo "]),
            ("^a|b$", vec!["a", "ab", "axx", "xxb"], vec!["xa", "bx"]),
            (
                "(^|,)x(,|$)",
                vec!["x", "a,x,b", "x,y", "y,x"],
                vec!["ax", "xa", ""],
            ),
            (
                "^[^,]+$",
                vec!["\"quoted\"", "\\", "\u{0}\n\u{7f}", "é"],
                vec!["", "a,b"],
            ),
            (
                "^\\d{2,3}$",
                vec!["12", "123"],
                vec!["1", "1234", "\u{664}\u{665}"],
            ),
            (
                "^\\w+\\s\\S$",
                vec!["ab_1 x", "a\u{a0}é", "a\u{2003}b"],
                vec!["é x", "ab"],
            ),
            (
                "^.$",
                vec!["a", "\t", "é", "\u{10000}"],
                vec!["\n", "\r", "\u{2028}", "ab"],
            ),
            ("^[\\w.-]+@[\\D]$", vec!["a.b-c@x"], vec!["a@1"]),
            (
                "^\\u00e9\\x41\\u{1F600}\\ud83d\\ude00\\cJ\\0$",
                vec!["éA\u{1f600}\u{1f600}\n\0"],
                vec!["éA"],
            ),
            ("^[[&&]$", vec!["[", "&"], vec!["]", "a"]),
            ("^[\\b]\\/\\-$", vec!["\u{8}/-"], vec!["b/-"]),
            (
                "^(?<year>\\d{4})-(?:0[1-9]|1[0-2])$",
                vec!["2024-12"],
                vec!["2024-13"],
            ),
            ("^[^]$", vec!["\n", "x"], vec!["", "xx"]),
            ("^\\p{Lu}+$", vec!["ÉA"], vec!["é"]),
            ("", vec!["", "x"], vec![]),
        ] {
            for text in found {
                assert!(finds(pattern, text), "{pattern} in {text:?}");
            }
            for text in not_found {
                assert!(!finds(pattern, text), "{pattern} in {text:?}");
            }
        }
    }

    #[test]
    fn nothing_unescaped_leaves_the_quotes() {
        let dfa = dfa(&found_in("^[\\s\\S]*$").unwrap());
        for bare in ["\"", "\\", "\n", "\t", "\u{7f}"] {
            assert!(!dfa.accepts(bare.as_bytes()), "{bare:?}");
        }
    }

    #[test]
    fn what_is_not_regular_or_not_known_is_refused() {
        for (pattern, part) in [
            ("(?=a)b", "look-around"),
            ("(?!a)b", "look-around"),
            ("(?<=a)b", "look-around"),
            ("(?<!a)b", "look-around"),
            ("(a)\\1", "back-reference"),
            ("\\k<a>", "back-reference"),
            ("\\bword", "word boundary"),
            ("(?i)a", "flags"),
            ("a^b", "anchor"),
            ("a$b", "anchor"),
            ("(^a)*", "anchor"),
            ("\\q", "unknown escape"),
            ("(", "unclosed"),
            ("[a", "without its"),
            ("a{2,1}", "repetition"),
            ("\\ud800", "surrogate"),
            ("\\u12", "hexadecimal"),
            ("\\", "at the end"),
            ("[a--b]", "--"),
            ("*", "repetition"),
            ("\\01", "octal"),
            ("\\u{110000}", "surrogate"),
        ] {
            let error = found_in(pattern).unwrap_err();
            assert!(error.contains(part), "{pattern}: {error}");
        }
        let deep = format!("{}a{}", "(".repeat(500), ")".repeat(500));
        assert!(found_in(&deep).is_err());
    }

    #[test]
    fn repetitions_of_repetitions_are_too_large() {
        assert!(
            found_in("^((a{1000}){1000}){1000}$")
                .unwrap()
                .is_too_large()
        );
    }
}
