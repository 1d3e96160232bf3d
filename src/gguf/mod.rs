//! GGUF files: a strict reader, metadata that the user replaces, and a writer in [`writer`]. Nothing
//! here knows ggml.
//!
//! The reader is the gate in front of everything else, ggml's own C++ parser included: libllama
//! opens the same file for its vocabulary and some malformed files abort it. What is accepted here
//! is a subset of what ggml accepts, and nothing here trusts a length, an offset or a count of the
//! file before it was compared with the file's size.

mod contents;
mod cursor;
pub mod keys;
#[allow(unsafe_code, reason = "mapped memory is the system's")]
mod mmap;
mod overrides;
mod reader;
pub(crate) mod tensor_type;
mod value;
pub mod writer;

pub use contents::TensorInfo;
pub(crate) use contents::show_shape;
pub use mmap::Mapping;
pub use overrides::{MetadataOverride, MetadataValue};
pub use reader::{FileTensor, Gguf, TensorData};
pub use tensor_type::TensorType;
pub use value::{Array, FromValue, Value, ValueType};
