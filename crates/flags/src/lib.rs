//! What the command-line tools share: flags, their spelling, and the standard streams.
//!
//! The type and the help of a flag that several programs have are in a struct `…Args` of one of these
//! modules, such as [`diffusion`] or [`placement`]; those of other flags are in the `args` of their program.
//! Its names, its environment variable and its effect are in [`shared`], [`inert`], or the program's `flags.rs`.

#![deny(unsafe_code)]

pub mod compute;
pub mod corrections;
pub mod demo;
pub mod devices;
pub mod diffusion;
pub mod inert;
pub mod input;
pub mod log;
pub mod masked;
pub mod names;
pub mod numbers;
pub mod parse;
pub mod placement;
pub mod program;
pub mod session;
pub mod shared;
pub mod signals;
pub mod spelling;
pub mod streams;
pub mod template;
pub mod values;
