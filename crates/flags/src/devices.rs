//! Flags for which device holds which part of a model, spelled as in llama.cpp.

use std::time::Duration;

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use llama_diffusion::{
    Device, Error, Fit, ModelParams, RPC_TIMEOUT, SessionParams, TensorOverride,
};
use regex::Regex;

use crate::compute::When;
use crate::numbers::{real, whole};
use crate::streams::print;

/// The placement of a model.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Layers on GPUs, counted from the last one; the output head counts as one. auto is as many as
    /// fit, all is all of them
    #[arg(long, value_name = "N", default_value = "auto", value_parser = parse_layers)]
    pub gpu_layers: Layers,

    /// Whether -ngl auto looks at the free memory of the GPUs: experts that do not fit stay in host
    /// memory, and then whole layers. off is -ngl all
    #[arg(
        long,
        value_name = "on|off",
        default_value = "on",
        hide_possible_values = true
    )]
    fit: When,

    /// MiB that -ngl auto leaves free on each GPU, separated by commas; one number is for all.
    /// Default: 1024, less on GPUs of less than 8 GiB
    #[arg(long, value_name = "MIB", value_parser = parse_target)]
    fit_target: Option<Target>,

    /// Devices to use, separated by commas, or none
    #[arg(long, value_name = "NAMES")]
    pub device: Option<String>,

    /// RPC servers, separated by commas: devices of other machines, used before those of this one
    #[arg(long, value_name = "HOST:PORT,…")]
    pub rpc: Option<String>,

    /// Seconds for which an RPC server may be silent before it counts as lost
    #[arg(
        long,
        value_name = "N",
        default_value_t = RPC_TIMEOUT.as_secs(),
        value_parser = whole(1..=86_400_u64)
    )]
    pub rpc_timeout: u64,

    /// How several GPUs share the model: by layers, or none for a single GPU. row and tensor are
    /// treated as layer
    #[arg(long, value_name = "HOW", default_value = "layer")]
    pub split_mode: SplitMode,

    /// The GPU of --split-mode none, counted from 0
    #[arg(
        long,
        value_name = "INDEX",
        default_value = "0", value_parser = whole(0..=usize::MAX))]
    pub main_gpu: usize,

    /// Shares of the layers for each GPU, separated by commas
    #[arg(
        long,
        value_name = "SHARES",
        value_parser = parse_shares
    )]
    pub tensor_split: Option<Shares>,

    /// Keep all experts in host memory
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub cpu_moe: bool,

    /// Keep the experts of the first N layers in host memory
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true, value_parser = whole(0..=usize::MAX))]
    pub n_cpu_moe: usize,

    /// Keep the tensors whose names match the regular expression in this memory; several rules are
    /// separated by commas, and the first match applies
    #[arg(long, value_name = "REGEX=MEMORY", value_delimiter = ',', value_parser = parse_override)]
    pub override_tensor: Vec<TensorOverride>,

    /// Keep the KV cache on the device that holds the layer, which is the default
    #[arg(long, overrides_with = "no_kv_offload")]
    kv_offload: bool,

    /// Keep the KV cache in host memory
    #[arg(long, overrides_with = "kv_offload", value_parser = BoolishValueParser::new())]
    pub no_kv_offload: bool,

    /// Let a GPU compute large products of weights in host memory, copying them to it for each pass,
    /// which is the default
    #[arg(long, overrides_with = "no_op_offload")]
    op_offload: bool,

    /// Compute products of weights in host memory on the CPU
    #[arg(long, overrides_with = "op_offload", value_parser = BoolishValueParser::new())]
    pub no_op_offload: bool,

    /// Read the weights into memory instead of mapping the file
    #[arg(long, value_parser = BoolishValueParser::new())]
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
        "auto" | "-1" => Ok(Layers(None)),
        "all" | "-2" => Ok(Layers(Some(usize::MAX))),
        _ => whole(0..=usize::MAX)(text)
            .map(|layers| Layers(Some(layers)))
            .map_err(|range| format!("{range}, auto or all")),
    }
}

/// Bytes for each GPU.
#[derive(Clone, Debug)]
struct Target(Vec<usize>);

/// Accepts slashes as separators, as llama.cpp does.
fn parse_target(text: &str) -> Result<Target, String> {
    let parts = text.split([',', '/']).filter(|part| !part.is_empty());
    let mib = whole(0..=usize::MAX >> 20);
    let bytes = parts.map(|part| mib(part.trim()).map(|mib| mib << 20));
    bytes.collect::<Result<_, _>>().map(Target)
}

/// Shares of several GPUs.
#[derive(Clone, Debug)]
pub struct Shares(pub Vec<f32>);

