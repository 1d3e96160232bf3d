//! Formats of strings, as strict as the strictest validators: February has its days, and no leap second
//! is written.

use super::expression::Expression;
use super::pattern;

/// A year from 0001 on: some validators have no year 0.
const YEAR: &str = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])";

/// Two digits that 4 divides, other than 00.
const FOURTH: &str = "(?:0[48]|[2468][048]|[13579][26])";

const TIME: &str = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

const OCTET: &str = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";

fn date() -> String {
    let long = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])";
    let short = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)";
    let february = "02-(?:0[1-9]|1[0-9]|2[0-8])";
    let leap = format!("(?:[0-9]{{2}}{FOURTH}|{FOURTH}00)");
    format!("(?:{YEAR}-(?:{long}|{short}|{february})|{leap}-02-29)")
}

/// The strings of a format, as they are written between quotes.
pub(super) fn content(name: &str) -> Result<Expression, String> {
    let regex = match name {
        "date" => date(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{}T{TIME}", date()),
        "uuid" => "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}".to_owned(),
        "ipv4" => format!("{OCTET}(?:\\.{OCTET}){{3}}"),
        _ => {
            return Err(format!(
                "'{name}' is not supported: use date, time, date-time, uuid, ipv4 or a pattern"
            ));
        }
    };
    pattern::exactly(&regex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::schema::automaton::tests::dfa;

    #[test]
    fn a_date_is_in_the_calendar() {
        let date = dfa(&content("date").unwrap());
        for year in (1..=9999)
            .step_by(1)
            .filter(|y| *y < 12 || y % 97 < 3 || y % 100 == 0)
        {
            let leap = year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
            for (month, days) in [
                31,
                28 + u32::from(leap),
                31,
                30,
                31,
                30,
                31,
                31,
                30,
                31,
                30,
                31,
            ]
            .into_iter()
            .enumerate()
            {
                for day in [0, 1, 28, 29, 30, 31, 32] {
                    let text = format!("{year:04}-{:02}-{day:02}", month + 1);
                    assert_eq!(
                        date.accepts(text.as_bytes()),
                        (1..=days).contains(&day),
                        "{text}"
                    );
                }
            }
        }
        for text in [
            "0000-01-01",
            "2024-00-01",
            "2024-13-01",
            "24-01-01",
            "2024-1-1",
            "2024-02-29T",
            " 2024-02-29",
        ] {
            assert!(!date.accepts(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn times_have_an_offset_and_no_leap_second() {
        for (format, prefix) in [("time", ""), ("date-time", "2024-02-29T")] {
            let dfa = dfa(&content(format).unwrap());
            for (time, expected) in [
                ("00:00:00Z", true),
                ("23:59:59.123456789+23:59", true),
                ("12:30:00-00:00", true),
                ("24:00:00Z", false),
                ("12:60:00Z", false),
                ("12:00:60Z", false),
                ("12:00:00", false),
                ("12:00:00.Z", false),
                ("12:00:00+24:00", false),
                ("12:00Z", false),
                ("12:00:00z", false),
            ] {
                assert_eq!(
                    dfa.accepts(format!("{prefix}{time}").as_bytes()),
                    expected,
                    "{prefix}{time}"
                );
            }
        }
    }

    #[test]
    fn identifiers_and_addresses() {
        for (format, text, expected) in [
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", true),
            ("uuid", "123E4567-E89B-12D3-A456-42661417400F", true),
            ("uuid", "123e4567e89b12d3a456426614174000", false),
            ("uuid", "123e4567-e89b-12d3-a456-42661417400g", false),
            ("ipv4", "0.0.0.0", true),
            ("ipv4", "255.249.199.99", true),
            ("ipv4", "256.0.0.1", false),
            ("ipv4", "01.0.0.1", false),
            ("ipv4", "1.2.3", false),
        ] {
            let dfa = dfa(&content(format).unwrap());
            assert_eq!(dfa.accepts(text.as_bytes()), expected, "{format} {text}");
        }
        assert!(
            content("regex")
                .unwrap_err()
                .contains("'regex' is not supported")
        );
    }
}
