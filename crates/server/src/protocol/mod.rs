//! The protocols of the server: JSON bodies to requests, and answers to JSON. Nothing here knows HTTP
//! frameworks, engines or threads.
//!
//! ```text
//! error ─▶ value ─▶ fields, sampling, messages, tools, language ─▶ chat ─▶ request ─▶ (the engine)
//! (the engine) ─▶ answer ─▶ assemble (stop, tool_calls) ─▶ format ─▶ chat_format
//! ```

pub mod answer;
pub mod assemble;
pub mod chat;
mod chat_format;
pub mod error;
pub mod fields;
pub mod format;
pub mod language;
mod messages;
pub mod reply;
pub mod request;
pub mod sampling;
pub mod stop;
pub mod tool_calls;
mod tools;
pub mod value;

use fields::{CHAT, Table};

/// Every endpoint that reads a body, and the fields that it knows.
pub const fn tables() -> [(&'static str, Table); 1] {
    [("/v1/chat/completions", CHAT)]
}
