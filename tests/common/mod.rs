//! What the integration tests share.

#![allow(dead_code, reason = "each test uses its own part")]

pub mod golden;
pub mod model_file;
pub mod placements;
pub mod replay;
pub mod rpc;
pub mod steps;
