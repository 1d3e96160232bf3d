//! The protocols of the server: JSON bodies to requests, and answers to JSON. Nothing here knows HTTP
//! frameworks, engines or threads.
//!
//! ```text
//! error ─▶ value ─▶ every parser ─▶ request ─▶ (the engine)
//! (the engine) ─▶ answer ─▶ assemble: stop, tool_calls ─▶ every format
//! ```

pub mod answer;
pub mod error;
pub mod request;
pub mod stop;
pub mod value;
