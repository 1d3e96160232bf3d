//! GGUF files: a strict reader, metadata that the user replaces, and a writer (`writer`). This
//! module does not use ggml.
//!
//! Every file passes this reader before anything else reads it, ggml's own C++ parser included:
//! libllama opens the same file for its vocabulary, and some malformed files abort it. The reader
//! accepts a subset of what ggml accepts, and compares every length, offset and count with the
//! file's size before using it.

mod contents;
mod cursor;
pub(crate) mod keys;
#[allow(unsafe_code, reason = "mapped memory is the system's")]
mod mmap;
mod overrides;
mod reader;
pub(crate) mod tensor_type;
mod value;
pub(crate) mod writer;

pub use contents::TensorInfo;
pub(crate) use contents::show_shape;
pub(crate) use mmap::Mapping;
pub use overrides::{MetadataOverride, MetadataValue};
pub use reader::{FileTensor, Gguf, TensorData};
pub use tensor_type::TensorType;
pub use value::{Array, FromValue, Value, ValueType};
