//! Regular expressions of JavaScript, in which JSON Schema writes patterns, as those of Rust.

/// White space of JavaScript's `\s`.
const SPACE: &str = r"\t\n\x0b\x0c\r\x20\u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}";

/// The same pattern for Rust, or what cannot be said there.
pub(super) fn to_rust(pattern: &str) -> Result<String, String> {
    let mut translation = Translation {
        rest: pattern,
        rust: String::with_capacity(pattern.len()),
    };
    while let Some(character) = translation.next() {
        match character {
            '\\' => translation.escape(false)?,
            '[' => translation.class()?,
            '.' => translation.rust.push_str(r"[^\n\r\u{2028}\u{2029}]"),
            '(' => translation.group()?,
            other => translation.rust.push(other),
        }
    }
    Ok(translation.rust)
}

struct Translation<'a> {
    rest: &'a str,
    rust: String,
}

impl Translation<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn skip(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// After `(`.
    fn group(&mut self) -> Result<(), String> {
        self.rust.push('(');
        if !self.skip("?") || self.skip(":") {
            // Groups are not captured, so that all are of one kind.
            self.rust.push_str("?:");
            return Ok(());
        }
        let named = self
            .rest
            .strip_prefix('<')
            .filter(|name| !name.starts_with(['=', '!']));
        let Some((_, rest)) = named.and_then(|name| name.split_once('>')) else {
            let look = self.rest.starts_with(['=', '!', '<']);
            let what = if look {
                "look-around"
            } else {
                "flags in a group"
            };
            return Err(format!("{what}, at '(?{}'", self.rest));
        };
        self.rest = rest;
        self.rust.push_str("?:");
        Ok(())
    }

    /// After `[`.
    fn class(&mut self) -> Result<(), String> {
        let negated = self.skip("^");
        if self.skip("]") {
            // JavaScript: any character, or none.
            self.rust.push_str(if negated {
                r"[\x00-\u{10ffff}]"
            } else {
                r"[^\x00-\u{10ffff}]"
            });
            return Ok(());
        }
        self.rust.push_str(if negated { "[^" } else { "[" });
        loop {
            match self.next().ok_or("a class without its ']'")? {
                ']' => break,
                '\\' => self.escape(true)?,
                '-' if self.rest.starts_with('-') => return Err("'--' in a class".to_owned()),
                // Operators of Rust's classes.
                special @ ('[' | '&' | '~' | '^') => self.rust.extend(['\\', special]),
                other => self.rust.push(other),
            }
        }
        self.rust.push(']');
        Ok(())
    }

    /// After `\`.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        match self.next().ok_or("a '\\' at the end")? {
            'd' => self.rust.push_str("[0-9]"),
            'D' => self.rust.push_str("[^0-9]"),
            'w' => self.rust.push_str("[0-9A-Za-z_]"),
            'W' => self.rust.push_str("[^0-9A-Za-z_]"),
            's' => self.rust.push_str(&format!("[{SPACE}]")),
            'S' => self.rust.push_str(&format!("[^{SPACE}]")),
            'b' if in_class => self.rust.push_str(r"\x08"),
            'b' | 'B' => return Err(r"a word boundary, \b or \B".to_owned()),
            'k' | '1'..='9' => return Err("a back-reference".to_owned()),
            '0' if self.rest.starts_with(|c: char| c.is_ascii_digit()) => {
                return Err("an octal escape".to_owned());
            }
            '0' => self.rust.push_str(r"\x00"),
            'c' => {
                let letter = self
                    .next()
                    .filter(char::is_ascii_alphabetic)
                    .ok_or(r"'\c' without a letter")?;
                self.push_code(u32::from(letter) % 32)?;
            }
            'x' => {
                let code = self.hex(2)?;
                self.push_code(code)?;
            }
            'u' => self.unicode()?,
            property @ ('p' | 'P') => self.rust.extend(['\\', property]),
            known @ ('f' | 'n' | 'r' | 't' | 'v') => self.rust.extend(['\\', known]),
            letter if letter.is_alphanumeric() => {
                return Err(format!("the unknown escape '\\{letter}'"));
            }
            other if other.is_ascii_punctuation() => self.rust.extend(['\\', other]),
            other => self.rust.push(other),
        }
        Ok(())
    }

    /// After `\u`.
    fn unicode(&mut self) -> Result<(), String> {
        if self.skip("{") {
            let (code, rest) = self.rest.split_once('}').ok_or(r"'\u{' without its '}'")?;
            self.rest = rest;
            let code =
                u32::from_str_radix(code, 16).map_err(|_| format!("the escape '\\u{{{code}}}'"))?;
            return self.push_code(code);
        }
        let high = self.hex(4)?;
        if (0xd800..0xdc00).contains(&high) && self.skip("\\u") {
            let low = self.hex(4)?;
            let low = low
                .checked_sub(0xdc00)
                .filter(|low| *low < 0x400)
                .ok_or("half a surrogate pair")?;
            return self.push_code(0x10000 + ((high - 0xd800) << 10) + low);
        }
        self.push_code(high)
    }

    fn hex(&mut self, digits: usize) -> Result<u32, String> {
        let code = self
            .rest
            .get(..digits)
            .filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = code.and_then(|code| u32::from_str_radix(code, 16).ok());
        let code =
            code.ok_or_else(|| format!("an escape without its {digits} hexadecimal digits"))?;
        self.rest = &self.rest[digits..];
        Ok(code)
    }

    fn push_code(&mut self, code: u32) -> Result<(), String> {
        char::from_u32(code).ok_or("half a surrogate pair")?;
        self.rust.push_str(&format!("\\u{{{code:x}}}"));
        Ok(())
    }
}
