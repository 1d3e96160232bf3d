//! Raw bindings of ggml, gguf and llama, made by build.rs with bindgen from the headers of the
//! source that is built. Enums are integers with constants: values that the header does not list
//! are valid.

#![allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rustdoc::all,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unused
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
