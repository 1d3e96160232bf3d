//! Text from files and the standard input: UTF-8, with or without a byte order mark.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use llama_diffusion::{Error, Result};

use crate::streams::say;

const MARK: &str = "\u{feff}";
/// Byte order marks of editors and shells on other systems. The longer marks first: one begins with
/// another.
const OTHER_MARKS: [(&[u8], &str); 4] = [
    (&[0xff, 0xfe, 0, 0], "UTF-32"),
    (&[0, 0, 0xfe, 0xff], "UTF-32"),
    (&[0xff, 0xfe], "UTF-16"),
    (&[0xfe, 0xff], "UTF-16"),
];

/// The text of a file.
///
/// # Errors
/// The file cannot be read, or is not UTF-8.
pub fn file(path: &Path) -> Result<String> {
    Ok(marked_file(path)?.1)
}

/// The byte order mark that a file begins with, if any, and the text after it.
///
/// # Errors
/// As [`file()`].
pub fn marked_file(path: &Path) -> Result<(&'static str, String)> {
    let bytes = fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let mark = if bytes.starts_with(MARK.as_bytes()) {
        MARK
    } else {
        ""
    };
    Ok((mark, text(bytes, &path.display().to_string())?))
}

/// The text of the standard input, to its end.
///
/// # Errors
/// As [`file()`].
pub fn stdin() -> Result<String> {
    if io::stdin().is_terminal() {
        say("type the prompt; Ctrl-D at the beginning of a line ends it");
    }
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Io {
            path: PathBuf::from("standard input"),
            source,
        })?;
    text(bytes, "standard input")
}

/// The text of the bytes from `name`, without a byte order mark.
///
/// # Errors
/// It is not UTF-8.
pub fn text(bytes: Vec<u8>, name: &str) -> Result<String> {
    let refuse = |problem| Error::Input {
        name: name.to_owned(),
        problem,
    };
    if let Some(encoding) = other_encoding(&bytes) {
        return Err(refuse(format!(
            "it is {encoding}, but only UTF-8 is read: convert it, for example with iconv -f \
             {encoding} -t UTF-8"
        )));
    }
    let text = String::from_utf8(bytes).map_err(|invalid| {
        let position = invalid.utf8_error().valid_up_to();
        refuse(format!("the byte at offset {position} is not UTF-8"))
    })?;
    Ok(without_mark(text))
}

/// The encoding of a text that begins with the byte order mark of an encoding other than UTF-8, or
/// has the zero bytes that the first letters have in UTF-16.
pub fn other_encoding(bytes: &[u8]) -> Option<&'static str> {
    if let Some((_, encoding)) = OTHER_MARKS.iter().find(|(mark, _)| bytes.starts_with(mark)) {
        return Some(encoding);
    }
    let is_zero = bytes
        .first_chunk()
        .map(|first: &[u8; 4]| first.map(|byte| byte == 0));
    match is_zero? {
        [false, true, false, true] | [true, false, true, false] => Some("UTF-16"),
        _ => None,
    }
}

/// Text without a leading byte order mark.
pub fn without_mark(mut text: String) -> String {
    if text.starts_with(MARK) {
        text.drain(..MARK.len());
    }
    text
}

/// Text without the end of its last line, as on Unix or Windows.
pub fn without_last_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_dropped_and_other_encodings_are_named() {
        for (bytes, expected) in [
            (&b"\xef\xbb\xbfHi"[..], "Hi"),
            (b"\xef\xbb\xbf\xef\xbb\xbfHi", "\u{feff}Hi"),
            (b"Hi\xef\xbb\xbf", "Hi\u{feff}"),
            (b"\xef\xbb\xbf", ""),
            (b"", ""),
            (b"a", "a"),
            (b"a\0b", "a\0b"),
        ] {
            assert_eq!(text(bytes.to_vec(), "f").unwrap(), expected);
        }
        for (bytes, encoding) in [
            (&b"\xff\xfeH\0i\0"[..], "UTF-16"),
            (b"\xfe\xff\0H\0i", "UTF-16"),
            (b"H\0i\0", "UTF-16"),
            (b"\0H\0i", "UTF-16"),
            (b"\xff\xfe\0\0H\0\0\0", "UTF-32"),
            (b"\0\0\xfe\xff\0\0\0H", "UTF-32"),
        ] {
            let error = text(bytes.to_vec(), "a.txt").unwrap_err().to_string();
            let expected = format!("a.txt: it is {encoding}, but only UTF-8 is read");
            assert!(error.starts_with(&expected), "{error}");
            assert!(error.contains("iconv"), "{error}");
        }
        let error = text(b"ab\xff".to_vec(), "a.txt").unwrap_err().to_string();
        assert!(error.contains("a.txt: the byte at offset 2"), "{error}");
    }

    #[test]
    fn one_line_end_is_left_out() {
        for (given, expected) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\r\n\r\n", "a\r\n"),
            ("a\r", "a\r"),
            ("a", "a"),
            ("\r\n", ""),
        ] {
            assert_eq!(without_last_line_end(given.into()), expected, "{given:?}");
        }
    }
}
