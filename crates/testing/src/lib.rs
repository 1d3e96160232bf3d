//! What the tests of this repository share.

pub mod golden;
pub mod model_file;
pub mod placements;
#[cfg(target_os = "linux")]
pub mod process;
pub mod replay;
pub mod shared_dir;
pub mod steps;
pub mod thinker;
