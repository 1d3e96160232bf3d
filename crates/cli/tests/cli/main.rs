//! The tool from outside.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod canvas;
mod chat;
mod chat_pty;
mod constraints;
mod cross_entropy;
mod edit;
mod files_left;
mod forms;
mod infill;
mod llama_cpp_flags;
mod masked;
mod prompt_cache;
#[cfg(all(unix, feature = "demo-model"))]
mod pty;
mod quantize;
mod replay;
mod rpc;
mod scoring;
mod text_input;
mod thinking;
mod view_pty;
