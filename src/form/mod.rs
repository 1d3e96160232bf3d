//! Forms: a text with blanks, which a canvas fills in one or few steps. How the text lies on a canvas,
//! and the arithmetic of its answers; nothing here knows a model or ggml.
//!
//! ```text
//! blank ◀─ layout ─▶ tally ─▶ answer
//!            ▲        ▲   ▲       ▲
//!            choices ─┘  language_tally
//! ```

mod answer;
mod blank;
mod choices;
mod language_tally;
mod layout;
mod tally;

pub use answer::{FilledBlank, FilledForm, ScoredChoice};
pub use blank::{Blank, BlankKind, Form, FormParams, Piece};
pub(crate) use choices::ChoiceCanvas;
pub(crate) use language_tally::LanguageTally;
pub(crate) use layout::{Frame, Judged, Layout, Width};
pub(crate) use tally::{ChoiceTally, FreeTally, RowLogits, log_sum};
