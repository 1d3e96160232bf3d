//! The safe layer over libllama: all `unsafe` that concerns it lives below this module.
//!
//! * `overrides` hands over metadata that the user gives instead of the file's.

pub(crate) mod overrides;
