//! Whole numbers of the command line.

use std::str::FromStr;

/// Reads a number that is not negative.
///
/// # Errors
/// What to give instead.
pub fn count<T: FromStr>(text: &str) -> Result<T, String> {
    let parsed = text.parse();
    parsed.map_err(|_| "give a whole number of 0 or more".into())
}
