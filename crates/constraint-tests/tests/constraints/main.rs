//! Answers under a constraint, against implementations that are not ours: serde_json, jsonschema and
//! llguidance.

mod answer;
mod generator;
mod judges;
mod random;
mod schemas;
