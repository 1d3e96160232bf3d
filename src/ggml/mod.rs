//! The safe layer over ggml: all `unsafe` that concerns ggml is in this module.
//!
//! * `plugins` finds backends, `device` lists processors and their kinds of memory, `buffer` is
//!   memory.
//! * `arena`, `context` and `tensor` describe tensors; `transfer` copies to and from them.
//! * `ops` are the operations that extend a graph.
//! * `backend` is a stream of work on a device, `compute` runs graphs on several.
//! * `gpus` knows software devices, and which GPUs a model uses.
//! * `guard` turns exceptions of C++ backends into errors.
//! * `cuda` is our CUDA kernel, compiled into ggml's CUDA backend.
//! * `headroom` checks for memory where ggml does not check its allocations.
//! * `processor` rejects a processor that lacks instructions of this build.
//! * `profile` measures where the time of a graph goes.
//! * [`remote`] connects to RPC servers, devices of other machines, through the relays of `rpc`.
//! * `upload` copies weights to devices.
//! * `kernels` are our own CPU operations where ggml has none that is exact or fast enough.
//!
//! ggml aborts the process when an assertion fails, so every operation checks shapes, types and
//! bounds here first and returns [`Error::Ggml`](crate::Error::Ggml) instead.

mod arena;
pub(crate) mod backend;
pub(crate) mod buffer;
pub(crate) mod compute;
pub(crate) mod context;
pub(crate) mod convert;
pub(crate) mod cuda;
pub(crate) mod device;
mod gpus;
mod guard;
pub(crate) mod headroom;
mod huge_pages;
pub(crate) mod kernels;
pub(crate) mod log;
pub(crate) mod ops;
pub(crate) mod plugins;
pub(crate) mod processor;
pub(crate) mod profile;
pub(crate) mod remote;
pub(crate) mod rpc;
pub(crate) mod tensor;
pub(crate) mod threads;
pub(crate) mod transfer;
pub(crate) mod upload;
