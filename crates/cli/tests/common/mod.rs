//! What the tests of the tool share.

#![allow(dead_code, reason = "each test uses its own part")]

pub mod recordings;
pub mod rpc;
