//! The query of an address: names and values, of which a name may come several times.

use std::ops::RangeInclusive;

use serde::Deserialize;

use crate::protocol::error::ApiError;

/// Names and values, in their order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The values of a name.
    pub fn values(&self, wanted: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(name, _)| name == wanted);
        named.map(|(_, value)| value.as_str())
    }

    /// The last value of a name as a count; each of its values must be one.
    ///
    /// # Errors
    /// 400: it is something else, or out of range.
    pub fn count(&self, name: &str, range: &RangeInclusive<u32>) -> Result<Option<u32>, ApiError> {
        let count = |value: &str| {
            let count = value.parse().ok().filter(|count| range.contains(count));
            count.ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                let problem = format!("must be a whole number from {low} to {high}");
                ApiError::field(name, problem)
            })
        };
        let counts: Result<Vec<_>, _> = self.values(name).map(count).collect();
        Ok(counts?.pop())
    }

    /// The last value of a name among these; each of its values must be one of them.
    ///
    /// # Errors
    /// 400: it is something else.
    pub fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        let choice = |value: &str| {
            let found = choices.iter().find(|(name, _)| *name == value);
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                let problem = format!("is '{value}', but must be one of {}", names.join(", "));
                ApiError::field(name, problem)
            })
        };
        let found: Result<Vec<_>, _> = self.values(name).map(choice).collect();
        Ok(found?.pop())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn query(pairs: &[(&str, &str)]) -> Query {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Query(pairs.iter().map(owned).collect())
    }

    #[test]
    fn every_value_is_checked_and_the_last_one_counts() {
        let given = query(&[("limit", "3"), ("order", "asc"), ("limit", "5")]);
        assert_eq!(given.count("limit", &(1..=9)), Ok(Some(5)));
        assert_eq!(given.count("after", &(1..=9)), Ok(None));
        let orders = [("asc", 1), ("desc", 2)];
        assert_eq!(given.choice("order", &orders), Ok(Some(1)));
        let given = query(&[
            ("limit", "30"),
            ("order", "up"),
            ("limit", "5"),
            ("order", "asc"),
        ]);
        assert_eq!(
            given.count("limit", &(1..=9)).unwrap_err().message,
            "limit: must be a whole number from 1 to 9"
        );
        assert_eq!(
            given.choice("order", &orders).unwrap_err().message,
            "order: is 'up', but must be one of asc, desc"
        );
    }
}
