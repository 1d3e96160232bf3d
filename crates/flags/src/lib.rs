//! What the command-line tools share: flags, their spelling, and the standard streams.

#![deny(unsafe_code)]

pub mod compute;
pub mod devices;
pub mod names;
pub mod numbers;
pub mod shared;
pub mod signals;
pub mod spelling;
pub mod streams;
pub mod table;
