//! Scripts and style sheets without comments, which are for readers of the sources and almost a fifth of the page.

/// A source without the comments that have lines to themselves: blocks, and lines of `//` where a language has them.
/// Their line breaks stay, so that browsers report the line numbers of the source.
///
/// Strings and templates are not recognised: none of them may continue on a second line, which the tests ensure.
pub fn removed(source: &str, has_slashes: bool) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        if let Some(end) = comment_end(rest, has_slashes) {
            let (comment, after) = rest.split_at(end);
            kept.extend(comment.matches('\n'));
            rest = after;
        }
        let end = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let (line, after) = rest.split_at(end);
        kept.push_str(line);
        rest = after;
    }
    kept
}

/// Where the comment ends that these lines begin with, if nothing is before it or after it.
fn comment_end(lines: &str, has_slashes: bool) -> Option<usize> {
    let text = lines.trim_start_matches([' ', '\t']);
    let line_end = |from: usize| text[from..].find('\n').map_or(text.len(), |end| from + end);
    let end = if let Some(block) = text.strip_prefix("/*") {
        let end = "/*".len() + block.find("*/")? + "*/".len();
        text[end..line_end(end)].trim().is_empty().then_some(end)?
    } else if has_slashes && text.starts_with("//") {
        0
    } else {
        return None;
    };
    Some(lines.len() - text.len() + line_end(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_with_lines_of_their_own_are_removed() {
        for (source, expected) in [
            ("/** One. */\nlet a;\n", "\nlet a;\n"),
            ("a;\n  /**\n   * @param {A} b\n   */  \nb;", "a;\n\n\n\nb;"),
            ("/*/ still a comment */\na", "\na"),
            ("  // One.\n\t// Two.\na // three", "\n\na // three"),
            ("a\r\n// b\r\nc\r\n", "a\r\n\nc\r\n"),
            ("a\n// the end", "a\n"),
            ("a\n/* the end */", "a\n"),
            ("", ""),
        ] {
            assert_eq!(removed(source, true), expected, "{source}");
        }
    }

    #[test]
    fn what_stands_beside_comments_stays() {
        for source in [
            "/** @type {A} */ (a).b = c;\n",
            "/* a */ /* b */\n",
            "/* a\n b */ c\n",
            "a; /* b */\n",
            "a = \"/* b */\"; // c\n",
            "/b/.test(c);\n",
            "é\n",
            "/* no end\na\n",
        ] {
            assert_eq!(removed(source, true), source);
        }
        // In a style sheet, slashes begin no comment.
        assert_eq!(removed("// a\n/* b */\n", false), "// a\n\n");
    }
}
