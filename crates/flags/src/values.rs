//! Kinds of values that flags take, and how they are read.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::Bound;

use llama_diffusion::diffusion::Lookahead;
use llama_diffusion::internal::read_json;
use llama_diffusion::{Error, KvType, MetadataOverride, MetadataValue};
use serde_json::{Map, Value};

use crate::numbers::whole;

/// What is above 0.
pub const ABOVE_0: (Bound<f32>, Bound<f32>) = (Bound::Excluded(0.0), Bound::Unbounded);

/// Variables for a chat template.
#[derive(Clone, Debug)]
pub struct Variables(pub Map<String, Value>);

pub fn parse_variables(text: &str) -> Result<Variables, String> {
    read_json(text)
        .map(Variables)
        .map_err(|error| format!("it is not a JSON object: {error}"))
}

/// A number of tokens, or none.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub Option<usize>);

pub fn parse_limit(text: &str) -> Result<Limit, String> {
    match text {
        "-1" => Ok(Limit(None)),
        _ => whole(1..=usize::MAX)(text)
            .map(|count| Limit(Some(count)))
            .map_err(|range| format!("{range}, or -1 for no limit")),
    }
}

/// Tokens of a canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanvasLength {
    Tokens(usize),
    /// The shortest that holds the answer.
    Auto,
}

pub fn parse_canvas_length(text: &str) -> Result<CanvasLength, String> {
    match text {
        "auto" => Ok(CanvasLength::Auto),
        _ => whole(1..=usize::MAX)(text)
            .map(CanvasLength::Tokens)
            .map_err(|range| format!("{range}, or auto for the shortest that holds -n tokens")),
    }
}

pub fn parse_lookahead(text: &str) -> Result<Lookahead, String> {
    match text {
        "auto" => Ok(Lookahead::Auto),
        _ => whole(1..=Lookahead::MAX)(text)
            .map(Lookahead::Canvases)
            .map_err(|range| format!("{range}, or auto for the fastest")),
    }
}

/// The problem alone: the flag is named already.
pub fn parse_kv_type(text: &str) -> Result<KvType, String> {
    text.parse().map_err(|error: Error| match error {
        Error::InvalidParameter { problem, .. } => problem,
        other => other.to_string(),
    })
}

/// A seed, or none.
#[derive(Clone, Copy, Debug)]
pub struct Seed(pub Option<u64>);

/// A seed from the operating system, by way of the keys that the standard library's hash maps get.
/// 32 bits are enough to draw from, and short enough to type again.
pub fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

pub fn parse_seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed(None)),
        _ => whole(0..=u64::MAX)(text)
            .map(|seed| Seed(Some(seed)))
            .map_err(|range| format!("{range}, or -1 for a random seed")),
    }
}

pub fn parse_metadata(text: &str) -> Result<MetadataOverride, String> {
    let wrong =
        || "--override-kv takes KEY=TYPE:VALUE, such as diffusion.eb_max_steps=int:32".to_owned();
    let (key, typed) = text.split_once('=').ok_or_else(wrong)?;
    let (ty, value) = typed.split_once(':').ok_or_else(wrong)?;
    let refuse = |wanted: String| format!("'{value}' for {key}: {wanted}");
    let value = match ty {
        "int" => whole(i64::MIN..=i64::MAX)(value)
            .map(MetadataValue::Integer)
            .map_err(refuse)?,
        "float" => value
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .map(MetadataValue::Float)
            .ok_or_else(|| refuse("give a number that is finite".into()))?,
        "bool" => value
            .parse()
            .map(MetadataValue::Bool)
            .map_err(|_| refuse("give true or false".into()))?,
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
