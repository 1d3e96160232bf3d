//! What the command-line tools share: flags, their spelling, and the standard streams.

#![deny(unsafe_code)]

pub mod compute;
pub mod demo;
pub mod devices;
pub mod diffusion;
pub mod inert;
pub mod input;
pub mod log;
pub mod masked;
pub mod names;
pub mod numbers;
pub mod placement;
pub mod program;
pub mod session;
pub mod shared;
pub mod signals;
pub mod spelling;
pub mod streams;
pub mod table;
pub mod template;
pub mod values;
