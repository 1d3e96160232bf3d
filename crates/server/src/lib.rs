//! The parts of `llama-diffusion-server` that can be used and tested without a socket.
//!
//! ```text
//! run ─▶ listen ─▶ routes ─▶ access ─▶ page, generate, info, retrieve ─▶ protocol ─▶ prompts, plans ─▶ served
//!  └▶ load ─▶ engine: thread ─▶ scheduler ─▶ batch        │
//!                                   └▶ updates ─▶ answers ─▶ read ─▶ protocol ─▶ a body, or sse
//! visual ─▶ load: answers by lines, without HTTP and without the engine
//! ```

#![forbid(unsafe_code)]

mod access;
mod admission;
mod answers;
pub mod args;
mod blocking;
mod body;
mod comments;
mod config;
mod drafts;
mod engine;
mod extract;
mod flags;
mod folder;
mod follow;
mod followed;
mod generate;
mod info;
mod known;
mod length;
mod linger;
mod listen;
mod load;
mod memory;
mod metrics;
mod models;
mod outcomes;
mod page;
mod params;
mod plans;
mod prompts;
pub mod protocol;
mod query;
mod read;
mod refusals;
mod reply;
mod response_store;
mod retrieve;
mod routes;
pub mod run;
mod served;
mod slot_files;
mod sse;
mod state;
mod storing;
pub mod visual;
