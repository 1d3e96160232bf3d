//! Kinds of values that flags take, and how they are read.

use std::str::FromStr;

use llama_diffusion::{MetadataOverride, MetadataValue};
use serde_json::{Map, Value};

/// Variables for a chat template.
#[derive(Clone, Debug)]
pub struct Variables(pub Map<String, Value>);

pub fn parse_variables(text: &str) -> Result<Variables, String> {
    serde_json::from_str(text)
        .map(Variables)
        .map_err(|error| format!("this is no JSON object: {error}"))
}

/// A number that may be negative.
pub fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "give a whole number".into())
}

/// A number of tokens, or none.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub Option<usize>);

pub fn parse_limit(text: &str) -> Result<Limit, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Limit(None)),
        Ok(count @ 1..) => Ok(Limit(usize::try_from(count).ok())),
        _ => Err("-n takes 1 or more tokens, or -1 for no limit".into()),
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Seed(pub Option<u64>);

pub fn parse_seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed(None)),
        _ => text
            .parse()
            .map(|seed| Seed(Some(seed)))
            .map_err(|_| "-s takes 0 to 18446744073709551615, or -1 for a random seed".into()),
    }
}

pub fn parse_metadata(text: &str) -> Result<MetadataOverride, String> {
    let wrong =
        || "--override-kv takes KEY=TYPE:VALUE, such as diffusion.eb_max_steps=int:32".to_owned();
    let (key, typed) = text.split_once('=').ok_or_else(wrong)?;
    let (ty, value) = typed.split_once(':').ok_or_else(wrong)?;
    let is_no = |kind: &str| format!("'{value}' is no {kind}");
    let value = match ty {
        "int" => MetadataValue::Integer(value.parse().map_err(|_| is_no("whole number"))?),
        "float" => MetadataValue::Float(value.parse().map_err(|_| is_no("number"))?),
        "bool" => MetadataValue::Bool(
            value
                .parse()
                .map_err(|_| is_no("bool: give true or false"))?,
        ),
        "str" => MetadataValue::Text(value.to_owned()),
        _ => {
            return Err(format!(
                "'{ty}' is none of the types int, float, bool and str"
            ));
        }
    };
    Ok(MetadataOverride {
        key: key.to_owned(),
        value,
    })
}
