//! What Hugging Face's `apply_chat_template` provides besides Jinja: `tojson` as `json.dumps`
//! writes it, `raise_exception` and `strftime_now`.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::Formatter;

/// Adds them to all templates of an environment.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
}

fn invalid(problem: impl Into<String>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, problem.into())
}

fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    Err(invalid(message))
}

/// Prevents a template from filling the memory with spaces.
const MAX_INDENT: usize = 64;

/// `tojson` with Hugging Face's options. minijinja's own one escapes for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    if value.is_undefined() {
        return Err(invalid("tojson: the value is undefined"));
    }
    let indent: Option<usize> = options.get("indent")?;
    if indent.is_some_and(|width| width > MAX_INDENT) {
        return Err(invalid(format!(
            "tojson: indent must be at most {MAX_INDENT}"
        )));
    }
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(invalid("tojson: separators must be two strings")),
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let style = PythonJson {
        indent: indent.map(|width| " ".repeat(width)),
        item,
        key,
        ensure_ascii: ensure_ascii.unwrap_or(false),
        depth: 0,
        empty: true,
    };
    let failed = |error: serde_json::Error| invalid(format!("tojson: {error}"));
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sort_keys.unwrap_or(false) {
        json.sort_all_objects();
    }
    let mut out = Vec::new();
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, style))
        .map_err(failed)?;
    String::from_utf8(out).map_err(|error| invalid(format!("tojson: {error}")))
}

/// The layout of Python's `json.dumps`.
struct PythonJson<'a> {
    /// Indentation per level; without it everything is on one line.
    indent: Option<String>,
    /// Between items.
    item: &'a str,
    /// Between a key and its value.
    key: &'a str,
    ensure_ascii: bool,
    depth: usize,
    /// Whether the innermost open array or object has no item yet.
    empty: bool,
}

impl PythonJson<'_> {
    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.new_line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn new_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        if let Some(indent) = &self.indent {
            writer.write_all(b"\n")?;
            for _ in 0..self.depth {
                writer.write_all(indent.as_bytes())?;
            }
        }
        Ok(())
    }
}

impl Formatter for PythonJson<'_> {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            if c.is_ascii() {
                write!(writer, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// The date and time in UTC: the standard library has no time zones.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| invalid("strftime_now: the clock is before 1970"))?;
    strftime(format, since_epoch.as_secs())
}

/// C's `strftime` in UTC, with the directives that chat templates use.
fn strftime(format: &str, seconds_since_epoch: u64) -> Result<String, minijinja::Error> {
    const WEEKDAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let days = seconds_since_epoch / 86_400;
    let second_of_day = seconds_since_epoch % 86_400;
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    );
    let (year, month, day) = civil_from_days(days);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let month_name = MONTHS[month as usize - 1];

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        out += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let name = other.map(String::from).unwrap_or_default();
                return Err(invalid(format!("strftime_now: '%{name}' is not supported")));
            }
        };
    }
    Ok(out)
}

/// Year, month and day of a day number counted from 1970-01-01, in the Gregorian calendar.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970 + days / 146_097 * 400;
    let mut rest = days % 146_097;
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |seconds| {
            strftime(
                "%a %A %d %e %b %B %m %y %Y %F %H %I %p %M %S %T %Z%z %%",
                seconds,
            )
            .unwrap()
        };
        let cases = [
            (
                0,
                "Thu Thursday 01  1 Jan January 01 70 1970 1970-01-01 00 12 AM 00 00 00:00:00 UTC+0000 %",
            ),
            (
                951_782_399,
                "Mon Monday 28 28 Feb February 02 00 2000 2000-02-28 23 11 PM 59 59 23:59:59 UTC+0000 %",
            ),
            (
                951_782_400,
                "Tue Tuesday 29 29 Feb February 02 00 2000 2000-02-29 00 12 AM 00 00 00:00:00 UTC+0000 %",
            ),
            (
                1_735_648_496,
                "Tue Tuesday 31 31 Dec December 12 24 2024 2024-12-31 12 12 PM 34 56 12:34:56 UTC+0000 %",
            ),
            (
                4_107_542_400,
                "Mon Monday 01  1 Mar March 03 00 2100 2100-03-01 00 12 AM 00 00 00:00:00 UTC+0000 %",
            ),
        ];
        for (seconds, expected) in cases {
            assert_eq!(at(seconds), expected);
        }
        assert!(
            strftime("%Q", 0)
                .unwrap_err()
                .to_string()
                .contains("'%Q' is not supported")
        );
        assert!(
            strftime("%", 0)
                .unwrap_err()
                .to_string()
                .contains("'%' is not supported")
        );
    }
}