/// Accepts slashes as separators, as llama.cpp does.
fn parse_shares(text: &str) -> Result<Shares, String> {
    let parts = text.split([',', '/']).filter(|part| !part.is_empty());
    let shares = parts.map(|part| {
        let refuse = |range| format!("'{part}': {range}, as in 3,1");
        real(0.0..)(part.trim()).map_err(refuse)
    });
    shares.collect::<Result<_, _>>().map(Shares)
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
    /// Connects to the RPC servers, whose devices exist from then on.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn connect(&self) -> llama_diffusion::Result<()> {
        let timeout = Duration::from_secs(self.rpc_timeout);
        let servers = self.rpc.iter().flat_map(|list| list.split(','));
        let mut servers = servers.map(str::trim).filter(|server| !server.is_empty());
        servers.try_for_each(|server| Device::add_rpc_server(server, timeout).map(drop))
    }

    /// Where the model is placed. GPUs must have memory for such a session, too.
    pub fn params(&self, session: SessionParams) -> ModelParams {
        let devices = match (&self.device, self.split_mode) {
            (Some(names), _) if names == "none" => Some(Vec::new()),
            (Some(names), _) => Some(
                names
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect(),
            ),
            (None, SplitMode::None) => Device::default_gpus()
                .get(self.main_gpu)
                .map(|device| vec![device.name()]),
            (None, _) => None,
        };
        ModelParams {
            gpu_layers: self.gpu_layers.0,
            fit: (self.fit != When::Off).then(|| Fit {
                session,
                target: self
                    .fit_target
                    .clone()
                    .map_or_else(Vec::new, |target| target.0),
            }),
            devices,
            // A machine without GPUs has nothing to share; `warn` says so.
            split: match &self.tensor_split {
                Some(Shares(shares)) if self.has_gpus() => shares.clone(),
                _ => Vec::new(),
            },
            cpu_moe_layers: if self.cpu_moe {
                usize::MAX
            } else {
                self.n_cpu_moe
            },
            overrides: self.override_tensor.clone(),
            kv_on_host: self.no_kv_offload,
            no_op_offload: self.no_op_offload,
            no_mmap: self.no_mmap,
            ..ModelParams::default()
        }
    }

    /// Reports which flags have no effect on this machine.
    ///
    /// # Errors
    /// The flags select a GPU that does not exist.
    pub fn warn(&self) -> llama_diffusion::Result<()> {
        let alone = self.split_mode == SplitMode::None && self.device.is_none();
        let count = Device::default_gpus().len();
        if count > 0 && alone && self.main_gpu >= count {
            return Err(Error::Input {
                name: "-mg".into(),
                problem: format!("there is no GPU {}: give 0 to {}", self.main_gpu, count - 1),
            });
        }
        for (is_given, flag) in [
            (self.gpu_layers.0.is_some_and(|layers| layers > 0), "-ngl"),
            (self.tensor_split.is_some(), "-ts"),
            (alone && self.main_gpu > 0, "-mg"),
        ] {
            if is_given && !self.has_gpus() {
                tracing::warn!("{flag} has no effect: {}", self.why_no_gpu());
            }
        }
        Ok(())
    }

    /// Whether there is a GPU that the model may use.
    fn has_gpus(&self) -> bool {
        // Names that do not exist are an error of loading.
        let may_be_gpu = |name: &str| Device::by_name(name.trim()).map_or(true, |d| d.is_gpu());
        match self.device.as_deref() {
            Some("none") => false,
            Some(names) => names.split(',').any(may_be_gpu),
            None => !Device::default_gpus().is_empty(),
        }
    }

    fn why_no_gpu(&self) -> String {
        let all = Device::all();
        if self.device.is_some() {
            "-dev names no GPU".into()
        } else if let Some(device) = all.iter().find(|device| device.is_software()) {
            let name = device.name();
            format!("{name} is a software device, which is used only where -dev names it")
        } else {
            "there is no GPU, or this program was built without support for it".into()
        }
    }
}

/// Prints the devices.
///
/// # Errors
/// The standard output cannot be written, or this build cannot run on this processor.
pub fn list() -> llama_diffusion::Result<()> {
    Device::cpu()?;
    let line = |device: Device| {
        let (free, total) = device.memory();
        let software = match device.is_software() {
            true => ", software: used only where -dev names it",
            false => "",
        };
        format!(
            "  {}: {} ({} MiB, {} MiB free{software})\n",
            device.name(),
            device.description(),
            total >> 20,
            free >> 20
        )
    };
    let lines: String = Device::all().into_iter().map(line).collect();
    print(&format!("Available devices:\n{lines}"))
}
