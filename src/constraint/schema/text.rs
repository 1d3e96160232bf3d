//! Strings of JSON: how a character is written inside the quotes.

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

use super::expression::Expression;

/// Characters that have an escape of two characters, and its second one.
const SHORT: [(char, char); 7] = [
    ('"', '"'),
    ('\\', '\\'),
    ('\u{8}', 'b'),
    ('\u{c}', 'f'),
    ('\n', 'n'),
    ('\r', 'r'),
    ('\t', 't'),
];

/// Control characters are escaped: JSON demands it below U+0020, and some parsers reject U+007F.
fn must_escape(character: char) -> bool {
    character.is_ascii_control() || matches!(character, '"' | '\\')
}

/// A string of JSON with this content, an expression over written characters.
pub(super) fn quoted(content: Expression) -> Expression {
    Expression::sequence([Expression::text("\""), content, Expression::text("\"")])
}

/// A text as it is written between quotes.
pub(super) fn written(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for character in text.chars() {
        push(&mut written, character);
    }
    written
}

fn push(written: &mut String, character: char) {
    if !must_escape(character) {
        written.push(character);
    } else if let Some((_, short)) = SHORT.iter().find(|(known, _)| *known == character) {
        written.extend(['\\', *short]);
    } else {
        written.push_str(&format!("\\u{:04x}", u32::from(character)));
    }
}

/// One character of a class, as it is written between quotes.
pub(super) fn character_of(class: &ClassUnicode) -> Expression {
    let contains = |c: &char| {
        class
            .iter()
            .any(|range| (range.start()..=range.end()).contains(c))
    };
    let escaped: Vec<_> = (0..0x80)
        .map(char::from)
        .filter(|&c| must_escape(c))
        .collect();
    let mut plain = class.clone();
    let ranges = escaped.iter().map(|&c| ClassUnicodeRange::new(c, c));
    plain.difference(&ClassUnicode::new(ranges));
    let short = SHORT
        .iter()
        .filter(|(c, _)| contains(c))
        .map(|(_, letter)| (*letter as u8, *letter as u8));
    let short = Expression::sequence([Expression::text("\\"), Expression::bytes(short)]);
    let controls = escaped
        .into_iter()
        .filter(contains)
        .filter(|c| SHORT.iter().all(|(known, _)| known != c));
    let controls: Vec<_> = controls.map(|c| format!("{:02x}", u32::from(c))).collect();
    let codes = ["0", "1", "7"].map(|first| {
        let second = controls
            .iter()
            .filter_map(|code| code.strip_prefix(first))
            .map(|code| code.as_bytes()[0]);
        Expression::sequence([
            Expression::text(first),
            Expression::bytes(second.map(|digit| (digit, digit))),
        ])
    });
    let codes = Expression::sequence([Expression::text("\\u00"), Expression::choice(codes)]);
    Expression::choice([Expression::characters(&plain), short, codes])
}

/// Any character, as it is written between quotes.
pub(super) fn character() -> Expression {
    character_of(&ClassUnicode::new([ClassUnicodeRange::new(
        '\0',
        char::MAX,
    )]))
}

/// What stands between the quotes of any string: characters, also as `\u` with four digits. Surrogates are
/// left out: parsers reject one without its partner.
pub(super) fn any_content() -> Expression {
    let hex = || Expression::bytes([(b'0', b'9'), (b'A', b'F'), (b'a', b'f')]);
    let below_d = Expression::bytes([
        (b'0', b'9'),
        (b'A', b'C'),
        (b'E', b'F'),
        (b'a', b'c'),
        (b'e', b'f'),
    ]);
    let d = Expression::sequence([
        Expression::bytes([(b'D', b'D'), (b'd', b'd')]),
        Expression::digit(0, 7),
    ]);
    let unit = Expression::choice([Expression::sequence([below_d, hex()]), d]);
    let escape = Expression::sequence([Expression::text("\\u"), unit, hex(), hex()]);
    Expression::choice([character(), escape]).repeat(0, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::schema::automaton::tests::dfa;

    #[test]
    fn every_character_reads_back_as_itself() {
        let character = dfa(&quoted(character()));
        let any = dfa(&quoted(any_content()));
        for c in
            ('\0'..='\u{3000}').chain(['\u{d7ff}', '\u{e000}', '\u{ffff}', '\u{10000}', char::MAX])
        {
            let json = format!("\"{}\"", written(&c.to_string()));
            assert_eq!(
                serde_json::from_str::<String>(&json).unwrap(),
                c.to_string()
            );
            assert!(character.accepts(json.as_bytes()), "{json}");
            assert!(any.accepts(json.as_bytes()), "{json}");
        }
    }

    #[test]
    fn strings_that_parsers_reject_are_not_written() {
        let any = dfa(&quoted(any_content()));
        for json in [
            "\"\n\"",
            "\"\\x\"",
            "\"\"\"",
            "\"\\ud800\"",
            "\"\\uDFFF\"",
            "\"\\u12g4\"",
            "\"\\\"",
            "\"\u{7f}\"",
        ] {
            assert!(!any.accepts(json.as_bytes()), "{json}");
        }
        for json in [
            "\"\"",
            "\"\\u00e9\"",
            "\"\\uD7FF\"",
            "\"\\uE000\"",
            "\"\\ufffd\"",
        ] {
            assert!(any.accepts(json.as_bytes()), "{json}");
            serde_json::from_str::<String>(json).unwrap();
        }
    }

    #[test]
    fn a_class_is_written_with_escapes() {
        let class = ClassUnicode::new([ClassUnicodeRange::new('\t', '#')]);
        let one = dfa(&character_of(&class));
        for (written, expected) in [
            ("\\t", true),
            ("\\u001f", true),
            ("\\\"", true),
            (" ", true),
            ("#", true),
            ("\"", false),
            ("$", false),
            ("\\b", false),
            ("\\\\", false),
            ("\t", false),
        ] {
            assert_eq!(one.accepts(written.as_bytes()), expected, "{written}");
        }
    }
}
