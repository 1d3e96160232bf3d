//! The protocols of the server: JSON bodies to requests, and answers to JSON. Nothing here knows HTTP
//! frameworks, engines or threads.
//!
//! ```text
//! error ─▶ ranges, value ─▶ fields, sampling, messages, tools, language, prompt, known
//!   ─▶ chat, text, native, responses (turns, *_items), anthropic, edit, form ─▶ request ─▶ (the engine)
//! (the engine) ─▶ answer ─▶ assemble (stop, tool_calls) ─▶ format ─▶ *_format
//! ```

#[cfg(test)]
mod agreement;
pub mod answer;
pub mod anthropic;
mod anthropic_format;
pub mod assemble;
pub mod chat;
mod chat_format;
pub mod edit;
mod edit_format;
pub mod error;
pub mod fields;
pub mod form;
mod form_format;
pub mod format;
#[cfg(test)]
mod hostile;
pub mod input_items;
mod known;
pub mod language;
mod messages;
pub mod native;
mod native_format;
pub mod openapi;
mod prompt;
pub mod ranges;
pub mod reply;
pub mod request;
pub mod responses;
pub mod responses_events;
mod responses_format;
mod responses_items;
pub mod sampling;
pub mod stop;
pub mod text;
mod text_format;
pub mod tokens;
pub mod tool_calls;
mod tools;
pub mod turns;
pub mod value;

use fields::{ANTHROPIC, CHAT, EDIT, FIM, FORM, INFILL, NATIVE, RESPONSES, TEXT, Table};

/// Every endpoint that generates, and the fields that it knows.
pub const TABLES: [(&str, Table); 9] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", TEXT),
    ("/v1/fim/completions", FIM),
    ("/completion", NATIVE),
    ("/infill", INFILL),
    ("/v1/responses", RESPONSES),
    ("/v1/messages", ANTHROPIC),
    ("/diffusion/edit", EDIT),
    ("/diffusion/fill", FORM),
];

#[cfg(test)]
mod tests {
    use super::request::{Capabilities, Family};

    /// A canvas model with all that it may have.
    pub(super) fn capabilities() -> Capabilities {
        Capabilities {
            family: Family::Canvas,
            slots: 4,
            vocabulary: 1000,
            tools: true,
            scores: true,
            responses: None,
        }
    }
}
