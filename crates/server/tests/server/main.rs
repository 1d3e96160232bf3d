//! The server from outside, on the demo model.

mod access;
mod chat;
mod early;
mod endpoints;
mod folder;
mod follow;
mod gaps;
mod jobs;
mod process;
mod refusals;
mod shutdown;
mod slots;
mod stored;
mod streams;
mod together;
mod types;
mod visual;
mod wire;
