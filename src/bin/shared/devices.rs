//! Flags that say which device holds which part of a model, spelled as for llama.cpp.

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use llama_diffusion::{Device, DeviceKind, ModelParams, TensorOverride};
use regex::Regex;

use super::streams::print;

/// Where a model lies.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Layers on GPUs, counted from the last one; the output head counts as one. auto and all are
    /// all of them [-ngl]
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "auto", value_parser = parse_layers, env = "LLAMA_ARG_N_GPU_LAYERS")]
    pub gpu_layers: Layers,

    /// Devices to use, separated by commas, or none [-dev]
    #[arg(long, value_name = "NAMES", env = "LLAMA_ARG_DEVICE")]
    pub device: Option<String>,

    /// How several GPUs share the model: by layers, or none for one GPU alone. row and tensor are
    /// taken for layer [-sm]
    #[arg(
        long,
        value_name = "HOW",
        default_value = "layer",
        env = "LLAMA_ARG_SPLIT_MODE"
    )]
    pub split_mode: SplitMode,

    /// Which GPU that is, counted from 0 [-mg]
    #[arg(
        long,
        value_name = "INDEX",
        default_value = "0",
        env = "LLAMA_ARG_MAIN_GPU"
    )]
    pub main_gpu: usize,

    /// Shares of the layers for each GPU, separated by commas [-ts]
    #[arg(
        long,
        value_name = "SHARES",
        value_delimiter = ',',
        env = "LLAMA_ARG_TENSOR_SPLIT"
    )]
    pub tensor_split: Vec<f32>,

    /// Keep all experts in host memory [-cmoe]
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LLAMA_ARG_CPU_MOE")]
    pub cpu_moe: bool,

    /// Keep the experts of the first N layers in host memory [-ncmoe]
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        env = "LLAMA_ARG_N_CPU_MOE"
    )]
    pub n_cpu_moe: usize,

    /// Keep the tensors whose names match a regular expression in that memory; several are
    /// separated by commas, the first match counts [-ot]
    #[arg(long, value_name = "REGEX=MEMORY", value_delimiter = ',', value_parser = parse_override, env = "LLAMA_ARG_OVERRIDE_TENSOR")]
    pub override_tensor: Vec<TensorOverride>,

    /// Keep the KV cache in host memory [-nkvo]
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LLAMA_ARG_NO_KV_OFFLOAD")]
    pub no_kv_offload: bool,

    /// Read the weights into memory instead of mapping the file
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LLAMA_ARG_NO_MMAP")]
    pub no_mmap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitMode {
    None,
    Layer,
    Row,
    Tensor,
}

#[derive(Clone, Copy, Debug)]
pub struct Layers(pub Option<usize>);

fn parse_layers(text: &str) -> Result<Layers, String> {
    match text {
        "auto" | "all" | "-1" => Ok(Layers(None)),
        _ => text
            .parse()
            .map(|layers| Layers(Some(layers)))
            .map_err(|_| "-ngl takes a number of layers, auto or all".into()),
    }
}

fn parse_override(text: &str) -> Result<TensorOverride, String> {
    let (pattern, memory) = text
        .rsplit_once('=')
        .ok_or("-ot takes REGEX=MEMORY, such as exps=CPU")?;
    Ok(TensorOverride {
        pattern: Regex::new(pattern).map_err(|error| error.to_string())?,
        memory: memory.to_owned(),
    })
}

impl DeviceArgs {
    /// Where the model lies.
    pub fn params(&self) -> ModelParams {
        let devices = match (&self.device, self.split_mode) {
            (Some(names), _) if names == "none" => Some(Vec::new()),
            (Some(names), _) => Some(
                names
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect(),
            ),
            (None, SplitMode::None) => gpus().nth(self.main_gpu).map(|device| vec![device.name()]),
            (None, _) => None,
        };
        ModelParams {
            gpu_layers: self.gpu_layers.0,
            devices,
            split: self.tensor_split.clone(),
            cpu_moe_layers: if self.cpu_moe {
                usize::MAX
            } else {
                self.n_cpu_moe
            },
            overrides: self.override_tensor.clone(),
            kv_on_host: self.no_kv_offload,
            no_mmap: self.no_mmap,
            ..ModelParams::default()
        }
    }
}

/// The GPUs of this machine.
pub fn gpus() -> impl Iterator<Item = Device> {
    let is_gpu =
        |device: &Device| matches!(device.kind(), DeviceKind::Gpu | DeviceKind::IntegratedGpu);
    Device::all().into_iter().filter(is_gpu)
}

/// Prints the devices.
///
/// # Errors
/// The standard output cannot be written.
pub fn list() -> llama_diffusion::Result<()> {
    let line = |device: Device| {
        let (free, total) = device.memory();
        format!(
            "  {}: {} ({} MiB, {} MiB free)\n",
            device.name(),
            device.description(),
            total >> 20,
            free >> 20
        )
    };
    let lines: String = Device::all().into_iter().map(line).collect();
    print(&format!("Available devices:\n{lines}"))
}
