//! What the tests of this repository share.

pub mod golden;
pub mod model_file;
pub mod placements;
pub mod replay;
pub mod steps;
pub mod thinker;
