//! Texts that follow a constraint by construction: a regular language, read token by token.
//!
//! A canvas of uniform noise commits nothing before its end, so that each step can be projected onto
//! the language exactly: the most likely canvas of the language, a canvas drawn from the step's
//! distribution given the language, and the distribution of each position given the language.
//!
//! Nothing here knows ggml, models or files. Imports point one way:
//!
//! ```text
//! bytes ─▶ determinize, minimize
//!   ▲          ▲
//!   ├─ gap, prefix ─ schema
//! effects ─▶ vocabulary ◀─ scaffold
//!   ▲                        ▲
//! classes ◀─── pairs ◀── automaton ─▶ edges
//!                            ▲
//!                        language ◀─ trellis ◀─ best, sums ◀─ lattice
//!                                                    └▶ groups ─▶ tables, scaled ─▶ number
//! shared, lengths, passages ─▶ automaton      row_sums ◀─ rows ─▶ tables
//! ```

pub mod automaton;
mod best;
pub mod bytes;
mod classes;
mod determinize;
mod edges;
mod effects;
pub mod error;
mod gap;
mod groups;
pub mod language;
pub mod lattice;
mod lengths;
mod minimize;
mod number;
mod pairs;
mod passages;
mod prefix;
mod row_sums;
pub mod rows;
mod scaffold;
mod scaled;
pub mod schema;
mod shared;
mod sums;
pub mod tables;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timed;
mod trellis;
pub mod vocabulary;

pub use automaton::{State, TokenAutomaton};
pub use bytes::ByteAutomaton;
pub use error::{ConstraintError, Limits};
pub use language::{CanvasLanguage, Reading};
pub use lattice::Work;
pub use scaffold::Scaffold;
pub use schema::{SchemaLanguage, SchemaOptions, any_json, any_json_object, json_schema};
pub use shared::Constraint;
pub use tables::{ClassTables, Projection};
pub use vocabulary::Vocabulary;
