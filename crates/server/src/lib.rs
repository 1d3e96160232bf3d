//! The parts of `llama-diffusion-server` that can be used and tested without a socket.

#![forbid(unsafe_code)]

pub mod protocol;
