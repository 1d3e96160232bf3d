//! Where the model comes from and where it lies.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use llama_diffusion::{Device, DeviceKind, Error, PlacementParams, Result, TensorOverride};

use super::values::{Layers, parse_layers, parse_override};
use crate::hub;

/// Where the model comes from and where it lies.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model and devices")]
pub struct PlacementArgs {
    /// Model file (GGUF), the first part of a split one. Without it, a small demo model inside
    /// this program is used, if it was built in
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL")]
    pub model: Option<PathBuf>,

    /// Model file in Hugging Face's cache (HF_HUB_CACHE, HF_HOME), Q4_K_M unless told [-hf]. If it
    /// is not there, the command is named that fetches it
    #[arg(long, value_name = "USER/MODEL[:QUANT]", env = "LLAMA_ARG_HF_REPO")]
    hf_repo: Option<String>,

    /// File in the repository of --hf-repo, instead of one by its quantization [-hff]
    #[arg(
        long,
        value_name = "FILE",
        requires = "hf_repo",
        env = "LLAMA_ARG_HF_FILE"
    )]
    hf_file: Option<String>,

    /// Address of the model file: the command is named that fetches it [-mu]
    #[arg(long, value_name = "URL", env = "LLAMA_ARG_MODEL_URL")]
    model_url: Option<String>,

    /// Print the devices and end
    #[arg(long)]
    pub list_devices: bool,

    /// Layers on GPUs, counted from the last one; the output head counts as one. auto and all are
    /// all of them [-ngl]
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "auto", value_parser = parse_layers, env = "LLAMA_ARG_N_GPU_LAYERS")]
    gpu_layers: Layers,

    /// Devices to use, separated by commas, or none [-dev]
    #[arg(long, value_name = "NAMES", env = "LLAMA_ARG_DEVICE")]
    device: Option<String>,

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
    main_gpu: usize,

    /// Shares of the layers for each GPU, separated by commas [-ts]
    #[arg(
        long,
        value_name = "SHARES",
        value_delimiter = ',',
        env = "LLAMA_ARG_TENSOR_SPLIT"
    )]
    tensor_split: Vec<f32>,

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
    n_cpu_moe: usize,

    /// Keep the tensors whose names match a regular expression in that memory; several are
    /// separated by commas, the first match counts [-ot]
    #[arg(long, value_name = "REGEX=MEMORY", value_delimiter = ',', value_parser = parse_override, env = "LLAMA_ARG_OVERRIDE_TENSOR")]
    override_tensor: Vec<TensorOverride>,

    /// Keep the KV cache in host memory [-nkvo]
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LLAMA_ARG_NO_KV_OFFLOAD")]
    no_kv_offload: bool,

    /// Read the weights into memory instead of mapping the file
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LLAMA_ARG_NO_MMAP")]
    no_mmap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitMode {
    None,
    Layer,
    Row,
    Tensor,
}

impl PlacementArgs {
    /// The model file, if the user chose one.
    ///
    /// # Errors
    /// It is not in the cache, or still in the network.
    pub fn model(&self) -> Result<Option<PathBuf>> {
        match (&self.model, &self.hf_repo, &self.model_url) {
            (Some(path), _, _) => Ok(Some(path.clone())),
            (None, Some(repo), _) => hub::find(repo, self.hf_file.as_deref()).map(Some),
            (None, None, Some(url)) => Err(Error::InvalidParameter {
                parameter: "-mu".into(),
                problem: format!(
                    "this tool downloads nothing. Fetch the model with: curl -LO '{url}' and give \
                     the file with -m"
                ),
            }),
            (None, None, None) => Ok(None),
        }
    }

    /// Layers on GPUs, if the user chose a number.
    pub fn gpu_layers(&self) -> Option<usize> {
        self.gpu_layers.0
    }

    /// Where the model lies.
    pub fn params(&self) -> PlacementParams {
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
        PlacementParams {
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
        }
    }
}

/// The GPUs of this machine.
pub fn gpus() -> impl Iterator<Item = Device> {
    let is_gpu =
        |device: &Device| matches!(device.kind(), DeviceKind::Gpu | DeviceKind::IntegratedGpu);
    Device::all().into_iter().filter(is_gpu)
}
