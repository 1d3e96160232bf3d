//! Backslash sequences in the text of a command line.

/// Text with backslash sequences replaced as llama.cpp does; others stay as they are.
pub fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let hex = sequence
            .strip_prefix('x')
            .and_then(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok());
        let (byte, length) = match (sequence.as_bytes().first(), hex) {
            (_, Some(byte)) => (byte, 3),
            (Some(b'n'), _) => (b'\n', 1),
            (Some(b't'), _) => (b'\t', 1),
            (Some(b'r'), _) => (b'\r', 1),
            (Some(&quoted @ (b'"' | b'\'' | b'\\')), _) => (quoted, 1),
            _ => (b'\\', 0),
        };
        bytes.push(byte);
        rest = &sequence[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backslashes() {
        for (written, meant) in [
            (r"a\nb", "a\nb"),
            (r"a\tb\r", "a\tb\r"),
            ("\\n", "\n"),
            (r#"\"\'"#, "\"'"),
            (r"\x41\xc3\xa9", "Aé"),
            (r"\d\x4", r"\d\x4"),
            ("end\\", "end\\"),
        ] {
            assert_eq!(unescape(written), meant, "{written}");
        }
    }
}
