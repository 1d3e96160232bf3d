//! What the command-line tools share: flags, and how they are spelled.

pub mod compute;
pub mod devices;
pub mod spelling;
