//! How a model is loaded: where its parts lie, and what is done with its file.

use regex::Regex;

use crate::ggml::kv_override::MetadataOverride;

/// Keeps the tensors whose names match a pattern in a given kind of memory.
#[derive(Clone, Debug)]
pub struct TensorOverride {
    /// Regular expression over tensor names, found anywhere in the name.
    pub pattern: Regex,
    /// Name of the memory, such as `CPU` or `CUDA0`.
    pub memory: String,
}

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct ModelParams {
    /// Layers on GPUs, counted from the last one; the output head counts as one. `None` is all.
    pub gpu_layers: Option<usize>,
    /// Devices to use, by name; `None` is every GPU of [`Device::default_gpus`], an empty list is
    /// none.
    ///
    /// [`Device::default_gpus`]: crate::Device::default_gpus
    pub devices: Option<Vec<String>>,
    /// Shares of the layers for each GPU; empty shares by free memory.
    pub split: Vec<f32>,
    /// Keep the experts of this many layers, from the first on, in host memory.
    pub cpu_moe_layers: usize,
    /// Memory of single tensors; the first match counts.
    pub overrides: Vec<TensorOverride>,
    /// Keep the KV cache in host memory.
    pub kv_on_host: bool,
    /// Copy the weights instead of using the mapped file (`--no-mmap`).
    pub no_mmap: bool,
    /// Keep the weights in host memory from being swapped out (`--mlock`). Where the system does not
    /// allow it, there is a warning in the log.
    pub lock: bool,
    /// Refuse weights that are not finite (`--check-tensors`): all of the file is read.
    pub check_tensors: bool,
    /// Metadata to use instead of the file's (`--override-kv`).
    pub metadata: Vec<MetadataOverride>,
}
