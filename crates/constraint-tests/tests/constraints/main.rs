//! Answers under a constraint, against implementations that are not ours: serde_json, jsonschema,
//! regex and llguidance.

mod answer;
mod expressions;
mod generator;
mod judges;
mod random;
mod schemas;
