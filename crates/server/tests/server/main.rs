//! The server from outside, on the demo model.

mod access;
mod chat;
mod endpoints;
mod process;
mod shutdown;
mod streams;
mod together;
mod types;
